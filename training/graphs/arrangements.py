"""The networks as inference computes them: the same functions of the same weights, rearranged.

A traced Keras model pays for what training needs: channels last, which an ONNX runtime turns around
before and after every convolution, and frames walked through one by one. Here, channels first:

- the division by 255 is in the first kernel (its padding is zero, which stays zero);
- a max pool goes before the batch normalisation, which then has a quarter of the pixels (_Block);
- convolutions of many channels go through training.graphs.winograd;
- gates that share an input are one convolution, and nothing is computed from the states of zeros
  before the first frame;
- the recurrence is unrolled: CUDA graphs cannot capture loops, and a loop hides the frames from the
  runtime's optimiser.

An arrangement takes a trained model and returns a function, uint8 clips (N, T, H, W, 3) to
probabilities (N, classes), with the weights as constants. It is only ever traced: TensorFlow itself
does not run channels-first convolutions on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.graphs.winograd import Array, Tensor, convolve_and_pool
from training.networks.layers import GATES, FrameWise, UnrolledConvLSTM2D, UnrolledLSTM, advance

#: From so many input channels on, the transforms cost less than they save (measured on one core).
WINOGRAD_CHANNELS = 64

Forward = Callable[[Tensor], Tensor]


def arrange(model: keras.Model) -> Forward:
    """The arrangement of a trained model; one without (`ARRANGEMENTS`) is traced as it is."""
    if model.name in ARRANGEMENTS:
        return ARRANGEMENTS[model.name](model)
    return lambda frames: model(tf.cast(frames, tf.float32), training=False)


def _find(model: keras.Model, kind: type) -> list[Any]:
    """The model's layers of a kind, from input to output, FrameWise wrappers taken off."""
    layers = [layer.layer if isinstance(layer, FrameWise) else layer for layer in model.layers]
    return [layer for layer in layers if isinstance(layer, kind)]


def _weights(layer: keras.layers.Layer) -> list[Array]:
    """In double precision, so that what is folded here rounds once."""
    return [weight.astype(np.float64) for weight in layer.get_weights()]


def _constant(values: Array) -> Tensor:
    return tf.constant(values, tf.float32)


