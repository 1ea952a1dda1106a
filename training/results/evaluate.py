"""Figures of a classifier on a set of clips, their intervals and its calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

TOP = 3
LEVEL = 0.95
RESAMPLES = 10_000
#: As many as Guo et al. (2017) use.
CALIBRATION_BINS = 15

Probabilities = npt.NDArray[np.float32]
Targets = npt.NDArray[np.intp]


def evaluate_probabilities(
    probabilities: Probabilities,
    targets: Targets,
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure predicted probabilities against the truth.

    Args:
        probabilities: (N, classes), rows summing to 1.
        targets: (N,), the true class of each row as its place in `classes`.
        classes: labels in column order.
        groups: (N,), the footage that each clip was cut from, where that is known.

    Returns:
        JSON values: `clips`, `accuracy` (top-1), `accuracy_interval` (see `bootstrap_mean`) and
        `top3_accuracy`; averaged over the classes without weights (macro) `precision`, `recall` and
        `f1`; `weighted` with the same weighted by each class's clips; `per_class` with the same for
        each and its `clips`; `calibration` (see `measure_calibration`); and `confusion_matrix`,
        rows being the truth. A class never predicted has precision 0.
    """
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    scores = precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    precision, recall, f1, support = (np.asarray(score) for score in scores)
    weights = support / len(targets)
    return {
        "clips": len(targets),
        "accuracy": float((predicted == targets).mean()),
        "accuracy_interval": bootstrap_mean(predicted == targets, groups),
        f"top{TOP}_accuracy": _top_accuracy(probabilities, targets, labels),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "weighted": {
            "precision": float(precision @ weights),
            "recall": float(recall @ weights),
            "f1": float(f1 @ weights),
        },
        "per_class": {
            label: {
                "clips": int(support[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
            }
            for i, label in enumerate(classes)
        },
        "calibration": measure_calibration(probabilities, targets),
        "confusion_matrix": confusion_matrix(targets, predicted, labels=labels).tolist(),
    }


def _top_accuracy(probabilities: Probabilities, targets: Targets, labels: Targets) -> float:
    if len(labels) <= TOP:
        return 1.0  # scikit-learn warns here, and with two classes wants another shape
    return float(top_k_accuracy_score(targets, probabilities, k=TOP, labels=labels))


def bootstrap_mean(
    values: npt.NDArray[Any], groups: Sequence[str] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """The percentile bootstrap interval of a mean over clips (Efron and Tibshirani, 1993).

    Clips cut from the same footage succeed and fail together: taken for independent they would
    give too narrow an interval. Where groups are known, whole groups are therefore resampled (the
    cluster bootstrap, Field and Welsh, 2007). With few groups (some twenty) it is still somewhat
    too narrow, and where every clip is right it has no width at all.

    Args:
        values: (N,), a number for each clip: of an accuracy whether it was recognised, of the
            difference of two 1, 0 or -1.
        groups: (N,), the group of each clip; none, or groups of one clip each, resample clips.
        seed: of the resampling.

    Returns:
        JSON values: `low` and `high`, the `level`, what was resampled (`unit`: "groups" or "clips",
        and how many `units` there are), `resamples` and `seed`.
    """
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    _, unit_of_clip = np.unique(names, return_inverse=True)
    size, total = np.bincount(unit_of_clip), np.bincount(unit_of_clip, weights=values)
    units = len(size)
    # Units with as many clips and the same total are one kind: how often each kind is drawn in
    # as many draws with replacement as there are units is (RESAMPLES, kinds), which stays small.
    kinds, counts = np.unique(np.stack([size, total]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(units, counts / units, RESAMPLES)
    means = (drawn @ kinds[1]) / (drawn @ kinds[0])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "low": float(low),
        "high": float(high),
        "level": LEVEL,
        "unit": "clips" if units == len(values) else "groups",
        "units": units,
        "resamples": RESAMPLES,
        "seed": seed,
    }


def measure_calibration(probabilities: Probabilities, targets: Targets) -> dict[str, Any]:
    """The expected calibration error: how far confidence and accuracy lie apart.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017: the
    probability of the top class in bins of equal width, each open below and closed above; the
    distance between a bin's mean confidence and its accuracy, weighted by its clips.

    Returns:
        JSON values: `expected_error`, the mean `confidence` of all clips, and `bins`, from the
        lowest confidence to the highest, each with `clips`, `confidence` and `accuracy` (None where
        there are no clips).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == targets
    place = np.ceil(confidence * CALIBRATION_BINS).astype(np.intp) - 1
    place = place.clip(0, CALIBRATION_BINS - 1)  # a softmax may sum to a hair more than 1
    clips, confidences, rights = (
        np.bincount(place, weights, minlength=CALIBRATION_BINS)
        for weights in (None, confidence, correct)
    )
    return {
        "expected_error": float(np.abs(confidences - rights).sum() / len(targets)),
        "confidence": float(confidence.mean()),
        "bins": [
            {
                "clips": int(count),
                "confidence": float(total / count) if count else None,
                "accuracy": float(right / count) if count else None,
            }
            for count, total, right in zip(clips, confidences, rights, strict=True)
        ],
    }
