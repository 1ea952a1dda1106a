"""Reload: what is published now serves, and nobody who was being served notices."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip import ClipSpec
from service.runtime import Collaborators, load_models, reload_models
from tests.service.process import WAIT_S, started

KEY = "a-key-for-reloads-0123"
HEADERS = {"X-API-Key": KEY}


@pytest.fixture
def models(tmp_path: Path, publish_model) -> Path:
    """A folder with lrcn 1; what a test publishes in it is its own."""
    publish_model(tmp_path / "models", "lrcn", 1)
    return tmp_path / "models"


@pytest.fixture
def locked(start_service, models: Path) -> Iterator[Any]:
    """A service on that folder, with a key set and sent."""
    with start_service(models_dir=models, api_keys=KEY) as service:
        service.client.headers.update(HEADERS)
        yield service


def reload(service) -> dict[str, Any]:
    answer = service.client.post("/models/reload")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def list_versions(service) -> dict[str, list[int]]:
    models = service.client.get("/models").json()["models"]
    return {model["name"]: model["versions"] for model in models}


def test_new_versions_appear_and_old_ones_can_still_be_asked_for(
    locked, models, publish_model, red_clip
) -> None:
    publish_model(models, "lrcn", 2, classes=("rot", "grün"))
    publish_model(models, "other", 1)
    assert reload(locked) == {
        "loaded": ["lrcn/2", "other/1"],
        "kept": ["lrcn/1"],
        "removed": [],
        "failed": {},
    }
    assert list_versions(locked) == {"lrcn": [2, 1], "other": [1]}
    newest = locked.predict(red_clip, model="lrcn").json()
    assert (newest["version"], newest["label"]) == (2, "rot")
    old = locked.predict(red_clip, model="lrcn", version=1).json()
    assert (old["version"], old["label"]) == (1, "red")
    assert locked.predict(red_clip, version=1).json()["version"] == 1


def test_a_version_that_is_not_served_is_404_before_the_body(locked, red_clip, expect_problem):
    expect_problem(locked.predict(red_clip, version=7), 404, "unknown_version")
    expect_problem(locked.client.post("/predict?model=lrcn&version=7"), 404, "unknown_version")
    for version in ("0", "-1", "x", ""):
        answer = locked.client.post(f"/predict?version={version}")
        expect_problem(answer, 400, "invalid_parameter")
    expect_problem(locked.client.post("/predict?version=1&version=1"), 400, "invalid_parameter")


def test_f62_a_bad_model_is_told_and_the_last_good_one_serves(
    locked, models, publish_model, red_clip
) -> None:
    (publish_model(models, "lrcn", 2) / "model.onnx").write_bytes(b"torn")
    body = reload(locked)
    assert (body["kept"], list(body["failed"])) == (["lrcn/1"], ["lrcn/2"])
    assert body["failed"]["lrcn/2"].startswith("sha256")
    assert str(models) not in str(body)
    assert locked.predict(red_clip).json()["version"] == 1
    assert locked.client.get("/health/ready").status_code == 200


def test_a_folder_with_nothing_to_serve_is_refused_and_changes_nothing(
    locked, models, red_clip, expect_problem, caplog
) -> None:
    shutil.rmtree(models)
    problem = expect_problem(locked.client.post("/models/reload"), 409, "reload_refused")
    assert str(models) not in str(problem)
    assert str(models) in caplog.text
    assert locked.predict(red_clip).json()["label"] == "red"


def test_without_keys_nobody_can_have_it_reload(start_service, models, expect_problem) -> None:
    with start_service(models_dir=models) as service:
        expect_problem(service.client.post("/models/reload"), 403, "reload_disabled")


def test_with_keys_only_who_has_one_can(locked, expect_problem) -> None:
    answer = locked.client.post("/models/reload", headers={"X-API-Key": "no-key-of-this-service"})
    expect_problem(answer, 401, "unauthorized")


def test_f63_a_removed_model_answers_the_requests_that_have_it_and_then_goes(
    start_service, models, publish_model, gated_models, gate, red_clip, expect_problem, wait_for
) -> None:
    publish_model(models, "going", 1)
    answers: list[httpx.Response] = []
    threads = threading.active_count()
    with start_service(gated_models, models_dir=models, api_keys=KEY) as service:
        service.client.headers.update(HEADERS)
        early = threading.Thread(
            target=lambda: answers.append(service.predict(red_clip, model="going"))
        )
        early.start()
        wait_for(lambda: gate.arrived == 1)
        shutil.rmtree(models / "going")
        assert reload(service)["removed"] == ["going/1"]
        expect_problem(service.predict(red_clip, model="going"), 404, "unknown_model")
        info = 'har_model_info{model="going"'
        assert info not in service.client.get("/metrics").text
        assert [thread.name for thread in threading.enumerate()].count("infer-going-1_0") == 1
        gate.open()
        early.join(WAIT_S)
        assert answers[0].json()["model"] == "going"
        series = 'har_stage_duration_seconds_count{model="going",stage="decode"}'
        wait_for(lambda: series not in service.client.get("/metrics").text)
        wait_for(lambda: "infer-going-1_0" not in {one.name for one in threading.enumerate()})
    wait_for(lambda: threading.active_count() <= threads)


def test_f63_a_clip_that_is_decoded_for_a_model_while_it_is_removed_is_classified_by_it(
    start_service, models, publish_model, gated_decoders, gate, red_clip, wait_for
) -> None:
    publish_model(models, "going", 1)
    answers: list[httpx.Response] = []
    with start_service(gated_decoders, models_dir=models, api_keys=KEY) as service:
        service.client.headers.update(HEADERS)
        early = threading.Thread(
            target=lambda: answers.append(service.predict(red_clip, model="going"))
        )
        early.start()
        wait_for(lambda: gate.arrived == 1)
        shutil.rmtree(models / "going")
        assert reload(service)["removed"] == ["going/1"]
        gate.open()
        early.join(WAIT_S)
        body = answers[0].json()
        assert (body["model"], body["label"]) == ("going", "red")
        wait_for(lambda: "infer-going-1_0" not in {one.name for one in threading.enumerate()})


def test_the_metrics_name_what_serves_after_a_reload(locked, models, publish_model) -> None:
    shutil.rmtree(models / "lrcn" / "1")
    publish_model(models, "lrcn", 2)
    assert reload(locked)["removed"] == ["lrcn/1"]
    text = locked.client.get("/metrics").text
    infos = [line for line in text.splitlines() if line.startswith("har_model_info{")]
    assert len(infos) == 1
    assert 'version="2"' in infos[0]
    assert 'har_stage_duration_seconds_count{model="lrcn",stage="decode"}' in text


def test_a_model_that_is_gone_leaves_its_memory(
    locked, models, publish_model, red_clip, wait_for
) -> None:
    locked.predict(red_clip)
    removed = weakref.ref(locked.runtime.registry.get("lrcn", 1))
    shutil.rmtree(models / "lrcn" / "1")
    publish_model(models, "lrcn", 2)
    reload(locked)
    wait_for(lambda: gc.collect() >= 0 and removed() is None)


def test_no_request_fails_while_models_come_and_go(
    start_service, models, publish_model, make_clip
) -> None:
    """Clients ask on and on; versions are published, replaced, broken and removed meanwhile."""
    clips = {colour: make_clip(colour) for colour in ("red", "green", "blue")}
    answers: Counter[tuple[int, bool]] = Counter()
    seen: set[int] = set()
    done = threading.Event()
    with start_service(models_dir=models, api_keys=KEY) as service:

        def ask(colour: str) -> None:
            with httpx.Client(base_url=service.url, headers=HEADERS, timeout=WAIT_S) as client:
                while not done.is_set():
                    answer = client.post("/predict", files={"file": ("c", clips[colour])})
                    body = answer.json()
                    answers[answer.status_code, body.get("label") == colour] += 1
                    seen.add(body.get("version"))

        clients = [threading.Thread(target=ask, args=(colour,)) for colour in list(clips) * 2]
        for client in clients:
            client.start()
        service.client.headers.update(HEADERS)
        try:
            for version in range(2, 9):
                publish_model(models, "lrcn", version)
                broken = publish_model(models, "lrcn", 1000 + version, flaw="nan")
                body = reload(service)
                assert body["loaded"] == [f"lrcn/{version}"]
                assert list(body["failed"]) == [f"lrcn/{1000 + version}"]
                shutil.rmtree(broken)
                shutil.rmtree(models / "lrcn" / str(version - 1))
                assert reload(service)["removed"] == [f"lrcn/{version - 1}"]
                before = answers.total()
                while answers.total() < before + len(clients):
                    assert all(client.is_alive() for client in clients)
                    service.settle()
        finally:
            done.set()
            for client in clients:
                client.join(WAIT_S)
        assert set(answers) == {(200, True)}, answers
        assert seen >= set(range(2, 9))
        assert not list(service.runtime.spool.folder.iterdir())


def test_a_stop_in_the_midst_of_a_reload_waits_for_it_and_serves_nothing_new(
    start_service, models, publish_model, gate, wait_for, expect_problem
) -> None:
    def reload_later(settings, registry):
        gate.pass_through()
        return reload_models(settings, registry)

    answers: list[httpx.Response] = []
    threads = threading.active_count()
    later = Collaborators(reload_models=reload_later)
    with start_service(later, models_dir=models, api_keys=KEY) as service:
        service.client.headers.update(HEADERS)
        publish_model(models, "lrcn", 2)
        caller = threading.Thread(
            target=lambda: answers.append(service.client.post("/models/reload"))
        )
        caller.start()
        wait_for(lambda: gate.arrived == 1)
        service.runtime.begin_stop()
        gate.open()
        caller.join(WAIT_S)
        expect_problem(answers[0], 503, "stopping")
    wait_for(lambda: threading.active_count() <= threads)


def test_a_larger_model_that_comes_with_a_reload_is_the_default_and_both_answer(
    locked, models, publish_model, make_clip
) -> None:
    publish_model(models, "lrcn-efficientnet", 1, clip_spec=ClipSpec(height=128, width=128))
    assert reload(locked)["loaded"] == ["lrcn-efficientnet/1"]
    clips = {colour: make_clip(colour) for colour in ("red", "green", "blue")}
    wrong: list[Any] = []

    def ask(colour: str, query: dict[str, str], name: str) -> None:
        body = locked.predict(clips[colour], **query).json()
        if (body.get("model"), body.get("label")) != (name, colour):
            wrong.append(body)

    callers = [
        threading.Thread(target=ask, args=(colour, query, name))
        for colour in clips
        for query, name in (({}, "lrcn-efficientnet"), ({"model": "lrcn"}, "lrcn"))
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT_S)
    assert not wrong


def test_reloads_at_the_same_time_follow_each_other(locked, models, publish_model) -> None:
    publish_model(models, "lrcn", 2)
    bodies: list[dict[str, Any]] = []
    callers = [threading.Thread(target=lambda: bodies.append(reload(locked))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT_S)
    assert sorted(len(body["loaded"]) for body in bodies) == [0, 0, 0, 1]
    assert all(not body["failed"] for body in bodies)


def test_a_reload_whose_caller_hangs_up_is_finished(
    start_service, models, publish_model, gate, wait_for
) -> None:
    def reload_later(settings, registry):
        gate.pass_through()
        return reload_models(settings, registry)

    later = Collaborators(reload_models=reload_later)
    with start_service(later, models_dir=models, api_keys=KEY) as service:
        publish_model(models, "lrcn", 2)
        with service.connect() as connection:
            connection.sendall(
                b"POST /models/reload HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n"
                b"X-API-Key: " + KEY.encode() + b"\r\n\r\n"
            )
            wait_for(lambda: gate.arrived == 1)
        gate.open()
        service.client.headers.update(HEADERS)
        wait_for(lambda: list_versions(service) == {"lrcn": [2, 1]})


def test_a_reload_before_it_is_ready_or_while_it_stops_is_refused(
    start_service, models, gate, expect_problem, wait_for
) -> None:
    def load_later(settings):
        gate.pass_through()
        return load_models(settings)

    held_up = Collaborators(load_models=load_later)
    with start_service(held_up, await_ready=False, models_dir=models, api_keys=KEY) as service:
        service.client.headers.update(HEADERS)
        expect_problem(service.client.post("/models/reload"), 503, "not_ready")
        gate.open()
        wait_for(lambda: service.client.get("/health/ready").status_code == 200)
        service.runtime.begin_stop()
        expect_problem(service.client.post("/models/reload"), 503, "stopping")


def test_a_reload_that_fails_for_another_reason_is_in_the_log_and_changes_nothing(
    start_service, models, red_clip, expect_problem, caplog
) -> None:
    def fail(settings, registry):
        raise ZeroDivisionError("by nothing")

    broken = replace(Collaborators(), reload_models=fail)
    caplog.set_level(logging.ERROR)
    with start_service(broken, models_dir=models, api_keys=KEY) as service:
        service.client.headers.update(HEADERS)
        expect_problem(service.client.post("/models/reload"), 500, "internal_error")
        assert service.predict(red_clip).json()["label"] == "red"
    assert "by nothing" in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_reloads_and_leaves_the_process_alone(
    models, tmp_path, publish_model, red_clip, wait_for
) -> None:
    variables = {"HAR_PORT": 0, "HAR_MODELS_DIR": models, "HAR_SPOOL_DIR": tmp_path / "spool"}
    with started(variables | {"HAR_LOG_LEVEL": "warning"}) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" at ")[1].split()[0]
        publish_model(models, "lrcn", 2)
        os.kill(process.pid, signal.SIGHUP)

        def newest() -> int:
            answer = httpx.post(f"{address}/predict", files={"file": red_clip}, timeout=WAIT_S)
            version: int = answer.json()["version"]
            return version

        wait_for(lambda: newest() == 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, err) == (0, "", "")
