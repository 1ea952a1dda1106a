"""Which files a command line means: files, folders of videos, patterns."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clip import ClipError
from clip.sniff import SNIFF_BYTES, sniff


class UnreadableError(Exception):
    """A file that cannot be opened, or is none; the message is for whoever named it."""


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """Files to classify, in the order of the command line.

    Attributes:
        paths: each once.
        skipped: files in folders that are no videos.
    """

    paths: Sequence[Path]
    skipped: int


def find_files(arguments: Sequence[str]) -> FoundFiles:
    """The files that the arguments stand for.

    A folder stands for the videos below it, told by their first bytes whatever their names; what
    begins with a dot is left out. A pattern (*, ?, [...], ** for any depth) stands for what it
    matches. What is not there stays in the list: to open it fails, and that is told like any other
    failure.
    """
    paths: dict[Path, None] = {}
    skipped = 0
    for argument in arguments:
        for named in _expand(argument):
            if not named.is_dir():
                paths[named] = None
                continue
            for path in _walk(named):
                if _may_be_video(path):
                    paths[path] = None
                else:
                    skipped += 1
    return FoundFiles(list(paths), skipped)


def open_file(path: Path) -> BinaryIO:
    """Open a file to be decoded.

    Raises:
        UnreadableError: it cannot be, or it is no regular file: a decoder reads back and forth.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError("Not a regular file.")
        return path.open("rb")
    except OSError as error:
        raise UnreadableError(f"{error.strerror or 'Cannot be opened'}.") from error


def _expand(argument: str) -> list[Path]:
    if glob.has_magic(argument) and not Path(argument).exists():
        matched = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - any argument
        if matched:
            return [Path(name) for name in matched]
    return [Path(argument)]


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _may_be_video(path: Path) -> bool:
    """Whether it begins like a video; a file that cannot be read may be one."""
    try:
        with open_file(path) as file:
            sniff(file.read(SNIFF_BYTES))
    except ClipError:
        return False
    except (UnreadableError, OSError):
        return True
    return True
