"""The log of a training that TensorBoard reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf


class ScalarLog(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Writes each epoch's figures for TensorBoard and flushes them.

    Keras' own callback flushes at the end of the training alone: a killed one leaves nothing.
    """

    def __init__(self, folder: Path, *, validated: bool) -> None:
        super().__init__()
        self._folder = folder
        self._parts = ("train", "validation") if validated else ("train",)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Open the logs."""
        with self._telling_where():
            self._writers = {
                name: tf.summary.create_file_writer(str(self._folder / name))
                for name in self._parts
            }

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write an epoch's figures, and flush them."""
        with self._telling_where():
            for name, value in logs.items():
                writer = self._writers["validation" if name.startswith("val_") else "train"]
                with writer.as_default(step=epoch + 1):
                    tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value)
            for writer in self._writers.values():
                writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Close the logs."""
        with self._telling_where():
            for writer in self._writers.values():
                writer.close()

    @contextmanager
    def _telling_where(self) -> Iterator[None]:
        """TensorFlow has errors of its own for what a file system refuses."""
        try:
            yield
        except tf.errors.OpError as error:
            raise OSError(f"{self._folder} cannot be written: {error.message}") from error
