"""The paper's experiment on the number of frames: accuracy and cost of one network against them.

    python -m training.study --frames 5 10 20 30 --out runs/frames --data UCF50/ --model lrcn \
    --split group

Every point is a normal run, `<out>/frames-20/`, made by `training.fit` with the options that
follow; all have the same split and seed. Ended at any moment, the same command goes on: finished
points stay, one that was under way is taken up. At the end stand `<out>/study.md`, `study.json` and
`study.png`.

Choose a number of frames by validation. The test column is there to report, not to choose by.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import onnxruntime

from training import fit
from training.arguments import command_parser
from training.compare import compare_runs
from training.data.splits import PARTS
from training.errors import DataError
from training.graphs.convert import ExportError
from training.learning.workers import read_cluster
from training.machine import describe_machine
from training.results.parts import MEASURED_PARTS
from training.results.plots import plot_study
from training.results.tables import (
    duration,
    explain_cost,
    explain_interval,
    hardware,
    interval,
    percent,
    table,
)
from training.run import MODEL_FILE, RunDirectory

#: The study's own record of the options of its runs.
OPTIONS_FILE = "options.json"
#: What the study decides for each run.
_OWN = ("--out", "--frames", "--publish", "--refit", "--resume")


class StudyError(RuntimeError):
    """The study cannot go on; the message says why and what to do."""


def run_study(out: Path, frames: Sequence[int], options: Sequence[str]) -> list[dict[str, Any]]:
    """Train what is not trained yet, and put the points beside each other.

    Args:
        out: the study's directory.
        frames: the numbers of frames, in any order.
        options: of `training.fit`, but for --out and --frames.

    Returns:
        The rows of `training.compare.compare_runs`, by frames.

    Raises:
        StudyError: `out` holds a study with other options, a run failed, the data changed between
            two points, or TF_CONFIG names several workers.
        DataError, ExportError: a finished run cannot be compared.
    """
    if read_cluster(os.environ.get("TF_CONFIG", ""))[0] > 1:
        raise StudyError(
            "a study trains alone: unset TF_CONFIG, or train each point by training.fit with "
            "several workers"
        )
    _check_options(out, options)
    study = RunDirectory(out)
    points = {count: out / f"frames-{count:02}" for count in sorted(set(frames))}
    for count, path in points.items():
        if _is_finished(path):
            print(f"{count} frames: finished before", flush=True)
            continue
        print(f"{count} frames: {path}", flush=True)
        if fit.main([*options, "--frames", str(count), "--out", str(path), "--resume"]):
            raise StudyError(
                f"the run with {count} frames failed, see above; the same command goes on with it"
            )
        # Not before: a first start with a wrong option must not bind the second.
        study.write_json(OPTIONS_FILE, list(options))
    runs = [RunDirectory.open(path) for path in points.values()]
    differing = [
        part for part in PARTS if any(run.has_other_clips(runs[0], part) for run in runs[1:])
    ]
    if differing:
        raise StudyError(
            f"the points in {out} have different {' and '.join(differing)} clips: did the data "
            "change, or the table of parts?"
        )
    rows = compare_runs(list(points.values()))
    study.write_json("study.json", rows)
    title = f"{rows[0]['model']} by number of frames, {rows[0]['split']} split"
    plot_study(rows, title, out / "study.png")
    study.write_text("study.md", _write_table(rows, title))
    return rows


def _check_options(out: Path, options: Sequence[str]) -> None:
    """Hold every start of a study to the options of the first, so that its points compare."""
    own = [option for option in options if option.split("=")[0] in _OWN]
    if own:
        raise StudyError(f"{', '.join(own)}: the study decides that itself")
    if not (out / OPTIONS_FILE).exists():
        return
    before = RunDirectory(out).read_json(OPTIONS_FILE)
    if before != list(options):
        raise StudyError(
            f"{out} holds a study with other options ({' '.join(before)}): name the same, or "
            "choose another --out"
        )


def _is_finished(path: Path) -> bool:
    # The report is the last that training.fit writes.
    return all((path / name).exists() for name in (MODEL_FILE, "metrics.json", "report.md"))


def _write_table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    # No test column where the runs left their test clips.
    parts = [part for part in MEASURED_PARTS if all(row[f"{part}_interval"] for row in rows)]
    header = (
        "frames",
        *(head for part in parts for head in (f"{part} accuracy", "95 % interval")),
        *("CPU ms a clip", "parameters", "best epoch", "trained", "s an epoch"),
    )
    lines = table(
        header,
        (
            (
                row["frames"],
                *(
                    show(row[f"{part}_{figure}"])
                    for part in parts
                    for figure, show in (("accuracy", percent), ("interval", interval))
                ),
                *(f"{row['cpu_ms_per_clip']:.1f}", f"{row['parameters']:,}"),
                f"{row['best_epoch']} of {row['epochs_run']}",
                duration(row["training_seconds"]),
                f"{row['training_seconds'] / row['epochs_run']:.1f}",
            )
            for row in rows
        ),
    )
    counts = rows[0]["counts"]
    return "\n".join(
        [
            f"# {title}",
            "",
            *lines,
            "",
            f"{rows[0]['dataset']}, {rows[0]['classes']} classes, seed {rows[0]['seed']}, one run "
            f"a point: {counts['train']} clips for training, {counts['validation']} for "
            f"validation, {counts['test']} for testing. Choose by validation; the test "
            f"{'column is there to report' if 'test' in parts else 'clips were left (--no-test)'}. "
            f"{explain_interval(rows[0]['validation_interval'])} "
            f"{explain_cost(describe_machine(), onnxruntime.__version__)} Trained on "
            f"{hardware(rows[0]['training_hardware'])}.",
            "",
            "![Accuracy and cost](study.png)",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "study",
        "Train a network on several numbers of frames: accuracy and cost against them.",
        epilog="All other options are those of training.fit and go to every run of the study.",
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", required=True, help="numbers of frames to train with"
    )
    parser.add_argument("--out", type=Path, required=True, help="the study's directory")
    own, options = parser.parse_known_args(arguments)
    try:
        run_study(own.out, own.frames, options)
    except (StudyError, DataError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((own.out / "study.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
