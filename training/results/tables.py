"""Figures and tables in Markdown, as reports, cards and comparisons write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_HEADLINE = frozenset(
    {"model", "dataset", "data", "classes", "clip_spec", "split", "seed", "git_commit"}
)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; a bar in a cell, as a file's name may have, is escaped."""
    return [_row(header), f"|{'---|' * len(header)}", *map(_row, rows)]


def _row(cells: Sequence[object]) -> str:
    escaped = (str(cell).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def class_table(per_class: Mapping[str, Mapping[str, Any]], clips: str) -> list[str]:
    """The lines of a table of each class's figures; `clips` heads the column of their numbers."""
    return table(
        ("class", clips, "precision", "recall", "F1"),
        (
            (label, row["clips"], *(percent(row[key]) for key in ("precision", "recall", "f1")))
            for label, row in per_class.items()
        ),
    )


def percent(share: float | None) -> str:
    """A share as per cent with one decimal, or a dash where none was measured."""
    return "–" if share is None else f"{share:.1%}"


def points(share: float) -> str:
    """A difference of two shares in percentage points with one decimal and its sign."""
    return f"{100 * share:+z.1f}"


def list_settings(config: Mapping[str, Any]) -> str:
    """A run's settings, but for what a report says in other words."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
        if name not in _HEADLINE and (name != "fold" or config["split"] == "group")
    )


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each path's last folder, or all of it where two end alike."""
    last = [Path(path).name for path in paths]
    return {
        path: name if last.count(name) == 1 else path
        for path, name in zip(paths, last, strict=True)
    }


def interval(bounds: Mapping[str, Any] | None) -> str:
    """An accuracy's interval in per cent, or a dash where none was measured."""
    return f"{bounds['low']:.1%} to {bounds['high']:.1%}" if bounds else "–"


def summarise(measured: Mapping[str, Any]) -> str:
    """The figures of one part of a split in half a sentence."""
    return (
        f"accuracy {measured['accuracy']:.2%} ({interval(measured['accuracy_interval'])}), "
        f"precision {measured['precision']:.2%} on {measured['clips']} clips"
    )


def explain_interval(bounds: Mapping[str, Any]) -> str:
    """How the interval came about, in a sentence."""
    why = " (clips cut from the same footage are not independent)"
    return (
        f"Intervals: {bounds['level']:.0%}, percentile bootstrap with {bounds['resamples']:,} "
        f"resamples of whole {bounds['unit']}{why if bounds['unit'] == 'groups' else ''}."
    )


def explain_cost(machine: Mapping[str, Any], onnxruntime: str) -> str:
    """What `training.results.speed.ms_per_clip` measured on a machine, in a sentence."""
    return (
        "CPU ms: processor time of one clip without decoding, ONNX Runtime "
        f"{onnxruntime} on one thread of {hardware(machine)}, median, the graphs taking turns."
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def hardware(machines: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> str:
    """One or more machines in words, as `training.machine.describe_machine` found them."""
    if not machines:
        return "a machine that was not recorded"
    several = [machines] if isinstance(machines, Mapping) else machines
    return ", then ".join(
        " and ".join([f"{one['processor']} ({cores(one['cores'])})", *one["gpus"]])
        for one in several
    )


def cores(count: int) -> str:
    """A number of processor cores in words."""
    return "1 core" if count == 1 else f"{count} cores"


def kept_epoch(config: Mapping[str, Any], best_epoch: int, epochs_run: int) -> str:
    """Which epoch's weights a run kept, and why, in words that can begin a sentence."""
    if config.get("refit"):
        return f"The weights are those of the last of {epochs_run} epochs"
    return f"Best epoch {best_epoch} of {epochs_run}, by {_monitor(config)}"


def _monitor(config: Mapping[str, Any]) -> str:
    """What picked a run's best epoch, in words."""
    return str(config.get("monitor", "val_loss")).replace("val_", "validation ")


def explain_selection(selected_by: Mapping[str, Any]) -> str:
    """What selected a refit's settings (`training.refit.Selection.record`), in sentences."""
    counts, validation = selected_by["counts"], selected_by["validation"]
    best, run = selected_by["best_epoch"], selected_by["epochs_run"]
    last = percent(selected_by["last_epoch"]["val_accuracy"])
    folds = selected_by.get("folds")
    if folds:
        found = (
            f"by a cross-validation, in which {folds['clips']} clips were for validation once "
            f"each, in one of several trainings: {percent(folds['accuracy'])} of them were right "
            f"({interval(folds['accuracy_interval'])}) at the best epochs by "
            f"{_monitor(selected_by)}, and {percent(folds['last_epoch_accuracy'])} at the last"
        )
    else:
        found = (
            f"in a training on {counts['train']} clips by its accuracy on {counts['validation']} "
            f"validation clips: {percent(validation['accuracy'])} "
            f"({interval(validation['accuracy_interval'])}) at epoch {best} of {run}, the best by "
            f"{_monitor(selected_by)}{'' if best == run else f', and {last} at the last'}"
        )
    explained = (
        f"The settings were selected {found}. Figures of clips that selected are somewhat too "
        f"good. This network was trained anew on all {counts['train'] + counts['validation']}."
    )
    if selected_by["tested"]:
        which = "One of these trainings" if folds else "That training"
        explained += (
            f" {which} had been measured on the test clips too, before this one began: they "
            "may have influenced the choice."
        )
    return explained


def confusions(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], most: int
) -> list[tuple[str, str, int, int]]:
    """What is taken for what most often: (true class, predicted class, clips, of how many)."""
    pairs = [
        (classes[i], classes[j], count, sum(row))
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]
