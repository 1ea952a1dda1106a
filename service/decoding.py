"""DecodePool: decodes uploads outside of the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import BinaryIO

from clip import ClipSpec, Limits, SampledClip, sample_clip
from clip.errors import DecodeTimeoutError
from service.deadline import Deadline
from service.errors import DeadlineError


class DecodePool:
    """Threads that run clip.sample_clip(); the codecs release the GIL while they work.

    A thread cannot be killed: a decode that nobody waits for any more runs on until `timeout_s`,
    and a codec that crashes takes the process along. The interface leaves room for child processes:
    a job gets an open descriptor, never a path, and only plain values come back.
    """

    def __init__(
        self,
        *,
        workers: int,
        limits: Limits,
        timeout_s: float,
        sample: Callable[[BinaryIO, ClipSpec, Limits], SampledClip] = sample_clip,
    ) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        self._sample = sample
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    async def decode(self, file: BinaryIO, spec: ClipSpec, deadline: Deadline) -> SampledClip:
        """Sample the video in `file` as `spec` says; a job cancelled in the line is never begun.

        Args:
            file: an open file of the operating system, flushed; it may be closed from now on.
            spec: which frames, which size.
            deadline: of the request; the pool's own `timeout_s` holds beside it.

        Raises:
            ClipError: the video cannot or must not be decoded.
            DeadlineError: the request's time ran out first.
        """
        # The job's own descriptor: if the request is dropped and its file closed, the thread must
        # not read from a number that by then means another file.
        descriptor = os.dup(file.fileno())
        try:
            job = self._threads.submit(self._decode, descriptor, spec, deadline)
        except BaseException:
            os.close(descriptor)
            raise
        job.add_done_callback(lambda _: os.close(descriptor))
        async with deadline.enforce():
            return await asyncio.wrap_future(job)

    def _decode(self, descriptor: int, spec: ClipSpec, deadline: Deadline) -> SampledClip:
        remaining_s = deadline.remaining_s()
        if not remaining_s:
            raise DeadlineError("The request took longer than allowed.")
        limits = replace(self._limits, timeout_s=min(self._timeout_s, remaining_s))
        try:
            with open(descriptor, "rb", closefd=False) as video:
                return self._sample(video, spec, limits)
        except DecodeTimeoutError as error:
            if deadline.has_passed:
                raise DeadlineError("The request took longer than allowed.") from error
            raise

    async def close(self) -> None:
        """Drop the jobs in the line and wait for those in work."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
