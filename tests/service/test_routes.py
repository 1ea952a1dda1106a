"""The endpoints, over real sockets: what an answer holds, and what happens when things go wrong."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from clip import Limits
from service.context import UNKNOWN_MODEL
from service.decoding import DecodePool
from service.metrics import Metrics
from service.runtime import Collaborators
from service.settings import Settings
from tests.service.decoder_jobs import VIDEO_BEGINNING
from tests.service.gate import WAIT_S


def test_a_prediction_tells_all_about_it(service, red_clip) -> None:
    response = service.predict(red_clip)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == [
        "model",
        "version",
        "label",
        "probability",
        "probabilities",
        "clip",
        "timings_ms",
    ]
    assert (body["model"], body["version"], body["label"]) == ("lrcn", 1, "red")
    probabilities = list(body["probabilities"].values())
    assert set(body["probabilities"]) == {"red", "green", "blue"}
    assert probabilities == sorted(probabilities, reverse=True)
    assert body["probability"] == body["probabilities"]["red"] == probabilities[0]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    timestamps_s = body["clip"].pop("timestamps_s")
    assert body["clip"] == {
        "container": "mp4",
        "codec": "mpeg4",
        "width": 64,
        "height": 48,
        "duration_s": 3.0,
        "frames_found": 30,
        "frames_sampled": 20,
    }
    assert len(timestamps_s) == 20
    assert timestamps_s == sorted(timestamps_s)
    timings = body["timings_ms"]
    assert list(timings) == ["receive", "decode", "queue", "infer", "total"]
    assert all(value >= 0 for value in timings.values())
    assert sum(list(timings.values())[:-1]) <= timings["total"]


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_each_clip_gets_its_own_label(service, make_clip, colour: str) -> None:
    assert service.predict(make_clip(colour)).json()["label"] == colour


def test_a_clip_is_sampled_as_its_model_wants(service, red_clip) -> None:
    body = service.predict(red_clip, model="tiny").json()
    assert (body["model"], body["version"], body["label"]) == ("tiny", 2, "rot")
    assert body["clip"]["frames_sampled"] == 5


@pytest.mark.parametrize(("top_k", "classes"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_top_k_limits_the_classes(service, red_clip, top_k: int, classes: int) -> None:
    body = service.predict(red_clip, top_k=top_k).json()
    assert len(body["probabilities"]) == classes
    assert body["label"] == "red"


@pytest.mark.parametrize("query", ["top_k=0", "top_k=-1", "top_k=x", "top_k=1001", "top_k=1.5"])
def test_a_top_k_that_is_no_sensible_number_is_refused(service, expect_problem, query) -> None:
    problem = expect_problem(service.client.post(f"/predict?{query}"), 400, "invalid_parameter")
    assert "top_k" in problem["detail"]


@pytest.mark.parametrize("query", ["modle=tiny", "top_k=1&top_k=2", "model=lrcn&debug"])
def test_a_parameter_nobody_knows_is_refused_rather_than_ignored(
    service, red_clip, expect_problem, query: str
) -> None:
    response = service.client.post(f"/predict?{query}", files={"file": ("c", red_clip)})
    expect_problem(response, 400, "invalid_parameter")


@pytest.mark.parametrize(
    "query",
    [
        "model=",
        "model=nope",
        "model=LRCN",
        "model=../lrcn",
        "model=lrcn%00",
        "model=lrcn&model=tiny",
        pytest.param("model=" + "x" * 10_000, id="model=10KB"),
    ],
)
def test_f22_a_model_that_is_not_served_is_404_and_tells_nothing(
    service, expect_problem, query: str
) -> None:
    labels = {"route": "/predict", "model": UNKNOWN_MODEL, "code": "404"}
    count = "har_request_duration_seconds_count"
    before = service.metric(count, **labels)
    problem = expect_problem(service.client.post(f"/predict?{query}"), 404, "unknown_model")
    assert "lrcn" not in json.dumps(problem)
    assert service.metric(count, **labels) == before + 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/predict", 405, "method_not_allowed"),
        ("PUT", "/predict", 405, "method_not_allowed"),
        ("DELETE", "/predict", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("GET", "/nothing/here", 404, "not_found"),
        ("POST", "/predict/../metrics", 404, "not_found"),
    ],
)
def test_f21_addresses_and_methods_that_do_not_exist(
    service, expect_problem, method: str, path: str, status: int, code: str
) -> None:
    with service.connect() as connection:
        connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["code"] == code
    assert (b"allow: " in head.lower()) == (status == 405)


def test_without_a_default_a_model_has_to_be_named(
    start_service, tmp_path, publish_model, red_clip, expect_problem
) -> None:
    for name in ("a", "b"):
        publish_model(tmp_path / "two", name)
    with start_service(models_dir=tmp_path / "two") as service:
        expect_problem(service.predict(red_clip), 400, "invalid_parameter")
        assert service.predict(red_clip, model="b").json()["model"] == "b"
    with start_service(models_dir=tmp_path / "two", default_model="a") as service:
        assert service.predict(red_clip).json()["model"] == "a"


def test_the_models_are_listed(service) -> None:
    lrcn, tiny = service.client.get("/models").json()["models"]
    assert (lrcn["name"], lrcn["version"], lrcn["default"]) == ("lrcn", 1, True)
    assert lrcn["classes"] == ["red", "green", "blue"]
    assert lrcn["clip_spec"]["frames"] == 20
    assert lrcn["provider"] == "CPUExecutionProvider"
    assert lrcn["metrics"] == {"test": {"accuracy": 1.0}}
    assert len(lrcn["sha256"]) == 64
    assert (tiny["name"], tiny["version"], tiny["default"]) == ("tiny", 2, False)
    assert tiny["classes"] == ["rot", "grün"]


def test_health(service) -> None:
    assert service.client.get("/health/live").json() == {"status": "alive"}
    assert service.client.get("/health/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<html></html>", id="f26-html"),
        pytest.param(b"PK\x03\x04" + b"\0" * 100, id="f26-zip"),
        pytest.param(b"\x7fELF" + b"\0" * 100, id="f26-elf"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 100, id="f27-png"),
        pytest.param(b"#EXTM3U\nhttp://127.0.0.1/\n", id="f47-hls"),
        pytest.param(b"ffconcat version 1.0\nfile 'other.mp4'\n", id="f48-ffconcat"),
    ],
)
def test_a_file_that_is_no_video_is_415(service, expect_problem, content: bytes) -> None:
    expect_problem(service.predict(content), 415, "unknown_container")


def test_f28_a_truncated_video_is_422(service, expect_problem, red_clip) -> None:
    expect_problem(service.predict(red_clip[:300]), 422, "decode_failed")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_pixels": 1000}, "too_many_pixels"),
        ({"max_frames": 10}, "too_long"),
        ({"max_duration_s": 1}, "too_long"),
        ({"decode_timeout_s": 1e-9}, "decode_timeout"),
    ],
)
def test_the_limits_of_the_settings_reach_the_decoder(
    start_service, expect_problem, make_clip, changes: dict[str, float], code: str
) -> None:
    with start_service(**changes) as service:
        expect_problem(service.predict(make_clip(codec="libx264")), 422, code)


def test_f52_a_crash_is_422_and_the_next_clip_is_answered(
    start_service, expect_problem, red_clip
) -> None:
    def build(settings: Settings, metrics: Metrics) -> DecodePool:
        return DecodePool(
            workers=2,
            limits=Limits(),
            timeout_s=settings.decode_timeout_s,
            job="tests.service.decoder_jobs:misbehave",
            on_restart=metrics.count_decoder_restart,
        )

    with start_service(Collaborators(build_decoders=build)) as service:
        problem = expect_problem(
            service.predict(VIDEO_BEGINNING + b"crash"), 422, "decoder_crashed"
        )
        assert problem["detail"] == "The decoder crashed on this video."
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.metric("har_decoder_restarts_total", reason="crashed") == 1
        assert service.metric("har_rejected_total", reason="decoder_crashed") == 1


# --- models that misbehave ------------------------------------------------------------------------


def test_f66_a_clip_that_makes_the_run_fail_is_500_and_the_next_is_answered(
    start_service, tmp_path, publish_model, make_clip, red_clip, expect_problem, caplog
) -> None:
    publish_model(tmp_path / "flawed", "colour", flaw="raise")
    with start_service(models_dir=tmp_path / "flawed") as service:
        white = make_clip((255, 255, 255))
        problem = expect_problem(service.predict(white), 500, "inference_failed")
        assert problem["detail"] == "The model failed on this clip."
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.metric("har_failures_total", reason="inference_failed") == 1
    (told,) = [record for record in caplog.records if problem["request_id"] in record.getMessage()]
    trace = logging.Formatter().format(told)
    assert "Traceback" in trace
    assert "indices" in trace, "what ONNX Runtime said"


def test_f65_an_output_that_is_not_finite_is_500_and_its_batch_mates_are_answered(
    start_service, tmp_path, publish_model, gated_models, gate, make_clip, wait_for
) -> None:
    publish_model(tmp_path / "flawed", "lrcn", flaw="nan_white")
    with start_service(gated_models, models_dir=tmp_path / "flawed", max_batch_size=8) as service:
        running = send_whole_request(service, make_clip("red"))
        wait_for(lambda: gate.arrived == 1)
        white = send_whole_request(service, make_clip((255, 255, 255)))
        mate = send_whole_request(service, make_clip("green"))
        decoded = {"stage": "decode", "model": "lrcn"}
        wait_for(lambda: service.metric("har_stage_duration_seconds_count", **decoded) == 3)
        gate.open()
        for connection, status in ((running, 200), (white, 500), (mate, 200)):
            with connection:
                answer = service.read_answer(connection)
            assert answer[0] == status
            assert "null" not in json.dumps(answer[2])
            assert status == 200 or answer[2]["code"] == "model_output_invalid"
        assert service.metric("har_failures_total", reason="model_output_invalid") == 1
        assert service.metric("har_batch_size_sum", model="lrcn") == 3
        assert service.metric("har_batch_size_count", model="lrcn") == 2


# --- clients that leave, and too many of them -----------------------------------------------------


def count_gone(service) -> float:
    labels = {"route": "/predict", "model": "lrcn", "code": "client_gone"}
    return service.metric("har_request_duration_seconds_count", **labels)


def send_whole_request(service, clip: bytes):
    """A connection on which a complete request has been sent and no answer read."""
    connection = service.connect()
    head = (
        "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: video/mp4\r\n"
        f"Content-Length: {len(clip)}\r\n\r\n"
    )
    connection.sendall(head.encode() + clip)
    return connection


def test_f18_a_disconnect_in_the_line_for_a_decoder_is_never_decoded(
    start_service, gated_decoders, gate, red_clip, wait_for
) -> None:
    with start_service(gated_decoders) as service:
        first = send_whole_request(service, red_clip)
        wait_for(lambda: gate.arrived == 1)
        second = send_whole_request(service, red_clip)
        wait_for(lambda: service.runtime.admission.in_flight == 2)
        second.close()
        wait_for(lambda: count_gone(service) == 1)
        gate.open()
        with first:
            assert service.read_answer(first)[0] == 200
        assert gate.arrived == 1


def test_f19_a_disconnect_in_a_batch_answers_the_others(
    start_service, gated_models, gate, make_clip, wait_for
) -> None:
    with start_service(gated_models) as service:
        running = send_whole_request(service, make_clip("red"))
        wait_for(lambda: gate.arrived == 1)
        leaving = send_whole_request(service, make_clip("green"))
        staying = send_whole_request(service, make_clip("blue"))
        decoded = {"stage": "decode", "model": "lrcn"}
        wait_for(lambda: service.metric("har_stage_duration_seconds_count", **decoded) == 3)
        leaving.close()
        wait_for(lambda: count_gone(service) == 1)
        gate.open()
        for connection, label in ((running, "red"), (staying, "blue")):
            with connection:
                assert service.read_answer(connection)[2]["label"] == label
        labels = {"model": "lrcn", "label": "green"}
        assert service.metric("har_predictions_total", **labels) == 0


def test_f60_a_full_service_refuses_at_once_and_says_when_to_come_back(
    start_service, gated_decoders, gate, red_clip, expect_problem, wait_for
) -> None:
    limits = {"max_in_flight": 1, "max_waiting": 1, "max_batch_size": 1}
    with start_service(gated_decoders, **limits) as service:
        working = send_whole_request(service, red_clip)
        wait_for(lambda: gate.arrived == 1)
        waiting = send_whole_request(service, red_clip)
        wait_for(lambda: service.runtime.admission.waiting == 1)
        refused = service.predict(red_clip)
        expect_problem(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert service.metric("har_rejected_total", reason="overloaded") == 1
        gate.open()
        for connection in (working, waiting):
            with connection:
                assert service.read_answer(connection)[0] == 200


def test_a_request_whose_time_runs_out_is_504(
    start_service, gated_decoders, gate, red_clip, expect_problem
) -> None:
    with start_service(gated_decoders, request_timeout_s=2, decode_timeout_s=2) as service:
        expect_problem(service.predict(red_clip), 504, "deadline_exceeded")
        gate.open()


def test_many_clients_at_once_get_their_own_answers(start_service, make_clip) -> None:
    clips = {colour: make_clip(colour) for colour in ("red", "green", "blue")}
    wrong: list[str] = []
    with start_service() as service:

        def ask(colour: str) -> None:
            for model in ("lrcn", "tiny") * 3:
                body = service.predict(clips[colour], model=model).json()
                expected = {"lrcn": colour, "tiny": {"red": "rot", "green": "grün"}.get(colour)}
                if expected[model] not in (None, body["label"]):
                    wrong.append(f"{colour}: {body}")

        threads = [threading.Thread(target=ask, args=(colour,)) for colour in list(clips) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert not wrong
