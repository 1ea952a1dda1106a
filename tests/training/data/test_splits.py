from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.index import Clip, ClipIndex
from training.data.splits import FOLDS, PROTOCOLS, read_split, split_clips
from training.errors import DataError, OptionError
from training.run import RunDirectory


def make_index(classes=3, groups=10, clips=4, name="class"):
    return ClipIndex(
        Path("data"),
        tuple(f"{name}{c}" for c in range(classes)),
        tuple(
            Clip(f"{name}{c}/g{g}_{i}.avi", f"{name}{c}", f"{name}{c}_g{g}")
            for c in range(classes)
            for g in range(groups)
            for i in range(clips)
        ),
    )


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["group", "random"]), st.integers(0, 1000))
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


@pytest.mark.parametrize("protocol", ["group", "random"])
def test_a_fifth_is_for_testing_and_a_fifth_of_the_rest_for_validation(protocol):
    split = split_clips(make_index(groups=25), protocol=protocol, seed=1)
    assert {name: len(part) for name, part in split.parts.items()} == {
        "train": 192,
        "validation": 48,
        "test": 60,
    }
    for name, part in split.parts.items():
        for label in ("class0", "class1", "class2"):
            assert sum(clip.label == label for clip in part) == len(part) // 3, (name, label)


@pytest.mark.parametrize("protocol", ["group", "random"])
def test_t8_the_same_seed_gives_the_same_split_and_another_another(protocol):
    index = make_index()
    assert split_clips(index, protocol=protocol, seed=5) == split_clips(
        index, protocol=protocol, seed=5
    )
    assert split_clips(index, protocol=protocol, seed=5) != split_clips(
        index, protocol=protocol, seed=6
    )


@pytest.mark.parametrize(("groups", "clips"), [(2, 4), (4, 1)])
def test_a_class_with_too_few_groups_is_an_error_that_says_what_it_needs(groups, clips):
    with pytest.raises(DataError, match=r"each class needs more groups"):
        split_clips(make_index(groups=groups, clips=clips), protocol="group", seed=0)


