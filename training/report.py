"""A run in one page: report.md and its plots, from what lies in the run directory.

    python -m training.report runs/lrcn --data UCF50/

`training.fit` writes it at its end. The command writes it anew; with `--data` after computing the
network's answers anew, for a run that an older version of this code measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import numpy.typing as npt

from training.arguments import command_parser
from training.data.splits import PARTS
from training.errors import DataError
from training.options import check_apart_from_clips
from training.results.footage import inspect_groups, warn_of_groups
from training.results.measure import measure_run, measured_parts, read_metrics
from training.results.parts import MEASURED_PARTS, answer, read_part
from training.results.plots import (
    Mistake,
    plot_confusion,
    plot_curves,
    plot_mistakes,
    plot_reliability,
)
from training.results.predictions import FILE, Predictions, read_predictions
from training.results.tables import (
    class_table,
    confusions,
    duration,
    explain_interval,
    explain_selection,
    hardware,
    interval,
    kept_epoch,
    list_settings,
    percent,
    table,
)
from training.run import RunDirectory

#: The most confident mistakes that are shown.
MISTAKES = 6
#: The lines of a list of confusions.
CONFUSIONS = 8
#: What a report of a run that left its test clips says of its figures.
UNTESTED = (
    "The test clips were left (--no-test): these are figures to choose settings by, on clips that "
    "picked the epoch too."
)


def write_report(run: RunDirectory, clips: Mapping[str, Sequence[npt.NDArray[np.uint8]]]) -> Path:
    """Draw a run's plots and write its report.md.

    The report is on the test clips, or on the validation clips where the test clips were left.

    Args:
        run: has its config.json, split.tsv, history.csv, metrics.json and predictions.tsv.
        clips: by part, uint8 tensors (frames, height, width, 3) in the order of split.tsv; without
            them the picture of the mistakes stays as it is.

    Returns:
        The path of report.md.

    Raises:
        DataError: metrics.json is missing or lacks figures.
    """
    config, metrics = run.read_json("config.json"), read_metrics(run)
    classes, heading = config["classes"], f"{config['model']}, {config['split']} split"
    parts = measured_parts(run, metrics)
    shown = parts[-1]
    answers = read_predictions(run, classes)[shown]
    history = run.read_history()
    if config.get("schedule") == "cosine":
        # A rate that sinks in every epoch has no drops to mark.
        history.pop("learning_rate", None)
    plot_curves(
        history,
        run.path / "curves.png",
        best_epoch=metrics["best_epoch"],
        title=f"Training of {heading}",
        targets=_training_targets(config),
    )
    for part in parts:
        measured = metrics[part]
        title = f"{heading}, {part}: {measured['accuracy']:.1%} of {measured['clips']} clips"
        plot_confusion(
            measured["confusion_matrix"], classes, title, run.path / f"confusion_{part}.png"
        )
    for part in MEASURED_PARTS:
        if part != shown:  # of a report before the test clips were measured
            for name in (_reliability_file(part), _mistakes_file(part)):
                (run.path / name).unlink(missing_ok=True)
    plot_reliability(
        metrics[shown]["calibration"], f"{heading}, {shown}", run.path / _reliability_file(shown)
    )
    places = answers.confident_mistakes(MISTAKES)
    if places and shown in clips:
        mistakes = [_mistake(answers, place, clips[shown][place], classes) for place in places]
        title = f"{heading}: the most confident mistakes on {shown} clips"
        plot_mistakes(mistakes, title, run.path / _mistakes_file(shown))
    if not places:
        (run.path / _mistakes_file(shown)).unlink(missing_ok=True)
    run.write_text("report.md", "\n".join(_lines(run, config, metrics, shown, answers)) + "\n")
    return run.path / "report.md"


def _training_targets(config: Mapping[str, Any]) -> str:
    kinds = {
        "smoothed": config.get("label_smoothing"),
        "weighed by class": config.get("class_weights"),
    }
    return " and ".join(kind for kind, is_on in kinds.items() if is_on)


def _reliability_file(part: str) -> str:
    return f"reliability_{part}.png"


def _mistakes_file(part: str) -> str:
    return f"mistakes_{part}.png"


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
    run: RunDirectory,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    shown: str,
    answers: Predictions,
) -> list[str]:
    measured, spec = metrics[shown], config["clip_spec"]
    parts = measured_parts(run, metrics)
    return [
        f"# {config['model']} on {config['dataset']}, {config['split']} split",
        "",
        f"{shown.capitalize()} accuracy **{percent(measured['accuracy'])}** "
        f"({interval(measured['accuracy_interval'])}) on {measured['clips']} clips. "
        f"{kept_epoch(config, metrics['best_epoch'], metrics['epochs_run'])}; trained for "
        f"{duration(metrics['training_seconds'])} on {hardware(metrics.get('hardware'))}.",
        *(["", explain_selection(metrics["selected_by"])] if "selected_by" in metrics else []),
        *([] if "test" in parts else ["", UNTESTED]),
        "",
        f"{len(config['classes'])} classes: {', '.join(config['classes'])}. A clip is "
        f"{spec['frames']} frames of {spec['width']}×{spec['height']}. Seed {config['seed']}, "
        f"commit {config['git_commit']}. Other settings: {list_settings(config)}.",
        "",
        *_split_lines(run),
        *_warning_lines(run, config, metrics),
        *_skipped_lines(metrics.get("skipped_files", ())),
        "",
        "## Figures",
        "",
        *_figure_lines(metrics, parts[::-1]),
        "",
        "![Training curves](curves.png)",
        "",
        f"## By class, {shown} clips",
        "",
        *class_table(measured["per_class"], "clips"),
        "",
        *(
            line
            for part in parts[::-1]
            for line in (f"![Confusion matrix, {part}](confusion_{part}.png)", "")
        ),
        f"![Reliability diagram]({_reliability_file(shown)})",
        "",
        "## Mistakes",
        "",
        *_mistake_lines(run, shown, answers, measured, config["classes"]),
    ]


def _split_lines(run: RunDirectory) -> list[str]:
    rows = []
    for part in PARTS:
        groups = run.read_split(part, "group")
        rows.append((part, len(groups), len(set(groups))))
    return table(("part", "clips", "groups"), rows)


def _warning_lines(
    run: RunDirectory, config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[str]:
    # What the training was warned of, the classes that it left out included; an older version of
    # this code did not keep it.
    warnings = metrics.get("warnings")
    if warnings is None:
        warnings = warn_of_groups(config["split"], inspect_groups(run))
    return [line for warning in warnings for line in ("", f"**Warning:** {warning}")]


def _skipped_lines(skipped: Sequence[Mapping[str, str]]) -> list[str]:
    if not skipped:
        return []
    return [
        "",
        f"{len(skipped)} files could not be used: {skipped[0]['path']} and so on, with "
        "the reasons, in metrics.json.",
    ]


def _figure_lines(metrics: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    parts = [metrics[name] for name in names]
    rows: list[tuple[str, ...]] = [
        ("accuracy", *(percent(part["accuracy"]) for part in parts)),
        ("its interval", *(interval(part["accuracy_interval"]) for part in parts)),
        ("top-3 accuracy", *(percent(part["top3_accuracy"]) for part in parts)),
    ]
    for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1")):
        rows += [
            (f"{name}, macro", *(percent(part[key]) for part in parts)),
            (f"{name}, weighted", *(percent(part["weighted"][key]) for part in parts)),
        ]
    errors = (percent(part["calibration"]["expected_error"]) for part in parts)
    rows.append(("expected calibration error", *errors))
    return [
        *table(("", *names), rows),
        "",
        f"{explain_interval(parts[0]['accuracy_interval'])} Calibration: "
        f"{len(parts[0]['calibration']['bins'])} bins of equal width (Guo et al., 2017).",
    ]


def _mistake_lines(
    run: RunDirectory,
    part: str,
    answers: Predictions,
    measured: Mapping[str, Any],
    classes: Sequence[str],
) -> list[str]:
    places = answers.confident_mistakes(MISTAKES)
    if not places:
        return [f"None: every {part} clip was recognised."]
    wrong = int((answers.predicted != answers.targets).sum())
    pairs = confusions(measured["confusion_matrix"], classes, CONFUSIONS)
    return [
        f"{wrong} of {measured['clips']} {part} clips were called something else. Most often:",
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
                    answers.paths[place],
                    classes[answers.predicted[place]],
                    percent(answers.probabilities[place].max()),
                    percent(answers.probabilities[place, answers.targets[place]]),
                )
                for place in places
            ),
        ),
        *(
            ["", f"![The frames of these clips]({_mistakes_file(part)})"]
            if (run.path / _mistakes_file(part)).exists()
            else []
        ),
    ]


def report_anew(path: Path, *, data: Path | None, cache: Path | None, test: bool = False) -> Path:
    """Write a finished run's report anew; with `data`, after measuring its network anew.

    Args:
        path: the run's directory.
        data: the folder that it was trained on.
        cache: decoded clips; if None, cache/ beside the run.
        test: measure the test clips though the run left them.

    Returns:
        The path of report.md.

    Raises:
        DataError: the run is not finished, or the data set lacks its clips.
    """
    run = RunDirectory.open(path)
    if data is None:
        if test:
            raise DataError("--test wants --data, to measure the test clips")
        if not (run.path / FILE).exists():
            raise DataError(f"{run.path} has no {FILE}: name --data to measure it anew")
        return write_report(run, {})
    config, model = run.read_json("config.json"), run.load_model()
    metrics = run.read_json("metrics.json")
    parts = measured_parts(run, {**metrics, "test": {}} if test else metrics)
    clips = {part: read_part(run, part, data=data, cache=cache) for part in parts}
    answers = {part: answer(model, clips[part], batch_size=config["batch_size"]) for part in parts}
    run.write_json("metrics.json", {**metrics, **measure_run(run, answers)})
    return write_report(run, clips)


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
    parser.add_argument(
        "--test",
        action="store_true",
        help="with --data: measure the test clips of a run trained with --no-test",
    )
    options = parser.parse_args(arguments)
    try:
        if options.data:
            check_apart_from_clips(options, "cache")
        report = report_anew(options.run, data=options.data, cache=options.cache, test=options.test)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
