"""Fast equivalents of Keras' TimeDistributed, BatchNormalization, ConvLSTM2D and LSTM.

The stock layers walk through a clip frame by frame: TimeDistributed calls its layer once a frame,
and ConvLSTM2D convolves gate by gate inside a loop. Here frames that do not depend on each other
are one batch, gates that share an input are one operation, and the recurrence is a plain Python
loop over a known number of frames, so that no graph contains a loop, in training or exported.

    stock                     here                      weights (shapes and order)
    TimeDistributed(layer)    FrameWise(layer)          those of `layer`
    BatchNormalization        FusedBatchNormalization   gamma, beta, moving mean and variance
    ConvLSTM2D                UnrolledConvLSTM2D        kernel, recurrent_kernel, bias
    LSTM                      UnrolledLSTM              kernel, recurrent_kernel, bias

The weights are interchangeable: `fast.set_weights(stock.get_weights())`. NOT covered: masking,
statefulness, strides, dilation, padding of the input convolution, activations other than the stock
defaults (tanh; sigmoid for the gates), normalisation of another axis than the last or without scale
and centre, gradients of gradients.

Do not compile a model of these layers with `jit_compile=True`: on a CPU the training step becomes
several times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

#: Input, forget, candidate and output gate: the order in which stock weights hold them.
GATES = 4

Shape = tuple[int | None, ...]
Tensor = Any  # keras ships no types for its tensors


@keras.saving.register_keras_serializable(package="training")
class FrameWise(keras.layers.Wrapper):  # type: ignore[misc]  # keras ships no types
    """Applies a layer to every frame of a batch of clips: (N, T, ...) -> (N, T, ...).

    Time is folded into the batch, so the wrapped layer sees one batch of N x T frames. Batch
    normalisation therefore computes one mean and variance over all frames of all clips and moves
    its statistics once a training step, as under Keras 2; the TimeDistributed of Keras 3 does both
    once a frame position. Dropout draws for every frame anew, as there.
    """

    def build(self, input_shape: Shape) -> None:
        """Build the wrapped layer for one frame of `input_shape`."""
        super().build((None, *input_shape[2:]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(N, T, ...) for the wrapped layer's (N, ...)."""
        frame_shape = self.layer.compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *frame_shape[1:])

    def call(self, inputs: Tensor) -> Tensor:
        """Run the wrapped layer; `training` reaches it through Keras' call context."""
        folded = self.layer(ops.reshape(inputs, (-1, *inputs.shape[2:])))
        return ops.reshape(folded, (-1, inputs.shape[1], *folded.shape[1:]))


@keras.saving.register_keras_serializable(package="training")
class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """keras.layers.BatchNormalization of pictures, (N, H, W, C), as one operation in training.

    Keras 3 makes it of means, differences and products, each a pass over tensors that no cache
    holds, and their gradients: a third of LRCN's training step. In both, sums of 32 bits over a
    million pixels leave the variance some tenths of a percent off.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Normalise by the batch's statistics in training, else by the moving ones."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.cast(self.gamma, "float32"),
            offset=ops.cast(self.beta, "float32"),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation gives the estimate for all pixels there may be; Keras keeps the batch's own.
        pixels = tf.reduce_prod(tf.cast(tf.shape(inputs)[:-1], tf.float32))
        variance *= (pixels - 1) / pixels
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))
        return outputs


class _GatedRecurrence(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """What the two recurrent layers share: gates, states, dropout masks and the loop."""

    def __init__(
        self,
        units: int,
        *,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= recurrent_dropout < 1.0:
            raise ValueError(f"recurrent_dropout must be in [0, 1), not {recurrent_dropout}")
        self.units = units
        self.recurrent_dropout = recurrent_dropout
        self.return_sequences = return_sequences
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return {
            **super().get_config(),
            "units": self.units,
            "recurrent_dropout": self.recurrent_dropout,
            "return_sequences": self.return_sequences,
            "seed": self.seed,
        }

    def _add_gate_weights(self, receptive_field: tuple[int, ...], channels: int | None) -> None:
        if channels is None:
            raise ValueError("the last axis of the inputs must be known")
        merged = self.units * GATES
        self.kernel = self.add_weight(
            (*receptive_field, channels, merged), initializer="glorot_uniform", name="kernel"
        )
        shape = (*receptive_field, self.units, merged)
        self.recurrent_kernel = self.add_weight(
            shape, initializer="orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight((merged,), initializer=self._initial_bias, name="bias")

    def _initial_bias(self, shape: Shape, dtype: Any = None) -> Tensor:
        """Zero, but one for the forget gate (Jozefowicz et al., 2015), as the stock layers."""
        gate = (self.units,)
        zeros, ones = ops.zeros(gate, dtype=dtype), ops.ones(gate, dtype=dtype)
        return ops.concatenate([zeros, ones, zeros, zeros])

    def _state_shape(self, input_shape: Shape) -> Shape:
        raise NotImplementedError

    def _project_inputs(self, inputs: Tensor) -> list[Tensor]:
        """The inputs' share of the gates, for each of T steps (N, ..., 4 * units)."""
        raise NotImplementedError

    def _project_state(self, hidden: Tensor, kernel: Tensor) -> Tensor:
        """The previous step's share of the gates that `kernel` holds."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(N, T, ..., units) for whole sequences, else (N, ..., units)."""
        state_shape = self._state_shape(input_shape)
        if self.return_sequences:
            return (*input_shape[:2], *state_shape[1:])
        return state_shape

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Run over the time axis of (N, T, ...), from a state of zeros; T must be known.

        Recurrent dropout works as in the stock ConvLSTM2D: one mask for each gate, drawn once a
        sequence and used at every step.
        """
        projected = self._project_inputs(inputs)
        masks: list[Tensor] = []
        if training and self.recurrent_dropout > 0.0:
            ones = ops.ones_like(projected[0][..., : self.units])
            masks = [
                keras.random.dropout(ones, self.recurrent_dropout, seed=self.seed_generator)
                for _ in range(GATES)
            ]
            kernels = ops.split(self.recurrent_kernel, GATES, axis=-1)
        # States of zeros add nothing to the first step.
        hidden, carry = advance(ops.split(projected[0], GATES, axis=-1), None)
        outputs = [hidden]
        for share in projected[1:]:
            if masks:
                gates = [
                    part + self._project_state(hidden * mask, kernel)
                    for part, mask, kernel in zip(
                        ops.split(share, GATES, axis=-1), masks, kernels, strict=True
                    )
                ]
            else:
                merged = share + self._project_state(hidden, self.recurrent_kernel)
                gates = ops.split(merged, GATES, axis=-1)
            hidden, carry = advance(gates, carry)
            outputs.append(hidden)
        return ops.stack(outputs, axis=1) if self.return_sequences else hidden


def advance(gates: Sequence[Tensor], carry: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step of the recurrence: the new hidden and carry states (Hochreiter, 1997)."""
    entry, forget, candidate, exit_ = gates
    added = ops.sigmoid(entry) * ops.tanh(candidate)
    carry = added if carry is None else ops.sigmoid(forget) * carry + added
    return ops.sigmoid(exit_) * ops.tanh(carry), carry


