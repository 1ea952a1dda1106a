import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from benchmarks.stock_models import STOCK_MODELS, scatter_weights
from training.networks.models import DROPOUT, MODELS

CLIPS = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
NAMES = sorted(STOCK_MODELS)  # the paper's


def build_pair(name, **options):
    fast, stock = MODELS[name](5, 3, **options), STOCK_MODELS[name](5, 3, **options)
    scatter_weights(stock)
    fast.set_weights(stock.get_weights())
    return fast, stock


def differentiate(model, *, training):
    clips = tf.cast(CLIPS, tf.float32)
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            np.array([1, 4]), model(clips, training=training)
        )
        loss = tf.reduce_mean(losses)
    return tape.gradient(loss, [weight.value for weight in model.trainable_weights])


def assert_same_gradients(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize(
    ("name", "classes", "trainable", "other"),
    [
        ("convlstm", 10, 369_098, 0),
        ("convlstm", 4, 368_324, 0),
        ("lrcn", 10, 783_114, 704),
        ("lrcn", 4, 783_428 - 704, 704),
    ],
)
def test_parameter_counts_are_the_papers(name, classes, trainable, other):
    model = MODELS[name](classes)
    assert sum(weight.value.shape.num_elements() for weight in model.trainable_weights) == trainable
    assert model.count_params() == trainable + other


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frames", [2, 5, 30, 64])
def test_any_number_of_frames_builds_the_same_parameters(name, frames):
    model = MODELS[name](10, frames)
    assert model.input_shape == (None, frames, 64, 64, 3)
    assert model.output_shape == (None, 10)
    assert model.count_params() == MODELS[name](10, 3).count_params()


@pytest.mark.parametrize("name", NAMES)
def test_stock_weights_give_stock_answers_and_gradients(name):
    fast, stock = build_pair(name)
    answers = fast(CLIPS)
    assert np.ptp(answers, axis=1).min() > 0.01, "weights that say nothing test nothing"
    np.testing.assert_allclose(answers, stock(CLIPS), atol=1e-5)
    assert_same_gradients(differentiate(fast, training=False), differentiate(stock, training=False))


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_without_dropout_has_stock_gradients(name):
    fast, stock = build_pair(name, dropout=0.0)
    for model in (fast, stock):
        for layer in model.layers:
            # Keras then normalises by the moving statistics. Those of a batch differ on purpose:
            # the stock network takes them for each frame position, ours over all frames.
            inner = getattr(layer, "layer", None)
            layer.trainable = not isinstance(inner, layers.BatchNormalization)
    assert_same_gradients(differentiate(fast, training=True), differentiate(stock, training=True))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_divided_by_255_inside_and_may_be_uint8_or_float(name):
    model = MODELS[name](3, 2)
    clips = CLIPS[:, :2]
    np.testing.assert_array_equal(model(clips), model(clips.astype(np.float32)))
    shifted = model(clips.astype(np.float32) + 0.5)
    assert np.abs(shifted - model(clips)).max() > 0, "fractions of a pixel count"
    (rescaling,) = (layer for layer in model.layers if isinstance(layer, layers.Rescaling))
    assert rescaling.scale == pytest.approx(1 / 255)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_comes_back(name, tmp_path):
    model = MODELS[name](5, 3)
    scatter_weights(model)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.name == name
    np.testing.assert_array_equal(copy(CLIPS), model(CLIPS))


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_follows_the_random_seed(name):
    answers = []
    for seed in (7, 7, 8):
        keras.utils.set_random_seed(seed)
        answers.append(MODELS[name](5, 3)(CLIPS, training=True).numpy())
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_every_dropout_is_a_fifth():
    for name in NAMES:
        inner = [getattr(layer, "layer", layer) for layer in MODELS[name](5, 2).layers]
        rates = {layer.rate for layer in inner if isinstance(layer, layers.Dropout)}
        recurrent = {getattr(layer, "recurrent_dropout", 0.0) for layer in inner}
        assert rates == {DROPOUT} == {0.2}
        assert recurrent <= {0.0, DROPOUT}


@pytest.mark.parametrize(("name", "least"), [("convlstm", 31), ("lrcn", 16)])
def test_the_smallest_picture_works_and_a_smaller_one_is_refused(name, least):
    assert MODELS[name](3, 2, height=least, width=least).output_shape == (None, 3)
    with pytest.raises(ValueError, match=f"must be at least {least}, not {least - 1}x64"):
        MODELS[name](3, 2, height=least - 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("classes", "frames"), [(1, 20), (10, 1)])
def test_too_few_classes_or_frames_are_refused(name, classes, frames):
    with pytest.raises(ValueError, match="must be at least 2"):
        MODELS[name](classes, frames)
