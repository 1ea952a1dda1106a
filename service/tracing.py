"""Tracing: OpenTelemetry spans of requests and of their stages, where HAR_TRACING asks for them.

FastAPI makes the span of a request, continues a trace that its client began (`traceparent`) and
sends the spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names. Here come the spans of the
stages below it. Metrics and logs are the service's own: FastAPI's are switched off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib.util import find_spec
from time import time_ns
from typing import Any, Final

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, Status, StatusCode, Tracer, TracerProvider

from service.context import POLLED_ROUTES
from service.settings import Settings, SettingsError

_NAME = "har-service"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NANOSECONDS = 1_000_000_000


def check_tracing(settings: Settings) -> None:
    """See that spans have a way out, if there are to be any.

    Raises:
        SettingsError: tracing is on, and what it needs is not installed or not set.
    """
    if not settings.tracing:
        return
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        raise SettingsError("HAR_TRACING=1 needs OpenTelemetry: install the extra 'tracing'")
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        raise SettingsError(
            "HAR_TRACING=1 needs OTEL_EXPORTER_OTLP_ENDPOINT, the address of a collector that "
            "takes OTLP over HTTP"
        )


def configure_telemetry(settings: Settings, provider: TracerProvider | None) -> TelemetryConfig:
    """FastAPI's `telemetry` argument.

    Args:
        settings: say whether spans are made at all.
        provider: takes the spans, whatever the settings say; None: as the settings say.
    """
    return {
        "tracing": settings.tracing or provider is not None,
        "tracer_provider": provider,
        "auto_configure": settings.tracing and provider is None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "exclude": _is_polled,
    }


def build_tracer(settings: Settings, provider: TracerProvider | None) -> Tracer:
    """The tracer of the stages' spans; one that makes none where tracing is off."""
    if provider is None and not settings.tracing:
        provider = NoOpTracerProvider()
    return trace.get_tracer(_NAME, tracer_provider=provider)


@contextmanager
def trace_stage(tracer: Tracer, stage: str) -> Iterator[None]:
    """Make the body of the `with` a span; if it raises, the span tells only the error's class.

    An exception's words may hold a path or a client's text.
    """
    with tracer.start_as_current_span(
        stage, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def trace_past_stages(tracer: Tracer, seconds_by_stage: dict[str, float]) -> None:
    """Make spans of stages that took place elsewhere, one after the other until now."""
    began_ns = time_ns() - round(sum(seconds_by_stage.values()) * _NANOSECONDS)
    for stage, seconds in seconds_by_stage.items():
        ended_ns = began_ns + round(seconds * _NANOSECONDS)
        tracer.start_span(stage, start_time=began_ns).end(ended_ns)
        began_ns = ended_ns


def describe_request(request_id: str) -> None:
    """Put the request's id on its span, and take its query off: clients put keys there."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"har.request_id": request_id, "url.query": "REDACTED"})


def find_trace_id() -> str | None:
    """The trace of this task, 32 hexadecimal digits, if there is one and it is kept."""
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return trace.format_trace_id(context.trace_id)


def _is_polled(scope: MutableMapping[str, Any]) -> bool:
    # uvicorn puts HAR_ROOT_PATH before what the client asked for.
    return scope.get("path", "").removeprefix(scope.get("root_path", "")) in POLLED_ROUTES
