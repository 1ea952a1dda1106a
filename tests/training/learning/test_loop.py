"""The training loop on a network of two dense layers and clips of two frames of 4x4 pixels."""

import csv
import dataclasses
import errno
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import training.learning.loop
from tests.training.drawn import SEED, make_config, make_examples
from training.errors import DataError
from training.export import check_parity
from training.graphs.convert import to_onnx
from training.learning.augment import NO_AUGMENTATION
from training.learning.batches import ClipBatches
from training.learning.checkpoints import read_last
from training.learning.loop import (
    CHECKPOINTS,
    DivergenceError,
    compile_model,
    make_deterministic,
    precision,
    train,
)
from training.networks.models import build_lrcn
from training.networks.recipes import Phase

CONFIG = make_config(warmup_epochs=1)
TRAIN = 18


class HeadPhase(Phase):
    """Freezes the layer that stands for an encoder here."""

    def prepare(self, model):
        model.get_layer("encoder").trainable = False


#: Of a refit: no clip is left to validate by.
ALL_TRAINED = dataclasses.replace(make_examples(train=TRAIN), validation=None)
PHASES = (HeadPhase("head", epochs=3), Phase("all", rate=0.1))


def build_model():
    return keras.Sequential(
        [
            keras.Input((2, 4, 4, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(8, activation="relu", name="encoder"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ]
    )


def run(folder, config=CONFIG, phases=PHASES, build=build_model, examples=None):
    make_deterministic(config.seed)
    model = build()
    return model, train(model, examples or make_examples(train=TRAIN), config, phases, folder)


def read_history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, *run(folder)


class Killed(BaseException):
    """Nothing catches it."""


def run_killed(folder, monkeypatch, epoch, config=CONFIG, examples=None):
    """A training that ends right after an epoch's checkpoint, and goes on."""

    def write_and_die(folder, checkpoint):
        write(folder, checkpoint)
        if checkpoint.epoch == epoch:
            raise Killed

    write = training.learning.loop.write_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(training.learning.loop, "write_checkpoint", write_and_die)
        with pytest.raises(Killed):
            run(folder, config, examples=examples)
    return run(folder, config, examples=examples)


def assert_same_end(one, other, folders):
    (model, trained), (wanted_model, wanted) = one, other
    histories = [(folder / "history.csv").read_bytes() for folder in folders]
    assert histories[0] == histories[1]
    for mine, theirs in zip(model.get_weights(), wanted_model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    ignored = {"best_weights": (), "seconds": 0.0}
    assert dataclasses.replace(trained, **ignored) == dataclasses.replace(wanted, **ignored)


@pytest.mark.parametrize("epoch", [1, 3, 5])  # within a phase, at its end, in the next
def test_t1_resumed_after_any_epoch_a_training_ends_as_the_uninterrupted(
    uninterrupted, tmp_path, monkeypatch, epoch
):
    folder, *wanted = uninterrupted
    assert_same_end(run_killed(tmp_path, monkeypatch, epoch), wanted, (tmp_path, folder))


def test_a_training_remembers_every_machine_that_it_was_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training.learning.loop, "describe_machine", lambda: {"processor": "first"})
        run(tmp_path)
    checkpoint = training.learning.checkpoints.read_last(tmp_path / CHECKPOINTS)
    assert checkpoint.record["machines"] == [{"processor": "first"}]
    # Finished: nothing is trained any more, wherever that is found.
    assert run(tmp_path)[1].machines == [{"processor": "first"}]


def test_a_training_that_goes_on_elsewhere_names_both_machines(tmp_path, monkeypatch):
    machines = iter([{"processor": "first"}] * len(PHASES) + [{"processor": "second"}] * 9)
    monkeypatch.setattr(training.learning.loop, "describe_machine", lambda: next(machines))
    _, trained = run_killed(tmp_path, monkeypatch, 1)
    assert [machine["processor"] for machine in trained.machines] == ["first", "second"]


def test_without_validation_clips_the_last_epoch_is_kept_and_none_ends_a_phase(
    tmp_path, monkeypatch
):
    config = dataclasses.replace(CONFIG, patience=1, schedule="cosine")
    ends = []
    for epoch in (1, 3, 4):
        folder = tmp_path / str(epoch)
        ends.append(run_killed(folder, monkeypatch, epoch, config, ALL_TRAINED))
        assert_same_end(ends[-1], ends[0], (folder, tmp_path / "1"))
    model, trained = ends[0]
    assert trained.best_epoch == trained.epoch == config.epochs
    assert set(trained.history) == {"loss", "accuracy", "learning_rate"}
    last = read_last(tmp_path / "1" / CHECKPOINTS).arrays["model"]
    kept = [weight.tobytes() for weight in model.get_weights()]
    assert set(kept) <= {array.tobytes() for array in last}


AVERAGED = dataclasses.replace(CONFIG, ema=0.9, patience=8)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    return folder, *run(folder, AVERAGED)


def test_t1_averaged_weights_resume_to_the_same_end(averaged, tmp_path, monkeypatch):
    folder, *wanted = averaged
    again = run_killed(tmp_path, monkeypatch, 5, AVERAGED)
    assert_same_end(again, wanted, (tmp_path, folder))


def test_the_averages_are_what_is_validated_and_kept(averaged, uninterrupted):
    folder, model, _ = averaged
    clips, targets = make_examples(train=TRAIN).validation
    losses = [float(row["val_loss"]) for row in read_history(folder)]
    answers = model.predict(clips, verbose=0)
    assert -np.log((answers * targets).sum(axis=1)).mean() == pytest.approx(min(losses), rel=1e-5)
    # The same steps are taken as without; what is made of them differs.
    steps, plain = read_history(folder), read_history(uninterrupted[0])
    assert [row["loss"] for row in steps[:3]] == [row["loss"] for row in plain[:3]]
    assert [row["val_loss"] for row in steps[:3]] != [row["val_loss"] for row in plain[:3]]


@pytest.mark.parametrize(
    "examples", [make_examples(train=TRAIN), ALL_TRAINED], ids=["validated", "not validated"]
)
def test_the_averages_are_those_of_the_steps(examples, tmp_path, monkeypatch):
    seen = []

    class Watch(keras.callbacks.Callback):
        def __init__(self, batches):
            super().__init__()

        def on_train_batch_end(self, batch, logs=None):
            seen.append([weight.numpy() for weight in self.model.trainable_variables])

    follow = training.learning.loop.FollowEpochs
    monkeypatch.setattr(
        training.learning.loop,
        "FollowEpochs",
        lambda batches: keras.callbacks.CallbackList([follow(batches), Watch(batches)]),
    )
    config = dataclasses.replace(AVERAGED, epochs=1, warmup_epochs=0)
    model, trained = run(tmp_path, config, (Phase("all"),), examples=examples)
    model.set_weights(trained.best_weights)
    wanted = seen[0]
    for step in seen[1:]:
        wanted = [0.9 * old + 0.1 * new for old, new in zip(wanted, step, strict=True)]
    for found, weight in zip(model.trainable_variables, wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), weight, rtol=1e-5, atol=1e-7)


def test_a_finished_training_resumes_to_the_same_end(uninterrupted, tmp_path):
    folder, model, wanted = uninterrupted
    shutil.copytree(folder, tmp_path / "copy")
    again, resumed = run(tmp_path / "copy")
    assert resumed.epoch == wanted.epoch
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_phase_trains_what_it_says_at_its_rate_from_the_best_weights(uninterrupted):
    folder, _, training = uninterrupted
    rates = [float(row["learning_rate"]) for row in read_history(folder)]
    assert len(rates) == training.epoch
    assert rates[0] == CONFIG.learning_rate
    assert rates[3] == pytest.approx(CONFIG.learning_rate / 10)
    assert training.phase == 1
    assert training.first_epoch == 3
    assert training.progress.epochs == training.epoch - training.first_epoch
    checkpoint = read_last(folder / CHECKPOINTS)
    kernel = next(a for a in checkpoint.arrays["model"] if a.shape == (96, 8))
    keras.utils.set_random_seed(SEED)
    assert (kernel != build_model().get_layer("encoder").get_weights()[0]).any()


def test_a_phase_begins_with_the_best_weights_not_with_the_last(tmp_path, monkeypatch):
    begun = []

    class NextPhase(Phase):
        def prepare(self, model):
            checkpoint = read_last(tmp_path / CHECKPOINTS)
            assert (checkpoint.record["best_epoch"], checkpoint.epoch) == (1, 2)
            begun.extend(zip(model.get_weights(), checkpoint.arrays["best"], strict=True))

    def is_first(self, value, best, *, by=0.0):
        return best is None

    monkeypatch.setattr(training.learning.loop.Pace, "is_better", is_first)
    config = dataclasses.replace(CONFIG, epochs=3, warmup_epochs=0)
    run(tmp_path, config, (Phase("one", epochs=2), NextPhase("next")))
    assert begun
    for found, best in begun:
        np.testing.assert_array_equal(found, best)


def test_weight_decay_leaves_biases_and_scales_alone():
    model = build_model()
    config = dataclasses.replace(CONFIG, learning_rate=0.1, weight_decay=0.5)
    compile_model(model, Phase("all"), config)
    model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
    model.optimizer.apply([tf.zeros(weight.shape) for weight in model.trainable_variables])
    shrunk = {weight.name for weight in model.trainable_variables if weight.numpy().max() < 1}
    assert shrunk == {"kernel"}


def test_a_frozen_layer_stays_as_it_was(tmp_path):
    make_deterministic(SEED)
    model = build_model()
    before = model.get_layer("encoder").get_weights()[0]
    train(model, make_examples(train=TRAIN), CONFIG, PHASES[:1], tmp_path)
    np.testing.assert_array_equal(model.get_layer("encoder").get_weights()[0], before)


def test_the_best_weights_are_those_of_the_best_epoch(uninterrupted):
    folder, model, training = uninterrupted
    losses = [float(row["val_loss"]) for row in read_history(folder)]
    assert training.best == min(losses)
    assert losses[training.best_epoch - 1] == training.best
    clips, targets = make_examples(train=TRAIN).validation
    answers = model.predict(clips, verbose=0)
    loss = -np.log((answers * targets).sum(axis=1)).mean()
    assert loss == pytest.approx(training.best, rel=1e-5)


def test_tensorboard_has_every_epoch_that_was_finished(uninterrupted):
    folder, _, training = uninterrupted
    logs = [str(log) for log in (folder / "tensorboard/validation").iterdir()]
    records = tf.data.TFRecordDataset(logs)
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in records]
    steps = [e.step for e in events for v in e.summary.value if v.tag == "epoch_loss"]
    assert sorted(steps) == list(range(1, training.epoch + 1))


def test_t3_a_loss_that_is_no_number_ends_the_training_with_step_rate_and_clips(tmp_path):
    examples = make_examples(train=TRAIN)
    poisoned = examples.batches._targets.copy()
    poisoned[5] = np.nan
    batches = ClipBatches(
        examples.batches._clips, poisoned, batch_size=4, seed=SEED, augmentation=NO_AUGMENTATION
    )
    batches.go_to_epoch(0)
    step = next(i for i in range(len(batches)) if 5 in batches.places(i))
    clips = "\n  ".join(f"clip{place}" for place in batches.places(step))
    with pytest.raises(DivergenceError) as caught:
        run(
            tmp_path,
            dataclasses.replace(CONFIG, warmup_epochs=0),
            PHASES[1:],
            examples=dataclasses.replace(examples, batches=batches),
        )
    message = str(caught.value)
    assert f"loss is nan in epoch 1, step {step + 1} of 5, learning rate 0.001" in message
    assert message.endswith(clips)
    assert read_last(tmp_path / CHECKPOINTS) is None


def test_t3_a_validation_loss_that_is_no_number_ends_the_training(tmp_path):
    examples = make_examples(train=TRAIN)
    clips, targets = examples.validation
    poisoned = dataclasses.replace(examples, validation=(clips, targets * np.float32(np.nan)))
    with pytest.raises(DivergenceError, match=r"validation loss is nan after epoch 1, learning"):
        run(tmp_path, examples=poisoned)
    assert read_last(tmp_path / CHECKPOINTS) is None


def test_t2_a_disk_that_fills_up_ends_the_training_and_keeps_the_epoch_before(
    tmp_path, monkeypatch
):
    def fill_up(folder, checkpoint):
        if checkpoint.epoch == 2:
            path = str(folder / "epoch-00002.npz")
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(folder, checkpoint)

    write = training.learning.loop.write_checkpoint
    monkeypatch.setattr(training.learning.loop, "write_checkpoint", fill_up)
    with pytest.raises(OSError, match=r"No space left on device: .*epoch-00002\.npz"):
        run(tmp_path)
    assert read_last(tmp_path / CHECKPOINTS).epoch == 1


def test_t2_a_log_that_cannot_be_written_costs_no_epoch(tmp_path, monkeypatch):
    def fill_up(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", fill_up)
    with pytest.raises(OSError, match=r"tensorboard cannot be written: No space left"):
        run(tmp_path)
    assert read_last(tmp_path / CHECKPOINTS).epoch == 1


def test_a_checkpoint_of_another_network_is_refused(uninterrupted, tmp_path):
    folder, *_ = uninterrupted
    shutil.copytree(folder, tmp_path / "copy")

    def build_other():
        return keras.Sequential([keras.Input((2, 4, 4, 3)), layers.Flatten(), layers.Dense(2)])

    with pytest.raises(DataError, match="not one of this network"):
        run(tmp_path / "copy", build=build_other)


def test_mixed_precision_trains_in_16_bits_and_exports_in_32(tmp_path, capsys):
    def build():
        return build_lrcn(2, 2, height=16, width=16)

    config = dataclasses.replace(CONFIG, epochs=1, warmup_epochs=0, mixed_precision=True)
    examples = make_examples(train=TRAIN, side=16)
    with precision(mixed=True):
        model, trained = run(tmp_path, config, (Phase("all"),), build, examples)
    assert "gains on a CPU only where" in capsys.readouterr().err
    assert model.layers[2].compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in trained.best_weights} == {np.dtype(np.float32)}
    kept = build()
    assert kept.compute_dtype == "float32"
    kept.set_weights(trained.best_weights)
    clips, _ = examples.validation
    _, parity = check_parity(kept, to_onnx(kept).SerializeToString(), clips)
    assert parity["top1_equal"]
