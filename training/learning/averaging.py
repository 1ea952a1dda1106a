"""Averaged weights: what --ema validates, keeps and exports instead of those of the last step.

The optimizer keeps the averages (Polyak averaging, as Keras' use_ema): after each step a share
`1 - decay` of the step's weights goes into them. They are among its variables and so in every
checkpoint. Moving statistics of batch normalisation are averages already, and stay as they are.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from training.learning.checkpoints import Arrays


class AveragedWeights(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Puts the averages in the place of the weights while fit() validates.

    Attributes:
        weights: as model.get_weights(), with the averages at the end of the last epoch.
    """

    weights: Arrays = ()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Swap the averages in."""
        trained = self.model.trainable_variables
        # Keras' own SwapEMAWeights finds them there too.
        averages: list[Any] = self.model.optimizer._model_variables_moving_average
        self._raw = [np.array(keras.ops.convert_to_numpy(variable)) for variable in trained]
        for variable, average in zip(trained, averages, strict=True):
            variable.assign(average)

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Swap them out again."""
        for variable, value in zip(self.model.trainable_variables, self._raw, strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keep them, with validation clips or without."""
        self.on_test_begin()
        self.weights = self.model.get_weights()
        self.on_test_end()
