"""The training itself: Keras' fit() for each phase, with all that it would forget kept.

After every epoch the weights, the optimizer, the state of the dropout layers' generators, the best
weights so far, the counts of the pace and the history are in one checkpoint. What an epoch does
depends on these and on its number alone, so a training that goes on from there computes what it
would have computed: bit by bit on a processor (see `make_deterministic`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.delimited import format_table
from training.errors import DataError
from training.files import write_text
from training.learning.averaging import AveragedWeights
from training.learning.batches import ClipBatches, FollowEpochs, OrderedBatches
from training.learning.checkpoints import Arrays, Checkpoint, read_last, write_checkpoint
from training.learning.pace import Pace, Progress
from training.learning.scalars import ScalarLog
from training.learning.workers import AgreeEveryEpoch, WorkerBatches, Workers, share_gradients
from training.machine import describe_machine
from training.networks.recipes import Phase
from training.options import FitConfig
from training.run import HISTORY_FILE

CHECKPOINTS = "checkpoints"
ALONE = Workers()


class DivergenceError(RuntimeError):
    """The training ended without a usable network."""


@dataclass
class Training:
    """Where a training stands; with the model's variables, all that a checkpoint holds.

    Attributes:
        phase: the number of the current phase.
        first_epoch: the epoch with which it began.
        epoch: finished epochs of all phases.
        progress: the current phase's.
        best: the best value of the monitor in all phases, reached after `best_epoch` epochs; None
            where nothing is validated, and the last epoch is the best.
        best_weights: as model.get_weights(); empty before the first epoch.
        history: a value an epoch, by name.
        seconds: spent in the epochs of `history`.
        machines: on which; several where it was resumed on another.
    """

    phase: int = 0
    first_epoch: int = 0
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    best: float | None = None
    best_epoch: int = 0
    best_weights: Arrays = ()
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    machines: list[dict[str, Any]] = field(default_factory=list)

    def to_checkpoint(self, model: keras.Model) -> Checkpoint:
        """Everything at the end of an epoch."""
        record = {
            "phase": self.phase,
            "first_epoch": self.first_epoch,
            "progress": asdict(self.progress),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "seconds": self.seconds,
            "machines": self.machines,
        }
        arrays = {
            "model": _values(model.variables),
            "optimizer": _values(model.optimizer.variables),
            "best": self.best_weights,
        }
        return Checkpoint(self.epoch, record, arrays)

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Training:
        """What `to_checkpoint` wrote, but for the model's and the optimizer's variables."""
        record = {**checkpoint.record, "progress": Progress(**checkpoint.record["progress"])}
        return cls(epoch=checkpoint.epoch, best_weights=checkpoint.arrays["best"], **record)


@dataclass(frozen=True, slots=True)
class Examples:
    """What the training shows the network.

    Attributes:
        batches: the training batches.
        names: of the training clips, in the order in which `batches` counts them.
        validation: uint8 clips and their one-hot targets; None if they are among the others.
        class_weights: by the class's place; None weighs all alike.
    """

    batches: ClipBatches
    names: Sequence[str]
    validation: tuple[Sequence[npt.NDArray[np.uint8]], npt.NDArray[np.float32]] | None
    class_weights: Mapping[int, float] | None = None


def make_deterministic(seed: int) -> None:
    """Make this process compute the same from the same seed, to the last bit on a processor.

    One operation at a time (each still uses all cores): otherwise TensorFlow adds up gradients in
    the order in which they happen to be ready. That is an environment variable (training.fit sets
    it), because it counts only before TensorFlow's first operation.
    """
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


@contextmanager
def precision(*, mixed: bool) -> Iterator[None]:
    """Let models that are built inside compute in 16 bits, if `mixed`; their weights have 32.

    float16 on a GPU. On a CPU bfloat16, which needs no scaling of the loss, and a warning, because
    many compute in it no faster than they convert to it (benchmarks.train_step_speed measures it).
    """
    if not mixed:
        yield
        return
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    if not on_gpu:
        print(
            "warning: --mixed-precision gains on a CPU only where it computes in 16 bits "
            "(AVX-512 BF16, AMX) and costs time on others: compare an epoch without it",
            file=sys.stderr,
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if on_gpu else "mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def train(
    model: keras.Model,
    examples: Examples,
    config: FitConfig,
    phases: Sequence[Phase],
    folder: Path,
    *,
    workers: Workers = ALONE,
) -> Training:
    """Train through all phases, from the last checkpoint in the run's folder if there is one.

    Of several workers the chief alone writes.

    Returns:
        The training at its end; the model has its `best_weights`.

    Raises:
        DivergenceError: the loss is no longer a number.
        DataError: the last checkpoint is not one of this model.
        OSError: a checkpoint cannot be written; the ones before are whole.
    """
    checkpoint = read_last(folder / CHECKPOINTS)
    training = Training.of_checkpoint(checkpoint) if checkpoint else Training()
    if checkpoint:
        _restore(model.variables, checkpoint.arrays["model"])
        if workers.is_chief:
            _write_history(training, folder)
        print(f"going on after epoch {training.epoch}")
    batches = WorkerBatches(examples.batches, workers, examples.class_weights)
    validation = None
    if examples.validation:
        clips, targets = examples.validation
        validation = OrderedBatches(clips, targets=targets, batch_size=config.batch_size)
    for number, phase in enumerate(phases):
        if number < training.phase:
            continue
        if number > training.phase:
            training.phase, training.first_epoch = number, training.epoch
            training.progress = Progress()
        left = config.epochs - training.first_epoch
        epochs = left if phase.epochs is None else min(left, phase.epochs)
        pace = Pace(
            peak=config.learning_rate * phase.rate,
            epochs=epochs,
            patience=config.patience,
            monitor=config.monitor,
            schedule=config.schedule,
            warmup_epochs=config.warmup_epochs,
        )
        compile_model(model, phase, config, workers)
        if checkpoint and number == checkpoint.record["phase"]:
            _restore(model.optimizer.variables, checkpoint.arrays["optimizer"])
        if not training.progress.stopped and training.progress.epochs < epochs:
            callbacks: list[keras.callbacks.Callback] = [
                FollowEpochs(examples.batches),
                _LearningRate(pace, training, len(batches)),
                _FiniteLoss(examples.batches, examples.names),
                AgreeEveryEpoch(workers),
            ]
            averaged = AveragedWeights() if config.ema is not None else None
            if averaged:
                callbacks.append(averaged)
            keep = folder if workers.is_chief else None
            callbacks.append(_Bookkeeping(pace, training, keep, averaged))
            if workers.is_chief:
                # After the checkpoint: a log that cannot be written must not cost an epoch.
                callbacks.append(
                    ScalarLog(folder / "tensorboard", validated=validation is not None)
                )
            model.fit(
                batches,
                # The batches have an order of their own; Keras would draw another for them from
                # Python's generator, whose state no checkpoint holds.
                shuffle=False,
                validation_data=validation,
                initial_epoch=training.epoch,
                epochs=training.first_epoch + epochs,
                callbacks=callbacks,
                verbose=2,
            )
        model.set_weights(training.best_weights)
    return training


def compile_model(
    model: keras.Model, phase: Phase, config: FitConfig, workers: Workers = ALONE
) -> None:
    """Prepare a model for a phase, with a new optimizer; the options decide which."""
    phase.prepare(model)
    averaging = {} if config.ema is None else {"use_ema": True, "ema_momentum": config.ema}
    optimizer = share_gradients(keras.optimizers.Adam, workers)(config.learning_rate, **averaging)
    if config.weight_decay:
        optimizer = share_gradients(keras.optimizers.AdamW, workers)(
            config.learning_rate, config.weight_decay, **averaging
        )
        # Shrinking these only costs accuracy: they do not overfit.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer=optimizer,
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # several times slower on a CPU with these layers
    )
    model.optimizer.build(model.trainable_variables)


class _LearningRate(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Sets the rate of every step, and writes that of the last one into the epoch's logs."""

    def __init__(self, pace: Pace, training: Training, steps: int) -> None:
        super().__init__()
        self._pace = pace
        self._training = training
        self._steps = steps

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        progress = self._training.progress
        self._rate = self._pace.rate(progress.epochs + (batch + 1) / self._steps, progress)
        self.model.optimizer.learning_rate = self._rate

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        logs["learning_rate"] = self._rate


