"""The paper's networks from stock Keras layers: what training.networks.models is measured against.

Not product: tests and benchmarks alone use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import keras
import numpy as np
from keras import layers

from training.networks.models import CONVLSTM_FILTERS, DROPOUT, LRCN_FILTERS


def build_stock_convlstm(
    num_classes: int,
    frames: int = 20,
    *,
    height: int = 64,
    width: int = 64,
    dropout: float = DROPOUT,
) -> keras.Model:
    """Build training.networks.models.build_convlstm from ConvLSTM2D and TimeDistributed."""
    inputs = keras.Input((frames, height, width, 3), name="frames")
    x = layers.Rescaling(1.0 / 255.0)(inputs)
    *leading, last = CONVLSTM_FILTERS
    for filters in leading:
        x = layers.ConvLSTM2D(filters, 3, recurrent_dropout=dropout, return_sequences=True)(x)
        x = layers.TimeDistributed(layers.MaxPooling2D(padding="same"))(x)
        x = layers.TimeDistributed(layers.Dropout(dropout))(x)
    x = layers.ConvLSTM2D(last, 3, recurrent_dropout=dropout)(x)
    x = layers.MaxPooling2D(padding="same")(x)
    x = layers.Dropout(dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(dropout)(x)
    outputs = layers.Dense(num_classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="stock_convlstm")


def build_stock_lrcn(
    num_classes: int,
    frames: int = 20,
    *,
    height: int = 64,
    width: int = 64,
    dropout: float = DROPOUT,
) -> keras.Model:
    """Build training.networks.models.build_lrcn from TimeDistributed and LSTM."""
    inputs = keras.Input((frames, height, width, 3), name="frames")
    x = layers.Rescaling(1.0 / 255.0)(inputs)
    for filters in LRCN_FILTERS:
        x = layers.TimeDistributed(layers.Conv2D(filters, 3, padding="same", activation="relu"))(x)
        x = layers.TimeDistributed(layers.BatchNormalization())(x)
        x = layers.TimeDistributed(layers.MaxPooling2D())(x)
        x = layers.TimeDistributed(layers.Dropout(dropout))(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.LSTM(64)(x)
    x = layers.Dropout(dropout)(x)
    outputs = layers.Dense(num_classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="stock_lrcn")


STOCK_MODELS: Mapping[str, Callable[..., keras.Model]] = MappingProxyType(
    {"convlstm": build_stock_convlstm, "lrcn": build_stock_lrcn}
)


def scatter_weights(model: keras.Model, *, seed: int = 0) -> None:
    """Move every weight away from its initial value, some scales below zero, as training does."""
    rng = np.random.default_rng(seed)
    values = []
    for variable in model.weights:
        value = variable.numpy()
        if variable.name == "moving_variance":
            value = rng.uniform(0.3, 3.0, value.shape)
        elif value.ndim == 1:
            value = value + rng.normal(0.0, 0.3, value.shape)
            if variable.name == "gamma":
                value *= rng.choice([-1.0, 1.0], value.shape, p=[0.2, 0.8])
        else:
            value = value * 1.5 + rng.normal(0.0, 0.3 * value.std(), value.shape)
        values.append(value.astype(np.float32))
    model.set_weights(values)
