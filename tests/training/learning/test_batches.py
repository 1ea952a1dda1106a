from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from training.learning.augment import NO_AUGMENTATION, Augmentation
from training.learning.batches import ClipBatches, FollowEpochs


def make_batches(count=10, batch_size=4, *, seed=3, augmentation=NO_AUGMENTATION, **options):
    frames = 2 * augmentation.jitter
    clips = np.zeros((count, frames, 8, 8, 3), np.uint8)
    clips += np.arange(count, dtype=np.uint8)[:, None, None, None, None]
    clips[..., 1] = np.arange(frames, dtype=np.uint8)[:, None, None]  # green tells the frame
    targets = np.eye(count, dtype=np.float32)
    return ClipBatches(
        clips, targets, batch_size=batch_size, seed=seed, augmentation=augmentation, **options
    )


def take_epoch(batches, epoch=0):
    batches.go_to_epoch(epoch)
    return [batches[index] for index in range(len(batches))]


def assert_same(one, other):
    assert len(one) == len(other)
    for (clips, targets), (other_clips, other_targets) in zip(one, other, strict=True):
        np.testing.assert_array_equal(clips, other_clips)
        np.testing.assert_array_equal(targets, other_targets)


def test_an_epoch_holds_every_clip_once_with_its_own_target():
    seen = []
    for clips, targets in take_epoch(make_batches()):
        assert clips.dtype == np.uint8
        numbers = clips[:, 0, 0, 0, 0]
        np.testing.assert_array_equal(targets.argmax(axis=1), numbers)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize(
    ("count", "sizes"), [(10, [3, 3, 4]), (9, [3, 3, 3]), (8, [4, 4]), (3, [3]), (1, [1])]
)
def test_no_batch_is_left_with_much_less_than_the_others(count, sizes):
    assert sorted(len(clips) for clips, _ in take_epoch(make_batches(count))) == sizes


def test_the_next_epoch_has_another_order():
    batches = make_batches(count=50, batch_size=50)
    one, other = (take_epoch(batches, epoch)[0][1] for epoch in (0, 1))
    assert (one != other).any()


@pytest.mark.parametrize("augmentation", [NO_AUGMENTATION, Augmentation()])
def test_t8_the_same_seed_gives_the_same_batches(augmentation):
    one, other = make_batches(augmentation=augmentation), make_batches(augmentation=augmentation)
    for epoch in range(2):
        assert_same(take_epoch(one, epoch), take_epoch(other, epoch))


def test_another_seed_gives_other_batches():
    one, other = make_batches(seed=1), make_batches(seed=2)
    assert (one[0][1] != other[0][1]).any()
    # Of a single clip the order is one: what differs is what chance changed in it.
    (one, _), (other, _) = (
        make_batches(count=1, seed=seed, augmentation=Augmentation())[0] for seed in (1, 2)
    )
    assert (one != other).any()


def test_every_clip_is_changed_in_its_own_way_and_in_another_in_the_next_epoch():
    batches = ClipBatches(
        np.full((4, 2, 8, 8, 3), 100, np.uint8),
        np.eye(4, dtype=np.float32),
        batch_size=4,
        seed=0,
        augmentation=Augmentation(jitter=1),
    )
    clips = [clip for epoch in (0, 1) for clip in take_epoch(batches, epoch)[0][0]]
    assert len({clip.tobytes() for clip in clips}) == 8


def test_t1_an_epoch_holds_the_same_whatever_epochs_came_before():
    uninterrupted = make_batches(augmentation=Augmentation())
    for epoch in range(5):
        resumed = make_batches(augmentation=Augmentation())
        assert_same(take_epoch(uninterrupted, epoch), take_epoch(resumed, epoch))


def test_the_order_in_which_batches_are_made_does_not_matter():
    batches = make_batches(augmentation=Augmentation())
    backwards = [batches[index] for index in reversed(range(len(batches)))]
    assert_same(backwards[::-1], take_epoch(batches))


def test_how_clips_are_batched_does_not_change_what_happens_to_a_clip():
    (small, *_), (whole, _) = (
        zip(*take_epoch(make_batches(batch_size=size, augmentation=Augmentation())), strict=True)
        for size in (3, 10)
    )
    np.testing.assert_array_equal(np.concatenate(small), whole[0])


def test_threads_make_the_same_batches():
    batches = make_batches(augmentation=Augmentation())
    wanted = take_epoch(batches, 3)
    with ThreadPoolExecutor(4) as threads:
        assert_same(list(threads.map(batches.__getitem__, range(len(batches)))), wanted)


@pytest.mark.parametrize("workers", [1, 2])
def test_t1_a_fit_that_goes_on_sees_what_the_uninterrupted_one_saw(workers):
    """Two epochs and then two more, with a model that is new each time, against four at once."""

    def losses(first, last):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((2, 8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
        )
        # A model that learns nothing: the loss tells what it was shown.
        model.compile(keras.optimizers.SGD(0.0), "categorical_crossentropy", jit_compile=False)
        batches = make_batches(augmentation=Augmentation(), workers=workers)
        follow = FollowEpochs(batches)
        fit = model.fit(batches, initial_epoch=first, epochs=last, callbacks=[follow], verbose=0)
        shown = make_batches(augmentation=Augmentation())
        clips, targets = zip(*take_epoch(shown, last - 1), strict=True)
        last_epoch = model.evaluate(np.concatenate(clips), np.concatenate(targets), verbose=0)
        assert fit.history["loss"][-1] == pytest.approx(last_epoch, rel=1e-5)
        return fit.history["loss"]

    whole = losses(0, 4)
    assert len({round(loss, 3) for loss in whole}) == 4
    assert [*losses(0, 2), *losses(2, 4)] == pytest.approx(whole, rel=1e-6)


def test_clips_of_mirror_sensitive_classes_are_never_flipped():
    clips = np.zeros((6, 2, 8, 8, 3), np.uint8)
    clips[:, :, :, 4:] = 200
    targets = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]]
    only_flip = Augmentation(jitter=1, least_crop=1.0, brightness=0.0, contrast=0.0)
    batches = ClipBatches(
        clips, targets, batch_size=6, seed=0, augmentation=only_flip, mirror_sensitive=[1]
    )
    flipped = {0: 0, 1: 0}
    for epoch in range(20):
        ((made, labels),) = take_epoch(batches, epoch)
        for clip, label in zip(made, labels.argmax(axis=1), strict=True):
            flipped[int(label)] += int(clip[0, 0, 0, 0] == 200)
    assert flipped[1] == 0
    assert 15 < flipped[0] < 45


def test_places_tell_which_clips_are_in_a_batch():
    batches = make_batches(count=10)
    batches.go_to_epoch(4)
    for index in range(len(batches)):
        np.testing.assert_array_equal(batches[index][0][:, 0, 0, 0, 0], batches.places(index))
