"""The paper's experiment on the number of frames: accuracy and cost of one network against them.

    python -m training.study --frames 5 10 20 30 --out runs/frames --data UCF50/ --model lrcn \
    --split group

Every point is a normal run, `<out>/frames-20/`, made by `training.fit` with the options that
follow (training.series); all have the same split and seed. At the end stand `<out>/study.md`,
`study.json` and `study.png`.

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

from training.arguments import command_parser
from training.compare import compare_runs
from training.data.splits import PARTS
from training.errors import DataError, OptionError
from training.graphs.convert import ExportError
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
from training.run import RunDirectory
from training.series import SeriesError, train_series


def run_study(out: Path, frames: Sequence[int], options: Sequence[str]) -> list[dict[str, Any]]:
    """Train what is not trained yet, and put the points beside each other.

    Args:
        out: the study's directory.
        frames: the numbers of frames, in any order.
        options: of `training.fit`, but for --out and --frames.

    Returns:
        The rows of `training.compare.compare_runs`, by frames.

    Raises:
        SeriesError, OptionError: see train_series(); or the data changed between two points.
        DataError, ExportError: a finished run cannot be compared.
    """
    own = {f"frames-{count:02}": ("--frames", str(count)) for count in sorted(set(frames))}
    runs = list(train_series(out, own, options, decided={"--frames"}).values())
    differing = [
        part for part in PARTS if any(run.has_other_clips(runs[0], part) for run in runs[1:])
    ]
    if differing:
        raise SeriesError(
            f"the points in {out} have different {' and '.join(differing)} clips: did the data "
            "change, or the table of parts?"
        )
    rows = compare_runs([run.path for run in runs])
    study = RunDirectory(out)
    study.write_json("study.json", rows)
    title = f"{rows[0]['model']} by number of frames, {rows[0]['split']} split"
    plot_study(rows, title, out / "study.png")
    study.write_text("study.md", _write_table(rows, title))
    return rows


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
    """Run the command; 0 on success, 1 or 2 with a message on standard error.

    2 is for the command line, as with training.fit, 1 for all else.
    """
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
    except (SeriesError, DataError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    print((own.out / "study.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
