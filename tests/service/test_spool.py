"""Spool: files that nobody else can see and nobody has to clean up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.settings import SettingsError
from service.spool import Spool


def test_a_file_has_no_name_and_its_space_is_freed_when_it_is_closed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.open_file() as file:
        file.write(b"video")
        file.flush()
        assert not list(tmp_path.iterdir())
        assert os.fstat(file.fileno()).st_nlink == 0
        file.seek(0)
        assert file.read() == b"video"


def test_the_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool")
    spool.prepare()
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    spool.prepare()


def test_a_folder_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Spool(tmp_path).prepare()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_used_is_told_with_its_variable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError, match="HAR_SPOOL_DIR"):
        Spool(file).prepare()
    with pytest.raises(SettingsError, match="HAR_SPOOL_DIR"):
        Spool(file / "below").prepare()


def test_f69_what_a_killed_service_left_is_swept_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "upload-abc").touch()
    (tmp_path / "other").touch()
    Spool(tmp_path).prepare()
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_f57_space_is_enough_or_not(tmp_path: Path) -> None:
    assert Spool(tmp_path, min_free_bytes=1).has_space()
    assert not Spool(tmp_path, min_free_bytes=2**62).has_space()
    with pytest.raises(FileNotFoundError):
        Spool(tmp_path / "gone").has_space()
