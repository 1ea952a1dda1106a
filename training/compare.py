"""The paper's table of results for runs of one's own.

    python -m training.compare runs/lrcn runs/convlstm --out comparison.md

Accuracy and precision come from the runs' metrics.json. Size and cost are those of the runs' ONNX
graphs, made now and not kept, whether or not a run was published. The cost is measured now: the
processor time on one thread of this machine, all graphs taking turns, without decoding.
Beside the Markdown stands the same as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import onnxruntime

from training.arguments import command_parser
from training.data.splits import PARTS
from training.errors import DataError
from training.files import write_text
from training.graphs.convert import ExportError, to_onnx
from training.machine import describe_machine
from training.results.footage import inspect_groups, warn_of_groups
from training.results.measure import read_metrics
from training.results.parts import MEASURED_PARTS
from training.results.speed import ms_per_clip
from training.results.tables import (
    duration,
    explain_cost,
    explain_interval,
    hardware,
    interval,
    percent,
    short_names,
    table,
)
from training.run import RunDirectory

PAPER = (
    "The paper, ten classes of UCF50 under a random split: LRCN accuracy 96.67 %, precision "
    "96.89 %; ConvLSTM 87.78 % and 87.69 %."
)
_DASHES = {
    "test": "A dash: a run that left its test clips (--no-test).",
    "validation": "A dash: a refit, which had its validation clips to train on.",
}


def compare_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Put runs beside each other.

    Args:
        paths: finished runs' directories, each named once.

    Returns:
        A row of JSON values for each run, in their order.

    Raises:
        DataError: a run is not finished, or was measured by an older version of this code.
        ExportError: a run's model cannot be exported.
    """
    if len(set(paths)) < len(paths):
        raise DataError("a run is named twice")
    runs = [RunDirectory.open(path) for path in paths]
    rows = [_row(run) for run in runs]  # all of them, before the costly part
    _warn_of_differences(runs, rows)
    graphs = {}
    for run, row in zip(runs, rows, strict=True):
        model = run.load_model()
        row["parameters"] = model.count_params()
        graphs[str(run.path)] = to_onnx(model).SerializeToString()
    taken = ms_per_clip(graphs)
    for row in rows:
        row["cpu_ms_per_clip"] = taken[row["run"]]
        row["onnx_bytes"] = len(graphs[row["run"]])
    return rows


def _row(run: RunDirectory) -> dict[str, Any]:
    config, metrics = run.read_json("config.json"), read_metrics(run)
    row: dict[str, Any] = {
        "run": str(run.path),
        **{name: config[name] for name in ("model", "dataset", "split", "seed", "git_commit")},
        **{name: config["clip_spec"][name] for name in ("frames", "height", "width")},
        "classes": len(config["classes"]),
        "refit": config.get("refit", False),
        "counts": {name: len(run.read_split(name, "path")) for name in PARTS},
    }
    for part in MEASURED_PARTS:
        # None, where a run was not measured on it.
        measured = metrics.get(part, {})
        for name in ("accuracy", "precision"):
            row[f"{part}_{name}"] = measured.get(name)
        row[f"{part}_interval"] = measured.get("accuracy_interval")
    for name in ("best_epoch", "epochs_run", "training_seconds"):
        row[name] = metrics[name]
    row["warnings"] = warn_of_groups(config["split"], inspect_groups(run))
    row["training_hardware"] = metrics.get("hardware")
    return row


def _warn_of_differences(runs: Sequence[RunDirectory], rows: Sequence[dict[str, Any]]) -> None:
    """Say in the rows' warnings which figures do not compare with those above them."""
    classes = [run.read_json("config.json")["classes"] for run in runs]
    split: dict[str, tuple[RunDirectory, dict[str, Any]]] = {}
    for run, row, labels in zip(runs, rows, classes, strict=True):
        first, of_first = split.setdefault(row["split"], (run, row))
        differing = [part for part in PARTS if run.has_other_clips(first, part)]
        if row["refit"] != of_first["refit"] and _taught(run) == _taught(first):
            # A refit's training clips are the other's training and validation clips.
            differing = [part for part in differing if part == "test"]
        if labels != classes[0]:
            row["warnings"].append("its classes are not those of the first run")
        elif differing:
            row["warnings"].append(
                f"its {' and '.join(differing)} clips are not those of the first run with the "
                f"split {row['split']}"
            )


