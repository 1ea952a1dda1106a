import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.errors import DataError
from training.learning.checkpoints import Checkpoint, name_last, read_last, write_checkpoint

ROOT = Path(__file__).parents[3]


def make_checkpoint(epoch, size=10):
    arrays = {
        "model": [np.full((2, size), epoch, np.float32), np.array([epoch, 0], np.int64)],
        "best": [np.array(0.1 * epoch, np.float32)],
    }
    return Checkpoint(epoch, {"best": 0.1 * epoch, "name": "é"}, arrays)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def check_last(folder, epoch):
    wanted, found = make_checkpoint(epoch), read_last(folder)
    assert (found.epoch, found.record) == (epoch, wanted.record)
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, arrays in wanted.arrays.items():
        for one, other in zip(arrays, found.arrays[name], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    assert read_last(tmp_path / "checkpoints") is None
    write_checkpoint(tmp_path / "checkpoints", make_checkpoint(7))
    check_last(tmp_path / "checkpoints", 7)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for epoch in (8, 9, 10, 11):
        write_checkpoint(tmp_path, make_checkpoint(epoch))
    assert names(tmp_path) == ["LAST", "epoch-00010.npz", "epoch-00011.npz"]
    check_last(tmp_path, 11)


def test_a_damaged_checkpoint_is_named(tmp_path):
    write_checkpoint(tmp_path, make_checkpoint(1, size=10_000))
    path = tmp_path / "epoch-00001.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"epoch-00001\.npz is damaged"):
        read_last(tmp_path)


def test_a_checkpoint_with_any_bit_of_its_directory_turned_over_is_whole_or_named(tmp_path):
    """The directory at an archive's end says how to read each entry, and how many there are."""
    write_checkpoint(tmp_path, make_checkpoint(1))
    path = tmp_path / "epoch-00001.npz"
    content = path.read_bytes()
    unread = []
    for bit in range(8 * content.index(b"PK\x01\x02"), 8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            check_last(tmp_path, 1)
        except DataError as error:
            unread.append(str(error))
    assert any("encrypted" in message for message in unread)
    assert all("epoch-00001.npz is damaged" in message for message in unread)


def test_a_checkpoint_that_does_not_tell_how_much_it_holds_is_read(tmp_path):
    """As older code wrote them."""
    wanted = make_checkpoint(1)
    record = json.dumps({"epoch": 1, **wanted.record})
    flat = {f"{name}/{k}": a for name, of in wanted.arrays.items() for k, a in enumerate(of)}
    np.savez(tmp_path / "epoch-00001.npz", record=np.array(record), **flat)
    (tmp_path / "LAST").write_text("epoch-00001.npz")
    check_last(tmp_path, 1)


def test_an_archive_that_is_no_checkpoint_is_named(tmp_path):
    np.savez(tmp_path / "epoch-00001.npz", weights=np.zeros(1))
    (tmp_path / "LAST").write_text("epoch-00001.npz")
    with pytest.raises(DataError, match=r"epoch-00001\.npz is damaged"):
        read_last(tmp_path)


def test_a_pointer_that_an_editor_wrote_in_another_encoding_is_named(tmp_path):
    write_checkpoint(tmp_path, make_checkpoint(1))
    (tmp_path / "LAST").write_text("epoch-00001.npz", encoding="utf-16")
    for read in (name_last, read_last):
        with pytest.raises(DataError, match="LAST is damaged: write the name of a checkpoint"):
            read(tmp_path)


def test_an_older_checkpoint_can_be_named_by_hand(tmp_path):
    for epoch in (1, 2):
        write_checkpoint(tmp_path, make_checkpoint(epoch))
    (tmp_path / "LAST").write_text("epoch-00001.npz\n")  # as an editor or echo leaves it
    assert read_last(tmp_path).epoch == 1


def test_t1_killed_at_any_moment_the_last_checkpoint_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_writers.py"), tmp_path, "200", "1"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= 200
    # Otherwise no kill hit a write, and the test would show nothing.
    assert counts["torn"] > 0
    assert counts["epochs"] > 0


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_t2_a_write_that_fails_leaves_the_old_checkpoint_and_tells_the_path(
    tmp_path, monkeypatch, step
):
    write_checkpoint(tmp_path, make_checkpoint(1))

    def disk_full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"write": np, "fsync": os, "replace": Path}[step]
    with monkeypatch.context() as patch:
        patch.setattr(owner, {"write": "savez"}.get(step, step), disk_full)
        with pytest.raises(OSError, match="No space left") as caught:
            write_checkpoint(tmp_path, make_checkpoint(2))
    assert caught.value.filename == str(tmp_path / "epoch-00002.npz")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["LAST", "epoch-00001.npz"]
    check_last(tmp_path, 1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_t2_a_full_disk_leaves_the_old_checkpoint_and_tells_the_path(small_disk):
    write_checkpoint(small_disk, make_checkpoint(1))
    with pytest.raises(OSError, match="No space left") as caught:
        write_checkpoint(small_disk, make_checkpoint(2, size=200_000))
    assert caught.value.filename == str(small_disk / "epoch-00002.npz")
    check_last(small_disk, 1)
    write_checkpoint(small_disk, make_checkpoint(2))
    check_last(small_disk, 2)
