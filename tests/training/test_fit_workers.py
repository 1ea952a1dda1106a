"""training.fit itself in two processes under TF_CONFIG, against one with the same batches."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from tests.training.cluster import run_together
from training.run import RunDirectory

SCRIPT = str(Path(__file__).with_name("fit_without_dropout.py"))
#: Sums of two halves are rounded otherwise than sums of the whole.
TOLERANCE = 1e-3


def command(dataset, folder, out, *extra):
    return [
        *(SCRIPT, "--data", str(dataset), "--model", "convlstm", "--split", "group"),
        *("--frames", "2", "--height", "32", "--width", "32", "--epochs", "3"),
        *("--batch-size", "6", "--class-weights", "--cache", str(folder / "cache")),
        *("--out", str(folder / out), *extra),
    ]


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    """Holds the runs "alone" and "both", and what the second worker would have written to."""
    folder = tmp_path_factory.mktemp("workers")
    ((status, output),) = run_together([command(dataset, folder, "alone")], folder)
    assert status == 0, output
    ended = run_together(
        [command(dataset, folder, out) for out in ("both", "second")],
        folder,
        types=["chief", "worker"],
    )
    assert [status for status, _ in ended] == [0, 0], ended
    return folder


def read_history(run):
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_have_the_loss_curve_of_one(folder):
    alone, both = (read_history(folder / name) for name in ("alone", "both"))
    assert len(both) == len(alone) == 3
    for name in ("val_loss", "val_accuracy", "learning_rate"):
        wanted = [float(row[name]) for row in alone]
        assert [float(row[name]) for row in both] == pytest.approx(wanted, rel=TOLERANCE), name
    losses = [float(row["val_loss"]) for row in alone]
    # Otherwise any training would have this curve.
    assert max(losses) - min(losses) > 10 * TOLERANCE * max(losses)


def test_their_network_is_that_of_one(folder):
    alone, both = (RunDirectory.open(folder / name).load_model() for name in ("alone", "both"))
    for one, other in zip(both.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def train_both(dataset, folder, name, *options):
    """The figures that the two workers print of their epochs, and the chief's network."""
    outs = (name, f"{name}-second")
    ended = run_together([command(dataset, folder, out, *options) for out in outs], folder)
    assert [status for status, _ in ended] == [0, 0], ended
    one, other = (re.findall(r"(?:val_)?(?:loss|accuracy): \S+", output) for _, output in ended)
    assert one == other
    assert len(one) == 3 * 4
    assert len({figure for figure in one if figure.startswith("val_loss")}) == 3
    return RunDirectory.open(folder / name).load_model()


def test_lrcn_is_the_same_at_both(dataset, folder):
    """What of it is no sum of gradients, the workers average every epoch."""
    size = ("--height", "16", "--width", "16", "--batch-size", "7")
    network = train_both(dataset, folder, "lrcn", "--model", "lrcn", *size)
    moved = [weight for weight in network.weights if "moving" in weight.path]
    assert len(moved) == 8
    for statistic in moved:
        assert np.abs(statistic.numpy() - ("variance" in statistic.path)).max() > 0


def test_phases_that_train_more_and_more_of_a_network_are_the_same_at_both(dataset, folder):
    phases = ("--model", "lrcn-efficientnet", "--frozen-epochs", "1")
    train_both(dataset, folder, "phases", *phases)


def test_the_chief_alone_writes(folder):
    assert not (folder / "second").exists()
    names = [{path.name for path in (folder / name).iterdir()} for name in ("alone", "both")]
    assert names[0] == names[1]
    alone, both = (RunDirectory(folder / name) for name in ("alone", "both"))
    assert alone.read_json("config.json") == both.read_json("config.json")


def test_workers_with_other_options_or_clips_are_refused_in_words(folder, dataset):
    unlike = ("--learning-rate", "0.5", "--classes", "Light", "Dark")
    ended = run_together(
        [command(dataset, folder, "unlike", *options) for options in ((), unlike)], folder
    )
    for status, output in ended:
        assert status == 2, output
        assert "error: the workers were not started alike" in output
        assert "they differ in classes, learning_rate, split" in output
        assert "Traceback" not in output
    assert not (folder / "unlike").exists()
