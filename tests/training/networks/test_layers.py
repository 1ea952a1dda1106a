import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from training.networks.layers import (
    FrameWise,
    FusedBatchNormalization,
    UnrolledConvLSTM2D,
    UnrolledLSTM,
)

RNG = np.random.default_rng(0)
CLIPS = RNG.normal(size=(2, 5, 7, 6, 3)).astype(np.float32)
PICTURES = CLIPS.reshape(-1, *CLIPS.shape[2:])
FEATURES = RNG.normal(size=(3, 6, 8)).astype(np.float32)


def build_pair(fast, stock, inputs):
    """Both layers with the same weights, every one of them away from its initial value."""
    for layer in (fast, stock):
        layer(inputs)
    rng = np.random.default_rng(2)
    fast.set_weights([w + rng.normal(0, 0.2, w.shape) for w in stock.get_weights()])
    stock.set_weights(fast.get_weights())
    return fast, stock


def differentiate(layer, inputs, *, training=False):
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(layer(inputs, training=training) ** 3)
    return tape.gradient(total, [inputs, *(w.value for w in layer.trainable_weights)])


def assert_same_gradients(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def same_masks(fast, stock):
    """Let both draw their next dropout masks from the same state."""
    stock.cell.seed_generator.state.assign(fast.seed_generator.state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv2D(4, 3, padding="same", activation="relu"),
        lambda: layers.MaxPooling2D(padding="same"),
        FusedBatchNormalization,
        lambda: layers.Dropout(0.5),
        layers.Flatten,
    ],
    ids=["convolution", "pool", "normalisation", "dropout", "flatten"],
)
def test_frame_wise_answers_as_time_distributed(make):
    fast, stock = build_pair(FrameWise(make()), layers.TimeDistributed(make()), CLIPS)
    np.testing.assert_allclose(fast(CLIPS), stock(CLIPS), atol=1e-6)
    assert fast.compute_output_shape(CLIPS.shape) == stock(CLIPS).shape


def test_normalisation_sees_all_frames_of_all_clips_at_once():
    layer = FrameWise(FusedBatchNormalization(momentum=0.9))
    normalised = layer(CLIPS, training=True).numpy()
    np.testing.assert_allclose(normalised.mean((0, 1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std((0, 1, 2, 3)), 1, atol=1e-2)
    moved_once = 0.1 * CLIPS.mean((0, 1, 2, 3))
    np.testing.assert_allclose(layer.layer.moving_mean, moved_once, atol=1e-6)


def test_fused_normalisation_trains_as_the_stock_layer():
    fused, stock = build_pair(
        FusedBatchNormalization(momentum=0.9), layers.BatchNormalization(momentum=0.9), PICTURES
    )
    np.testing.assert_allclose(
        fused(PICTURES, training=True), stock(PICTURES, training=True), atol=1e-5
    )
    assert_same_gradients(
        differentiate(fused, PICTURES, training=True), differentiate(stock, PICTURES, training=True)
    )
    # Moved twice by now.
    for mine, theirs in zip(fused.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fused(PICTURES), stock(PICTURES), atol=1e-5)


def test_frozen_fused_normalisation_keeps_its_statistics():
    layer = FusedBatchNormalization(trainable=False)
    np.testing.assert_array_equal(layer(PICTURES, training=True), layer(PICTURES))
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_frames_lose_different_pixels_to_dropout():
    ones = np.ones((1, 4, 8, 8, 1), np.float32)
    dropped = FrameWise(layers.Dropout(0.5))(ones, training=True).numpy()
    assert not (dropped[0, 0] == dropped[0, 1]).all()


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(
    ("fast", "stock", "inputs"),
    [
        (
            lambda **kwargs: UnrolledConvLSTM2D(4, 3, **kwargs),
            lambda **kwargs: layers.ConvLSTM2D(4, 3, **kwargs),
            CLIPS,
        ),
        (
            lambda **kwargs: UnrolledLSTM(4, **kwargs),
            lambda **kwargs: layers.LSTM(4, **kwargs),
            FEATURES,
        ),
    ],
    ids=["convlstm", "lstm"],
)
def test_stock_weights_give_stock_answers_and_gradients(fast, stock, inputs, return_sequences):
    fast, stock = build_pair(
        fast(return_sequences=return_sequences), stock(return_sequences=return_sequences), inputs
    )
    np.testing.assert_allclose(fast(inputs), stock(inputs), atol=1e-6)
    assert fast.compute_output_shape(inputs.shape) == stock(inputs).shape
    assert_same_gradients(differentiate(fast, inputs), differentiate(stock, inputs))


def test_recurrent_dropout_draws_and_applies_the_masks_of_the_stock_layer():
    fast, stock = build_pair(
        UnrolledConvLSTM2D(4, recurrent_dropout=0.4, return_sequences=True, seed=3),
        layers.ConvLSTM2D(4, 3, recurrent_dropout=0.4, return_sequences=True, seed=3),
        CLIPS,
    )
    same_masks(fast, stock)
    trained = fast(CLIPS, training=True)
    np.testing.assert_allclose(trained, stock(CLIPS, training=True), atol=1e-6)
    assert np.abs(trained - fast(CLIPS)).max() > 1e-3
    same_masks(fast, stock)
    assert_same_gradients(
        differentiate(fast, CLIPS, training=True), differentiate(stock, CLIPS, training=True)
    )


def test_recurrent_dropout_leaves_inference_and_the_first_step_alone():
    layer = UnrolledConvLSTM2D(4, recurrent_dropout=0.4, return_sequences=True)
    np.testing.assert_array_equal(layer(CLIPS), layer(CLIPS, training=False))
    np.testing.assert_array_equal(layer(CLIPS, training=True)[:, 0], layer(CLIPS)[:, 0])


def test_masks_follow_the_random_seed():
    answers = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer = UnrolledConvLSTM2D(4, recurrent_dropout=0.4)
        layer.build(CLIPS.shape)
        layer.set_weights([np.full(w.shape, 0.1, np.float32) for w in layer.get_weights()])
        answers.append(layer(CLIPS, training=True).numpy())
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_the_forget_gate_starts_open():
    layer = UnrolledLSTM(2)
    layer.build((None, 3, 4))
    np.testing.assert_array_equal(layer.bias, [0, 0, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    "layer",
    [
        UnrolledConvLSTM2D(4, 5, recurrent_dropout=0.1, return_sequences=True, seed=1, name="a"),
        UnrolledLSTM(4, return_sequences=True, name="b"),
        FrameWise(layers.Conv2D(4, 3), name="c"),
    ],
)
def test_a_layer_comes_back_from_its_config(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnrolledConvLSTM2D(4, 2), "kernel_size must be odd"),
        (lambda: UnrolledLSTM(4, recurrent_dropout=1.0), "recurrent_dropout must be in"),
        (lambda: UnrolledLSTM(4).build((None, 3, None)), "last axis"),
    ],
)
def test_what_cannot_be_computed_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
