"""One process at a time in a directory: a training in its run, a download in its folder."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import DataError

LOCK_FILE = "lock"


@contextmanager
def locked(folder: Path, *, file_name: str = LOCK_FILE, doing: str = "trains") -> Iterator[None]:
    """Hold a directory, which is made where there is none.

    The lock is the kernel's and ends with the process, however that ends. The file is left behind.

    Args:
        folder: what is held.
        file_name: the lock's, in that folder.
        doing: what its holder does there, for whoever finds it in use.

    Raises:
        DataError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / file_name).open("a+") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise  # the file system has no locks, for example
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise DataError(f"{folder} is in use: {holder} {doing} there") from error
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
        except OSError as error:  # an open file's does not tell its name
            raise OSError(error.errno, error.strerror, str(folder / file_name)) from error
        yield


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
