import pytest

from training.data import Clip, DataError, index_clips


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\tsource_group\nA/one.mp4\ts1\n", "no row for B/two.mp4"),
        ("file\tgroup\n", "columns path and source_group"),
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
