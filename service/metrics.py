"""Every Prometheus metric of the service, in a registry of its own for each app.

Label values come from fixed sets (routes, loaded models, status codes, problem codes), so that no
request can make a new series. docs/metrics.md says what each metric is for; a test holds it to this
module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from platform import python_version

import onnxruntime
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from clip.manifest import ModelManifest
from service.decoding import RESTART_REASONS
from service.errors import KINDS, OutOfConnectionsError
from service.settings import LATENCY_BUCKETS_S
from service.tracing import find_trace_id
from service.version import find_version

BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
_KIBIBYTE = 1024
UPLOAD_BUCKETS_BYTES = tuple(_KIBIBYTE * 4**power for power in range(3, 10))
VIDEO_BUCKETS_S = (1, 2, 5, 10, 30, 60, 300, 1200)
#: Not the service's latency: alerts ask for one of these.
LOOP_LAG_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1)

STAGES = ("receive", "decode", "queue", "infer", "total")
#: Of these there are histograms. "service" is the total without "receive", the only part that hangs
#: on the client's line.
MEASURED_STAGES = (*STAGES, "service")

#: The `code` of a request that got no answer because its client hung up, or because it was aborted.
CLIENT_GONE = "client_gone"
ABORTED = "aborted"
#: The `route` of every address that is none of the service's.
UNMATCHED_ROUTE = "unmatched"


#: The 503 of requests that were not taken on; other 503 went wrong here.
_REFUSALS = frozenset({"not_ready", "stopping", "out_of_connections"})


def is_refusal(code: str) -> bool:
    """Whether a problem code means that the request was not taken on, not that it went wrong."""
    return KINDS[code].status < 500 or code in _REFUSALS


class Metrics:
    """The metrics of one app. The methods are what the other modules call."""

    def __init__(
        self,
        *,
        latency_buckets_s: Sequence[float] = LATENCY_BUCKETS_S,
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._request_duration = Histogram(
            "har_request_duration_seconds",
            "From the headers of a request to the end of its answer.",
            ("route", "model", "code"),
            buckets=latency_buckets_s,
            registry=self.registry,
        )
        self._stage_duration = Histogram(
            "har_stage_duration_seconds",
            "Where the time of a prediction went.",
            ("stage", "model"),
            buckets=latency_buckets_s,
            registry=self.registry,
        )
        self._ready = Gauge(
            "har_ready",
            "1 while requests are welcome, else 0: what /health/ready says.",
            registry=self.registry,
        )
        self._gpu_expected = Gauge(
            "har_gpu_expected",
            "1 if the models should run on a GPU: asked for, or there to be taken.",
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "har_requests_in_flight",
            "Requests that are being worked on or wait for it.",
            registry=self.registry,
        )
        self._queue_depth = Gauge(
            "har_queue_depth",
            "Clips that wait for a run of the model.",
            ("model",),
            registry=self.registry,
        )
        self._upload_bytes = Histogram(
            "har_upload_bytes",
            "Size of the videos received whole.",
            buckets=UPLOAD_BUCKETS_BYTES,
            registry=self.registry,
        )
        self._video_duration = Histogram(
            "har_video_duration_seconds",
            "Length of the videos decoded.",
            buckets=VIDEO_BUCKETS_S,
            registry=self.registry,
        )
        self._confidence = Histogram(
            "har_prediction_confidence",
            "Probability of the label that a clip got.",
            ("model",),
            buckets=CONFIDENCE_BUCKETS,
            registry=self.registry,
        )
        self._loop_lag = Histogram(
            "har_event_loop_lag_seconds",
            "How late the event loop was at something due, looked at ten times a second.",
            buckets=LOOP_LAG_BUCKETS_S,
            registry=self.registry,
        )
        self._build_info = Gauge(
            "har_build_info",
            "1, with the versions of what runs here.",
            ("version", "python", "onnxruntime"),
            registry=self.registry,
        )
        self._build_info.labels(find_version(), python_version(), onnxruntime.__version__).set(1)
        self._predictions = Counter(
            "har_predictions_total",
            "Clips classified, by the label they got.",
            ("model", "label"),
            registry=self.registry,
        )
        self._rejected = Counter(
            "har_rejected_total",
            "Requests and connections that were not taken on, by problem code.",
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
        self._request_duration.labels(route, model, code).observe(duration_s, _make_exemplar())
        if problem_code is not None:
            counter = self._rejected if is_refusal(problem_code) else self._failures
            counter.labels(problem_code).inc()

    def count_refused_connection(self) -> None:
        """Count a connection for which there was no place: no request of it is ever read."""
        self._rejected.labels(OutOfConnectionsError.code).inc()

    def observe_stage(self, stage: str, model: str, duration_s: float) -> None:
        """Note how long one stage of a prediction took; `stage` is one of MEASURED_STAGES."""
        self._stage_duration.labels(stage, model).observe(duration_s, _make_exemplar())

    def observe_prediction(self, model: str, *, receive_s: float, total_s: float) -> None:
        """Note how long an answered prediction took: its upload, and all the rest."""
        self.observe_stage("receive", model, receive_s)
        self.observe_stage("total", model, total_s)
        self.observe_stage("service", model, total_s - receive_s)

    def set_ready(self, *, ready: bool) -> None:
        """Tell whether requests are welcome."""
        self._ready.set(ready)

    def set_gpu_expected(self, *, expected: bool) -> None:
        """Tell whether the models should run on a GPU."""
        self._gpu_expected.set(expected)

    def observe_batch(self, model: str, clips: int) -> None:
        """Note how many clips shared a run."""
        self._batch_size.labels(model).observe(clips)

    def count_decoder_restart(self, reason: str) -> None:
        """Count a replaced decoder; `reason` is one of RESTART_REASONS."""
        self._decoder_restarts.labels(reason).inc()

    def count_prediction(self, model: str, label: str, confidence: float) -> None:
        """Count a classified clip, and how sure the model was of its label."""
        self._predictions.labels(model, label).inc()
        self._confidence.labels(model).observe(confidence)

    def observe_upload(self, size_bytes: int) -> None:
        """Note the size of a video that was received whole."""
        self._upload_bytes.observe(size_bytes)

    def observe_video(self, duration_s: float) -> None:
        """Note the length of a video that was decoded."""
        self._video_duration.observe(duration_s)

    def observe_loop_lag(self, lag_s: float) -> None:
        """Note how late the event loop was at something that was due."""
        self._loop_lag.observe(lag_s)

    def watch_queue(self, model: str, count_queued: Callable[[], int]) -> None:
        """Ask `count_queued`, at every scrape, how many clips wait for a run of the model."""
        self._queue_depth.labels(model).set_function(count_queued)

    def add_model(self, manifest: ModelManifest, provider: str) -> None:
        """Announce a served model and prepare its series."""
        self._model_info.labels(
            manifest.name, str(manifest.version), manifest.sha256, provider
        ).set(1)
        self._batch_size.labels(manifest.name)
        self._confidence.labels(manifest.name)
        for label in manifest.classes:
            self._predictions.labels(manifest.name, label)
        for stage in MEASURED_STAGES:
            self._stage_duration.labels(stage, manifest.name)

    def remove_model(self, manifest: ModelManifest, provider: str) -> None:
        """Tell that a model is not served any more."""
        self._model_info.remove(manifest.name, str(manifest.version), manifest.sha256, provider)

    def forget_model(self, name: str) -> None:
        """Drop the series of a model of which no version is left and no request is under way.

        Those of its finished requests stay, as all that were answered.
        """
        for metric in (
            self._stage_duration,
            self._batch_size,
            self._predictions,
            self._confidence,
            self._queue_depth,
        ):
            metric.remove_by_labels({"model": name})

    def render(self, accept: str) -> tuple[bytes, str]:
        """(text, Content-Type) of all metrics, in the exposition format that `accept` asks for.

        Where it asks in words that mean nothing, in Prometheus text.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(_WithoutCreated(self.registry)), content_type


class _WithoutCreated(Collector):
    """A registry without the time at which each series began: twice the series, and no use."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample for sample in metric.samples if not sample.name.endswith("_created")
            ]
            yield metric


def _make_exemplar() -> dict[str, str] | None:
    trace_id = find_trace_id()
    return None if trace_id is None else {"trace_id": trace_id}
