"""Spool: where uploads lie while they are decoded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from service.settings import SettingsError

_PRIVATE = 0o700


class Spool:
    """A private folder of files without names.

    On Linux a file is made without ever having a name (O_TMPFILE), elsewhere it loses it at once:
    nobody else can open it, nothing can overwrite it, and the system frees its space when it is
    closed, even by kill -9. The folder therefore always looks empty; `df` shows what is in use.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / f"har-spool-{_user_id()}"

    def prepare(self) -> None:
        """Make the folder if it is not there, for this user only, and try it.

        Raises:
            SettingsError: it cannot be made or written.
        """
        try:
            self.folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            self.open_file().close()
        except OSError as error:
            raise SettingsError(f"HAR_SPOOL_DIR={self.folder}: {error.strerror}") from error

    def open_file(self) -> BinaryIO:
        """A new empty file, open for reading and writing; closing it deletes it. Raises OSError."""
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self.folder, prefix="upload-"))


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
