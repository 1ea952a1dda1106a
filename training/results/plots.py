"""The plots of a run: training curves, confusion matrix, reliability diagram, and its mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.files import replacing

# Names of clips and classes are no mathematics: two dollar signs in one would be read as that.
matplotlib.rcParams["text.parse_math"] = False

CURVES = (("loss", "Loss (cross-entropy)"), ("accuracy", "Accuracy"))
TRAINING, VALIDATION = "tab:blue", "tab:orange"
#: A rate that falls below this share from one epoch to the next has dropped; schedules glide.
DROP = 0.51
#: Of a contact sheet.
FRAMES_A_ROW = 10


@dataclass(frozen=True, slots=True)
class Mistake:
    """A clip that was called something else, and what the network saw of it."""

    name: str
    label: str
    predicted: str
    probability: float
    probability_of_label: float
    frames: npt.NDArray[np.uint8]


def plot_curves(
    history: Mapping[str, Sequence[float]],
    path: Path,
    *,
    best_epoch: int,
    title: str,
    targets: str = "",
) -> None:
    """Loss and accuracy of training and validation by epoch, the best epoch and rate drops marked.

    Args:
        history: `loss` and `accuracy`, `val_loss` and `val_accuracy` unless nothing was validated,
            and `learning_rate` where it is known, a value an epoch.
        path: the PNG to write.
        best_epoch: the one whose weights were kept, from 1.
        title: the heading.
        targets: what the training's targets are, if not those of the validation: the losses are
            then of different kinds.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    figure.suptitle(title)
    for axes, (name, heading) in zip(figure.subplots(1, 2), CURVES, strict=True):
        epochs = range(1, len(history[name]) + 1)
        marker = "." if len(epochs) <= 60 else ""
        for key, label, colour in (
            (name, f"training, {targets}" if targets and name == "loss" else "training", TRAINING),
            (f"val_{name}", "validation", VALIDATION),
        ):
            if key in history:
                values = history[key]
                axes.plot(epochs, values, label=label, color=colour, marker=marker, linewidth=1.4)
        if f"val_{name}" in history:
            value = history[f"val_{name}"][best_epoch - 1]
            text = f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"
            label = f"best epoch ({best_epoch}): {text}"
            axes.axvline(best_epoch, color="black", linestyle=":", linewidth=1)
            axes.plot(best_epoch, value, "o", color="black", label=label)
        _mark_drops(axes, history.get("learning_rate", ()))
        if name == "accuracy":
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter("{x:.0%}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(heading, pad=12)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    _save(figure, path)


def _mark_drops(axes: Axes, rates: Sequence[float]) -> None:
    label: str | None = "learning rate drops"
    for epoch, (before, after) in enumerate(pairwise(rates), start=2):
        if after < DROP * before:
            # Between the last epoch at the old rate and the first at the new.
            axes.axvline(epoch - 0.5, color="tab:red", linestyle="--", linewidth=1, label=label)
            axes.annotate(
                f"×{after / before:.2g}",
                (epoch - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                color="tab:red",
                fontsize="x-small",
            )
            label = None


def plot_confusion(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str, path: Path
) -> None:
    """Heat map of a confusion matrix, each cell coloured by its share of the true class.

    Args:
        matrix: counts, rows being the truth and columns the prediction.
        classes: labels in the order of rows and columns.
        title: the heading.
        path: the PNG to write.
    """
    counts = np.asarray(matrix)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals[:, None], 1)
    side = 2.5 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 1.4, side - 0.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
    rows = [f"{label} ({total})" for label, total in zip(classes, totals, strict=True)]
    axes.set_yticks(ticks, rows)
    axes.set(title=title, xlabel="predicted", ylabel="true (clips)")
    _save(figure, path)


def plot_reliability(calibration: Mapping[str, Any], title: str, path: Path) -> None:
    """Accuracy against confidence, and below it how many clips there are of each confidence.

    Args:
        calibration: what `training.results.evaluate.measure_calibration` returns.
        title: the heading.
        path: the PNG to write.
    """
    bins = calibration["bins"]
    edges = np.linspace(0, 1, len(bins) + 1)
    width, middles = edges[1], (edges[:-1] + edges[1:]) / 2
    figure = Figure(figsize=(5.2, 6), layout="constrained")
    figure.suptitle(title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [i for i, part in enumerate(bins) if part["clips"]]
    accuracy = [bins[i]["accuracy"] for i in filled]
    confidence = [bins[i]["confidence"] for i in filled]
    upper.plot((0, 1), (0, 1), color="grey", linestyle=":", label="as sure as it is right")
    upper.bar(middles[filled], accuracy, width, color=TRAINING, edgecolor="white", label="accuracy")
    upper.plot(confidence, accuracy, "o", color="black", markersize=4, label="at mean confidence")
    upper.set(
        ylim=(0, 1.02),
        ylabel="accuracy",
        title=f"expected calibration error {calibration['expected_error']:.1%}",
    )
    upper.legend(loc="upper left", fontsize="small")
    lower.bar(middles, [part["clips"] for part in bins], width, color="grey", edgecolor="white")
    lower.set(xlim=(0, 1), xlabel="confidence (probability of the answer)", ylabel="clips")
    for axes in (upper, lower):
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    upper.yaxis.set_major_formatter("{x:.0%}")
    _save(figure, path)


def plot_mistakes(mistakes: Sequence[Mistake], title: str, path: Path) -> None:
    """Contact sheets: all frames of each clip as the network saw them, and what it made of them.

    Args:
        mistakes: at least one, from the top down; their frames uint8 (frames, height, width, 3).
        title: the heading.
        path: the PNG to write.
    """
    sheets = [_contact_sheet(mistake.frames) for mistake in mistakes]
    height, width = sheets[0].shape[:2]
    inches = 11.0
    block = inches * height / width + 0.75
    figure = Figure(figsize=(inches + 0.4, block * len(sheets) + 0.5), layout="constrained")
    figure.suptitle(title)
    rows = figure.subplots(len(sheets), 1, squeeze=False)[:, 0]
    for axes, sheet, mistake in zip(rows, sheets, mistakes, strict=True):
        axes.imshow(sheet)
        axes.set_axis_off()
        axes.set_title(
            f"{mistake.label}, called {mistake.predicted} with {mistake.probability:.1%} "
            f"(its own class: {mistake.probability_of_label:.1%})\n{mistake.name}",
            loc="left",
            fontsize="medium",
        )
    _save(figure, path)


def _contact_sheet(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Frames side by side in rows, a white line between: uint8 (height, width, 3)."""
    count, height, width, _ = frames.shape
    columns = min(count, FRAMES_A_ROW)
    rows = -(-count // columns)
    gap = max(width // 32, 1)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, frame in enumerate(frames):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110, bbox_inches="tight", pad_inches=0.12)


def plot_study(points: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Accuracy and cost of a network against the number of frames it is given.

    Args:
        points: rows of training.compare, by frames.
        title: the heading.
        path: the PNG to write.
    """
    frames = np.array([point["frames"] for point in points])
    apart = 0.006 * np.ptp(frames)  # or one bar hides the other
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for part, colour, shift in (
        ("validation", VALIDATION, -apart),
        ("test", "tab:green", apart),
    ):
        intervals = [point[f"{part}_interval"] for point in points]
        if not all(intervals):  # the runs left their test clips
            continue
        values = np.array([point[f"{part}_accuracy"] for point in points])
        low, high = (np.array([interval[end] for interval in intervals]) for end in ("low", "high"))
        left.errorbar(
            frames + shift,
            values,
            # The percentile interval need not hold the value itself.
            yerr=(np.maximum(values - low, 0), np.maximum(high - values, 0)),
            color=colour,
            marker="o",
            capsize=4,
            label=part,
        )
    left.set(title="Accuracy, with 95 % intervals", xlabel="frames", ylim=(0, 1.02))
    left.yaxis.set_major_formatter("{x:.0%}")
    left.legend()
    right.plot(frames, [point["cpu_ms_per_clip"] for point in points], "o-", color="tab:purple")
    right.set(
        title="Cost of one clip",
        xlabel="frames",
        ylabel="processor time, ms",
        ylim=(0, None),
    )
    for axes in (left, right):
        axes.set_xticks(frames)
        axes.grid(alpha=0.3)
    _save(figure, path)
