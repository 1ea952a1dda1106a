"""Two workers on this machine against one, the same batches of four clips."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.workers import WorkerBatches, Workers

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("worker.py")
BOUND_S = 300


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def start(folder, log, config=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CONFIG", None)
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait_for(processes, log):
    try:
        codes = [process.wait(timeout=BOUND_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * len(processes), Path(log.name).read_text()


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """(folder of one worker, folder of two workers)."""
    alone = tmp_path_factory.mktemp("alone")
    both = tmp_path_factory.mktemp("both")
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    with (both.parent / "workers.log").open("w") as log:
        wait_for(
            [
                start(both, log, {"cluster": cluster, "task": {"type": "worker", "index": index}})
                for index in (0, 1)
            ],
            log,
        )
        wait_for([start(alone, log)], log)
    return alone, both


def read_history(folder, name):
    with (folder / "history.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_two_workers_have_the_loss_curve_of_one_with_the_same_batch(trainings):
    alone, both = trainings
    for name in ("val_loss", "val_accuracy", "learning_rate"):
        assert read_history(both, name) == pytest.approx(read_history(alone, name), rel=1e-5)
    totals = [float(np.load(folder / "end0.npz")["total"]) for folder in trainings]
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)


def test_the_workers_end_alike_and_the_chief_alone_writes(trainings):
    _, both = trainings
    ends = [np.load(both / f"end{index}.npz") for index in (0, 1)]
    assert str(ends[0]["record"]) == str(ends[1]["record"])
    assert ends[0]["total"] == ends[1]["total"]
    assert not (both / "worker1").exists()
    names = {path.name for path in both.iterdir()}
    assert names == {"checkpoints", "tensorboard", "history.csv", "end0.npz", "end1.npz"}


class Batches:
    """Three clips of two classes."""

    workers, max_queue_size = 1, 10

    def __len__(self):
        return 1

    def __getitem__(self, batch):
        return np.arange(3), np.eye(2)[[0, 1, 1]]


def test_the_shares_are_the_batch_and_their_weighted_means_have_its_mean():
    losses = np.array([1.0, 10.0, 100.0])
    weights = {0: 2.0, 1: 3.0}
    shares = [WorkerBatches(Batches(), Workers(4, i), weights)[0] for i in range(4)]
    means = [(losses[clips] * share).mean() for clips, _, share in shares]
    assert np.mean(means) == pytest.approx((2 * 1 + 3 * 10 + 3 * 100) / 3)
