import errno
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.files import ABANDONED_S, replacing, save_whole, sweep, write_text, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "a", lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(tmp_path / "a", fail)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_two_writers_of_a_shared_file_do_not_write_into_one(tmp_path):
    def write_theirs():
        with replacing(tmp_path / "a", shared=True) as theirs:
            theirs.write_text("theirs")

    with replacing(tmp_path / "a", shared=True) as mine:
        mine.write_text("mine")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(write_theirs).result()
        assert (tmp_path / "a").read_text() == "theirs"
    assert (tmp_path / "a").read_text() == "mine"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("shared", [False, True])
def test_t2_a_disk_that_is_full_leaves_the_old_file_and_tells_its_path(tmp_path, shared):
    def fill_up():
        with replacing(tmp_path / "a", shared=shared) as part:
            part.write_text("ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="No space left") as caught:
        fill_up()
    assert caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "new"),
        lambda path: save_whole(path, lambda part: part.write_text("new")),
    ],
    ids=["open", "by name"],
)
def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path, monkeypatch, write
):
    flushed = []
    fsync = os.fsync

    def watch(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append(("folder" if is_folder else "file", (tmp_path / "a").read_text()))
        fsync(descriptor)

    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", watch)
    write(tmp_path / "a")
    assert flushed == [("file", "old"), ("folder", "new")]


def test_t2_a_folder_that_cannot_be_flushed_is_named(tmp_path, monkeypatch):
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_text(tmp_path / "a", "new")
    assert caught.value.filename == str(tmp_path)


def test_what_killed_writers_left_is_swept_once_it_is_old(tmp_path):
    name = ".part.a.npy.1-1"
    for path in (tmp_path / name, tmp_path / "whole.npy"):
        path.write_text("x")
    sweep(tmp_path)
    assert names(tmp_path) == sorted([name, "whole.npy"])
    os.utime(tmp_path / name, (time.time() - ABANDONED_S - 60,) * 2)
    sweep(tmp_path)
    assert names(tmp_path) == ["whole.npy"]


def test_no_other_module_renames_a_file_into_place():
    package = Path(__file__).parents[2] / "training"
    renaming = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"\b(part|os)\.(replace|rename)\(", path.read_text())
    }
    assert renaming == {"files.py", "fetch.py"}  # a download goes on with its part
