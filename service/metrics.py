"""Every Prometheus metric of the service, in a registry of its own for each app.

Label values come from fixed sets (routes, loaded models, status codes, problem codes), so that no
request can make a new series. docs/metrics.md says what each metric is for; a test holds it to this
module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from clip.manifest import ModelManifest
from service.decoding import RESTART_REASONS
from service.errors import KINDS

#: Seconds. Prometheus's own defaults end at 10 s, which a long upload passes.
LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

STAGES = ("receive", "decode", "queue", "infer", "total")

#: The `code` of a request that got no answer because its client hung up, or because it was aborted.
CLIENT_GONE = "client_gone"
ABORTED = "aborted"
#: The `route` of every address that is none of the service's.
UNMATCHED_ROUTE = "unmatched"


def is_refusal(code: str) -> bool:
    """Whether a problem code means that the request was not taken on, not that it went wrong."""
    return KINDS[code].status < 500 or KINDS[code].status == 503


class Metrics:
    """The metrics of one app. The methods are what the other modules call."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._request_duration = Histogram(
            "har_request_duration_seconds",
            "From the headers of a request to the end of its answer.",
            ("route", "model", "code"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._stage_duration = Histogram(
            "har_stage_duration_seconds",
            "Where the time of a prediction went.",
            ("stage", "model"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "har_requests_in_flight",
            "Requests that are being worked on or wait for it.",
            registry=self.registry,
        )
        self._predictions = Counter(
            "har_predictions_total",
            "Clips classified, by the label they got.",
            ("model", "label"),
            registry=self.registry,
        )
        self._rejected = Counter(
            "har_rejected_total",
            "Requests refused for what they were or because there were too many, by problem code.",
            ("reason",),
            registry=self.registry,
        )
        self._failures = Counter(
            "har_failures_total",
            "Requests that were taken on and failed here, by problem code.",
            ("reason",),
            registry=self.registry,
        )
        self._model_info = Gauge(
            "har_model_info",
            "1 for every model that is served.",
            ("model", "version", "sha256", "provider"),
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "har_batch_size",
            "Clips that shared one run of the model.",
            ("model",),
            buckets=BATCH_SIZE_BUCKETS,
            registry=self.registry,
        )
        self._decoder_restarts = Counter(
            "har_decoder_restarts_total",
            "Decoder processes replaced, by why.",
            ("reason",),
            registry=self.registry,
        )
        # A counter that appears with its first event hides that event from rate().
        for code in KINDS:
            (self._rejected if is_refusal(code) else self._failures).labels(code)
        for reason in RESTART_REASONS:
            self._decoder_restarts.labels(reason)

    @contextmanager
    def track_in_flight(self) -> Iterator[None]:
        """Count a request as in flight for the duration of the `with`."""
        with self._in_flight.track_inprogress():
            yield

    def observe_request(
        self, *, route: str, model: str, code: str, problem_code: str | None, duration_s: float
    ) -> None:
        """Count a finished request; `code` is its HTTP status, CLIENT_GONE or ABORTED."""
        self._request_duration.labels(route, model, code).observe(duration_s)
        if problem_code is not None:
            counter = self._rejected if is_refusal(problem_code) else self._failures
            counter.labels(problem_code).inc()

    def observe_stage(self, stage: str, model: str, duration_s: float) -> None:
        """Note how long one stage of a prediction took; `stage` is one of STAGES."""
        self._stage_duration.labels(stage, model).observe(duration_s)

    def observe_batch(self, model: str, clips: int) -> None:
        """Note how many clips shared a run."""
        self._batch_size.labels(model).observe(clips)

    def count_decoder_restart(self, reason: str) -> None:
        """Count a replaced decoder; `reason` is one of RESTART_REASONS."""
        self._decoder_restarts.labels(reason).inc()

    def count_prediction(self, model: str, label: str) -> None:
        """Count a classified clip."""
        self._predictions.labels(model, label).inc()

    def add_model(self, manifest: ModelManifest, provider: str) -> None:
        """Announce a served model and prepare its series."""
        self._model_info.labels(
            manifest.name, str(manifest.version), manifest.sha256, provider
        ).set(1)
        self._batch_size.labels(manifest.name)
        for label in manifest.classes:
            self._predictions.labels(manifest.name, label)
        for stage in STAGES:
            self._stage_duration.labels(stage, manifest.name)

    def render(self, accept: str) -> tuple[bytes, str]:
        """(text, Content-Type) of all metrics, in the exposition format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
