"""Figures of a classifier on a set of clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


def evaluate_probabilities(
    probabilities: npt.NDArray[np.float32],
    targets: npt.NDArray[np.intp],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Measure predicted probabilities against the truth.

    Args:
        probabilities: (N, classes), rows summing to 1.
        targets: (N,), the true class of each row as its place in `classes`.
        classes: labels in column order.

    Returns:
        JSON values: `clips`, `accuracy` (top-1) and, averaged over the classes without weights
        (macro), `precision`, `recall` and `f1`; `per_class` with the same for each and its `clips`;
        and `confusion_matrix`, rows being the truth. A class never predicted has precision 0.
    """
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    scores = precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    precision, recall, f1, support = (np.asarray(score) for score in scores)
    return {
        "clips": len(targets),
        "accuracy": float((predicted == targets).mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "per_class": {
            label: {
                "clips": int(support[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
            }
            for i, label in enumerate(classes)
        },
        "confusion_matrix": confusion_matrix(targets, predicted, labels=labels).tolist(),
    }
