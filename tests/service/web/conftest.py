"""The page in a real browser, headless Chromium.

Skipped where no Chromium is installed (HAR_CHROMIUM may name one).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.drawing import Drawing
from tests.service.web.browsing import Visit

CHROMIUM = os.environ.get("HAR_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    # A container's root has no other way to start it.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # It asks nobody but the service.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that shows a test picture, and a person who says yes.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Visit:
    """visit(service, await_models=..., **of the browser): the page, as a context manager.

    At the end: the page asked nobody but the service and complained of nothing, a policy that was
    not kept to included. Answers of 4xx and 5xx are no complaint of the page's.
    """

    @contextmanager
    def visiting(service: Any, *, await_models: bool = True, **options: Any) -> Iterator[Page]:
        complaints: list[str] = []
        asked: set[str] = set()
        context = browser.new_context(**options)
        try:
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.append(message.text))
            page.on("request", lambda request: asked.add(request.url))
            page.goto(f"{service.url}/")
            if await_models:
                expect(page.locator("#choose")).to_be_enabled()
            yield page
        finally:
            context.close()
        assert all(url.startswith((service.url, f"blob:{service.url}")) for url in asked), asked
        complaints = [text for text in complaints if "Failed to load resource" not in text]
        assert not complaints

    return visiting


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that Chromium can play and of which every frame is another."""
    folder = tmp_path_factory.mktemp("clips")
    return Drawing(".webm", "libvpx", height=96, width=128).write(folder / "drawn clip")
