"""Pipeline: the path of one clip from a file to its Prediction. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from opentelemetry.trace import NoOpTracer, Tracer

from clip import ClipInfo, ModelManifest
from service.batching import Frames, MicroBatcher
from service.deadline import Deadline
from service.decoding import DecodePool
from service.errors import GpuLostError
from service.inference import OnnxModel
from service.metrics import Metrics
from service.tracing import trace_past_stages, trace_stage

_NO_TRACER = NoOpTracer()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about a clip.

    Attributes:
        manifest: of the model.
        probabilities: one for each of manifest.classes, in that order.
        clip: what was found in the file and which frames were taken.
        frames: these frames as the model got them, uint8 (frames, height, width, 3), RGB.
        decode_s: seconds for decoding, the wait for a free decoder included.
        queue_s: seconds in the model's queue.
        infer_s: seconds of the run that the clip was in.
    """

    manifest: ModelManifest
    probabilities: tuple[float, ...]
    clip: ClipInfo
    frames: Frames
    decode_s: float
    queue_s: float
    infer_s: float

    def ranked(self) -> list[tuple[str, float]]:
        """(class, probability), highest first; equal ones in the order of the classes."""
        pairs = zip(self.manifest.classes, self.probabilities, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])


@dataclass(slots=True)
class _Place:
    """A model's batcher, and how many requests hold the model."""

    batcher: MicroBatcher
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class Pipeline:
    """Decoders and one batcher for each model. Belongs to one event loop.

    Args:
        decoders: they decode for all models.
        metrics: told what happens.
        max_queued: most clips that wait for one model.
        on_lost: told if the GPU is lost.
    """

    def __init__(
        self,
        decoders: DecodePool,
        metrics: Metrics,
        *,
        max_queued: int,
        tracer: Tracer = _NO_TRACER,
        on_lost: Callable[[GpuLostError], None] = lambda error: None,
    ) -> None:
        self._decoders = decoders
        self._metrics = metrics
        self._tracer = tracer
        self._max_queued = max_queued
        self._on_lost = on_lost
        self._places: dict[OnnxModel, _Place] = {}

    def start(self, models: Iterable[OnnxModel]) -> None:
        """Make these models usable, in the running event loop."""
        for model in models:
            name = model.manifest.name
            self._metrics.add_model(model.manifest, model.provider)
            batcher = MicroBatcher(
                model.run,
                name=name,
                max_batch_size=model.max_batch_size,
                max_queued=self._max_queued,
                runner=model.runner,
                observe_batch=partial(self._metrics.observe_batch, name),
                on_lost=self._on_lost,
            )
            batcher.start()
            self._places[model] = _Place(batcher)
            self._metrics.watch_queue(name, partial(self._count_queued, name))

    @asynccontextmanager
    async def use(self, model: OnnxModel) -> AsyncIterator[None]:
        """For the duration of the `async with` the model can be retired but does not go away."""
        place = self._places[model]
        place.users += 1
        try:
            yield
        finally:
            place.users -= 1
            if not place.users:
                place.unused.set()

    async def retire(self, model: OnnxModel) -> None:
        """Wait until no request holds a model that is not given out any more; then end it."""
        self._metrics.remove_model(model.manifest, model.provider)
        place = self._places[model]
        while place.users:
            place.unused.clear()
            await place.unused.wait()
        await place.batcher.close()
        model.close()
        del self._places[model]
        if all(other.manifest.name != model.manifest.name for other in self._places):
            self._metrics.forget_model(model.manifest.name)

    async def classify(
        self,
        file: BinaryIO,
        model: OnnxModel,
        deadline: Deadline,
        *,
        on_stage: Callable[[str, float], None] = lambda stage, duration_s: None,
    ) -> Prediction:
        """Decode the clip in `file` and classify it; may be cancelled at any moment.

        Args:
            file: an open file of the operating system, flushed.
            model: one of those given to start(), and not yet retired.
            deadline: by which the prediction has to be there.
            on_stage: told how many seconds a stage took once it is over; of a clip that fails,
                the decoding too.

        Raises:
            ClipError: the video cannot or must not be decoded.
            ServiceError: the deadline passed, the queue is full, the model failed on this clip.
        """
        manifest = model.manifest
        began_s = time.monotonic()
        try:
            with trace_stage(self._tracer, "decode"):
                sampled = await self._decoders.decode(file, manifest.clip_spec, deadline)
        finally:
            decode_s = time.monotonic() - began_s
            on_stage("decode", decode_s)
        self._metrics.observe_stage("decode", manifest.name, decode_s)
        self._metrics.observe_video(sampled.info.duration_s)
        async with deadline.enforce():
            answer = await self._places[model].batcher.submit(sampled.frames)
        in_model = {"queue": answer.queue_s, "infer": answer.infer_s}
        trace_past_stages(self._tracer, in_model)
        for stage, duration_s in in_model.items():
            self._metrics.observe_stage(stage, manifest.name, duration_s)
            on_stage(stage, duration_s)
        prediction = Prediction(
            manifest=manifest,
            probabilities=tuple(answer.probabilities.tolist()),
            clip=sampled.info,
            frames=sampled.frames,
            decode_s=decode_s,
            queue_s=answer.queue_s,
            infer_s=answer.infer_s,
        )
        label, confidence = prediction.ranked()[0]
        self._metrics.count_prediction(manifest.name, label, confidence)
        return prediction

    def _count_queued(self, name: str) -> int:
        return sum(
            place.batcher.queued
            for model, place in self._places.items()
            if model.manifest.name == name
        )

    async def close(self) -> None:
        """Answer what is under way, then end the decoders; the models are the caller's to close."""
        await self._decoders.close()
        for place in list(self._places.values()):
            await place.batcher.close()
