import shutil

import keras
import numpy as np
import pytest
from keras import layers

from training.learning.batches import OrderedBatches
from training.results.parts import answer, read_part

SHAPE = (2, 4, 4, 3)


class Counted:
    """Clips on a disk: says how many were asked for at once."""

    def __init__(self, clips):
        self.clips = clips
        self.asked = []

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, chosen):
        assert isinstance(chosen, slice)
        self.asked.append(len(range(*chosen.indices(len(self.clips)))))
        return list(self.clips[chosen])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input(SHAPE), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)]
    )


@pytest.fixture
def clips():
    return np.random.default_rng(0).integers(0, 256, (11, *SHAPE), dtype=np.uint8)


def test_the_answers_are_those_for_all_clips_at_once(model, clips):
    wanted = model.predict(clips, batch_size=4, verbose=0)
    np.testing.assert_allclose(answer(model, clips, batch_size=4), wanted, atol=1e-6)


def test_no_more_than_a_batch_is_read_at_once(model, clips):
    stored = Counted(clips)
    assert answer(model, stored, batch_size=4).shape == (11, 3)
    assert set(stored.asked) == {4, 3}


def test_validation_reads_a_batch_at_a_time(model, clips):
    stored = Counted(clips)
    targets = np.eye(3, dtype=np.float32)[np.arange(11) % 3]
    model.compile(loss="mse")
    loss = model.evaluate(OrderedBatches(stored, targets=targets, batch_size=4), verbose=0)
    wanted = ((model.predict(clips, verbose=0) - targets) ** 2).mean()
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert set(stored.asked) == {4, 3}


def test_a_part_comes_in_the_order_of_the_split(untrained_run, dataset):
    part = read_part(untrained_run, "test", data=dataset)
    paths = untrained_run.read_split("test", "path")
    assert len(part) == len(paths)
    levels = [float(clip.mean()) for clip in part]
    assert [level > 125 for level in levels] == [path.startswith("Light") for path in paths]


def test_a_class_that_the_run_left_out_need_not_be_usable(untrained_run, dataset, tmp_path):
    data = shutil.copytree(dataset, tmp_path / "data")
    (data / "Empty").mkdir()
    part = read_part(untrained_run, "test", data=data, cache=tmp_path / "cache")
    assert len(part) == len(untrained_run.read_split("test", "path"))