@keras.saving.register_keras_serializable(package="training")
class UnrolledConvLSTM2D(_GatedRecurrence):
    """keras.layers.ConvLSTM2D(units, kernel_size, padding="valid") without its loop.

    (N, T, H, W, C) -> (N, T, H - k + 1, W - k + 1, units), or without T unless `return_sequences`.
    The convolution over the inputs is "valid" and one for all four gates; the one over the hidden
    state is "same" and, unless dropout tells the gates apart, also one for all four. The inputs are
    convolved step by step, because the gates of all frames at once are several times a processor's
    cache and the training step was slower for it.

    Source: Shi et al., 2015, Convolutional LSTM Network, without the peephole terms (as Keras).
    """

    def __init__(self, units: int, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        self.kernel_size = kernel_size

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return {**super().get_config(), "kernel_size": self.kernel_size}

    def build(self, input_shape: Shape) -> None:
        """Create the weights; the channels of `input_shape` must be known."""
        self._add_gate_weights((self.kernel_size, self.kernel_size), input_shape[-1])

    def _state_shape(self, input_shape: Shape) -> Shape:
        batch, _, *sides, _ = input_shape
        lost = self.kernel_size - 1
        return (batch, *(None if side is None else side - lost for side in sides), self.units)

    def _project_inputs(self, inputs: Tensor) -> list[Tensor]:
        steps = ops.unstack(inputs, inputs.shape[1], axis=1)
        return [ops.conv(step, self.kernel, padding="valid") + self.bias for step in steps]

    def _project_state(self, hidden: Tensor, kernel: Tensor) -> Tensor:
        return _convolve_same(hidden, tf.convert_to_tensor(kernel))


@tf.custom_gradient  # type: ignore[untyped-decorator]  # tensorflow ships no types
def _convolve_same(x: Tensor, kernel: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """Convolve at stride 1 to the same size; `kernel` has odd sides.

    The gradient of the input is written as what it is, a convolution with the turned kernel: with
    few channels TensorFlow's forward convolution is twice as fast on a CPU as its backward one.
    """

    def differentiate(upstream: Tensor) -> tuple[Tensor, Tensor]:
        turned = tf.transpose(tf.reverse(kernel, [0, 1]), (0, 1, 3, 2))
        for_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=x,
            filter_sizes=kernel.shape,
            out_backprop=upstream,
            strides=(1, 1, 1, 1),
            padding="SAME",
        )
        return tf.nn.conv2d(upstream, turned, 1, "SAME"), for_kernel

    return tf.nn.conv2d(x, kernel, 1, "SAME"), differentiate


@keras.saving.register_keras_serializable(package="training")
class UnrolledLSTM(_GatedRecurrence):
    """keras.layers.LSTM(units) without its loop and never on cuDNN: (N, T, C) -> (N, units)."""

    def build(self, input_shape: Shape) -> None:
        """Create the weights; the features of `input_shape` must be known."""
        self._add_gate_weights((), input_shape[-1])

    def _state_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.units)

    def _project_inputs(self, inputs: Tensor) -> list[Tensor]:
        gates = ops.matmul(inputs, self.kernel) + self.bias
        # Not `gates[:, step]`: the gradient of a slice is as large as the whole sequence.
        return list(ops.unstack(gates, inputs.shape[1], axis=1))

    def _project_state(self, hidden: Tensor, kernel: Tensor) -> Tensor:
        return ops.matmul(hidden, kernel)
