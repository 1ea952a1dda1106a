import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip.sampling import LEAST_UNITS_A_STEP, clip_length, part_middles

frame_counts = st.integers(1, 64)
timestamps = st.lists(st.integers(-(10**9), 10**12), min_size=1, max_size=300, unique=True).map(
    sorted
)


@given(timestamps, frame_counts)
def test_indices_are_valid_and_never_go_back(times, frames):
    indices = part_middles(times, frames)
    assert len(indices) == frames
    assert indices == sorted(indices)
    assert all(0 <= index < len(times) for index in indices)


@given(timestamps, frame_counts)
def test_each_frame_is_the_one_on_screen_at_the_middle_of_its_part(times, frames):
    length = clip_length(times)
    # One unit is taken for rounding where frames are many units apart; otherwise nothing is.
    coarse = times[-1] - times[0] < LEAST_UNITS_A_STEP * (len(times) - 1)
    unit = (0 if coarse else 1) + 1e-6 * length
    for part, index in enumerate(part_middles(times, frames)):
        middle = times[0] + (part + 0.5) * length / frames
        assert times[index] <= middle + unit
        if index + 1 < len(times):
            assert middle <= times[index + 1] + unit


@given(st.integers(1, 500), frame_counts, st.integers(-1000, 1000), st.integers(1, 9000))
def test_constant_rate_takes_the_middle_index_of_each_part(count, frames, start, step):
    times = [start + step * index for index in range(count)]
    expected = [(2 * part + 1) * count // (2 * frames) for part in range(frames)]
    assert part_middles(times, frames) == expected


@given(timestamps, frame_counts, st.integers(-(10**6), 10**6))
def test_shifting_a_clip_in_time_takes_the_same_frames(times, frames, shift):
    assert part_middles([time + shift for time in times], frames) == part_middles(times, frames)


@given(st.integers(1, 60), st.sampled_from([24, 25, 30, 50, 60]), st.integers(1, 64))
def test_millisecond_rounding_of_webm_changes_nothing(seconds, rate, frames):
    count = seconds * rate
    exact = [1000 * index for index in range(count)]
    rounded = [round(1000 * index / rate) for index in range(count)]
    assert part_middles(rounded, frames) == part_middles(exact, frames)


def test_a_dropped_frame_is_no_rounding_where_the_unit_is_a_frame():
    times = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert part_middles(times, 20)[:12] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 4, 5]


def test_twenty_frames_are_taken_once_each():
    assert part_middles(range(20), 20) == list(range(20))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0, 0, 0, 0]),
        (2, [0, 0, 1, 1]),
        (3, [0, 1, 1, 2]),
        (7, [0, 2, 4, 6]),
    ],
)
def test_short_clips_repeat_frames(count, expected):
    assert part_middles(range(count), 4) == expected


def test_a_long_pause_is_sampled_as_long_as_it_lasts():
    # Ten frames in the first second, then nothing until the tenth.
    times = [100 * index for index in range(10)] + [10_000]
    assert part_middles(times, 10) == [5, 9, 9, 9, 9, 9, 9, 9, 9, 10]


@pytest.mark.parametrize(("times", "frames"), [([], 20), ([1, 2], 0)])
def test_nothing_to_sample_is_an_error(times, frames):
    with pytest.raises(ValueError, match="at least one"):
        part_middles(times, frames)
