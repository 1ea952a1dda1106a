"""The page and what is served: keys, models that load, models that go."""

from __future__ import annotations

import re
import shutil
import time
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import Route, expect

from service.runtime import Collaborators, load_models
from tests.service.web.browsing import choose

KEY = "a-key-of-16-chars"


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


def test_what_can_be_no_key_is_told_as_one_that_is_not_accepted(start_service, visit) -> None:
    with start_service(api_keys=(KEY,)) as locked, visit(locked, await_models=False) as page:
        field = page.get_by_label("Key")
        field.fill(KEY.replace("-", "\N{EN DASH}"))
        field.press("Enter")
        expect(page.get_by_text("does not accept that key")).to_be_visible()
        expect(page.get_by_text("cannot be reached")).to_be_hidden()
        field.fill(KEY)
        field.press("Enter")
        expect(field).to_be_hidden()


def test_the_classes_are_told_before_there_is_a_video(service, visit) -> None:
    with visit(service) as page:
        expect(page.locator("#known-classes")).to_have_text(
            "The answer is always one of red, green and blue."
        )


def test_of_many_classes_some_are_told(service, visit) -> None:
    def answer(route: Route) -> None:
        served = service.client.get("/models").json()
        for model in served["models"]:
            model["classes"] = [f"c{number}" for number in range(1, 16)]
        route.fulfill(json=served)

    with visit(service) as page:
        page.route("**/models", answer)
        page.reload()
        expect(page.locator("#known-classes")).to_have_text(
            re.compile(r"one of c1, .*, c12 and 3 more\.$")
        )


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


def test_a_stranger_who_answers_for_the_models_is_told_and_asked_again_in_peace(
    service, visit
) -> None:
    asked: list[float] = []

    def answer(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) < 3:
            route.fulfill(status=200, body="<html>Log in</html>")
        else:
            route.continue_()

    with visit(service) as page:
        page.route("**/models", answer)
        page.reload()
        expect(page.get_by_text("The answer was 200")).to_be_visible()
        expect(page.get_by_role("button", name="Choose a video")).to_be_enabled()
    assert all(later - sooner > 0.9 for sooner, later in pairwise(asked))


def test_a_model_that_a_reload_has_removed_is_told_and_no_longer_offered(
    start_service, visit, wait_for, models_dir: Path, tmp_path: Path, red_clip
) -> None:
    models = shutil.copytree(models_dir, tmp_path / "models")
    with start_service(models_dir=models) as service, visit(service) as page:
        page.get_by_label("Model").select_option("tiny")
        shutil.rmtree(models / "tiny")
        service.runtime.request_reload()
        wait_for(lambda: len(service.client.get("/models").json()["models"]) == 1)
        choose(page, red_clip)
        expect(page.get_by_role("alert")).to_contain_text("tiny is no longer served")
        expect(page.locator("#model option")).to_have_text(["lrcn 1"])
        page.get_by_role("button", name="Run with lrcn").click()
        expect(page.locator("#label")).to_have_text("red")


def test_a_list_that_is_read_anew_keeps_what_was_chosen(service, visit) -> None:
    with visit(service) as page:
        page.get_by_label("Model").select_option("tiny")
        page.evaluate(
            """() => {
                document.querySelector("#model option").id = "stale";
                document.getElementById("key-form").dispatchEvent(new Event("submit"));
            }"""
        )
        expect(page.locator("#stale")).to_have_count(0)
        expect(page.get_by_label("Model")).to_have_value("tiny")
