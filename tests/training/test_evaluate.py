import numpy as np
import pytest

from training.evaluate import evaluate_probabilities

CLASSES = ["a", "b", "c"]


def test_figures_of_a_small_case_worked_by_hand():
    predicted = [0, 0, 1, 1, 1, 0]
    targets = np.array([0, 0, 0, 1, 1, 2])
    measured = evaluate_probabilities(np.eye(3, dtype=np.float32)[predicted], targets, CLASSES)
    assert measured["clips"] == 6
    assert measured["accuracy"] == pytest.approx(4 / 6)
    assert measured["confusion_matrix"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert measured["per_class"]["a"] == pytest.approx(
        {"clips": 3, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}
    )
    assert measured["precision"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert measured["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_perfect_prediction_has_perfect_figures():
    targets = np.array([0, 1, 2, 1])
    measured = evaluate_probabilities(np.eye(3, dtype=np.float32)[targets], targets, CLASSES)
    assert [measured[name] for name in ("accuracy", "precision", "recall", "f1")] == [1.0] * 4
