import argparse
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip import ClipSpec, read_clip
from clip.sampling import part_middles
from tests.drawing import Drawing, read_numbers
from training.errors import DataError, OptionError
from training.learning.augment import (
    NO_AUGMENTATION,
    Augmentation,
    add_augmentation_arguments,
    mirror_sensitive,
    read_augmentation,
)

ONLY_JITTER = replace(NO_AUGMENTATION, jitter=3)

timestamps = st.lists(st.integers(-(10**9), 10**12), min_size=1, max_size=300, unique=True).map(
    sorted
)
odd = st.integers(0, 4).map(lambda half: 2 * half + 1)


@given(timestamps, st.integers(1, 64), odd)
def test_the_middle_candidate_is_the_frame_that_evaluation_takes(times, frames, candidates):
    dense = part_middles(times, frames * candidates)
    assert dense[candidates // 2 :: candidates] == part_middles(times, frames)


@given(st.integers(1, 2000), st.integers(1, 64), odd)
def test_so_it_is_at_a_constant_rate_however_many_frames_there_are(count, frames, candidates):
    dense = part_middles(range(count), frames * candidates)
    assert dense[candidates // 2 :: candidates] == part_middles(range(count), frames)


@pytest.mark.parametrize("drawing", [Drawing(), Drawing(suffix=".avi", codec="mpeg4", frames=7)])
@pytest.mark.parametrize("candidates", [1, 3, 5])
def test_a_densely_decoded_video_has_the_evaluated_frames_in_the_middle(
    drawing, candidates, tmp_path
):
    video = drawing.write(tmp_path / "clip")
    spec = ClipSpec(frames=6)
    dense = read_clip(video, replace(spec, frames=6 * candidates))
    np.testing.assert_array_equal(dense[candidates // 2 :: candidates], read_clip(video, spec))


def test_so_it_is_for_real_clips_whose_headers_lie(shared):
    videos = sorted((shared / "originals").iterdir())
    assert videos
    for video in videos:
        dense = read_clip(video, ClipSpec(frames=60))
        np.testing.assert_array_equal(dense[1::3], read_clip(video))


def test_jitter_takes_each_frame_from_its_own_part_of_the_clip(tmp_path):
    video = Drawing(frames=60).write(tmp_path / "clip")
    dense = read_clip(video, ONLY_JITTER.training_spec(ClipSpec(frames=5)))
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        numbers = read_numbers(ONLY_JITTER.apply(dense, rng, flip=True))
        for part, number in enumerate(numbers):
            assert part * 12 < number <= (part + 1) * 12
        seen.add(tuple(numbers))
    assert len(seen) > 6


def test_all_frames_of_a_clip_are_changed_alike():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    clip = np.repeat(picture[None], 15, axis=0)
    changed = Augmentation().apply(clip, rng, flip=True)
    assert changed.shape == (5, 16, 16, 3)
    assert changed.dtype == np.uint8
    assert (changed == changed[:1]).all()
    assert (changed != clip[:5]).any()


def random_clip():
    return np.random.default_rng(5).integers(60, 190, (6, 16, 16, 3), dtype=np.uint8)


def test_no_augmentation_changes_nothing():
    clip = random_clip()
    for seed in range(10):
        changed = NO_AUGMENTATION.apply(clip, np.random.default_rng(seed), flip=True)
        np.testing.assert_array_equal(changed, clip)


@pytest.mark.parametrize(
    ("switched_on", "is_kept"),
    [
        ({"flip": True}, lambda clip: np.sort(clip, axis=2)),
        ({"brightness": 25.0}, lambda clip: clip - clip.min()),
        ({"jitter": 3}, np.unique),
    ],
)
def test_each_means_changes_only_its_own_thing(switched_on, is_kept):
    clip = random_clip()
    clip[:] = clip[:1]
    augmentation = replace(NO_AUGMENTATION, **switched_on)
    for seed in range(10):
        changed = augmentation.apply(clip, np.random.default_rng(seed), flip=True)
        np.testing.assert_array_equal(is_kept(changed), is_kept(clip[: len(changed)]))


def test_switching_one_means_off_leaves_the_others_as_they_were():
    clip = random_clip()
    both = replace(NO_AUGMENTATION, flip=True, brightness=25.0)
    alone = replace(NO_AUGMENTATION, brightness=25.0)
    for seed in range(10):
        one, other = (
            augmentation.apply(clip, np.random.default_rng(seed), flip=True)
            for augmentation in (both, alone)
        )
        np.testing.assert_array_equal(np.sort(one, axis=2), np.sort(other, axis=2))


def test_jitter_leaves_the_others_as_they_were():
    alone = replace(NO_AUGMENTATION, flip=True, least_crop=0.5, brightness=25.0, contrast=0.2)
    jittered = replace(alone, jitter=3)
    still = random_clip()[:1]
    for seed in range(10):
        one, other = (
            augmentation.apply(
                np.repeat(still, 2 * augmentation.jitter, axis=0),
                np.random.default_rng(seed),
                flip=True,
            )
            for augmentation in (alone, jittered)
        )
        np.testing.assert_array_equal(one, other)


def test_a_crop_enlarges_a_window_whose_sides_and_place_vary_each_for_itself():
    height, width = 60, 80
    clip = np.zeros((2, height, width, 3), np.uint8)
    clip[..., 0] = np.arange(height)[:, None]
    clip[..., 1] = np.arange(width)
    augmentation = replace(NO_AUGMENTATION, least_crop=0.5)
    windows = []
    for seed in range(40):
        cropped = augmentation.apply(clip, np.random.default_rng(seed), flip=True)
        assert cropped.shape == clip.shape
        assert (np.diff(cropped[0, :, :, :2].astype(int), axis=1)[..., 1] >= 0).all()
        (top, left), (bottom, right) = (cropped[0, end, end, :2].astype(int) for end in (0, -1))
        rows, columns = bottom - top + 1, right - left + 1
        assert height / 2 <= rows <= height
        assert width / 2 <= columns <= width
        windows.append((rows / height, columns / width, top / height, left / width))
    related = np.corrcoef(np.transpose(windows))
    for one, other in ((0, 1), (2, 3)):
        assert abs(related[one, other]) < 0.5
    assert (np.ptp(windows, axis=0) > 0.2).all()


def test_contrast_grows_or_shrinks_around_middle_grey():
    clip = np.full((1, 1, 4, 3), [[27], [127], [128], [228]], np.uint8)
    augmentation = replace(NO_AUGMENTATION, contrast=0.2)
    darkest = set()
    for seed in range(20):
        changed = augmentation.apply(clip, np.random.default_rng(seed), flip=True)[0, 0, :, 0]
        assert changed[1:3].tolist() == [127, 128]
        assert int(changed[0]) + int(changed[3]) == 255
        darkest.add(int(changed[0]))
    assert 7 <= min(darkest) < 17
    assert 37 < max(darkest) <= 47


def test_brightness_is_added_or_taken_away():
    clip = np.full((1, 1, 1, 3), 100, np.uint8)
    augmentation = replace(NO_AUGMENTATION, brightness=25.0)
    levels = [
        int(augmentation.apply(clip, np.random.default_rng(seed), flip=True).max())
        for seed in range(20)
    ]
    assert 75 <= min(levels) < 88
    assert 112 < max(levels) <= 125


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"jitter": 2}, "odd"),
        ({"jitter": 0}, "odd"),
        ({"least_crop": 0.0}, "least crop"),
        ({"least_crop": 1.1}, "least crop"),
        ({"brightness": -1.0}, "brightness"),
        ({"contrast": float("nan")}, "contrast"),
    ],
)
def test_a_value_out_of_range_is_an_error(values, message):
    with pytest.raises(DataError, match=message):
        Augmentation(**values)


