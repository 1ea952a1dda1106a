"""The folds of a cross-validation, measured together: figures to choose settings by.

Of the clips that are not for testing each was for validation in one run, by a network that was
trained without it. The interval of a difference between two settings is that of the choice of
footage; how far another seed would move them is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.data.splits import FOLDS
from training.errors import DataError
from training.options import NAMES
from training.results.evaluate import bootstrap_mean, evaluate_probabilities
from training.results.measure import read_metrics
from training.results.predictions import Predictions, read_predictions
from training.results.tables import (
    class_table,
    duration,
    explain_interval,
    interval,
    list_settings,
    percent,
    points,
    short_names,
    table,
)
from training.run import RunDirectory, differing_settings

FOLD_NAMES = tuple(f"fold-{fold}" for fold in range(FOLDS))
FOLDS_FILE = "folds.json"
#: The parts whose clips are for validation in one fold or another.
_TAUGHT = ("train", "validation")


def open_folds(path: Path) -> list[RunDirectory]:
    """The runs of a finished cross-validation.

    Raises:
        DataError: it is not finished, or its folds are not of the same clips and settings.
    """
    try:
        runs = [RunDirectory.open(path / name) for name in FOLD_NAMES]
        for run in runs:
            read_metrics(run)
    except (DataError, OSError) as error:
        raise DataError(f"{path} is not a finished cross-validation: {error}") from error
    for run in runs[1:]:
        if _has_other_clips(run, runs[0]):
            raise DataError(f"{run.path} is of other clips than {runs[0].path}: train it anew")
        begun, now = (of.read_json("config.json") for of in (runs[0], run))
        odd = differing_settings(begun, now, NAMES | {"fold", "test"})
        if odd:
            raise DataError(f"{run.path} has other settings than {runs[0].path}: {', '.join(odd)}")
    return runs


def measure_folds(path: Path, against: Sequence[Path] = ()) -> dict[str, Any]:
    """Measure the validation clips of a cross-validation's folds together.

    Args:
        path: a finished cross-validation's directory.
        against: other such directories, of the same clips.

    Returns:
        JSON values: `folds`, a row for each; `all`, see `evaluate_probabilities`, with
        `last_epoch_accuracy`; `against`, a row for each directory; `warnings` of the trainings.

    Raises:
        DataError: see open_folds(); or the clips of `against` are others.
    """
    runs = open_folds(path)
    answers, rows = _join(runs), [_row(run) for run in runs]
    whole = evaluate_probabilities(
        answers.probabilities,
        answers.targets,
        runs[0].read_json("config.json")["classes"],
        groups=answers.groups,
    )
    whole["last_epoch_accuracy"] = _last_accuracy(rows)
    warnings = [text for run in runs for text in read_metrics(run).get("warnings", ())]
    return {
        "folds": rows,
        "all": whole,
        "against": [_compare(runs, answers, whole, other) for other in against],
        "warnings": list(dict.fromkeys(warnings)),
    }


def is_fold(run: RunDirectory) -> bool:
    """Whether a run is a fold of a cross-validation that was measured."""
    path = run.path.resolve()
    return path.name in FOLD_NAMES and (path.parent / FOLDS_FILE).exists()


def _has_other_clips(run: RunDirectory, first: RunDirectory) -> bool:
    """Whether the clips for testing, or those for all else, are not those of another fold."""
    return any(run.has_other_clips(first, *parts) for parts in (_TAUGHT, ("test",)))


def _join(runs: Sequence[RunDirectory]) -> Predictions:
    """All folds' answers for their validation clips, ordered by the clips' paths."""
    classes = runs[0].read_json("config.json")["classes"]
    joined = Predictions.join([read_predictions(run, classes)["validation"] for run in runs])
    taught = sorted(path for part in _TAUGHT for path in runs[0].read_split(part, "path"))
    if list(joined.paths) != taught:
        raise DataError(
            f"{runs[0].path.parent} does not have one answer for each clip that is not for testing"
        )
    return joined


def _row(run: RunDirectory) -> dict[str, Any]:
    metrics = read_metrics(run)
    measured = metrics["validation"]
    return {
        "run": run.path.name,
        **{name: measured[name] for name in ("clips", "accuracy", "accuracy_interval")},
        **{name: metrics[name] for name in ("best_epoch", "epochs_run", "training_seconds")},
        "last_epoch_accuracy": run.read_history()["val_accuracy"][-1],
        "tested": "test" in metrics,
    }


def _last_accuracy(rows: Sequence[Mapping[str, Any]]) -> float:
    right = sum(row["last_epoch_accuracy"] * row["clips"] for row in rows)
    return float(right / sum(row["clips"] for row in rows))


def _compare(
    runs: Sequence[RunDirectory], here: Predictions, whole: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """How far apart two settings are, clip by clip."""
    others = open_folds(path)
    there = _join(others)
    if here.groups != there.groups or _has_other_clips(others[0], runs[0]):
        raise DataError(
            f"{path} has other clips, or has them in other groups, so it does not compare: the "
            "same --data, --classes, --groups and --seed are wanted"
        )
    right, other = (of.predicted == of.targets for of in (here, there))
    last = _last_accuracy([_row(run) for run in others])
    begun, now = (of[0].read_json("config.json") for of in (others, runs))
    # Another commit may be another training.
    left_out = (NAMES - {"git_commit"}) | {"fold", "test"}
    return {
        "run": str(path.resolve()),
        "settings": differing_settings(begun, now, left_out),
        "accuracy": float(other.mean()),
        "difference": float(right.mean() - other.mean()),
        "interval": bootstrap_mean(right.astype(np.intp) - other, here.groups),
        "right_only_here": int((right & ~other).sum()),
        "right_only_there": int((other & ~right).sum()),
        "last_epoch_accuracy": last,
        "last_epoch_difference": whole["last_epoch_accuracy"] - last,
    }


def write_folds(path: Path, found: Mapping[str, Any]) -> None:
    """Write what `measure_folds` found as folds.json and folds.md."""
    directory, first = RunDirectory(path), RunDirectory(path / FOLD_NAMES[0])
    config = first.read_json("config.json")
    config.pop("fold", None)
    spec = config["clip_spec"]
    commits = {
        RunDirectory(path / name).read_json("config.json")["git_commit"]: None
        for name in FOLD_NAMES
    }
    rows, whole = found["folds"], found["all"]
    left, error = len(first.read_split("test", "path")), whole["calibration"]["expected_error"]
    refit = " The last is what a refit would keep." if config["schedule"] == "cosine" else ""
    lines = [
        f"# {config['model']}, {len(rows)} folds by groups",
        "",
        f"{config['dataset']}, {len(config['classes'])} classes, seed {config['seed']}, one run a "
        f"fold: each of {whole['clips']} clips was for validation once, by a network that was "
        f"trained without its group; {left} clips were left for testing. A clip is "
        f"{spec['frames']} frames of {spec['width']}×{spec['height']}. Commit "
        f"{', '.join(commits)}. Settings: {list_settings(config)}.",
        *(line for text in found["warnings"] for line in ("", f"**Warning:** {text}")),
        "",
        *_fold_table(rows, whole),
        "",
        f"All together: macro precision {percent(whole['precision'])}, recall "
        f"{percent(whole['recall'])}, F1 {percent(whole['f1'])}, expected calibration error "
        f"{percent(error)}. Each best epoch was picked by the clips that measure it, so its figure "
        f"is somewhat too good.{refit} {explain_interval(whole['accuracy_interval'])}",
        "",
        *(_comparison_lines(found) if found["against"] else ()),
        "## By class",
        "",
        *class_table(whole["per_class"], "clips"),
        "",
    ]
    directory.write_json(FOLDS_FILE, found)
    directory.write_text("folds.md", "\n".join(lines))


def _fold_table(rows: Sequence[Mapping[str, Any]], whole: Mapping[str, Any]) -> list[str]:
    header = ("fold", "validation clips", "accuracy", "95 % interval", "best epoch")
    seconds = sum(row["training_seconds"] for row in rows)
    return table(
        (*header, "accuracy at the last epoch", "trained"),
        (
            (
                *(row["run"], row["clips"], percent(row["accuracy"])),
                interval(row["accuracy_interval"]),
                f"{row['best_epoch']} of {row['epochs_run']}" if "best_epoch" in row else "",
                *(percent(row["last_epoch_accuracy"]), duration(row["training_seconds"])),
            )
            for row in (*rows, {**whole, "run": "all", "training_seconds": seconds})
        ),
    )


def _comparison_lines(found: Mapping[str, Any]) -> list[str]:
    rows = found["against"]
    names = short_names([row["run"] for row in rows])
    return [
        "## Against other settings",
        "",
        *table(
            (
                *("settings", "what differs (there, here)", "accuracy", "difference, points"),
                *("95 % interval", "right here only", "right there only"),
                *("accuracy at the last epoch", "difference, points"),
            ),
            (
                (
                    names[row["run"]],
                    ", ".join(f"{key} ({old}, {new})" for key, (old, new) in differing.items())
                    if (differing := row["settings"])
                    else "nothing",
                    *(percent(row["accuracy"]), points(row["difference"])),
                    f"{points(row['interval']['low'])} to {points(row['interval']['high'])}",
                    *(row["right_only_here"], row["right_only_there"]),
                    percent(row["last_epoch_accuracy"]),
                    points(row["last_epoch_difference"]),
                )
                for row in rows
            ),
        ),
        "",
        "A difference is positive where the settings of this report are better. Its interval is "
        "that of the choice of footage: one seed each, and how far another would move the figures "
        "is not in it.",
        "",
    ]