def test_a_class_with_too_few_clips_is_an_error_that_says_what_it_needs():
    with pytest.raises(DataError, match="too small for a random split: each class needs more clip"):
        split_clips(make_index(groups=1, clips=1), protocol="random", seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_few_groups_are_split_without_a_word_of_the_librarys(seed):
    """Of one class four are left for training and validation: fewer than the folds."""
    split = split_clips(make_index(classes=2, groups=6, clips=1), protocol="group", seed=seed)
    assert all(split.parts.values())


def test_an_unknown_protocol_is_an_error():
    with pytest.raises(DataError, match="must be one of"):
        split_clips(make_index(), protocol="best", seed=0)


def test_each_clip_that_is_not_for_testing_is_for_validation_in_one_fold():
    index = make_index(groups=25)
    splits = [split_clips(index, protocol="group", seed=1, fold=fold) for fold in range(FOLDS)]
    assert splits[0] == split_clips(index, protocol="group", seed=1)
    assert {split.test for split in splits} == {splits[0].test}
    validated = [clip.path for split in splits for clip in split.validation]
    assert sorted(validated) == sorted(
        clip.path for clip in (*splits[0].train, *splits[0].validation)
    )
    for split in splits:
        assert not {clip.group for clip in split.train} & {clip.group for clip in split.validation}


def test_folds_that_leave_a_class_out_come_last_and_are_an_error():
    index = make_uneven({"A": [1] * 30, "B": [1] * 30, "C": [4, 1, 1]})
    split = split_clips(index, protocol="group", seed=0, fold=0)
    assert {clip.label for clip in split.validation} == set("ABC")
    with pytest.raises(DataError, match="leaves no validation clip of C"):
        split_clips(index, protocol="group", seed=0, fold=FOLDS - 1)


@pytest.mark.parametrize(("protocol", "fold"), [("group", FOLDS), ("group", -1), ("random", 1)])
def test_a_fold_that_cannot_be_is_an_error(protocol, fold):
    with pytest.raises(OptionError, match="--fold"):
        split_clips(make_index(), protocol=protocol, seed=0, fold=fold)


def write_table(path, rows, header="path\tpart"):
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    return path


def some_rows(index):
    """One clip in five for testing, one for validation."""
    parts = ("test", "validation", "train", "train", "train")
    return [(clip.path, parts[place % 5]) for place, clip in enumerate(index.clips)]


def test_every_protocol_has_a_name():
    assert PROTOCOLS == ("group", "random", "file")


@pytest.mark.parametrize("name", ["class", '"quoted" class', "it's"])
def test_a_runs_own_table_gives_its_split_again_in_its_order(name, tmp_path):
    index = make_index(name=name)
    split = split_clips(index, protocol="random", seed=3)
    run = RunDirectory.create(tmp_path)
    run.write_split(split, {})
    assert run.read_split("test", "path") == [clip.path for clip in split.test]
    assert read_split(index, tmp_path / "split.tsv") == split


def make_uneven(sizes):
    return ClipIndex(
        Path("data"),
        tuple(sizes),
        tuple(
            Clip(f"{label}/g{g}_{i}.avi", label, f"{label}_g{g}")
            for label, counts in sizes.items()
            for g, count in enumerate(counts)
            for i in range(count)
        ),
    )


def test_groups_of_very_different_sizes_are_split_where_that_is_possible():
    index = make_uneven(
        {"A": [1, 3, 4, 30, 1, 8, 1], "B": [2, 3, 4, 3, 1, 15, 8], "C": [8, 3, 1, 1, 15, 8, 8]}
    )
    split = split_clips(index, protocol="group", seed=0)
    for part in split.parts.values():
        assert {clip.label for clip in part} == set("ABC")


def test_a_class_of_which_odd_shares_are_tested_is_warned_of():
    index = make_uneven({"A": [60] + [1] * 7, "B": [10] * 8})
    split = split_clips(index, protocol="group", seed=0)
    assert sum(clip.label == "A" for clip in split.test) == 60
    tested, trained = split.warnings
    assert "far from a fifth of the clips is held out for testing: A: 60 of 67" in tested
    assert "hardly two fifths of the clips are trained on: A: " in trained
    assert "B" not in tested + trained
    assert not split_clips(make_index(), protocol="group", seed=0).warnings
    few = make_uneven({"A": [1] * 12, "B": [1] * 300})
    assert not split_clips(few, protocol="random", seed=0).warnings


def test_clips_that_the_table_does_not_name_are_left_out_with_a_warning(tmp_path):
    index = make_index(clips=5)
    table = write_table(tmp_path / "parts.tsv", some_rows(index)[5:])
    split = split_clips(index, protocol="file", seed=0, table=table)
    assert sum(len(part) for part in split.parts.values()) == len(index.clips) - 5
    assert any("does not name 5 of 150 clips" in warning for warning in split.warnings)


def test_a_group_in_two_parts_is_warned_of(tmp_path):
    index = make_index(clips=5)
    table = write_table(tmp_path / "parts.tsv", some_rows(index))
    (warning,) = split_clips(index, protocol="file", seed=0, table=table).warnings
    assert "30 groups are in more than one part" in warning
    assert "class0_g0 is in test and train and validation" in warning
    assert "and 10 more" in warning


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, (rows[0][0], "train")], r"two parts.*g0_0.avi is in test and train"),
        (lambda rows: [*rows, rows[0]], r"names clips twice:\s+class0/g0_0.avi"),
        (lambda rows: [*rows, ("class0/none.avi", "train")], r"does not have.*class0/none.avi"),
        (
            lambda rows: [(rows[0][0], "dev"), *rows[1:]],
            "part must be train, validation, test, not",
        ),
        (lambda rows: [(rows[0][0],), *rows[1:]], "part must be train, validation, test, not ''"),
        (
            lambda rows: [row for row in rows if row[1] != "test" or "class1" not in row[0]],
            "no test clip of class1",
        ),
    ],
)
def test_a_table_that_cannot_be_followed_is_an_error_in_words(change, message, tmp_path):
    index = make_index(clips=5)
    table = write_table(tmp_path / "parts.tsv", change(some_rows(index)))
    with pytest.raises(DataError, match=f"(?s){message}"):
        split_clips(index, protocol="file", seed=0, table=table)


def test_a_table_without_the_columns_is_an_error(tmp_path):
    table = write_table(tmp_path / "parts.tsv", [], header="file\tset")
    with pytest.raises(DataError, match="columns path and part"):
        split_clips(make_index(), protocol="file", seed=0, table=table)


@pytest.mark.parametrize(("protocol", "named"), [("file", False), ("random", True)])
def test_a_table_goes_with_the_file_protocol_and_no_other(protocol, named, tmp_path):
    table = write_table(tmp_path / "parts.tsv", []) if named else None
    with pytest.raises(DataError, match="goes with --split file"):
        split_clips(make_index(), protocol=protocol, seed=0, table=table)