def _channels_first(pictures: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32."""
    return tf.transpose(tf.cast(pictures, tf.float32), (0, 3, 1, 2))


def _convolve(x: Tensor, kernel: Array, padding: str) -> Tensor:
    return tf.nn.conv2d(x, _constant(kernel), 1, padding, data_format="NCHW")


def _pool(x: Tensor, padding: str) -> Tensor:
    return tf.nn.max_pool2d(x, 2, 2, padding, data_format="NCHW")


def _add_bias(x: Tensor, bias: Array) -> Tensor:
    return tf.nn.bias_add(x, _constant(bias), data_format="NCHW")


def _scale(x: Tensor, scale: Array, shift: Array) -> Tensor:
    """Channel by channel, as a batch normalisation: the runtime keeps its own layout around one."""
    zeros, ones = _constant(np.zeros_like(scale)), _constant(np.ones_like(scale))
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=_constant(scale),
        offset=_constant(shift),
        mean=zeros,
        variance=ones,
        epsilon=0.0,
        data_format="NCHW",
        is_training=False,
    ).y


def _arrange_head(model: keras.Model) -> Forward:
    denses = [(*_weights(layer), layer.activation) for layer in _find(model, keras.layers.Dense)]

    def forward(x: Tensor) -> Tensor:
        for kernel, bias, activation in denses:
            x = activation(x @ _constant(kernel) + _constant(bias))
        return x

    return forward


@dataclass(frozen=True)
class _Block:
    """Convolution "same", ReLU, normalisation (scale and shift) and 2x2 max pool: NCHW -> NCHW.

    The pool goes first. With a negative scale the largest result comes from the smallest pixel, and
    min(relu(x)) = relu(-max(-x)): those channels' kernels are negated, pooled and negated back.
    """

    kernel: Array
    bias: Array
    scale: Array
    shift: Array

    @classmethod
    def of(cls, convolution: keras.layers.Conv2D, norm: keras.layers.BatchNormalization) -> _Block:
        kernel, bias = _weights(convolution)
        gamma, beta, mean, variance = _weights(norm)
        scale = gamma / np.sqrt(variance + norm.epsilon)
        return cls(kernel, bias, scale, beta - mean * scale)

    def __call__(self, x: Tensor) -> Tensor:
        sign = np.where(self.scale < 0.0, -1.0, 1.0)
        kernel, bias = self.kernel * sign, self.bias * sign
        negated = bool((sign < 0.0).any())
        if kernel.shape[2] >= WINOGRAD_CHANNELS:
            x = convolve_and_pool(tf.transpose(x, (0, 2, 3, 1)), kernel) + _constant(bias)
            x = tf.nn.relu(x * _constant(sign) if negated else x)
            x = x * _constant(self.scale) + _constant(self.shift)
            return tf.transpose(x, (0, 3, 1, 2))
        x = _add_bias(_convolve(x, kernel, "SAME"), bias)
        if negated:
            x = tf.nn.relu(_scale(_pool(x, "VALID"), sign, np.zeros_like(sign)))
        else:
            # In this order the runtime makes the ReLU a part of the convolution.
            x = _pool(tf.nn.relu(x), "VALID")
        return _scale(x, self.scale, self.shift)


def _arrange_lrcn(model: keras.Model) -> Forward:
    steps = model.input_shape[1]
    (rescaling,) = _find(model, keras.layers.Rescaling)
    (lstm,) = _find(model, UnrolledLSTM)
    convolutions = _find(model, keras.layers.Conv2D)
    norms = _find(model, keras.layers.BatchNormalization)
    blocks = [_Block.of(*pair) for pair in zip(convolutions, norms, strict=True)]
    blocks[0] = replace(blocks[0], kernel=blocks[0].kernel * rescaling.scale)
    weights = _weights(lstm)
    head = _arrange_head(model)

    def forward(frames: Tensor) -> Tensor:
        x = _channels_first(tf.reshape(frames, (-1, *frames.shape[2:])))
        for block in blocks:
            x = block(x)
        kernel, recurrent, bias = map(_constant, weights)
        x = tf.reshape(tf.transpose(x, (0, 2, 3, 1)), (-1, steps, kernel.shape[0]))
        first, *later = tf.unstack(x @ kernel + bias, axis=1)
        hidden, carry = advance(tf.split(first, GATES, axis=1), None)
        for step in later:
            gates = tf.split(step + hidden @ recurrent, GATES, axis=1)
            hidden, carry = advance(gates, carry)
        return head(hidden)

    return forward


def _arrange_convlstm(model: keras.Model) -> Forward:
    (rescaling,) = _find(model, keras.layers.Rescaling)
    weights = [_weights(layer) for layer in _find(model, UnrolledConvLSTM2D)]
    weights[0][0] *= rescaling.scale
    head = _arrange_head(model)

    def forward(frames: Tensor) -> Tensor:
        # Not folded into one batch: unfolding it again hides from the runtime that all steps have
        # the same batch size, and then it does not add the gates' two shares within a convolution.
        sequence = [_channels_first(step) for step in tf.unstack(frames, axis=1)]
        for kernel, recurrent, bias in weights:
            hidden, carry = None, None
            for index, step in enumerate(sequence):
                gates = _add_bias(_convolve(step, kernel, "VALID"), bias)
                if hidden is not None:
                    gates += _convolve(hidden, recurrent, "SAME")
                hidden, carry = advance(tf.split(gates, GATES, axis=1), carry)
                sequence[index] = _pool(hidden, "SAME")
        x = tf.transpose(sequence[-1], (0, 2, 3, 1))
        x = tf.reshape(x, (-1, int(np.prod(x.shape[1:]))))
        return head(x)

    return forward


#: By the name of the Keras model, which is the name in training.networks.models.MODELS.
ARRANGEMENTS: Mapping[str, Callable[[keras.Model], Forward]] = MappingProxyType(
    {"convlstm": _arrange_convlstm, "lrcn": _arrange_lrcn}
)
