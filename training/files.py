"""Files that appear whole or not at all, whenever the writer ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: So begin the names of files that are being written.
PART = ".part."
#: A temporary file of this age has no writer any more: it was killed.
ABANDONED_S = 3600


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give the name of a new file, which takes the place of `path` at the end, or is removed.

    Args:
        path: the file that shall be there.
        shared: other processes or threads may be making the same file now. Then a killed one leaves
            its part behind (see `sweep`); else the next writer goes over it.

    Raises:
        OSError: with the path, which a write to an open file does not tell by itself.
    """
    owner = f".{os.getpid()}-{threading.get_ident()}" if shared else ""
    # Hidden: among clips, or in a folder that is somebody else's too, it is nobody's file.
    part = path.with_name(f"{PART}{path.name}{owner}")
    try:
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def save_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Make a file that holds everything that `save` writes under the name it is given.

    It is on the disk when this returns; where it fails, what is there is left.

    Raises:
        OSError: with the path.
    """
    with replacing(path) as part:
        save(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    _flush_folder(path.parent)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make a file of what `write` writes to an open one, as `save_whole` does."""

    def save(part: Path) -> None:
        with part.open("wb") as file:
            write(file)

    save_whole(path, save)


def write_bytes(path: Path, content: bytes) -> None:
    """Make a file of these bytes, as `write_whole` does."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Make a text file in UTF-8, as `write_whole` does."""
    write_bytes(path, text.encode())


def sweep(folder: Path, *, age_s: float = ABANDONED_S) -> None:
    """Remove what killed writers left in a folder so many seconds ago or before."""
    for part in folder.glob(f"{PART}*"):
        try:
            if part.is_file() and time.time() - part.stat().st_mtime >= age_s:
                part.unlink()
        except FileNotFoundError:  # another's, just finished
            continue


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows opens no folders, and needs this not."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:  # an open file's does not tell its name
            raise OSError(error.errno, error.strerror, str(folder)) from error
        finally:
            os.close(descriptor)
