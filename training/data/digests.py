"""The sha256 of video files, remembered between runs.

    <cache>/digests.json       {"/data/YoYo/one.avi": [size, mtime_ns, "<sha256>"]}

Hashing costs about six seconds a gigabyte where the processor has no instructions for it, at every
start of every run. A file with the path, size and modification time of last time is taken for the
same file, as make and git do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from training.files import replacing


def file_digest(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Digests:
    """Digests by file; safe to ask from several threads."""

    def __init__(self, cache: Path) -> None:
        self._store = cache / "digests.json"
        self._known: dict[str, Any] = {}
        # A store that cannot be read costs the hashing, no more.
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._store.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}
        self._changed = False

    def of(self, file: Path) -> str:
        """The file's sha256 in hexadecimal.

        Raises:
            OSError: the file cannot be read.
        """
        found = file.stat()
        key, state = str(file.resolve()), [found.st_size, found.st_mtime_ns]
        record = self._known.get(key)
        if isinstance(record, list) and len(record) == 3 and record[:2] == state:
            return str(record[2])
        digest = file_digest(file)
        self._known[key] = [*state, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        """Write the store, at once or not at all, if it has grown."""
        if self._changed:
            with replacing(self._store, shared=True) as part:
                part.write_text(json.dumps(self._known), encoding="utf-8")
