"""What a person does with the page, done by a test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from playwright.sync_api import Page

Visit = Callable[..., AbstractContextManager[Page]]


def choose(page: Page, clip: Path | bytes) -> None:
    """Choose a file as a person does, with the button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a video").click()
    if isinstance(clip, bytes):
        chooser.value.set_files({"name": "clip.mp4", "mimeType": "video/mp4", "buffer": clip})
    else:
        chooser.value.set_files(clip)
