"""MicroBatcher: clips that queued while the model ran become its next batch.

There is no timer: an idle model starts on the first clip at once, a busy one finds a batch waiting.
All state belongs to the event loop; only the model runs elsewhere, in a thread, a batch at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from service.errors import (
    GpuLostError,
    GpuMemoryError,
    InferenceError,
    OverloadedError,
    ServiceError,
    StoppingError,
)

logger: Final = logging.getLogger(__name__)

Frames: TypeAlias = npt.NDArray[np.uint8]
Probabilities: TypeAlias = npt.NDArray[np.float32]
#: Clips, each uint8 (frames, height, width, 3): a list of them, or an array (N, ...).
Clips: TypeAlias = Sequence[Frames] | Frames
#: What a run gives for one clip: its probabilities, or why there are none.
Outcome: TypeAlias = Probabilities | ServiceError
#: N clips -> N outcomes; may raise if the batch failed as a whole.
RunBatch: TypeAlias = Callable[[Clips], Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """One clip's result.

    Attributes:
        probabilities: float32 (classes,).
        queue_s: seconds from submit() to the start of the run.
        infer_s: seconds of the run, which the whole batch shared.
    """

    probabilities: Probabilities
    queue_s: float
    infer_s: float


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    frames: Frames
    answer: asyncio.Future[BatchAnswer]
    submitted_s: float = field(default_factory=time.monotonic)


class MicroBatcher:
    """Batches for one model, in one event loop: start(), then submit() at will, then close().

    Args:
        run: what runs a batch.
        name: of the model, for the log.
        max_batch_size: most clips in one run.
        max_queued: most clips that wait for one.
        runner: the thread that runs are made in; without it one of the event loop's own.
        observe_batch: told the size of every batch.
        on_lost: told once if the GPU is lost; no run will succeed any more.
    """

    def __init__(
        self,
        run: RunBatch,
        *,
        name: str,
        max_batch_size: int,
        max_queued: int,
        runner: ThreadPoolExecutor | None = None,
        observe_batch: Callable[[int], None] = lambda clips: None,
        on_lost: Callable[[GpuLostError], None] = lambda error: None,
    ) -> None:
        self._run = run
        self._name = name
        self._max_batch_size = max_batch_size
        self._max_queued = max_queued
        self._observe_batch = observe_batch
        self._on_lost = on_lost
        self._lost: GpuLostError | None = None
        self._queue: deque[_Entry] = deque()
        self._work_arrived = asyncio.Event()
        self._closing = False
        self._runner = runner
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Clips waiting for a run."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._loop_task = asyncio.create_task(self._work(), name=f"batcher-{self._name}")

    async def submit(self, frames: Frames) -> BatchAnswer:
        """Classify one clip, uint8 (frames, height, width, 3), together with what else is waiting.

        A caller that is cancelled gives its place in the queue to others; the others of a batch
        that already runs are answered all the same.

        Raises:
            OverloadedError: the queue is full.
            StoppingError: close() has been called.
            InferenceError, ModelOutputError, GpuMemoryError: this clip failed, alone.
            GpuLostError: the GPU is gone, and with it every clip.
        """
        if self._lost is not None:
            raise GpuLostError(reason=self._lost.reason)
        if self._closing:
            raise StoppingError("The service is stopping.")
        if len(self._queue) >= self._max_queued:
            raise OverloadedError(
                "The model has as many clips as it can take: try again later.",
                headers={"Retry-After": "1"},
            )
        entry = _Entry(frames, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._work_arrived.set()
        try:
            return await entry.answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # it is in a batch already
                self._queue.remove(entry)
            raise

    async def close(self) -> None:
        """Refuse new clips and answer those that wait."""
        self._closing = True
        self._work_arrived.set()
        if self._loop_task is not None:
            await self._loop_task

    async def _work(self) -> None:
        while True:
            batch = self._take_batch()
            if batch:
                await self._answer(batch)
            elif self._closing:
                return
            else:
                self._work_arrived.clear()
                await self._work_arrived.wait()

    def _take_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        while self._queue and len(batch) < self._max_batch_size:
            entry = self._queue.popleft()
            if not entry.answer.done():  # done means cancelled: its client has gone
                batch.append(entry)
        return batch

    async def _answer(self, batch: list[_Entry]) -> None:
        loop = asyncio.get_running_loop()
        started_s = time.monotonic()
        outcomes: Sequence[Outcome]
        try:
            outcomes = await loop.run_in_executor(self._runner, self._run_rows, batch)
        except Exception as error:  # the runner thread is not to be had
            logger.exception("%s: a batch of %d could not be run", self._name, len(batch))
            outcomes = [_failed_run(error) for _ in batch]
        infer_s = time.monotonic() - started_s
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.answer.done():
                continue
            if isinstance(outcome, ServiceError):
                entry.answer.set_exception(outcome)
            else:
                queue_s = started_s - entry.submitted_s
                entry.answer.set_result(BatchAnswer(outcome, queue_s, infer_s))
        self._report(len(batch), outcomes)

    def _report(self, clips: int, outcomes: Sequence[Outcome]) -> None:
        """Tell the observers; what they do wrong is no reason to stop answering."""
        try:
            self._observe_batch(clips)
            for outcome in outcomes:
                if isinstance(outcome, GpuLostError) and self._lost is None:
                    self._lost = outcome
                    self._on_lost(outcome)
        except Exception:
            logger.exception("%s: a batch of %d could not be reported", self._name, clips)

    def _run_rows(self, batch: Sequence[_Entry]) -> Sequence[Outcome]:
        """Run the batch; if that fails, each clip by itself, so that only the one at fault fails.

        A batch that is too large for the GPU's memory is run in halves instead.

        Runs in the runner thread. Never raises: the batcher outlives whatever a model does.
        """
        size = len(batch)
        step = 1
        try:
            outcomes = self._run([entry.frames for entry in batch])
            if len(outcomes) == size:
                return outcomes
            logger.error("%s: %d outcomes for %d clips", self._name, len(outcomes), size)
        except GpuLostError as error:
            logger.critical("%s: %s", self._name, error.reason)
            # An exception object belongs to one future: its traceback grows where it is raised.
            return [GpuLostError(reason=error.reason) for _ in batch]
        except GpuMemoryError:
            logger.warning("%s: no GPU memory for a batch of %d", self._name, size)
            if size == 1:
                return [GpuMemoryError()]
            step = (size + 1) // 2
        except Exception as error:
            if size == 1:
                return [_failed_run(error)]  # whoever waits for it knows which request it is
            logger.exception("%s: a batch of %d failed", self._name, size)
        if size == 1:
            return [_failed_run(None)]
        outcomes = []
        for start in range(0, size, step):
            outcomes.extend(self._run_rows(batch[start : start + step]))
        return outcomes


def _failed_run(cause: Exception | None) -> InferenceError:
    error = InferenceError("The model failed on this clip.")
    error.__cause__ = cause
    return error
