import numpy as np
import pytest

from training.batches import ClipBatches, augment_clip


def make_batches(count=10, batch_size=4, *, seed=3, augment=False):
    clips = np.arange(count, dtype=np.uint8)[:, None, None, None, None] * np.ones(
        (1, 2, 8, 8, 3), np.uint8
    )
    targets = np.eye(count, dtype=np.float32)
    return ClipBatches(clips, targets, batch_size=batch_size, seed=seed, augment=augment)


def test_an_epoch_holds_every_clip_once_with_its_own_target():
    batches = make_batches()
    seen = []
    for index in range(len(batches)):
        clips, targets = batches[index]
        assert clips.dtype == np.uint8
        numbers = clips[:, 0, 0, 0, 0]
        np.testing.assert_array_equal(targets.argmax(axis=1), numbers)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(10))


def test_the_next_epoch_has_another_order():
    batches = make_batches(count=50, batch_size=50)
    first = batches[0][0][:, 0, 0, 0, 0].tolist()
    batches.on_epoch_end()
    assert batches[0][0][:, 0, 0, 0, 0].tolist() != first


@pytest.mark.parametrize("augment", [False, True])
def test_t8_the_same_seed_gives_the_same_batches(augment):
    one, other = make_batches(augment=augment), make_batches(augment=augment)
    for _ in range(2):
        for index in range(len(one)):
            for a, b in zip(one[index], other[index], strict=True):
                np.testing.assert_array_equal(a, b)
        one.on_epoch_end()
        other.on_epoch_end()


def test_the_order_in_which_batches_are_made_does_not_matter():
    batches = make_batches(augment=True)
    last_first = batches[2][0], batches[0][0]
    first_last = batches[0][0], batches[2][0]
    np.testing.assert_array_equal(last_first[0], first_last[1])
    np.testing.assert_array_equal(last_first[1], first_last[0])


def test_augmentation_changes_all_frames_of_a_clip_alike():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    clip = np.repeat(picture[None], 5, axis=0)
    changed = augment_clip(clip, rng)
    assert changed.shape == clip.shape
    assert changed.dtype == np.uint8
    assert (changed == changed[:1]).all()
    assert (changed != clip).any()
