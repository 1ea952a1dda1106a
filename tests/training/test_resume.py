"""training.fit killed by SIGKILL and resumed, against the same run left alone."""

import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.training.cluster import run_together
from training.fit import main
from training.run import RunDirectory

SCRIPT = str(Path(__file__).with_name("fit_killed.py"))


def command(dataset, out, *extra):
    return [
        *("--data", str(dataset), "--model", "lrcn", "--split", "group", "--epochs", "4"),
        *("--frames", "2", "--height", "16", "--width", "16", "--batch-size", "8"),
        *("--schedule", "cosine", "--warmup-epochs", "1", "--monitor", "val_accuracy"),
        *("--label-smoothing", "0.1", "--class-weights", "--weight-decay", "1e-4"),
        *("--cache", str(out.parent / "cache"), "--out", str(out), *extra),
    ]


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """(a run left alone, a killed and resumed one) with the same options and seed."""
    folder = tmp_path_factory.mktemp("resume")
    alone, resumed = folder / "alone", folder / "resumed"
    ((status, output),) = run_together([[SCRIPT, "2", *command(dataset, resumed)]], folder)
    assert status == -signal.SIGKILL, output
    assert not (resumed / "model.keras").exists()
    assert main(command(dataset, resumed, "--resume")) == 0
    assert main(command(dataset, alone, "--resume")) == 0
    return alone, resumed


def read_metrics(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.pop("training_seconds") >= 0
    return metrics


def test_t1_a_killed_and_resumed_run_ends_with_the_same_weights_bit_by_bit(runs):
    alone, resumed = (RunDirectory.open(run).load_model().get_weights() for run in runs)
    for one, other in zip(alone, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_t8_the_same_seed_gives_the_same_split_history_and_metrics(runs):
    alone, resumed = runs
    for name in ("split.tsv", "history.csv"):
        assert (alone / name).read_bytes() == (resumed / name).read_bytes()
    assert read_metrics(alone) == read_metrics(resumed)


def test_the_options_reach_the_training(runs):
    config = json.loads((runs[0] / "config.json").read_text())
    assert config["clip_spec"]["height"] == 16
    assert config["monitor"] == "val_accuracy"
    with (runs[0] / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    # The last step of each epoch: the warm-up's peak, then the cosine's thirds.
    assert rates == pytest.approx([1e-3, 7.5e-4, 2.5e-4, 0], abs=1e-12)
    accuracies = [float(row["val_accuracy"]) for row in rows]
    best = read_metrics(runs[0])["best_epoch"]
    assert accuracies[best - 1] == max(accuracies)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (("--learning-rate", "0.5"), ('-  "learning_rate": 0.001', '+  "learning_rate": 0.5')),
        (("--classes", "Light", "Dark"), ('-    "Dark"', '+    "Dark"')),
        (("--height", "24"), ('-    "height": 16', '+    "height": 24')),
    ],
)
def test_t5_a_run_is_not_resumed_with_another_configuration(runs, dataset, capsys, change, shown):
    alone, _ = runs
    before = {path: path.read_bytes() for path in alone.iterdir() if path.is_file()}
    assert main(command(dataset, alone, "--resume", *change)) == 2
    message = capsys.readouterr().err
    assert "cannot be resumed, its config.json would be another" in message
    for line in shown:
        assert line in message
    assert {path: path.read_bytes() for path in alone.iterdir() if path.is_file()} == before


def test_t5_a_run_is_not_resumed_with_other_clips(runs, dataset, tmp_path, capsys):
    alone, _ = runs
    shutil.copytree(dataset, tmp_path / dataset.name)
    gone = "v_Dark_g01_c01.mp4"
    (tmp_path / dataset.name / "Dark" / gone).unlink()
    assert main(command(tmp_path / dataset.name, alone, "--resume")) == 2
    message = capsys.readouterr().err
    assert "split.tsv would be another" in message
    assert f"-Dark/{gone}" in message


def test_resume_leaves_a_folder_that_is_no_run_alone(dataset, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    assert main(command(dataset, tmp_path / "mine", "--resume")) == 2
    assert "thesis" not in capsys.readouterr().out
    assert (tmp_path / "mine/thesis.tex").read_text() == "x"
