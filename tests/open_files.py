"""What this process has open, for tests of what leaves nothing open; nothing where no /proc is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")


def count_open_files() -> int:
    return len(list_open_files())


def list_open_files() -> set[str]:
    """Each descriptor with what it leads to, such as `7 socket:[4711]`."""
    files: set[str] = set()
    if not DESCRIPTORS.is_dir():
        return files
    for descriptor in DESCRIPTORS.iterdir():
        # The listing has a descriptor of its own, which is gone by now.
        try:
            files.add(f"{descriptor.name} {descriptor.readlink()}")
        except FileNotFoundError:
            continue
    return files


@contextmanager
def expect_nothing_left_open() -> Iterator[None]:
    """At its end nothing may be open that was not at its beginning.

    Files, not their number: what other tests dropped may be closed in between, which would hide one
    that is left, or look like one too few.
    """
    gc.collect()
    before = list_open_files()
    yield
    assert list_open_files() <= before
