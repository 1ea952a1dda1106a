"""Runtime: all that lives from the service's start to its end, and the phase it is in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry.trace import TracerProvider

from clip import Limits
from service.admission import Admission
from service.decoding import DecodePool
from service.errors import (
    GpuLostError,
    NotReadyError,
    ReloadRefusedError,
    ServiceError,
    SpoolFullError,
    StoppingError,
)
from service.forkserver import ForkServerError
from service.inference import OnnxModel
from service.loading import load_in_thread
from service.looplag import watch_loop_lag
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.registry import Changes, ModelRegistry, RegistryConfig
from service.session import ModelLoadError, SessionConfig
from service.settings import Settings, SettingsError
from service.spool import Spool
from service.tracing import build_tracer
from service.upload import check_space

logger: Final = logging.getLogger(__name__)

_Result = TypeVar("_Result")
StartError = ModelLoadError | SettingsError | ForkServerError


class Phase(StrEnum):
    """Where in its life the service is."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"


def load_models(settings: Settings) -> ModelRegistry:
    """Load, verify and warm the models that the settings name. Raises ModelLoadError."""
    return ModelRegistry.load(configure_registry(settings))


def reload_models(settings: Settings, registry: ModelRegistry) -> tuple[ModelRegistry, Changes]:
    """The registry of what is published now. Raises ModelLoadError."""
    return registry.reload(configure_registry(settings))


def configure_registry(settings: Settings) -> RegistryConfig:
    """Which models the settings name, and how they run."""
    return RegistryConfig(
        models_dir=settings.models_dir,
        session=SessionConfig(
            device=settings.device,
            intra_op_threads=settings.intra_op_threads,
            max_batch_size=settings.max_batch_size,
            batch_buckets=settings.batch_buckets,
            cuda_graphs=settings.cuda_graphs,
            gpu_memory_bytes=settings.gpu_memory_bytes,
        ),
        default_model=settings.default_model,
        max_versions=settings.max_versions,
    )


def build_decoders(settings: Settings, metrics: Metrics) -> DecodePool:
    """The decoders that the settings ask for; their replacements are counted in `metrics`."""
    limits = Limits(
        max_pixels=settings.max_pixels,
        max_frames=settings.max_frames,
        max_duration_s=settings.max_duration_s,
        # What is compressed cannot be larger than the file that holds it.
        max_stream_bytes=settings.max_upload_bytes,
        max_streams=settings.max_streams,
    )
    return DecodePool(
        workers=settings.decoders,
        limits=limits,
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decoder_memory_bytes,
        max_jobs=settings.decoder_max_jobs,
        on_restart=metrics.count_decoder_restart,
    )


@dataclass(frozen=True, slots=True)
class Collaborators:
    """What a Runtime is made of and whom it tells; a test passes its own.

    Attributes:
        load_models: called in a thread.
        reload_models: called in a thread, with the registry that serves.
        build_decoders: called once, before anything runs.
        on_ready: called in the event loop when every model is loaded, verified and warmed and the
            decoders run.
        on_failure: called in the event loop with the reason if that cannot be, or if the service
            cannot go on: a GpuLostError.
        tracer_provider: takes the spans in place of the collector of the settings.
    """

    load_models: Callable[[Settings], ModelRegistry] = load_models
    reload_models: Callable[[Settings, ModelRegistry], tuple[ModelRegistry, Changes]] = (
        reload_models
    )
    build_decoders: Callable[[Settings, Metrics], DecodePool] = build_decoders
    on_ready: Callable[[ModelRegistry], None] = lambda registry: None
    on_failure: Callable[[Exception], None] = lambda error: None
    tracer_provider: TracerProvider | None = None


