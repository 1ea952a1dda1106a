"""A MicroBatcher on a model that does as its clips say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from service.batching import Clips, Frames, MicroBatcher, Outcome
from service.errors import ModelOutputError

#: The first byte of a clip says what the model does with it; the second is its answer.
GOOD, POISON, INVALID = 0, 1, 2


def make_frames(answer: int, kind: int = GOOD) -> Frames:
    return np.array([kind, answer], np.uint8)


class ScriptedModel:
    """Answers as the clips say and notes its batches."""

    def __init__(self, gate: Any = None) -> None:
        self.batches: list[list[int]] = []
        self._gate = gate

    def run(self, clips: Clips) -> Sequence[Outcome]:
        frames = np.stack(clips)
        if self._gate is not None:
            self._gate.pass_through()
        self.batches.append(frames[:, 1].tolist())
        if (frames[:, 0] == POISON).any():
            raise RuntimeError("poisoned")
        return [
            ModelOutputError("invalid") if kind == INVALID else np.array([answer], np.float32)
            for kind, answer in frames.tolist()
        ]


@asynccontextmanager
async def batching(
    model: Any, *, max_batch_size: int = 8, max_queued: int = 64
) -> AsyncIterator[MicroBatcher]:
    batcher = MicroBatcher(
        model.run, name="test", max_batch_size=max_batch_size, max_queued=max_queued
    )
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


async def submit(batcher: MicroBatcher, answer: int, kind: int = GOOD) -> float:
    result = await batcher.submit(make_frames(answer, kind))
    return float(result.probabilities[0])


async def start(*coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks that have got as far as they can, which is into the queue."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks
