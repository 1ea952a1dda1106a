import os

import pytest

from tests.drawing import Drawing
from training.data.index import (
    PAPER_CLASSES,
    BadFile,
    Clip,
    ClipIndex,
    find_duplicates,
    index_clips,
)
from training.errors import DataError


def make_dataset(folder, files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    return folder


UCF_FILES = ["YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g02_c01.avi", "Archery/v_Archery_g01_c01.avi"]


def test_every_class_folder_is_a_class_in_the_order_of_names(tmp_path):
    index = index_clips(make_dataset(tmp_path, UCF_FILES))
    assert index.classes == ("Archery", "YoYo")
    assert [index.target(clip) for clip in index.clips] == [0, 1, 1]


def test_chosen_classes_are_taken_in_the_order_given(tmp_path):
    make_dataset(tmp_path, [*UCF_FILES, "Punch/v_Punch_g01_c01.avi"])
    index = index_clips(tmp_path, classes=["YoYo", "Archery"])
    assert index.classes == ("YoYo", "Archery")
    assert {clip.label for clip in index.clips} == {"YoYo", "Archery"}


def test_ucf_names_tell_the_group_and_groups_are_of_one_class(tmp_path):
    groups = {
        clip.path: clip.group for clip in index_clips(make_dataset(tmp_path, UCF_FILES)).clips
    }
    assert groups == {
        "Archery/v_Archery_g01_c01.avi": "Archery_g01",
        "YoYo/v_YoYo_g01_c01.avi": "YoYo_g01",
        "YoYo/v_YoYo_g02_c01.avi": "YoYo_g02",
    }


def test_a_file_without_a_ucf_name_is_its_own_group(tmp_path):
    make_dataset(tmp_path, ["A/one.mp4", "B/two.webm"])
    assert index_clips(tmp_path).clips == (
        Clip("A/one.mp4", "A", "A/one.mp4"),
        Clip("B/two.webm", "B", "B/two.webm"),
    )


def test_a_table_tells_the_groups(tmp_path):
    make_dataset(tmp_path / "data", ["A/one.mp4", "B/two.mp4"])
    table = tmp_path / "groups.tsv"
    table.write_text("path\tclass\tsource_group\nA/one.mp4\tA\ts1\nB/two.mp4\tB\ts2\n")
    assert [clip.group for clip in index_clips(tmp_path / "data", groups=table).clips] == [
        "s1",
        "s2",
    ]


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path):
    make_dataset(tmp_path / "data", ["A/one.mp4", "B/two.mp4"])
    table = tmp_path / "groups.tsv"
    table.write_text("path\tsource_group\nA/one.mp4\ts1\nB/two.mp4\ts2\n", encoding="utf-8-sig")
    assert {clip.group for clip in index_clips(tmp_path / "data", groups=table).clips} == {
        "s1",
        "s2",
    }


