import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import DataError
from training.locking import LOCK_FILE, locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, pathlib
from training.locking import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_t7_a_directory_in_use_is_refused_with_its_holder(tmp_path, holder):
    with (
        pytest.raises(DataError, match=f"in use: process {holder.pid} trains there"),
        locked(tmp_path),
    ):
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_training(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("training.locking._lock", refuse)
    with pytest.raises(OSError, match="No locks available"), locked(tmp_path):
        pass


def test_t7_the_lock_of_a_killed_process_does_not_block(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"process {os.getpid()}\n"
    with locked(tmp_path):
        pass