def _taught(run: RunDirectory) -> set[str]:
    """The clips of all parts but the last."""
    return {path for part in PARTS[:-1] for path in run.read_split(part, "path")}


def write_comparison(rows: Sequence[Mapping[str, Any]], part: str = "test") -> str:
    """The Markdown of a comparison by the figures of one part, "test" or "validation"."""
    header = (
        *("run", "model", "input", "data", "split"),
        *(f"{part} accuracy", "95 % interval", "precision", "parameters"),
        *("CPU ms a clip", "ONNX MB", "kept epoch", "trained", "seed"),
        "clips (train, validation, test)",
    )
    names = short_names([row["run"] for row in rows])
    lines = table(
        header,
        (
            (
                *(names[row["run"]], row["model"]),
                f"{row['frames']}×{row['width']}×{row['height']}",
                f"{row['dataset']}, {row['classes']} classes",
                *(row["split"], percent(row[f"{part}_accuracy"])),
                *(interval(row[f"{part}_interval"]), percent(row[f"{part}_precision"])),
                f"{row['parameters']:,}",
                *(f"{row['cpu_ms_per_clip']:.1f}", f"{row['onnx_bytes'] / 1e6:.1f}"),
                f"{row['best_epoch']} of {row['epochs_run']}{', refit' if row['refit'] else ''}",
                *(duration(row["training_seconds"]), row["seed"]),
                ", ".join(str(count) for count in row["counts"].values()),
            )
            for row in rows
        ),
    )
    machines = sorted({hardware(row["training_hardware"]) for row in rows})
    return "\n".join(
        [
            "# Comparison",
            "",
            *lines,
            "",
            f"Precision is the macro average. {_explain_part(rows, part)}"
            f"{explain_cost(describe_machine(), onnxruntime.__version__)} Trained on "
            f"{'; '.join(machines)}.",
            "",
            "Under a random split clips cut from the same footage are in training and test: its "
            "figures are for footage that the network has seen, those of a group split for new "
            f"footage. {PAPER}",
            "",
            *(
                line
                for row in rows
                for warning in row["warnings"]
                for line in (f"**Warning**, {names[row['run']]}: {warning}", "")
            ),
        ]
    )


def _explain_part(rows: Sequence[Mapping[str, Any]], part: str) -> str:
    """How the figures came about, in sentences; each ends with a space."""
    intervals = [row[f"{part}_interval"] for row in rows]
    lines = dict.fromkeys(explain_interval(bounds) for bounds in intervals if bounds)
    if None in intervals:
        lines[_DASHES[part]] = None
    if part == "validation":
        lines["Validation picked the epochs: its figures are to choose by, not to report."] = None
    elif any(row["refit"] for row in rows):
        lines["A refit had the validation clips to train on, and kept its last epoch."] = None
    return "".join(f"{line} " for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "compare",
        "Put finished runs beside each other: accuracy, precision, size and cost.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's directory")
    parser.add_argument(
        "--out", type=Path, help="Markdown file to write, with a .json of the same name beside it"
    )
    parser.add_argument(
        "--part",
        choices=MEASURED_PARTS,
        default="test",
        help="whose figures to show; validation is what to choose settings by",
    )
    options = parser.parse_args(arguments)
    if options.out and options.out.suffix == ".json":
        parser.error("--out names the Markdown file; the JSON goes beside it")
    try:
        rows = compare_runs(options.runs)
        text = write_comparison(rows, options.part)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(options.out, text)
            write_text(options.out.with_suffix(".json"), json.dumps(rows, indent=2) + "\n")
    except (DataError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
