"""The plots of a run: training curves and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

CURVES = (("loss", "Loss"), ("accuracy", "Accuracy"))


def plot_curves(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Loss and accuracy of training and validation by epoch, the best epoch marked.

    Args:
        history: `loss`, `val_loss`, `accuracy` and `val_accuracy`, a value an epoch.
        path: the PNG to write.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    best = int(np.argmin(history["val_loss"]))
    for axes, (name, title) in zip(figure.subplots(1, 2), CURVES, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            axes.plot(range(1, len(history[key]) + 1), history[key], label=label)
        value = history[f"val_{name}"][best]
        axes.axvline(best + 1, color="grey", linestyle=":", linewidth=1)
        axes.plot(best + 1, value, "o", color="black", label=f"best epoch {best + 1}: {value:.3f}")
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


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
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    figure.savefig(path, dpi=110)
