"""Cross-validation by groups: the figure to choose settings by.

    python -m training.folds --out runs/decay --data mine/ --groups groups.tsv --model lrcn \
        --epochs 20 --schedule cosine --patience 20 --weight-decay 4
    python -m training.folds --out runs/plain ... --against runs/decay

Of the clips that are not for testing, each is for validation in one of five normal runs,
`<out>/fold-0/` to `fold-4/`, made by `training.fit` with the options that follow (training.series).
One such fifth has so few pieces of footage that two settings can hardly be told apart by it. At the
end stand `<out>/folds.md` and `folds.json`; with --against also how far other settings are apart
from these, clip by clip. The test clips are left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from training.arguments import command_parser
from training.data.splits import FOLDS
from training.errors import DataError
from training.results.evaluate import bootstrap_mean, evaluate_probabilities
from training.results.measure import read_metrics
from training.results.predictions import Predictions, read_predictions
from training.results.tables import (
    class_table,
    duration,
    explain_interval,
    interval,
    percent,
    points,
    table,
)
from training.run import RunDirectory
from training.series import SeriesError, train_series

_NAMES = tuple(f"fold-{fold}" for fold in range(FOLDS))


def run_folds(out: Path, options: Sequence[str], against: Sequence[Path] = ()) -> dict[str, Any]:
    """Train what is not trained yet, and measure all folds' validation clips together.

    Args:
        out: the cross-validation's directory.
        options: of `training.fit`, but for --out, --split, --fold and --no-test.
        against: directories of other cross-validations, finished and of the same clips.

    Returns:
        JSON values: `folds`, a row for each; `all`, their validation clips measured together (see
        `evaluate_probabilities`) and `last_epoch_accuracy`; `against`, a row for each directory.

    Raises:
        SeriesError: see train_series().
        DataError: a run was measured by an older version of this code, `against` is not such a
            directory, or its clips are others.
    """
    for other in against:
        _open(other)  # what cannot be compared is known now, not after hours of training
    own = {name: ("--fold", str(fold), "--no-test") for fold, name in enumerate(_NAMES)}
    runs = list(
        train_series(out, own, options, decided={"--split", "--fold", "--no-test"}).values()
    )
    config = runs[0].read_json("config.json")
    answers = _join(runs, out)
    rows = [_row(run) for run in runs]
    clips = sum(row["clips"] for row in rows)
    found = {
        "folds": rows,
        "all": {
            **evaluate_probabilities(
                answers.probabilities, answers.targets, config["classes"], groups=answers.groups
            ),
            "last_epoch_accuracy": sum(row["last_epoch_accuracy"] * row["clips"] for row in rows)
            / clips,
        },
        "against": [_compare(answers, _join(_open(other), other), other) for other in against],
    }
    directory = RunDirectory(out)
    directory.write_json("folds.json", found)
    directory.write_text("folds.md", _write(found, config, len(runs[0].read_split("test", "path"))))
    return found


def _open(path: Path) -> list[RunDirectory]:
    try:
        runs = [RunDirectory.open(path / name) for name in _NAMES]
        for run in runs:
            read_metrics(run)
    except (DataError, OSError) as error:
        raise DataError(f"{path} is not a finished cross-validation: {error}") from error
    return runs


def _join(runs: Sequence[RunDirectory], path: Path) -> Predictions:
    """All folds' answers for their validation clips, by the clips' names."""
    classes = [run.read_json("config.json")["classes"] for run in runs]
    if any(names != classes[0] for names in classes):
        raise DataError(f"the folds of {path} have different classes")
    parts = [
        read_predictions(run, names)["validation"] for run, names in zip(runs, classes, strict=True)
    ]
    joined = Predictions.join(parts)
    if len(set(joined.paths)) < len(joined.paths) or any(
        run.has_other_clips(runs[0], "test") for run in runs[1:]
    ):
        raise DataError(f"the folds of {path} are not those of one data set: did it change?")
    return joined


def _row(run: RunDirectory) -> dict[str, Any]:
    metrics, history = read_metrics(run), run.read_history()
    measured = metrics["validation"]
    return {
        "run": run.path.name,
        **{name: measured[name] for name in ("clips", "accuracy", "accuracy_interval")},
        **{name: metrics[name] for name in ("best_epoch", "epochs_run", "training_seconds")},
        "last_epoch_accuracy": history["val_accuracy"][-1],
    }


def _compare(here: Predictions, there: Predictions, path: Path) -> dict[str, Any]:
    """How far apart two settings are, clip by clip."""
    if (here.paths, here.groups) != (there.paths, there.groups):
        raise DataError(f"{path} has other clips, or has them in other groups: they do not compare")
    right, other = (of.predicted == of.targets for of in (here, there))
    return {
        "run": path.name,
        "accuracy": float(other.mean()),
        "difference": float(right.mean() - other.mean()),
        "interval": bootstrap_mean(right.astype(np.intp) - other, here.groups),
        "only_right_here": int((right & ~other).sum()),
        "only_right_there": int((other & ~right).sum()),
    }


def _write(found: Mapping[str, Any], config: Mapping[str, Any], left: int) -> str:
    rows, whole = found["folds"], found["all"]
    lines = table(
        (
            *("fold", "validation clips", "accuracy", "95 % interval", "best epoch"),
            *("accuracy at the last epoch", "trained"),
        ),
        (
            *(
                (
                    *(row["run"], row["clips"], percent(row["accuracy"])),
                    interval(row["accuracy_interval"]),
                    f"{row['best_epoch']} of {row['epochs_run']}",
                    *(percent(row["last_epoch_accuracy"]), duration(row["training_seconds"])),
                )
                for row in rows
            ),
            (
                *("all", whole["clips"], percent(whole["accuracy"])),
                *(interval(whole["accuracy_interval"]), ""),
                percent(whole["last_epoch_accuracy"]),
                duration(sum(row["training_seconds"] for row in rows)),
            ),
        ),
    )
    if found["against"]:
        lines += ["", "## Against other settings", ""]
        lines += table(
            (
                "settings",
                "accuracy",
                "points more here",
                "95 % interval",
                "right here alone",
                "there",
            ),
            (
                (
                    *(row["run"], percent(row["accuracy"]), points(row["difference"])),
                    f"{points(row['interval']['low'])} to {points(row['interval']['high'])}",
                    *(row["only_right_here"], row["only_right_there"]),
                )
                for row in found["against"]
            ),
        )
    error = whole["calibration"]["expected_error"]
    return "\n".join(
        [
            f"# {config['model']}, {len(rows)} folds by groups",
            "",
            *lines,
            "",
            f"{config['dataset']}, {len(config['classes'])} classes, seed {config['seed']}, one "
            f"run a fold: each of the {whole['clips']} clips was for validation once, by a network "
            f"trained without its footage; {left} clips were left for testing. All together: macro "
            f"precision {percent(whole['precision'])}, recall {percent(whole['recall'])}, F1 "
            f"{percent(whole['f1'])}, expected calibration error {percent(error)}. Each best epoch "
            "was picked by the clips that measure it, so its figure is somewhat too good; the last "
            f"is what a refit keeps. {explain_interval(whole['accuracy_interval'])}",
            "",
            "## By class",
            "",
            *class_table(whole["per_class"], "clips"),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "folds",
        f"Measure settings by {FOLDS} folds of the clips that are not for testing.",
        epilog="All other options are those of training.fit and go to the run of every fold.",
    )
    parser.add_argument("--out", type=Path, required=True, help="the cross-validation's directory")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDS",
        help="directories of finished cross-validations to tell the difference from",
    )
    own, options = parser.parse_known_args(arguments)
    try:
        run_folds(own.out, options, own.against)
    except (SeriesError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((own.out / "folds.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
