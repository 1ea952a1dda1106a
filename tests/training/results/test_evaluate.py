import json

import numpy as np
import pytest

from training.results.evaluate import (
    bootstrap_mean,
    evaluate_probabilities,
    measure_calibration,
)

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
    assert measured["f1"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)


def test_a_perfect_prediction_has_perfect_figures():
    targets = np.array([0, 1, 2, 1])
    measured = evaluate_probabilities(np.eye(3, dtype=np.float32)[targets], targets, CLASSES)
    assert [measured[name] for name in ("accuracy", "precision", "recall", "f1")] == [1.0] * 4


def test_weighted_figures_count_each_class_by_its_clips():
    predicted = [0, 0, 1, 1, 1, 0]
    targets = np.array([0, 0, 0, 1, 1, 2])
    measured = evaluate_probabilities(np.eye(3, dtype=np.float32)[predicted], targets, CLASSES)
    assert measured["weighted"] == pytest.approx(
        {
            "precision": (3 * 2 / 3 + 2 * 2 / 3 + 0) / 6,
            "recall": 4 / 6,
            "f1": (3 * 2 / 3 + 2 * 0.8 + 0) / 6,
        }
    )


def test_top3_accepts_the_second_and_third_answer():
    probabilities = np.array(
        [[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], np.float32
    )
    measured = evaluate_probabilities(probabilities, np.array([2, 3, 3]), list("abcd"))
    assert measured["top3_accuracy"] == pytest.approx(2 / 3)
    assert measured["accuracy"] == pytest.approx(1 / 3)


def test_every_figure_is_json():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 30).astype(np.float32)
    targets = np.arange(30) % 4
    measured = evaluate_probabilities(probabilities, targets, list("abcd"), groups=["g"] * 30)
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured


def test_the_calibration_error_of_a_small_case_worked_by_hand():
    # Fifteenths: 0.6 closes the bin (8/15, 9/15], 0.62 opens the next one, 0.95 is in the last.
    confidence = np.array([0.6, 0.6, 0.62, 0.95], np.float64)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    calibration = measure_calibration(probabilities, np.array([0, 1, 0, 0]))
    assert [part["clips"] for part in calibration["bins"]] == [0] * 8 + [2, 1] + [0] * 4 + [1]
    assert calibration["bins"][8] == pytest.approx({"clips": 2, "confidence": 0.6, "accuracy": 0.5})
    assert calibration["bins"][0] == {"clips": 0, "confidence": None, "accuracy": None}
    assert calibration["expected_error"] == pytest.approx((2 * 0.1 + 0.38 + 0.05) / 4)
    assert calibration["confidence"] == pytest.approx((2 * 0.6 + 0.62 + 0.95) / 4)


def test_a_softmax_that_sums_to_a_hair_more_than_1_is_in_the_last_bin():
    probabilities = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]], np.float32)
    bins = measure_calibration(probabilities, np.array([0]))["bins"]
    assert [part["clips"] for part in bins] == [0] * 14 + [1]


def test_the_interval_holds_the_accuracy_and_narrows_with_more_clips():
    few, many = (bootstrap_mean(np.arange(count) % 4 != 0) for count in (40, 4000))
    for bounds in (few, many):
        assert bounds["low"] < 0.75 < bounds["high"]
        assert (bounds["unit"], bounds["level"]) == ("clips", 0.95)
    # The normal approximation, 1.96 times the standard error.
    assert few["high"] - few["low"] == pytest.approx(3.92 * np.sqrt(0.75 * 0.25 / 40), rel=0.1)
    assert many["high"] - many["low"] == pytest.approx(3.92 * np.sqrt(0.75 * 0.25 / 4000), rel=0.1)


def test_clips_that_fail_together_widen_the_interval():
    correct = np.repeat(np.arange(20) % 4 != 0, 10)
    groups = [f"g{i // 10}" for i in range(200)]
    alone, together = bootstrap_mean(correct), bootstrap_mean(correct, groups)
    assert (together["unit"], together["units"]) == ("groups", 20)
    assert together["high"] - together["low"] > 2.5 * (alone["high"] - alone["low"])


def test_a_group_counts_by_its_clips():
    """Else the interval would be one of the mean of the groups' accuracies, here one half."""
    correct = np.repeat([True, False], [90, 10])
    groups = [f"right{i // 9}" for i in range(90)] + [f"wrong{i}" for i in range(10)]
    bounds = bootstrap_mean(correct, groups)
    assert bounds["units"] == 20
    assert 0.7 < bounds["low"] < 0.9 < bounds["high"] < 1


def test_groups_of_one_clip_each_are_clips():
    correct = np.arange(50) % 3 == 0
    groups = [str(i) for i in range(50)]
    assert bootstrap_mean(correct, groups)["unit"] == "clips"


def test_the_interval_follows_the_seed_and_nothing_else():
    correct = np.arange(5001) % 3 == 0
    first, again, other = (bootstrap_mean(correct, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["low"] != other["low"]
    assert first["low"] == pytest.approx(other["low"], abs=0.001)
