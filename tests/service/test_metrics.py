"""Metrics: fixed labels, sensible buckets, a registry for each app."""

from __future__ import annotations

import re

import pytest

from service.errors import KINDS
from service.metrics import MEASURED_STAGES, Metrics, is_refusal
from service.settings import LATENCY_BUCKETS_S


def test_buckets_reach_from_a_millisecond_to_a_minute() -> None:
    assert list(LATENCY_BUCKETS_S) == sorted(LATENCY_BUCKETS_S)
    assert (LATENCY_BUCKETS_S[0], LATENCY_BUCKETS_S[-1]) == (0.001, 60)


def test_apps_share_no_metric() -> None:
    one, other = Metrics(), Metrics()
    one.count_prediction("m", "red", 0.9)
    labels = {"model": "m", "label": "red"}
    assert one.registry.get_sample_value("har_predictions_total", labels) == 1
    assert other.registry.get_sample_value("har_predictions_total", labels) is None


def test_every_problem_has_its_series_from_the_start_in_exactly_one_counter() -> None:
    metrics = Metrics()
    for code in KINDS:
        rejected = metrics.registry.get_sample_value("har_rejected_total", {"reason": code})
        failed = metrics.registry.get_sample_value("har_failures_total", {"reason": code})
        assert {rejected, failed} == {0, None}
        assert (rejected == 0) == is_refusal(code)


def test_overload_and_bad_requests_are_refusals_faults_are_not() -> None:
    assert is_refusal("overloaded")
    assert is_refusal("decode_failed")
    assert is_refusal("not_ready")
    assert is_refusal("stopping")
    assert is_refusal("out_of_connections")
    assert not is_refusal("internal_error")
    assert not is_refusal("deadline_exceeded")
    assert not is_refusal("spool_full")


def test_a_models_series_are_there_before_its_first_clip(build_model) -> None:
    manifest, _ = build_model()
    metrics = Metrics()
    metrics.add_model(manifest, "CPUExecutionProvider")
    info = {
        "model": "colour",
        "version": "1",
        "sha256": manifest.sha256,
        "provider": "CPUExecutionProvider",
    }
    assert metrics.registry.get_sample_value("har_model_info", info) == 1
    labels = {"model": "colour", "label": "green"}
    assert metrics.registry.get_sample_value("har_predictions_total", labels) == 0


def test_a_model_that_is_gone_leaves_only_the_series_of_its_requests(build_model) -> None:
    manifest, _ = build_model()
    metrics = Metrics()
    metrics.add_model(manifest, "CPUExecutionProvider")
    metrics.watch_queue("colour", lambda: 0)
    metrics.observe_request(
        route="/predict", model="colour", code="200", problem_code=None, duration_s=0.1
    )
    metrics.remove_model(manifest, "CPUExecutionProvider")
    metrics.forget_model("colour")
    left = {
        family.name
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.labels.get("model") == "colour"
    }
    assert left == {"har_request_duration_seconds"}


@pytest.mark.parametrize(
    ("problem_code", "counter"),
    [("overloaded", "har_rejected_total"), ("deadline_exceeded", "har_failures_total")],
)
def test_a_problem_is_counted_as_a_refusal_or_as_a_failure(problem_code: str, counter: str) -> None:
    metrics = Metrics()
    metrics.observe_request(
        route="/predict", model="m", code="500", problem_code=problem_code, duration_s=0.1
    )
    assert metrics.registry.get_sample_value(counter, {"reason": problem_code}) == 1


def test_requests_in_flight_are_counted_while_they_are() -> None:
    metrics = Metrics()
    with metrics.track_in_flight():
        assert metrics.registry.get_sample_value("har_requests_in_flight") == 1
    assert metrics.registry.get_sample_value("har_requests_in_flight") == 0


def test_buckets_are_those_of_the_settings() -> None:
    metrics = Metrics(latency_buckets_s=(0.5, 1.0))
    metrics.observe_stage("decode", "m", 0.7)
    text, _ = metrics.render("")
    found = re.findall(r'har_stage_duration_seconds_bucket{le="([^"]+)"', text.decode())
    assert found == ["0.5", "1.0", "+Inf"]


def test_confidence_sizes_and_lengths_are_counted() -> None:
    metrics = Metrics()
    metrics.count_prediction("m", "red", 0.85)
    metrics.observe_upload(100_000)
    metrics.observe_video(7.2)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("har_prediction_confidence_bucket", model="m", le="0.9") == 1
    assert value("har_prediction_confidence_bucket", model="m", le="0.8") == 0
    assert value("har_upload_bytes_sum") == 100_000
    assert value("har_video_duration_seconds_bucket", le="10.0") == 1


def test_the_services_own_time_is_without_the_upload() -> None:
    metrics = Metrics()
    metrics.observe_prediction("m", receive_s=4.0, total_s=5.5)
    found = {
        stage: metrics.registry.get_sample_value(
            "har_stage_duration_seconds_sum", {"model": "m", "stage": stage}
        )
        for stage in MEASURED_STAGES
    }
    rest = {"decode": None, "queue": None, "infer": None}
    assert found == {"receive": 4.0, "total": 5.5, "service": 1.5, **rest}


def test_the_queues_depth_is_what_the_queue_says_at_the_moment() -> None:
    metrics = Metrics()
    queue: list[str] = []
    metrics.watch_queue("m", queue.__len__)
    assert metrics.registry.get_sample_value("har_queue_depth", {"model": "m"}) == 0
    queue += ["clip", "clip"]
    assert metrics.registry.get_sample_value("har_queue_depth", {"model": "m"}) == 2


def test_the_build_and_the_process_are_told() -> None:
    text = Metrics().render("")[0].decode()
    assert re.search(r'^har_build_info{onnxruntime="1\.\d+\.\d+",python="3\.', text, re.MULTILINE)
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_metrics_are_prometheus_text_or_openmetrics_on_request(service, red_clip) -> None:
    service.predict(red_clip)
    response = service.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'har_predictions_total{label="red",model="lrcn"}' in response.text
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = service.client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_an_upload_and_the_services_own_time_are_measured_apart(service, red_clip) -> None:
    def read_seconds(*stages: str) -> list[float]:
        name = "har_stage_duration_seconds_sum"
        return [service.metric(name, stage=stage, model="lrcn") for stage in stages]

    before = read_seconds("receive", "total", "service")
    told_ms = service.predict(red_clip).json()["timings_ms"]
    after = read_seconds("receive", "total", "service")
    spent_ms = [(later - sooner) * 1000 for sooner, later in zip(before, after, strict=True)]
    assert spent_ms == pytest.approx(
        [told_ms["receive"], told_ms["total"], told_ms["total"] - told_ms["receive"]], abs=0.01
    )


def test_a_video_that_was_received_whole_is_counted_with_its_size(service, red_clip) -> None:
    before = service.metric("har_upload_bytes_sum")
    service.predict(red_clip)
    service.predict(b"<html></html>")
    assert service.metric("har_upload_bytes_sum") == before + len(red_clip)


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=1.x"]
)
def test_f71_metrics_asked_for_in_an_unknown_version_are_prometheus_text(
    service, accept: str
) -> None:
    response = service.client.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "har_ready 1.0" in response.text
