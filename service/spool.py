"""Spool: where uploads lie while they are decoded."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from service.settings import SettingsError

_PRIVATE = 0o700
_PREFIX = "upload-"
_MIN_FREE_INODES = 64


class Spool:
    """A private folder of files without names.

    On Linux a file is made without ever having a name (O_TMPFILE), elsewhere it loses it at once:
    nobody else can open it, nothing can overwrite it, and the system frees its space when it is
    closed, even by kill -9. The folder therefore always looks empty; `df` shows what is in use.
    """

    def __init__(self, folder: Path | None = None, *, min_free_bytes: int = 0) -> None:
        self._min_free_bytes = min_free_bytes
        self.folder = folder or Path(tempfile.gettempdir()) / f"har-spool-{_user_id()}"

    def prepare(self) -> None:
        """Make the folder if it is not there, for this user only, sweep it, and try it.

        Raises:
            SettingsError: it cannot be made or written.
        """
        try:
            self.folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            self._sweep()
            self.open_file().close()
        except OSError as error:
            raise SettingsError(f"HAR_SPOOL_DIR={self.folder}: {error.strerror}") from error

    def open_file(self) -> BinaryIO:
        """A new empty file, open for reading and writing; closing it deletes it. Raises OSError."""
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self.folder, prefix=_PREFIX))

    def has_space(self) -> bool:
        """Whether `min_free_bytes` and a few files more fit into the folder. Raises OSError."""
        if not hasattr(os, "statvfs"):
            return shutil.disk_usage(self.folder).free >= self._min_free_bytes
        # By the slash a file in the folder's place, of whose disk it would tell, is an error.
        space = os.statvfs(f"{self.folder}/")
        # File systems that make inodes as they need them count none at all.
        has_inodes = space.f_files == 0 or space.f_favail >= _MIN_FREE_INODES
        return has_inodes and space.f_bavail * space.f_frsize >= self._min_free_bytes

    def _sweep(self) -> None:
        """Remove what a killed service left, where files have a name for a moment."""
        for left in self.folder.glob(f"{_PREFIX}*"):
            left.unlink(missing_ok=True)


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
