"""A run's figures: from a network's answers to metrics.json, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.errors import DataError
from training.results.evaluate import Probabilities, evaluate_probabilities
from training.results.parts import MEASURED_PARTS
from training.results.predictions import Predictions, write_predictions
from training.run import RunDirectory


def measure_run(run: RunDirectory, answers: Mapping[str, Probabilities]) -> dict[str, Any]:
    """Keep a network's answers as predictions.tsv, and measure them.

    Args:
        run: has its config.json and split.tsv.
        answers: for each measured part float32 (N, classes), in the order of split.tsv.

    Returns:
        The figures of each part, for metrics.json.
    """
    classes = run.read_json("config.json")["classes"]
    parts = {
        part: Predictions.of_part(run, part, probabilities, classes)
        for part, probabilities in answers.items()
    }
    write_predictions(run, parts, classes)
    return {
        part: evaluate_probabilities(
            found.probabilities, found.targets, classes, groups=found.groups
        )
        for part, found in parts.items()
    }


def read_metrics(run: RunDirectory, *, with_test: bool = False) -> dict[str, Any]:
    """A run's metrics.json: without "test" after --no-test, without "validation" in a refit.

    Raises:
        DataError: there is none, or it lacks figures that this code measures, or those of the test
            clips though they are wanted.
    """
    try:
        metrics: dict[str, Any] = run.read_json("metrics.json")
    except FileNotFoundError:
        raise DataError(f"{run.path} is not a finished run: it has no metrics.json") from None
    there = measured_parts(run, metrics)
    if not all("calibration" in metrics.get(part, {}) for part in there):
        raise DataError(
            f"{run.path} was measured by an older version: measure it anew with "
            f"python -m training.report {run.path} --data ..."
        )
    if with_test and "test" not in there:
        raise DataError(
            f"{run.path} was not measured on its test clips (--no-test). Once the choice is made: "
            f"python -m training.report {run.path} --data ... --test"
        )
    return metrics


def measured_parts(run: RunDirectory, metrics: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The MEASURED_PARTS that a run is measured on: not the test clips while it leaves them.

    Nor, in a refit, the validation clips, for it was trained on them.

    Args:
        run: has its config.json.
        metrics: its metrics.json; if None, the one that is there, if one is.
    """
    if metrics is None:
        metrics = run.read_json("metrics.json") if (run.path / "metrics.json").exists() else {}
    config = run.read_json("config.json")
    left = set()
    if config.get("refit"):
        left.add("validation")
    if "test" not in metrics and not config.get("test", True):
        left.add("test")
    return tuple(part for part in MEASURED_PARTS if part not in left)