class Runtime:
    """Holds the parts together. start() and stop() belong to one event loop."""

    def __init__(self, settings: Settings, collaborators: Collaborators) -> None:
        self.settings = settings
        self.metrics = Metrics(latency_buckets_s=settings.latency_buckets_s)
        self.spool = Spool(settings.spool_dir, min_free_bytes=settings.min_spool_free_bytes)
        self.admission = Admission(
            max_in_flight=settings.max_in_flight, max_waiting=settings.max_waiting
        )
        self._decoders = collaborators.build_decoders(settings, self.metrics)
        self.pipeline = Pipeline(
            self._decoders,
            self.metrics,
            max_queued=settings.max_in_flight,
            tracer=build_tracer(settings, collaborators.tracer_provider),
            on_lost=self._fail,
        )
        self.phase = Phase.STARTING
        self._collaborators = collaborators
        self._registry: ModelRegistry | None = None
        self._loading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[Any]] = set()
        self._retirements: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to load the models and start the decoders; not ready in the meantime."""
        self._loop = asyncio.get_running_loop()
        self._loading = asyncio.create_task(self._load(), name="load-models")
        self._watching = asyncio.create_task(
            watch_loop_lag(self.metrics.observe_loop_lag), name="loop-lag"
        )

    @property
    def registry(self) -> ModelRegistry:
        """The served models.

        Raises:
            NotReadyError: they are not all loaded yet, or one failed.
            StoppingError: the service takes no new work.
        """
        if self.phase is Phase.STOPPING:
            raise StoppingError("The service is stopping.", headers={"Connection": "close"})
        if self._registry is None or self.phase is Phase.FAILED:
            raise NotReadyError("The models are not loaded.", headers={"Retry-After": "1"})
        return self._registry

    async def check_ready(self) -> None:
        """Return if requests are welcome.

        Raises:
            NotReadyError: the models are not all loaded yet, or one failed; or there is no space
                for uploads.
            StoppingError: the service takes no new work.
        """
        _ = self.registry  # raises
        try:
            await check_space(self.spool)
        except SpoolFullError as error:
            raise NotReadyError(error.detail, headers={"Retry-After": "1"}) from error

    async def is_ready(self) -> bool:
        """Whether requests are welcome."""
        try:
            await self.check_ready()
        except ServiceError:
            return False
        return True

    @property
    def is_busy(self) -> bool:
        """Whether requests are in work or wait for it."""
        return self.admission.in_flight + self.admission.waiting > 0

    async def reload(self) -> Changes:
        """Serve what is published now; what was served and is gone ends when nobody uses it.

        A caller that is cancelled does not end the reload.

        Raises:
            ReloadRefusedError: the models folder as a whole cannot be used; nothing has changed.
            NotReadyError, StoppingError: see `registry`.
        """
        return await asyncio.shield(self._start_task(self._reload(), self._reloads))

    def request_reload(self) -> None:
        """Begin a reload soon, from any thread or signal handler; its result is in the log.

        While the models are being loaded it waits for that: they may have been read already.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(
                lambda: self._start_task(self._reload_once_loaded(), self._reloads)
            )

    def begin_stop(self) -> None:
        """Take no new work from now on; what is under way goes on."""
        self.phase = Phase.STOPPING

    async def stop(self) -> None:
        """Finish what is under way and end every thread and process.

        Models that are being loaded are no longer wanted, and not waited for: service.loading.
        """
        self.begin_stop()
        for task in (self._loading, self._watching, *self._reloads):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._retirements:
            await asyncio.wait(self._retirements)
        await self.pipeline.close()
        _close(self._registry or ())
        self._loop = None

    async def _reload_once_loaded(self) -> None:
        if self._loading is not None:
            await asyncio.wait([self._loading])
        await self._reload()

    async def _reload(self) -> Changes:
        async with self._reloading:
            before = self.registry
            try:
                after, changes = await load_in_thread(
                    partial(self._collaborators.reload_models, self.settings, before),
                    discard=lambda outcome: _close(set(outcome[0]) - set(before)),
                )
            except ModelLoadError as error:
                logger.error("reload: %s", error)
                raise ReloadRefusedError(
                    "The models folder holds nothing to serve; all is as before. The log says more."
                ) from error
            if self.phase is not Phase.READY:
                _close(set(after) - set(before))
            _ = self.registry  # raises, if it has begun to stop meanwhile
            self.pipeline.start(set(after) - set(before))
            self._registry = after
            self.metrics.set_gpu_expected(expected=after.expects_gpu)
            for model in set(before) - set(after):
                self._start_task(self.pipeline.retire(model), self._retirements)
        logger.info(
            "reloaded: %d new, %d kept, %d removed, %d bad",
            len(changes.loaded),
            len(changes.kept),
            len(changes.removed),
            len(changes.failed),
        )
        return changes

    @staticmethod
    def _start_task(
        work: Coroutine[Any, Any, _Result], tasks: set[asyncio.Task[Any]]
    ) -> asyncio.Task[_Result]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_report_reload)
        return task

    def _fail(self, error: GpuLostError) -> None:
        if self.phase is Phase.READY:
            self.phase = Phase.FAILED
            self._collaborators.on_failure(error)

    async def _load(self) -> None:
        try:
            registry = await self._start_parts()
        except Exception as error:
            self.phase = Phase.FAILED
            if not isinstance(error, StartError):
                logger.exception("the service cannot start")
            self._collaborators.on_failure(error)
            return
        self.pipeline.start(registry)
        self._registry = registry
        self.metrics.set_gpu_expected(expected=registry.expects_gpu)
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY
            self._collaborators.on_ready(registry)

    async def _start_parts(self) -> ModelRegistry:
        """Load the models and start the decoders; if one cannot be, the other is not left at it."""
        loading = asyncio.create_task(load_in_thread(self._load_models, discard=_close))
        starting = asyncio.create_task(self._decoders.start())
        try:
            await asyncio.gather(loading, starting)
        except BaseException:
            for task in (loading, starting):
                task.cancel()
            await asyncio.wait([loading, starting])
            if not loading.cancelled() and loading.exception() is None:
                _close(loading.result())
            raise
        return loading.result()

    def _load_models(self) -> ModelRegistry:
        self.spool.prepare()
        return self._collaborators.load_models(self.settings)


def _close(models: Iterable[OnnxModel]) -> None:
    for model in models:
        model.close()


def _report_reload(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, ServiceError):
        logger.error("reload: %s", error.detail)
    elif error is not None:
        logger.error("a reload failed", exc_info=error)
