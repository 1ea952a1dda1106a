"""The page with a camera."""

from __future__ import annotations

import re

from playwright.sync_api import expect


def test_a_recording_from_the_camera_is_classified(service, visit) -> None:
    with visit(service, permissions=["camera"]) as page:
        page.get_by_role("button", name="Record from the camera").click()
        page.get_by_role("button", name="Record", exact=True).click()
        expect(page.locator("#camera-words")).to_have_text(re.compile(r"^[12]\.\d\d s of 10 s$"))
        page.get_by_role("button", name="Stop and classify").click()
        # Chromium's test picture is green.
        expect(page.locator("#label")).to_have_text("green")
        expect(page.locator("#frames canvas")).to_have_count(20)
        expect(page.locator("#clip-name")).to_contain_text("recording.webm")


def test_a_camera_that_is_not_allowed_is_told_in_words(service, visit) -> None:
    with visit(service) as page:
        page.evaluate(
            """() => {
                const refuse = () => Promise.reject(new DOMException("no", "NotAllowedError"));
                navigator.mediaDevices.getUserMedia = refuse;
            }"""
        )
        page.get_by_role("button", name="Record from the camera").click()
        expect(page.get_by_text("this page was not given leave")).to_be_visible()
        expect(page.get_by_role("button", name="Record from the camera")).to_be_enabled()


def test_a_closed_camera_is_off_and_nothing_is_sent(service, visit) -> None:
    sent: list[str] = []
    with visit(service, permissions=["camera"]) as page:
        page.on("request", lambda request: sent.append(request.url))
        page.get_by_role("button", name="Record from the camera").click()
        page.get_by_role("button", name="Record", exact=True).click()
        tracks = page.evaluate_handle("document.getElementById('viewfinder').srcObject.getTracks()")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Choose a video")).to_be_focused()
        assert tracks.evaluate("(tracks) => tracks.map((track) => track.readyState)") == ["ended"]
    assert not [url for url in sent if "/predict" in url]


def test_a_camera_that_is_closed_before_its_first_picture_is_no_fault(service, visit) -> None:
    with visit(service, permissions=["camera"]) as page:
        page.evaluate(
            """() => new MutationObserver((_, observer) => {
                const close = document.getElementById("close-camera");
                if (close.closest("[hidden]")) return;
                observer.disconnect();
                close.click();
            }).observe(document.body, { attributes: true, subtree: true })"""
        )
        page.get_by_role("button", name="Record from the camera").click()
        expect(page.get_by_role("button", name="Choose a video")).to_be_focused()
        assert page.evaluate("document.getElementById('viewfinder').srcObject") is None
