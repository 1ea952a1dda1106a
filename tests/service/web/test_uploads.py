"""The page with a video: what it shows of an answer, and of a refusal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from clip import read_clip
from tests.service.web.browsing import choose


def read_canvases(page: Page) -> np.ndarray:
    """The film's pixels, (frames, height, width, 3)."""
    frames = page.evaluate(
        """[...document.querySelectorAll("#frames canvas")].map((canvas) => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return { width, height, data: [...data] };
        })"""
    )
    return np.stack(
        [
            np.array(frame["data"], np.uint8).reshape(frame["height"], frame["width"], 4)[..., :3]
            for frame in frames
        ]
    )


def test_an_upload_shows_the_label_the_classes_the_frames_and_the_times(
    service, visit, drawn: Path
) -> None:
    expected = service.predict(drawn.read_bytes()).json()
    with visit(service) as page:
        choose(page, drawn)
        expect(page.locator("#label")).to_have_text(expected["label"])
        expect(page.locator("#answer")).to_be_visible()
        shown = [row.split("\n") for row in page.locator("#classes li").all_inner_texts()]
        assert {label: float(share.rstrip(" %")) for label, share in shown} == {
            label: pytest.approx(share * 100, abs=0.06)
            for label, share in expected["probabilities"].items()
        }
        times = [f"{time:.2f} s" for time in expected["clip"]["timestamps_s"]]
        assert page.locator("#frames time").all_inner_texts() == times
        assert (read_canvases(page) == read_clip(drawn)).all()
        details = page.locator("#details").inner_text()
        assert f"{expected['clip']['frames_found']} frames" in details
        for words in ("Upload", "Decoding", "Queue", "Network", "Together", "128 × 96", "vp8"):
            assert words in details
        expect(page.get_by_role("status")).to_contain_text(expected["label"])


def test_classes_that_are_numbers_are_in_the_order_of_their_probability(
    start_service, visit, publish_model, tmp_path: Path, red_clip
) -> None:
    publish_model(tmp_path / "models", classes=("30", "20", "10"))
    with start_service(models_dir=tmp_path / "models") as service, visit(service) as page:
        choose(page, red_clip)
        expect(page.locator("#label")).to_have_text("30")
        expect(page.locator("#classes .name").first).to_have_text("30")
        shares = [float(text.strip("<> %")) for text in page.locator(".number").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)


def test_a_frame_of_the_film_is_found_in_the_video(service, visit, drawn: Path) -> None:
    with visit(service) as page:
        choose(page, drawn)
        frame = page.get_by_role("button", name=re.compile("^Frame 8,"))
        frame.focus()
        page.keyboard.press("Enter")
        expect(frame).to_have_attribute("aria-current", "true")
        time_s = float(frame.inner_text().split()[0])
        shown_s = page.evaluate("document.getElementById('preview').currentTime")
        assert shown_s == pytest.approx(time_s, abs=0.01)


def test_a_dropped_video_is_classified_by_the_chosen_model(service, visit, red_clip) -> None:
    with visit(service) as page:
        page.get_by_label("Model").select_option("tiny")
        page.evaluate(
            """(content) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(content)], "a.mp4", { type: "video/mp4" }));
                for (const kind of ["dragover", "drop"]) {
                    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true });
                    document.getElementById("start").dispatchEvent(event);
                }
            }""",
            list(red_clip),
        )
        expect(page.locator("#label")).to_have_text("rot")
        expect(page.locator("#frames canvas")).to_have_count(5)
        page.get_by_label("Model").select_option("lrcn")
        page.get_by_role("button", name="Run with lrcn").click()
        expect(page.locator("#label")).to_have_text("red")


def test_a_video_that_the_browser_cannot_play_is_classified_all_the_same(
    service, visit, make_clip
) -> None:
    with visit(service) as page:
        choose(page, make_clip("green", container="avi"))
        expect(page.locator("#label")).to_have_text("green")
        expect(page.get_by_text("No preview")).to_be_visible()
        expect(page.locator("#frames button").first).to_be_disabled()


def test_a_refusal_is_shown_in_words_with_its_request_id(service, visit) -> None:
    with visit(service) as page:
        with page.expect_response("**/predict?*") as answer:
            choose(page, b"no video at all")
        alert = page.get_by_role("alert")
        expect(alert).to_be_visible()
        problem = answer.value.json()
        for words in (problem["title"], problem["detail"], problem["request_id"]):
            expect(alert).to_contain_text(words)
        page.get_by_role("button", name="Another video").click()
        expect(page.get_by_role("button", name="Choose a video")).to_be_focused()


def test_a_video_above_the_limit_is_refused_before_it_is_sent(service, visit) -> None:
    sent: list[str] = []
    with visit(service) as page:
        page.on("request", lambda request: sent.append(request.url))
        choose(page, bytes(service.runtime.settings.max_upload_bytes + 1))
        expect(page.get_by_role("alert")).to_contain_text("The video is too large")
    assert not [url for url in sent if "/predict" in url]


@pytest.mark.parametrize("body", ["<html>Log in</html>", "null", "{}"])
def test_a_stranger_who_answers_in_its_place_is_told_in_words(
    service, visit, red_clip, body: str
) -> None:
    """The page to log in at that a proxy shows once its session has run out."""
    with visit(service) as page:
        page.route("**/predict?*", lambda route: route.fulfill(status=200, body=body))
        choose(page, red_clip)
        expect(page.get_by_role("alert")).to_contain_text("It did not come from the service")
        page.unroute("**/predict?*")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#label")).to_have_text("red")


def test_a_service_that_is_gone_is_told_in_words(start_service, visit, red_clip) -> None:
    with start_service() as service, visit(service) as page:
        page.context.set_offline(True)
        choose(page, red_clip)
        expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
        page.context.set_offline(False)
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#label")).to_have_text("red")


def test_escape_cancels_and_the_service_drops_the_work(
    start_service, gated_decoders, gate, visit, wait_for, red_clip
) -> None:
    with start_service(gated_decoders) as service, visit(service) as page:
        choose(page, red_clip)
        gate.await_arrivals(1)
        expect(page.get_by_text("Decoding and looking")).to_be_visible()
        page.keyboard.press("Escape")
        again = page.get_by_role("button", name="Run again")
        expect(again).to_be_focused()
        wait_for(lambda: service.metric("har_requests_in_flight") == 0)
        labels = {"route": "/predict", "model": "lrcn", "code": "client_gone"}
        assert service.metric("har_request_duration_seconds_count", **labels) == 1
        gate.open()
        again.click()
        expect(page.locator("#label")).to_have_text("red")


def test_the_progress_of_an_upload_is_shown(service, visit, make_clip) -> None:
    with visit(service) as page:
        page.evaluate(
            """() => {
                window.seen = [];
                new MutationObserver(() => seen.push(document.getElementById("sent").value))
                    .observe(document.getElementById("sent"), { attributes: true });
            }"""
        )
        network = page.context.new_cdp_session(page)
        network.send(
            "Network.emulateNetworkConditions",
            {
                "offline": False,
                "latency": 0,
                "downloadThroughput": -1,
                "uploadThroughput": 150_000,
            },
        )
        clip = make_clip("blue") + bytes(100_000)  # behind the video's end: never looked at
        choose(page, clip)
        expect(page.locator("#label")).to_have_text("blue")
        shares = page.evaluate("window.seen")
    between = [share for share in shares if 0 < share < 1]
    assert between
    assert between == sorted(between)
