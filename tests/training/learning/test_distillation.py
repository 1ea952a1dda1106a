"""A network that learns a pretrained encoder's features beside the classes."""

import signal
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from clip import ClipSpec, read_clip
from tests.open_files import expect_nothing_left_open
from tests.training.cluster import run_together
from tests.training.drawn import make_config
from training.data.cache import check_clips
from training.data.index import index_clips
from training.errors import DataError
from training.fit import main
from training.learning import distillation
from training.learning.augment import NO_AUGMENTATION
from training.learning.batches import ClipBatches
from training.learning.distillation import Distilled, FrameFeatures, store_features
from training.learning.loop import compile_model
from training.networks.efficientnet import FEATURES, build_encoder, load_imagenet_weights
from training.networks.models import build_lrcn
from training.networks.recipes import Phase
from training.run import RunDirectory

SPEC = ClipSpec(frames=3, height=16, width=16)
SCRIPT = str(Path(__file__).parents[1] / "fit_killed.py")


@pytest.fixture
def usable(dataset, tmp_path):
    whole = index_clips(dataset)
    return check_clips(replace(whole, clips=whole.clips[::12]), SPEC, tmp_path, skip_bad=False)


def store(usable, cache, spec=SPEC):
    clips = usable.index.clips
    return store_features(clips, usable.entries, folder=usable.index.folder, spec=spec, cache=cache)


def test_the_features_are_those_of_the_pretrained_encoder(usable, tmp_path):
    files = store(usable, tmp_path)
    encoder = build_encoder(192, 192)
    load_imagenet_weights(encoder)
    for clip, file in zip(usable.index.clips, files, strict=True):
        frames = read_clip(usable.index.folder / clip.path, replace(SPEC, height=192, width=192))
        told = np.load(file)
        assert told.dtype == np.float16
        assert told.shape == (3, FEATURES)
        np.testing.assert_allclose(told, encoder.predict(frames, verbose=0), atol=5e-3)


def test_features_are_computed_once_and_a_cut_file_is_none(usable, tmp_path, monkeypatch):
    files = store(usable, tmp_path)
    whole = files[0].read_bytes()
    read = []
    monkeypatch.setattr(
        distillation,
        "read_clip",
        lambda path, spec: read.append(path.name) or read_clip(path, spec),
    )
    assert store(usable, tmp_path) == files
    assert read == []
    files[0].write_bytes(whole[:-1])
    assert store(usable, tmp_path) == files
    assert read == [Path(usable.index.clips[0].path).name]
    assert files[0].read_bytes() == whole
    assert not set(store(usable, tmp_path, replace(SPEC, frames=6))) & set(files)


def test_a_video_that_cannot_be_decoded_any_more_is_named(usable, tmp_path):
    clip = usable.index.clips[0]
    (tmp_path / clip.label).mkdir()
    (tmp_path / clip.path).write_bytes(b"no video")
    with pytest.raises(DataError, match=rf"{clip.path} cannot be used: "):
        store_features([clip], usable.entries, folder=tmp_path, spec=SPEC, cache=tmp_path)


def write_numbers(path, numbers):
    np.save(path, numbers.astype(np.float16))
    return path


