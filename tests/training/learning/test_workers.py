"""Two workers on this machine against one, the same batches of four clips."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.training.cluster import run_together
from training.errors import OptionError
from training.learning.workers import (
    AgreeEveryEpoch,
    WorkerBatches,
    Workers,
    WorkersError,
    join_workers,
    read_cluster,
)

SCRIPT = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """(folder of one worker, folder of two workers)."""
    folders = [tmp_path_factory.mktemp(name) for name in ("alone", "both")]
    for count, folder in enumerate(folders, start=1):
        logs = tmp_path_factory.mktemp("logs")
        ended = run_together([[str(SCRIPT), str(folder)]] * count, logs)
        assert [status for status, _ in ended] == [0] * count, ended
    return folders


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


@pytest.mark.parametrize(
    ("cluster", "task", "place"),
    [
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 1}, (2, 1)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "chief", "index": 0}, (3, 0)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "worker", "index": 0}, (3, 1)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "worker", "index": 1}, (3, 2)),
        ({"chief": ["a:1"]}, {"type": "chief", "index": 0}, (1, 0)),
        ({"worker": ["a:1"]}, {"type": "worker", "index": 0}, (1, 0)),
        ({}, {}, (1, 0)),
    ],
)
def test_the_chief_is_number_0_and_the_workers_follow(cluster, task, place):
    assert read_cluster(json.dumps({"cluster": cluster, "task": task})) == place


def test_without_tf_config_there_is_one_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert join_workers() == Workers()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"cluster": 3}', "not a JSON object"),
        ('{"cluster": {"worker": ["a"]}, "task": {"index": "x"}}', "not a JSON object"),
        ('{"cluster": {"worker": ["a"], "ps": ["b"], "evaluator": ["c"]}}', "type evaluator, ps"),
        ('{"cluster": {"chief": ["a", "b"]}, "task": {"type": "chief"}}', "2 chiefs"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "chief"}}', "has no chief 0"),
        ('{"cluster": {"worker": ["a"]}, "task": {"index": 1}}', "has no worker 1"),
        ('{"cluster": {"worker": ["a"]}, "task": {"index": -1}}', "has no worker -1"),
        ('{"cluster": {"worker": "a:1"}}', "addresses must be a list"),
        ('{"cluster": {"worker": ["a", "b"]}}', "this is: its task has no index and no type"),
        ('{"cluster": {"worker": ["a", "b"]}, "task": {"index": 1}}', "has no type"),
        ('{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker"}}', "has no index"),
    ],
)
def test_a_tf_config_that_cannot_be_is_an_error_in_words(text, message):
    with pytest.raises(OptionError, match=message):
        read_cluster(text)


class Together(Workers):
    """One of several workers, with what the others bring to a sum in a list."""

    def _reduce(self, values, key, operation):
        brought = [*self.strategy, values]
        if operation == "Max":
            return tf.reduce_max(tf.stack(brought), axis=0)
        return tf.add_n([tf.cast(other, values.dtype) for other in brought])


class Listening(Workers):
    """Keeps what it would bring."""

    def _reduce(self, values, key, operation):
        self.strategy.append(values)
        return values


def test_what_differs_between_workers_is_named():
    facts = {"seed": 0, "clips": {"a": "1", "b": "2"}, "checkpoint": None}
    brought = []
    Listening(3, 1, brought).differing({**facts, "seed": 1})
    Listening(3, 2, brought).differing({**facts, "clips": {"b": "2", "a": "1"}})
    assert Together(3, 0, brought).differing(facts) == ["seed"]
    # A worker that stands between the others in a digest sees it as well.
    assert Together(3, 0, brought).differing({**facts, "seed": 2}) == ["seed"]
    same = brought[1:] * 2
    assert Together(3, 0, same).differing(facts) == []


def test_only_moving_statistics_are_averaged_and_equal_values_stay_to_the_bit():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    dense, norm, dropout = model.layers
    dense.trainable = False
    norm.moving_mean.assign([0.1, 0.2, 0.3, 0.7])
    before = [weight.numpy() for weight in model.weights]
    seeds = dropout.seed_generator.state.numpy()

    brought = []
    agreement = AgreeEveryEpoch(Listening(3, 1, brought))
    agreement.set_model(model)
    agreement.on_test_begin()
    assert [len(values) for values in brought] == [8]
    model.set_weights(before)
    agreement = AgreeEveryEpoch(Together(3, 0, brought * 2))
    agreement.set_model(model)
    agreement.on_test_begin()
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)
    np.testing.assert_array_equal(dropout.seed_generator.state.numpy(), seeds)

    agreement = AgreeEveryEpoch(Together(3, 0, [brought[0] + 3.0, brought[0]]))
    agreement.set_model(model)
    agreement.on_test_begin()
    np.testing.assert_allclose(norm.moving_mean.numpy(), [1.1, 1.2, 1.3, 1.7], rtol=1e-6)

    # Where nothing is validated, after the epoch.
    for logs, wanted in (({"loss": 0.5}, [8, 1]), ({"loss": 0.5, "val_loss": 0.7}, [2])):
        agreement = AgreeEveryEpoch(Listening(3, 1, brought := []))
        agreement.set_model(model)
        agreement.on_epoch_end(0, logs)
        assert [len(values) for values in brought] == wanted


def lose(error, workers):
    with workers.watched():
        raise error(None, None, "peer 10.0.0.7 is gone\nmore")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.UnavailableError,
    ],
)
def test_a_worker_that_is_gone_is_an_error_in_words(error):
    with pytest.raises(
        WorkersError, match=r"another worker .* --resume .*peer 10\.0\.0\.7 is gone"
    ):
        lose(error, Workers(2, 0))


def test_whoever_trains_alone_is_not_told_of_other_workers():
    with pytest.raises(tf.errors.InternalError):
        lose(tf.errors.InternalError, Workers())
