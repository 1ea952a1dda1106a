"""The page for everyone: with the keyboard alone, on any screen, in the system's colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.service.web.browsing import choose


def test_everything_is_reached_with_the_keyboard_and_has_a_name(
    service, visit, drawn: Path
) -> None:
    describe = """() => {
        const active = document.activeElement;
        return [active.id, active.tagName, active.getAttribute("aria-label")
            || active.labels?.[0]?.textContent || active.textContent];
    }"""

    def walk(page: Page) -> list[list[str]]:
        """What Tab comes to, once around the page; a video's own controls and the browser's not."""
        stops: list[list[str]] = []
        while True:
            page.keyboard.press("Tab")
            stop = page.evaluate(describe)
            if stop in stops:
                return stops
            if stop[1] not in {"BODY", "VIDEO"}:
                stops.append(stop)

    with visit(service) as page:
        stops = walk(page)
        assert [stop[0] for stop in stops[:3]] == ["model", "choose", "open-camera"]
        assert all(stop[2].strip() for stop in stops)
        choose(page, drawn)
        expect(page.locator("#label")).to_be_visible()
        stops = walk(page)
        assert all(stop[2].strip() for stop in stops)
        assert {"again", "another"} <= {stop[0] for stop in stops}
        assert sum(stop[2].startswith("Frame ") for stop in stops) == 20


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_needs_to_be_scrolled_sideways(service, visit, drawn: Path, width: int) -> None:
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    with visit(service, viewport={"width": width, "height": 700}) as page:
        assert page.evaluate(overflow) == 0
        choose(page, drawn)
        expect(page.locator("#label")).to_be_visible()
        assert page.evaluate(overflow) == 0


def test_light_dark_and_stillness_are_the_systems_choice(service, visit) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    moving = "getComputedStyle(document.getElementById('sent')).animationName"
    seen = set()
    for scheme in ("light", "dark"):
        with visit(service, color_scheme=scheme) as page:
            seen.add(page.evaluate(paper))
            assert page.evaluate(moving) != "none"
    assert len(seen) == 2
    with visit(service, reduced_motion="reduce") as page:
        assert page.evaluate(moving) == "none"