def test_more_candidates_than_a_spec_can_hold_are_an_error():
    with pytest.raises(DataError, match="at most 512"):
        Augmentation(jitter=5).training_spec(ClipSpec(frames=200))


def test_classes_that_must_not_be_flipped_have_to_exist():
    augmentation = Augmentation(no_flip_classes=("Left", "Right"))
    assert mirror_sensitive(augmentation, ("Up", "Right", "Left")) == (2, 1)
    with pytest.raises(DataError, match="no class Right"):
        mirror_sensitive(augmentation, ("Up", "Left"))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", Augmentation()),
        ("--no-augment", NO_AUGMENTATION),
        ("--jitter 5 --no-flip", Augmentation(jitter=5, flip=False)),
        ("--no-flip-classes A B", Augmentation(no_flip_classes=("A", "B"))),
        ("--least-crop 1 --brightness 0", Augmentation(least_crop=1.0, brightness=0.0)),
        ("--contrast 0.5", Augmentation(contrast=0.5)),
    ],
)
def test_the_command_line_switches_each_means(line, wanted):
    parser = argparse.ArgumentParser()
    add_augmentation_arguments(parser)
    assert asdict(read_augmentation(parser.parse_args(line.split()))) == asdict(wanted)


@pytest.mark.parametrize("option", ["--jitter 2", "--contrast 2", "--least-crop 0"])
def test_what_cannot_be_is_refused_where_it_is_switched_off_too(option):
    parser = argparse.ArgumentParser()
    add_augmentation_arguments(parser)
    with pytest.raises(OptionError):
        read_augmentation(parser.parse_args(["--no-augment", *option.split()]))


def test_switched_off_it_still_knows_which_classes_were_named():
    parser = argparse.ArgumentParser()
    add_augmentation_arguments(parser)
    read = read_augmentation(parser.parse_args(["--no-augment", "--no-flip-classes", "Nope"]))
    assert read == replace(NO_AUGMENTATION, no_flip_classes=("Nope",))
