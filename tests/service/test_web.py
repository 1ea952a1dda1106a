"""The page in a real browser: headless Chromium uploads, records, cancels and is refused.

Skipped where no Chromium is installed (HAR_CHROMIUM may name one).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clip import read_clip
from service.runtime import Collaborators, load_models
from tests.drawing import Drawing

CHROMIUM = os.environ.get("HAR_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

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
KEY = "a-key-of-16-chars"

Visit = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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


def choose(page: Page, clip: Path | bytes) -> None:
    """Choose a file as a person does, with the button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a video").click()
    if isinstance(clip, bytes):
        chooser.value.set_files({"name": "clip.mp4", "mimeType": "video/mp4", "buffer": clip})
    else:
        chooser.value.set_files(clip)


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


def test_a_key_is_asked_for_only_where_the_service_wants_one(
    service, start_service, visit, red_clip
) -> None:
    with visit(service) as page:
        expect(page.get_by_label("Key")).to_be_hidden()
    with start_service(api_keys=(KEY,)) as locked, visit(locked, await_models=False) as page:
        field = page.get_by_label("Key")
        expect(field).to_be_focused()
        field.fill("not the key at all")
        field.press("Enter")
        expect(page.get_by_text("does not accept that key")).to_be_visible()
        field.fill(KEY)
        field.press("Enter")
        expect(field).to_be_hidden()
        choose(page, red_clip)
        expect(page.locator("#label")).to_have_text("red")
        assert KEY not in page.content()


def test_a_service_that_still_loads_says_so_and_then_works(
    start_service, gate, visit, red_clip
) -> None:
    def load_later(settings):
        gate.pass_through()
        return load_models(settings)

    late = Collaborators(load_models=load_later)
    with (
        start_service(late, await_ready=False) as service,
        visit(service, await_models=False) as page,
    ):
        expect(page.get_by_text("The service is loading its models.")).to_be_visible()
        gate.open()
        expect(page.get_by_role("button", name="Choose a video")).to_be_enabled()
        choose(page, red_clip)
        expect(page.locator("#label")).to_have_text("red")


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
