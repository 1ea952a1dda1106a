"""A run in one page: report.md and its plots, from what lies in the run directory.

    python -m training.report runs/lrcn --data UCF50/

`training.fit` writes it at its end. The command writes it anew; with `--data` after computing the
network's answers anew, for a run that an older version of this code measured.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import numpy.typing as npt

from training.arguments import command_parser
from training.data import DataError
from training.evaluate import Probabilities, evaluate_probabilities
from training.parts import PARTS, answer, read_part
from training.plots import (
    Mistake,
    plot_confusion,
    plot_curves,
    plot_mistakes,
    plot_reliability,
)
from training.predictions import FILE, Predictions, read_predictions, write_predictions
from training.run import RunDirectory
from training.tables import (
    class_table,
    confusions,
    duration,
    explain_interval,
    hardware,
    interval,
    monitor,
    percent,
    table,
)

#: The most confident mistakes that are shown.
MISTAKES = 6
#: The lines of a list of confusions.
CONFUSIONS = 8
MISTAKES_FILE = "mistakes_test.png"

_HEADLINE = frozenset(
    {"model", "dataset", "data", "classes", "clip_spec", "split", "seed", "git_commit"}
)


def measure_run(run: RunDirectory, answers: Mapping[str, Probabilities]) -> dict[str, Any]:
    """Keep a network's answers as predictions.tsv, and measure them.

    Args:
        run: has its config.json and split.tsv.
        answers: for each part of `PARTS` float32 (N, classes), in the order of split.tsv.

    Returns:
        The figures of each part, for metrics.json.
    """
    classes = run.read_json("config.json")["classes"]
    parts = {
        part: Predictions.of_part(run, part, probabilities, classes)
        for part, probabilities in answers.items()
    }
    write_predictions(run, parts, classes)
    return {
        part: evaluate_probabilities(
            found.probabilities, found.targets, classes, groups=found.groups
        )
        for part, found in parts.items()
    }


def read_metrics(run: RunDirectory) -> dict[str, Any]:
    """A run's metrics.json.

    Raises:
        DataError: there is none, or it lacks figures that this code measures.
    """
    try:
        metrics: dict[str, Any] = run.read_json("metrics.json")
    except FileNotFoundError:
        raise DataError(f"{run.path} is not a finished run: it has no metrics.json") from None
    if not all("calibration" in metrics.get(part, {}) for part in PARTS):
        raise DataError(
            f"{run.path} was measured by an older version: measure it anew with "
            f"python -m training.report {run.path} --data ..."
        )
    return metrics


def write_report(run: RunDirectory, test_clips: Sequence[npt.NDArray[np.uint8]] | None) -> Path:
    """Draw a run's plots and write its report.md.

    Args:
        run: has its config.json, split.tsv, history.csv, metrics.json and predictions.tsv.
        test_clips: uint8 tensors (frames, height, width, 3), all clips of the test split in the
            order of split.tsv; None leaves the picture of the mistakes as it is.

    Returns:
        The path of report.md.

    Raises:
        DataError: metrics.json is missing or lacks figures.
    """
    config, metrics = run.read_json("config.json"), read_metrics(run)
    classes, heading = config["classes"], f"{config['model']}, {config['split']} split"
    test = read_predictions(run, classes)["test"]
    plot_curves(
        _read_history(run),
        run.path / "curves.png",
        best_epoch=metrics["best_epoch"],
        title=f"Training of {heading}",
    )
    for part in PARTS:
        measured = metrics[part]
        title = f"{heading}, {part}: {measured['accuracy']:.1%} of {measured['clips']} clips"
        plot_confusion(
            measured["confusion_matrix"], classes, title, run.path / f"confusion_{part}.png"
        )
    plot_reliability(
        metrics["test"]["calibration"], f"{heading}, test", run.path / "reliability_test.png"
    )
    places = test.confident_mistakes(MISTAKES)
    if places and test_clips is not None:
        mistakes = [_mistake(test, place, test_clips[place], classes) for place in places]
        title = f"{heading}: the most confident mistakes on test clips"
        plot_mistakes(mistakes, title, run.path / MISTAKES_FILE)
    if not places:
        (run.path / MISTAKES_FILE).unlink(missing_ok=True)
    run.write_text("report.md", "\n".join(_lines(run, config, metrics, test)) + "\n")
    return run.path / "report.md"


def _read_history(run: RunDirectory) -> dict[str, list[float]]:
    with (run.path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def _mistake(
    test: Predictions, place: int, frames: npt.NDArray[np.uint8], classes: Sequence[str]
) -> Mistake:
    row, target, predicted = test.probabilities[place], test.targets[place], test.predicted[place]
    return Mistake(
        name=test.paths[place],
        label=classes[target],
        predicted=classes[predicted],
        probability=float(row[predicted]),
        probability_of_label=float(row[target]),
        frames=frames,
    )


def _lines(
    run: RunDirectory, config: Mapping[str, Any], metrics: Mapping[str, Any], test: Predictions
) -> list[str]:
    measured, spec = metrics["test"], config["clip_spec"]
    others = ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
        if name not in _HEADLINE
    )
    return [
        f"# {config['model']} on {config['dataset']}, {config['split']} split",
        "",
        f"Test accuracy **{percent(measured['accuracy'])}** "
        f"({interval(measured['accuracy_interval'])}) on {measured['clips']} clips. Best epoch "
        f"{metrics['best_epoch']} of {metrics['epochs_run']}, by {monitor(config)}; trained for "
        f"{duration(metrics['training_seconds'])} on {hardware(metrics.get('hardware'))}.",
        "",
        f"{len(config['classes'])} classes: {', '.join(config['classes'])}. A clip is "
        f"{spec['frames']} frames of {spec['width']}×{spec['height']}. Seed {config['seed']}, "
        f"commit {config['git_commit']}. Other settings: {others}.",
        "",
        *_split_lines(run),
        *_skipped_lines(metrics.get("skipped_files", ())),
        "",
        "## Figures",
        "",
        *_figure_lines(metrics),
        "",
        "![Training curves](curves.png)",
        "",
        "## By class, test clips",
        "",
        *class_table(measured["per_class"], "clips"),
        "",
        "![Confusion matrix, test](confusion_test.png)",
        "",
        "![Confusion matrix, validation](confusion_validation.png)",
        "",
        "![Reliability diagram](reliability_test.png)",
        "",
        "## Mistakes",
        "",
        *_mistake_lines(run, test, measured, config["classes"]),
    ]


def _split_lines(run: RunDirectory) -> list[str]:
    rows = []
    for part in ("train", *PARTS):
        groups = run.read_split(part, "group")
        rows.append((part, len(groups), len(set(groups))))
    return table(("part", "clips", "groups"), rows)


def _skipped_lines(skipped: Sequence[Mapping[str, str]]) -> list[str]:
    if not skipped:
        return []
    return [
        "",
        f"{len(skipped)} files could not be used: {skipped[0]['path']} and so on, with "
        "the reasons, in metrics.json.",
    ]


def _figure_lines(metrics: Mapping[str, Any]) -> list[str]:
    test, validation = (metrics[part] for part in ("test", "validation"))
    rows: list[tuple[str, ...]] = [
        ("accuracy", *(percent(part["accuracy"]) for part in (test, validation))),
        ("its interval", *(interval(part["accuracy_interval"]) for part in (test, validation))),
        ("top-3 accuracy", *(percent(part["top3_accuracy"]) for part in (test, validation))),
    ]
    for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1")):
        rows += [
            (f"{name}, macro", *(percent(part[key]) for part in (test, validation))),
            (f"{name}, weighted", *(percent(part["weighted"][key]) for part in (test, validation))),
        ]
    errors = (percent(part["calibration"]["expected_error"]) for part in (test, validation))
    rows.append(("expected calibration error", *errors))
    return [
        *table(("", "test", "validation"), rows),
        "",
        f"{explain_interval(test['accuracy_interval'])} Calibration: "
        f"{len(test['calibration']['bins'])} bins of equal width (Guo et al., 2017).",
    ]


def _mistake_lines(
    run: RunDirectory, test: Predictions, measured: Mapping[str, Any], classes: Sequence[str]
) -> list[str]:
    places = test.confident_mistakes(MISTAKES)
    if not places:
        return ["None: every test clip was recognised."]
    wrong = int((test.predicted != test.targets).sum())
    pairs = confusions(measured["confusion_matrix"], classes, CONFUSIONS)
    return [
        f"{wrong} of {measured['clips']} test clips were called something else. Most often:",
        "",
        *table(
            ("true", "called", "clips"),
            ((label, called, f"{count} of {total}") for label, called, count, total in pairs),
        ),
        "",
        "The most confident:",
        "",
        *table(
            ("clip", "called", "probability", "of its own class"),
            (
                (
                    test.paths[place],
                    classes[test.predicted[place]],
                    percent(test.probabilities[place].max()),
                    percent(test.probabilities[place, test.targets[place]]),
                )
                for place in places
            ),
        ),
        *(
            ["", f"![The frames of these clips]({MISTAKES_FILE})"]
            if (run.path / MISTAKES_FILE).exists()
            else []
        ),
    ]


def report_anew(path: Path, *, data: Path | None, cache: Path | None) -> Path:
    """Write a finished run's report anew; with `data`, after measuring its network anew.

    Returns:
        The path of report.md.

    Raises:
        DataError: the run is not finished, or the data set lacks its clips.
    """
    run = RunDirectory.open(path)
    if data is None:
        if not (run.path / FILE).exists():
            raise DataError(f"{run.path} has no {FILE}: name --data to measure it anew")
        return write_report(run, None)
    config, model = run.read_json("config.json"), run.load_model()
    clips = {part: read_part(run, part, data=data, cache=cache) for part in PARTS}
    answers = {part: answer(model, clips[part], batch_size=config["batch_size"]) for part in PARTS}
    run.write_json("metrics.json", {**run.read_json("metrics.json"), **measure_run(run, answers)})
    return write_report(run, clips["test"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "report",
        "Write the report of a finished run anew: report.md and its plots.",
    )
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument(
        "--data", type=Path, help="the folder it was trained on, to measure the network anew"
    )
    parser.add_argument("--cache", type=Path, help="decoded clips (default: cache/ beside the run)")
    options = parser.parse_args(arguments)
    try:
        report = report_anew(options.run, data=options.data, cache=options.cache)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