def test_a_squared_error_of_1_is_that_of_telling_nothing(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.normal(3, 5, (4, 6, FEATURES)) * np.linspace(0.1, 2, FEATURES)
    files = [write_numbers(tmp_path / f"{k}.npy", of_clip) for k, of_clip in enumerate(numbers)]
    features = FrameFeatures(files)
    with expect_nothing_left_open():
        told = np.stack(features[:])
    assert told.dtype == np.float32
    assert len(features) == 4
    np.testing.assert_array_equal(told[2], features[2])
    np.testing.assert_allclose(told.mean(axis=(0, 1)), 0, atol=1e-3)
    assert (told**2).mean() == pytest.approx(1, rel=1e-4)
    # One scale for all: features that vary more keep counting more.
    spread = told.std(axis=(0, 1))
    assert spread[-1] > 10 * spread[0]


def test_frames_that_are_all_alike_have_nothing_to_tell(tmp_path):
    files = [write_numbers(tmp_path / "0.npy", np.full((2, FEATURES), 3.3))]
    assert np.abs(FrameFeatures(files)[0]).max() < 1


def test_a_batch_has_the_features_of_the_very_frames_that_chance_kept():
    count, jitter = 5, 3
    clips = np.zeros((count, 2 * jitter, 8, 8, 3), np.uint8)
    clips[..., 0] = np.arange(count)[:, None, None, None]
    clips[..., 1] = np.arange(2 * jitter)[:, None, None]
    features = np.stack([np.full((2 * jitter, 2), clip, np.float32) for clip in range(count)])
    features[..., 1] = np.arange(2 * jitter)
    batches = ClipBatches(
        clips,
        np.eye(count, dtype=np.float32),
        batch_size=2,
        seed=0,
        augmentation=replace(NO_AUGMENTATION, jitter=jitter, flip=True),
        features=features,
    )
    kept = set()
    for epoch in range(4):
        batches.go_to_epoch(epoch)
        for shown, targets in (batches[k] for k in range(len(batches))):
            np.testing.assert_array_equal(shown[:, :, 0, 0, :2], targets["features"])
            np.testing.assert_array_equal(targets["classes"].argmax(axis=1), shown[:, 0, 0, 0, 0])
            kept |= set(targets["features"][:, :, 1].ravel().tolist())
    assert kept == set(range(2 * jitter))


@pytest.fixture
def learner():
    """(a small LRCN, the same as it learns from a teacher), compiled."""
    keras.utils.set_random_seed(0)
    network = build_lrcn(2, 3, height=16, width=16, dropout=0.0)
    distilled = Distilled(network, weight=3.0)
    compile_model(distilled, Phase("all"), make_config(learning_rate=1e-3))
    return network, distilled


def draw(count=6):
    rng = np.random.default_rng(1)
    clips = rng.integers(0, 256, (count, 3, 16, 16, 3)).astype(np.float32)
    features = rng.normal(size=(count, 3, FEATURES)).astype(np.float32)
    return clips, np.eye(2, dtype=np.float32)[np.arange(count) % 2], features


class OneBatch(keras.utils.PyDataset):
    """Clips, targets and perhaps weights, as a training gets them."""

    def __init__(self, *parts):
        super().__init__()
        self._parts = tuple(part for part in parts if part is not None)

    def __len__(self):
        return 1

    def __getitem__(self, batch):
        return self._parts


@pytest.mark.parametrize("weights", [None, np.array([1, 0, 2, 1, 3, 0.5], np.float32)])
def test_the_loss_is_that_of_the_classes_and_the_weighted_one_of_the_features(learner, weights):
    network, distilled = learner
    clips, classes, features = draw()
    told = distilled.predict(clips, verbose=0)
    np.testing.assert_allclose(told["classes"], network.predict(clips, verbose=0), atol=1e-6)
    of_classes = -np.log((told["classes"] * classes).sum(axis=1))
    of_features = ((told["features"] - features) ** 2).mean(axis=(1, 2))
    share = np.ones(6) if weights is None else weights
    batch = OneBatch(clips, {"classes": classes, "features": features}, weights)
    figures = distilled.evaluate(batch, verbose=0, return_dict=True)
    expected = (of_classes * share).mean() + 3 * (of_features * share).mean()
    assert figures["loss"] == pytest.approx(expected, rel=1e-4)
    right = told["classes"].argmax(axis=1) == classes.argmax(axis=1)
    if weights is None:
        assert figures["accuracy"] == pytest.approx(right.mean())
        # As validation clips come: a figure to compare with that of a network without a teacher.
        alone = distilled.evaluate(clips, classes, verbose=0, return_dict=True)
        assert alone["loss"] == pytest.approx(of_classes.mean(), rel=1e-4)
        assert alone["accuracy"] == pytest.approx(right.mean())
        assert alone.keys() == {"loss", "accuracy"}


def test_the_encoder_learns_from_the_features_alone(learner):
    network, distilled = learner
    clips, classes, features = draw()
    first = network.trainable_weights[0]
    before = first.numpy()
    # Twice: the layer that tells begins with an answer of its own.
    targets = {"classes": classes, "features": features}
    distilled.fit(clips, targets, epochs=2, verbose=0, shuffle=False)
    assert np.abs(first.numpy() - before).max() > 1e-4
    told = [((distilled.predict(clips, verbose=0)["features"] - features) ** 2).mean()]
    distilled.fit(clips, targets, epochs=60, verbose=0, shuffle=False)
    told.append(((distilled.predict(clips, verbose=0)["features"] - features) ** 2).mean())
    assert told[1] < told[0]


def command(dataset, out, *extra):
    return [
        *("--data", str(dataset), "--model", "lrcn", "--split", "group", "--epochs", "3"),
        *("--frames", "2", "--height", "16", "--width", "16", "--batch-size", "8"),
        *("--distillation", "2", "--cache", str(out.parent / "cache"), "--out", str(out), *extra),
    ]


def test_a_run_saves_the_plain_network_and_goes_on_after_a_kill_bit_by_bit(dataset, tmp_path):
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    ((status, output),) = run_together([[SCRIPT, "1", *command(dataset, killed)]], tmp_path)
    assert status == -signal.SIGKILL, output
    for run in (killed, alone):
        assert main(command(dataset, run, "--resume")) == 0
    runs = [RunDirectory.open(run) for run in (killed, alone)]
    assert runs[0].read_history() == runs[1].read_history()
    models = [run.load_model() for run in runs]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = build_lrcn(2, 2, height=16, width=16)
    assert [w.shape for w in models[0].weights] == [w.shape for w in plain.weights]
    # It is the one that was validated.
    metrics, history = (runs[1].read_json("metrics.json"), runs[1].read_history())
    best = metrics["best_epoch"] - 1
    assert metrics["validation"]["accuracy"] == pytest.approx(float(history["val_accuracy"][best]))