class _FiniteLoss(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Ends the training at the step whose loss is no number."""

    def __init__(self, batches: ClipBatches, names: Sequence[str]) -> None:
        super().__init__()
        self._batches = batches
        self._names = names

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            clips = [self._names[place] for place in self._batches.places(batch)]
            raise DivergenceError(
                f"the loss is {logs['loss']} in epoch {self._epoch + 1}, step {batch + 1} of "
                f"{len(self._batches)}, learning rate {float(self.model.optimizer.learning_rate)}: "
                "try a lower --learning-rate, or look at the clips of this step:\n  "
                + "\n  ".join(clips)
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs.get("val_loss", 0.0)):
            raise DivergenceError(
                f"the validation loss is {logs['val_loss']} after epoch {epoch + 1}, learning rate "
                f"{float(self.model.optimizer.learning_rate)}: try a lower --learning-rate"
            )


class _Bookkeeping(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Judges each finished epoch, and keeps it if there is a folder for it."""

    def __init__(
        self,
        pace: Pace,
        training: Training,
        folder: Path | None,
        averaged: AveragedWeights | None,
    ) -> None:
        super().__init__()
        self._pace = pace
        self._training = training
        self._folder = folder
        self._averaged = averaged
        self._machine = describe_machine()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        training, value = self._training, logs.get(self._pace.monitor)
        training.epoch = epoch + 1
        training.progress = self._pace.advance(training.progress, value)
        if self._pace.is_better(value, training.best):
            training.best, training.best_epoch = value, training.epoch
            training.best_weights = (
                self._averaged.weights if self._averaged else self.model.get_weights()
            )
        for name, logged in logs.items():
            training.history.setdefault(name, []).append(float(logged))
        training.seconds += time.monotonic() - self._started
        if self._machine not in training.machines:
            training.machines.append(self._machine)
        if self._folder is not None:
            write_checkpoint(self._folder / CHECKPOINTS, training.to_checkpoint(self.model))
            _write_history(training, self._folder)
        self.model.stop_training = training.progress.stopped


def _write_history(training: Training, folder: Path) -> None:
    """history.csv says what the checkpoint says, however the process before ended."""
    epochs = enumerate(zip(*training.history.values(), strict=True), start=1)
    rows = ([epoch, *values] for epoch, values in epochs)
    write_text(folder / HISTORY_FILE, format_table([["epoch", *training.history], *rows], ","))


def _values(variables: Sequence[Any]) -> Arrays:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _restore(variables: Sequence[Any], arrays: Arrays) -> None:
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [array.shape for array in arrays]:
        raise DataError("the last checkpoint is not one of this network: choose another --out")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
