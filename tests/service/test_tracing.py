"""Tracing: a span for each request and its stages, where that was asked for, and not otherwise."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.runtime import Collaborators
from service.settings import Settings, SettingsError
from service.tracing import check_tracing
from tests.service.gate import WAIT_S

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(exporter: InMemorySpanExporter, start_service) -> Iterator[Any]:
    """A service whose spans go to `exporter`."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with start_service(Collaborators(tracer_provider=provider)) as service:
        yield service
    provider.shutdown()


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def test_a_prediction_is_a_span_with_its_stages_below_it(traced, exporter, red_clip) -> None:
    request_id = traced.predict(red_clip).headers["x-request-id"]
    traced.settle()
    spans = by_name(exporter.get_finished_spans())
    assert set(spans) == {"POST /predict", "decode", "queue", "infer"}
    request = spans["POST /predict"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["har.request_id"] == request_id
    for stage in ("decode", "queue", "infer"):
        assert spans[stage].parent.span_id == request.context.span_id
        assert request.start_time <= spans[stage].start_time <= spans[stage].end_time
        assert spans[stage].end_time <= request.end_time
    assert spans["decode"].start_time <= spans["queue"].start_time
    assert spans["queue"].end_time == spans["infer"].start_time


def test_a_clients_trace_is_continued_and_is_in_the_log_and_the_exemplars(
    traced, exporter, red_clip, caplog
) -> None:
    caplog.set_level(logging.INFO, "service.middleware")
    traced.client.post("/predict", files={"file": red_clip}, headers=TRACEPARENT)
    traced.settle()
    assert {span.context.trace_id for span in exporter.get_finished_spans()} == {int(TRACE, 16)}
    (record,) = (record for record in caplog.records if record.name == "service.middleware")
    assert record.fields["trace_id"] == TRACE
    text = traced.client.get("/metrics", headers=OPENMETRICS).text
    for name in ("har_request_duration_seconds_bucket", "har_stage_duration_seconds_bucket"):
        assert any(
            line.startswith(name) and f'# {{trace_id="{TRACE}"}}' in line
            for line in text.splitlines()
        ), name
    assert TRACE not in traced.client.get("/metrics").text, "plain text knows no exemplars"


def test_a_failure_is_told_by_its_class_and_not_in_its_words(traced, exporter, red_clip) -> None:
    assert traced.predict(red_clip[:300]).status_code == 422
    traced.settle()
    spans = by_name(exporter.get_finished_spans())
    assert set(spans) == {"POST /predict", "decode"}
    assert not spans["decode"].status.is_ok
    assert spans["decode"].status.description == "DecodeError"
    assert not spans["decode"].events


def test_f23_a_query_is_in_no_span(traced, exporter) -> None:
    traced.client.post("/predict?api_key=a-secret-of-somebody")
    traced.settle()
    (span,) = exporter.get_finished_spans()
    assert span.attributes["url.query"] == "REDACTED"
    assert "secret" not in span.to_json()


def test_health_checks_and_scrapes_make_no_spans(traced, exporter) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        traced.client.get(path)
    traced.settle()
    assert not exporter.get_finished_spans()


def test_they_make_none_below_another_path_either(start_service, exporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with start_service(Collaborators(tracer_provider=provider), root_path="/har") as service:
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert service.client.get(path).status_code == 200
        service.settle()
        assert not exporter.get_finished_spans()
        service.client.get("/models")
        service.settle()
        assert len(exporter.get_finished_spans()) == 1
    provider.shutdown()


def test_it_is_off_unless_asked_for(start_service, red_clip, caplog) -> None:
    caplog.set_level(logging.INFO, "service.middleware")
    with start_service() as service:
        assert service.predict(red_clip).status_code == 200
        service.client.post("/predict", files={"file": red_clip}, headers=TRACEPARENT)
        service.settle()
        assert "trace_id" not in service.client.get("/metrics", headers=OPENMETRICS).text
    records = [record for record in caplog.records if record.name == "service.middleware"]
    assert not any("trace_id" in record.fields for record in records)


def test_tracing_without_a_collector_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    check_tracing(Settings())
    with pytest.raises(SettingsError, match="HAR_TRACING=1 needs OTEL_EXPORTER_OTLP_ENDPOINT"):
        check_tracing(Settings(tracing=True))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    check_tracing(Settings(tracing=True))
    monkeypatch.setattr("service.tracing.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="install the extra 'tracing'"):
        check_tracing(Settings(tracing=True))


class Collector(HTTPServer):
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.names: set[str] = set()


class CollectorHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.names.update(span.name for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_spans_reach_a_collector_at_the_latest_when_the_service_stops(launch, red_clip) -> None:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{collector.server_port}"
            with launch(HAR_TRACING=1, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as service:
                assert service.predict(red_clip).status_code == 200
                assert service.stop() == 0
        finally:
            collector.shutdown()
            thread.join(WAIT_S)
    assert collector.names == {"POST /predict", "decode", "queue", "infer"}
