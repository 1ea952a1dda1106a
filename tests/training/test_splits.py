from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import Clip, ClipIndex, DataError
from training.splits import PROTOCOLS, split_clips


def make_index(classes=3, groups=10, clips=4):
    return ClipIndex(
        Path("data"),
        tuple(f"class{c}" for c in range(classes)),
        tuple(
            Clip(f"class{c}/g{g}_{i}.avi", f"class{c}", f"class{c}_g{g}")
            for c in range(classes)
            for g in range(groups)
            for i in range(clips)
        ),
    )


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(PROTOCOLS)), st.integers(0, 1000))
def test_every_clip_is_in_exactly_one_part_and_every_class_in_each(protocol, seed):
    index = make_index()
    split = split_clips(index, protocol=protocol, seed=seed)
    assert sorted(clip.path for part in split.parts.values() for clip in part) == sorted(
        clip.path for clip in index.clips
    )
    for part in split.parts.values():
        assert {clip.label for clip in part} == set(index.classes)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_no_group_is_on_two_sides_of_a_group_split(seed):
    split = split_clips(make_index(), protocol="group", seed=seed)
    train, validation, test = ({clip.group for clip in part} for part in split.parts.values())
    assert not train & validation
    assert not train & test
    assert not validation & test


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_fifth_is_for_testing_and_a_fifth_of_the_rest_for_validation(protocol):
    split = split_clips(make_index(groups=25), protocol=protocol, seed=1)
    assert {name: len(part) for name, part in split.parts.items()} == {
        "train": 192,
        "validation": 48,
        "test": 60,
    }


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_t8_the_same_seed_gives_the_same_split_and_another_another(protocol):
    index = make_index()
    assert split_clips(index, protocol=protocol, seed=5) == split_clips(
        index, protocol=protocol, seed=5
    )
    assert split_clips(index, protocol=protocol, seed=5) != split_clips(
        index, protocol=protocol, seed=6
    )


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_class_with_too_few_groups_is_an_error():
    with pytest.raises(DataError, match=r"at least 5 groups|too small"):
        split_clips(make_index(groups=2), protocol="group", seed=0)


def test_an_unknown_protocol_is_an_error():
    with pytest.raises(DataError, match="must be one of"):
        split_clips(make_index(), protocol="best", seed=0)
