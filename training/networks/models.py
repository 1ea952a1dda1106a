"""The networks: the paper's two, ConvLSTM and LRCN, layer for layer, and one that is pretrained.

    keras.utils.set_random_seed(seed)
    model = MODELS["lrcn"](num_classes=10)

Both take clips of pixels as they are decoded, (N, frames, height, width, 3), RGB from 0 to 255, as
uint8 or as float32 (augmented clips are no longer whole numbers), and divide by 255 themselves; the
answer is (N, num_classes), float32, a softmax. Parameters, checked by tests:

                classes   total     trainable
    ConvLSTM    10        369,098   369,098
    LRCN        10        783,818   783,114     (the rest: moving statistics of batch normalisation)

The arrangement is that of the paper, of which the layers are faster equivalents
(training.networks.layers).

The third is an LRCN too, as the paper allows any CNN for its encoder: EfficientNet-Lite0 with
ImageNet weights (training.networks.efficientnet), on larger frames. It is what holds on new
footage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import keras
from keras import layers

from training.networks.efficientnet import build_encoder, load_imagenet_weights
from training.networks.layers import (
    FrameWise,
    FusedBatchNormalization,
    UnrolledConvLSTM2D,
    UnrolledLSTM,
)

#: The dropout of both networks, recurrent dropout included.
DROPOUT = 0.2

CONVLSTM_FILTERS = (8, 16, 32, 64)
LRCN_FILTERS = (32, 64, 128, 128)

#: num_classes, frames -> untrained model; `height`, `width` and `dropout` by keyword.
Builder = Callable[..., keras.Model]


def build_convlstm(
    num_classes: int,
    frames: int = 20,
    *,
    height: int = 64,
    width: int = 64,
    dropout: float = DROPOUT,
) -> keras.Model:
    """Build the ConvLSTM: four convolutional LSTM layers, each halved by a max pool, then Dense.

    Raises:
        ValueError: fewer than two classes or frames, or a picture too small for four layers.
    """
    inputs = _clip_input(num_classes, frames, height, width, least=31)
    x = layers.Rescaling(1.0 / 255.0, name="rescaling")(inputs)
    *leading, last = CONVLSTM_FILTERS
    for filters in leading:
        x = UnrolledConvLSTM2D(filters, recurrent_dropout=dropout, return_sequences=True)(x)
        x = FrameWise(layers.MaxPooling2D(padding="same"))(x)
        x = FrameWise(layers.Dropout(dropout))(x)
    x = UnrolledConvLSTM2D(last, recurrent_dropout=dropout)(x)
    x = layers.MaxPooling2D(padding="same")(x)
    x = layers.Dropout(dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(dropout)(x)
    outputs = _probabilities(num_classes)(x)
    return keras.Model(inputs, outputs, name="convlstm")


def build_lrcn(
    num_classes: int,
    frames: int = 20,
    *,
    height: int = 64,
    width: int = 64,
    dropout: float = DROPOUT,
) -> keras.Model:
    """Build the LRCN: four convolutional blocks for each frame, then an LSTM over the frames.

    Raises:
        ValueError: fewer than two classes or frames, or a picture too small for four pools.
    """
    inputs = _clip_input(num_classes, frames, height, width, least=16)
    x = layers.Rescaling(1.0 / 255.0, name="rescaling")(inputs)
    for filters in LRCN_FILTERS:
        x = FrameWise(layers.Conv2D(filters, 3, padding="same", activation="relu"))(x)
        x = FrameWise(FusedBatchNormalization())(x)
        x = FrameWise(layers.MaxPooling2D())(x)
        x = FrameWise(layers.Dropout(dropout))(x)
    x = FrameWise(layers.Flatten())(x)
    x = UnrolledLSTM(64)(x)
    x = layers.Dropout(dropout)(x)
    outputs = _probabilities(num_classes)(x)
    return keras.Model(inputs, outputs, name="lrcn")


def build_lrcn_efficientnet(
    num_classes: int,
    frames: int = 20,
    *,
    height: int = 192,
    width: int = 192,
    dropout: float = 0.5,
) -> keras.Model:
    """Build an LRCN on EfficientNet-Lite0, the encoder with its ImageNet weights and frozen.

    Beside the LSTM over the frames' features stands their mean over time: on small data sets the
    LSTM alone knows new footage less well.

    Raises:
        ValueError: fewer than two classes or frames, or a side that is not a multiple of 32.
        WeightsError: the pretrained weights are not installed.
    """
    inputs = _clip_input(num_classes, frames, height, width)
    encoder = build_encoder(height, width)
    load_imagenet_weights(encoder)
    encoder.trainable = False
    features = FrameWise(encoder, name="encoder")(inputs)
    recurrent = UnrolledLSTM(64)(features)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(features), recurrent])
    x = layers.Dropout(dropout)(x)
    outputs = _probabilities(num_classes)(x)
    return keras.Model(inputs, outputs, name="lrcn-efficientnet")


def _probabilities(num_classes: int) -> keras.layers.Layer:
    # float32 also where the rest computes in 16 bits: a softmax needs the digits.
    return layers.Dense(num_classes, activation="softmax", dtype="float32", name="probabilities")


def _clip_input(
    num_classes: int, frames: int, height: int, width: int, *, least: int = 1
) -> keras.KerasTensor:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")
    if frames < 2:
        raise ValueError(f"frames must be at least 2, not {frames}")
    if min(height, width) < least:
        raise ValueError(f"height and width must be at least {least}, not {height}x{width}")
    # float32, and not uint8: Keras casts what it is fed to this type, which would cut the fractions
    # off augmented pixels. uint8 clips are cast here, on the device.
    return keras.Input((frames, height, width, 3), dtype="float32", name="frames")


#: Every network by its name, which is also the folder name of its exported models.
MODELS: Mapping[str, Builder] = MappingProxyType(
    {
        "convlstm": build_convlstm,
        "lrcn": build_lrcn,
        "lrcn-efficientnet": build_lrcn_efficientnet,
    }
)