@pytest.mark.parametrize("name", ["tab\t.mp4", "line\n.mp4", os.fsdecode(b"caf\xe9.mp4")])
def test_t4_a_name_that_no_table_can_hold_is_listed_as_bad(name, tmp_path):
    make_dataset(tmp_path, ["A/one.mp4", "B/two.mp4", f"B/{name}"])
    (bad,) = index_clips(tmp_path).missing
    assert bad.path.encode("ascii")
    assert "rename it" in bad.reason
    make_dataset(tmp_path, [f"{name}/three.mp4"])
    with pytest.raises(DataError, match="rename it"):
        index_clips(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\tsource_group\nA/one.mp4\ts1\n", r"no row for 1 clips:\n  B/two\.mp4"),
        ("file\tgroup\n", "columns path and source_group"),
        (
            "path\tsource_group\nA/one.mp4\ts1\nB/two.mp4\ts2\nA/one.mp4\ts2\n",
            "A/one.mp4 in two groups: s1 and s2",
        ),
        ("source_group\tpath\ns1\n", "no row for 2 clips"),
        ('path\tsource_group\nA/one.mp4\t"s\t1"\n', "a cell with control characters"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(text, message, tmp_path):
    make_dataset(tmp_path / "data", ["A/one.mp4", "B/two.mp4"])
    table = tmp_path / "groups.tsv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        index_clips(tmp_path / "data", groups=table)


@pytest.mark.parametrize(
    ("files", "classes", "message"),
    [
        (["A/one.mp4"], None, "at least two class folders"),
        (["A/one.mp4", "B/readme.txt"], None, "holds no video"),
        (["A/one.mp4", "B/two.mp4"], ["A", "C"], "no folder for the classes C"),
        (["A/one.mp4", "B/two.mp4"], ["A", "B", "A"], "named twice"),
        (["A/one.mp4", "B/two.mp4"], ["A"], "must name at least two classes, not A alone"),
        (["A/one.mp4", "__MACOSX/two.mp4", ".cache/three.mp4"], None, "at least two class folders"),
    ],
)
def test_t4_a_folder_that_is_no_data_set_is_an_error(files, classes, message, tmp_path):
    make_dataset(tmp_path, files)
    with pytest.raises(DataError, match=message):
        index_clips(tmp_path, classes=classes)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        index_clips(tmp_path / "none")


def test_select_keeps_the_order_asked_for(tmp_path):
    index = index_clips(make_dataset(tmp_path, UCF_FILES))
    chosen = index.select([UCF_FILES[1], UCF_FILES[2]])
    assert [clip.path for clip in chosen.clips] == [UCF_FILES[1], UCF_FILES[2]]
    with pytest.raises(DataError, match="lacks 1"):
        index.select(["YoYo/none.avi"])


def test_the_default_ten_are_taken_where_all_are_there(tmp_path):
    make_dataset(tmp_path, [f"{label}/v_{label}_g01_c01.avi" for label in (*PAPER_CLASSES, "Yoga")])
    index = index_clips(tmp_path)
    assert index.classes == PAPER_CLASSES
    assert any("11 class folders, the default ten" in warning for warning in index.warnings)
    assert index_clips(tmp_path, classes=["Yoga", "Swing"]).classes == ("Yoga", "Swing")


def test_where_one_of_the_ten_is_missing_every_folder_is_a_class(tmp_path):
    labels = [*PAPER_CLASSES[1:], "Yoga"]
    make_dataset(tmp_path, [f"{label}/v_{label}_g01_c01.avi" for label in labels])
    assert index_clips(tmp_path).classes == tuple(sorted(labels))


def test_a_clip_is_known_by_its_content_where_its_name_does_not_tell(tmp_path):
    make_dataset(tmp_path, ["A/one.mp4", "B/two.mp4", "B/notes.txt", "B/.hidden.mp4"])
    (tmp_path / "B/more").mkdir()
    drawn = Drawing(suffix=".mp4", frames=3).write(tmp_path / "A/drawn")
    drawn.rename(tmp_path / "A/upload-17")
    index = index_clips(tmp_path)
    assert [clip.path for clip in index.clips] == ["A/one.mp4", "A/upload-17", "B/two.mp4"]
    assert index.ignored == ("B/more", "B/notes.txt")


def test_files_without_a_group_are_warned_of(tmp_path):
    index = index_clips(make_dataset(tmp_path, [*UCF_FILES, "Archery/mine.mp4"]))
    (warning,) = index.warnings
    assert warning.startswith("1 of 4 clips have no group")
    assert "--groups" in warning


def test_t4_what_should_be_there_and_is_not_is_listed(tmp_path):
    make_dataset(tmp_path / "data", ["A/one.mp4", "B/two.mp4"])
    (tmp_path / "data/B/link.mp4").symlink_to(tmp_path / "nowhere.mp4")
    table = tmp_path / "groups.tsv"
    rows = [("A/one.mp4", "s1"), ("A/gone.mp4", "s1"), ("B/two.mp4", "s2"), ("C/three.mp4", "s3")]
    table.write_text("path\tsource_group\n" + "".join(f"{path}\t{group}\n" for path, group in rows))
    index = index_clips(tmp_path / "data", groups=table)
    assert index.missing == (
        BadFile("B/link.mp4", "The link leads nowhere."),
        BadFile("A/gone.mp4", "The table of groups has it, the folder does not."),
    )


def test_t4_all_empty_class_folders_are_named_at_once(tmp_path):
    make_dataset(tmp_path, ["A/one.mp4", "B/readme.txt", "C/.keep", "D/two.mp4"])
    with pytest.raises(DataError, match=r"B, .*C: an empty class folder"):
        index_clips(tmp_path)


def test_t4_copies_are_bad_but_for_the_first_of_a_class():
    same, twin, other = (Clip(f"A/{name}.avi", "A", "g") for name in ("1", "2", "3"))
    assert find_duplicates({same: "x", other: "y", twin: "x"}) == [
        BadFile("A/2.avi", "The same bytes as A/1.avi.")
    ]


def test_t4_copies_in_two_classes_are_all_bad():
    one, two, other = (
        Clip("A/1.avi", "A", "g"),
        Clip("B/1.avi", "B", "h"),
        Clip("B/2.avi", "B", "h"),
    )
    assert find_duplicates({one: "x", two: "x", other: "y"}) == [
        BadFile("A/1.avi", "The same bytes as B/1.avi, of another class."),
        BadFile("B/1.avi", "The same bytes as A/1.avi, of another class."),
    ]


def test_leaving_out_the_last_clip_of_a_class_is_an_error(tmp_path):
    index = index_clips(make_dataset(tmp_path, UCF_FILES))
    assert isinstance(index, ClipIndex)
    assert len(index.without([UCF_FILES[0]]).clips) == 2
    with pytest.raises(DataError, match="no usable clip is left of Archery"):
        index.without([UCF_FILES[2]])


def test_a_class_named_as_a_group_is_still_many_groups(tmp_path):
    make_dataset(tmp_path, ["walk_g1_slow/v_g1_a.mp4", "walk_g1_slow/v_g2_a.mp4", "run/v_g1_a.mp4"])
    assert [clip.group for clip in index_clips(tmp_path).clips] == [
        "run_g1",
        "walk_g1_slow_g1",
        "walk_g1_slow_g2",
    ]
