import hashlib
import json
import os

import pytest
import rarfile

import training.download
from tests.training.archives import write_rar, write_zip
from tests.training.fileserver import serving
from training.data.index import index_clips
from training.data.unpack import UnpackError, unpack
from training.download import PublicDataSet, download, main
from training.locking import locked

MEMBERS = {
    "UCF50/Archery/v_Archery_g01_c01.avi": b"RIFF one",
    "UCF50/Archery/v_Archery_g02_c01.avi": b"RIFF two" * 1000,
    "UCF50/YoYo/v_YoYo_g01_c01.avi": b"RIFF three",
}
WRITERS = {"zip": write_zip, "rar": write_rar}
STORED, COMPRESSED, SOLID = 0x30, 0x33, 0x08


@pytest.fixture(params=sorted(WRITERS))
def archive(request, tmp_path):
    return WRITERS[request.param](tmp_path / f"UCF50.{request.param}", MEMBERS)


@pytest.fixture
def no_unpacker(monkeypatch, tmp_path):
    """A machine without any program that knows RAR."""
    monkeypatch.setenv("PATH", str(tmp_path))
    yield
    rarfile.CURRENT_SETUP = None


@pytest.fixture
def any_unpacker(monkeypatch):
    """A machine with one; what is stored does not need it."""
    monkeypatch.setattr(training.download, "require_unpacker", lambda: None)


def read_tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_archive_is_unpacked_whole(archive, tmp_path):
    assert unpack(archive, tmp_path / "out") == 3
    assert read_tree(tmp_path / "out") == MEMBERS


def test_unpacking_again_makes_good_what_is_missing_or_cut_off(archive, tmp_path):
    unpack(archive, tmp_path / "out")
    first, second, third = (tmp_path / "out" / name for name in MEMBERS)
    first.unlink()
    second.write_bytes(b"RI")
    before = third.stat().st_mtime_ns
    unpack(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == MEMBERS
    assert third.stat().st_mtime_ns == before


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "name", ["../outside.avi", "/etc/outside.avi", "A/../../outside.avi", "C:\\outside.avi"]
)
def test_an_archive_that_would_write_elsewhere_is_refused(write, name, tmp_path):
    evil = write(tmp_path / "evil", {"A/good.avi": b"x", name: b"x"})
    with pytest.raises(UnpackError, match="outside"):
        unpack(evil, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "outside.avi").exists()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_damaged_archive_is_said_in_words(write, tmp_path):
    archive = write(tmp_path / "archive", {"A/one.avi": bytes(range(256)) * 40})
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(UnpackError, match=r"damaged or cut off.*fetch it anew"):
        unpack(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (6, b"\x01", "is encrypted"),  # the flags
        (8, b"\x63", "cannot be unpacked here"),  # the method of compression
    ],
)
def test_a_zip_that_python_cannot_unpack_is_said_in_words(offset, content, message, tmp_path):
    archive = write_zip(tmp_path / "archive.zip", {"A/one.avi": b"x" * 100})
    changed = bytearray(archive.read_bytes())
    entry = changed.index(b"PK\x01\x02")  # the directory's has two more bytes before them
    for start in (offset, entry + offset + 2):
        changed[start : start + 1] = content
    archive.write_bytes(changed)
    with pytest.raises(UnpackError, match=message):
        unpack(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == {}


def test_a_cut_off_archive_is_said_in_words(tmp_path):
    archive = write_rar(tmp_path / "archive.rar", MEMBERS)
    archive.write_bytes(archive.read_bytes()[:4000])
    with pytest.raises(UnpackError, match="damaged or cut off"):
        unpack(archive, tmp_path / "out")


def test_a_page_instead_of_an_archive_is_said_in_words(tmp_path):
    (tmp_path / "UCF50.rar").write_text("<html>Log in to this network</html>")
    with pytest.raises(UnpackError, match=r"neither a RAR nor a ZIP archive.*<html>"):
        unpack(tmp_path / "UCF50.rar", tmp_path / "out")


def test_no_unpacker_is_said_in_words(no_unpacker, tmp_path):
    archive = write_rar(tmp_path / "archive.rar", MEMBERS, method=COMPRESSED)
    with pytest.raises(UnpackError, match=r"no program here to unpack RAR.*unar"):
        unpack(archive, tmp_path / "out")


def test_a_solid_archive_is_left_to_a_program_in_one_go(monkeypatch, tmp_path):
    monkeypatch.setattr(rarfile, "tool_setup", lambda **_: None)
    archive = write_rar(tmp_path / "a.rar", MEMBERS, method=COMPRESSED, main_flags=SOLID)
    with pytest.raises(UnpackError, match=r"solid archive.*unar -o"):
        unpack(archive, tmp_path / "out")


def test_without_an_unpacker_nothing_is_fetched(no_unpacker, tmp_path, capsys):
    with serving(b"x", "UCF50.rar") as server:
        assert main(["ucf50", "--to", str(tmp_path / "data"), "--url", server.url]) == 1
        assert server.requests == []
    assert "install unrar, unar" in capsys.readouterr().err


@pytest.mark.usefixtures("any_unpacker")
def test_a_data_set_is_fetched_unpacked_and_recorded(archive, tmp_path, capsys):
    content, data = archive.read_bytes(), tmp_path / "data"
    with serving(content, archive.name) as server:
        server.drops = [50]
        assert main(["ucf50", "--to", str(data), "--url", server.url]) == 0
        again = len(server.requests)
        assert main(["ucf50", "--to", str(data), "--url", f"{server.url}?elsewhere"]) == 0
        assert len(server.requests) == again, "the archive is there"
        digest = hashlib.sha256(content).hexdigest()
        assert json.loads((data / f"{archive.name}.json").read_text()) == {
            "url": server.url,
            "bytes": len(content),
            "sha256": digest,
        }
    assert index_clips(data / "UCF50").classes == ("Archery", "YoYo")
    out = capsys.readouterr().out
    assert digest in out
    assert f"python -m training.data {data / 'UCF50'}" in out


def test_an_archive_with_another_sha256_is_not_unpacked(tmp_path):
    archive = write_zip(tmp_path / "data.zip", MEMBERS)
    with serving(archive.read_bytes()) as server:
        arguments = ["ucf50", "--to", str(tmp_path / "to"), "--url", server.url]
        assert main([*arguments, "--sha256", "0" * 64]) == 1
        assert not (tmp_path / "to/UCF50").exists()
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert main([*arguments, "--sha256", digest.upper()]) == 0
    assert (tmp_path / "to/UCF50").is_dir()


def test_two_downloads_into_one_folder_do_not_write_one_archive(tmp_path, capsys):
    with serving(b"x") as server, locked(tmp_path, file_name=".download.lock", doing="downloads"):
        assert main(["ucf50", "--to", str(tmp_path), "--url", server.url]) == 1
        assert server.requests == []
    assert f"in use: process {os.getpid()} downloads there" in capsys.readouterr().err


def test_a_server_that_refuses_ends_the_command_in_words(tmp_path, capsys):
    with serving(b"x") as server:
        server.statuses = [403]
        assert main(["ucf101", "--to", str(tmp_path), "--url", server.url]) == 1
    assert "error: " in capsys.readouterr().err


def test_the_function_takes_any_data_set(tmp_path):
    archive = write_zip(tmp_path / "mine.zip", {"Mine/A/one.mp4": b"x"})
    with serving(archive.read_bytes(), "mine.zip") as server:
        folder = download(PublicDataSet(server.url, "Mine"), tmp_path / "to")
    assert read_tree(folder) == {"A/one.mp4": b"x"}
