"""Admission: a place among the requests in work, a place in the line, or a refusal at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.deadline import Deadline
from service.errors import OverloadedError

_SMOOTHING = 0.1
_FIRST_GUESS_S = 1.0
_MOST_RETRY_AFTER_S = 60


class Admission:
    """Permits for `max_in_flight` requests and a first-come line of `max_waiting` behind them.

    Belongs to one event loop.
    """

    def __init__(self, *, max_in_flight: int, max_waiting: int) -> None:
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._permits = asyncio.Semaphore(max_in_flight)
        self._in_flight = 0
        self._waiting = 0
        self._held_s = _FIRST_GUESS_S

    @property
    def in_flight(self) -> int:
        """Permits that are taken."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return self._waiting

    @asynccontextmanager
    async def admit(self, deadline: Deadline) -> AsyncIterator[None]:
        """Hold a permit for the duration of the `async with`.

        Raises:
            OverloadedError: at once, if the line is full.
            DeadlineError: the deadline passed in the line.
        """
        if self._permits.locked():
            if self._waiting >= self._max_waiting:
                raise OverloadedError(
                    "The service has as many requests as it can take: try again later.",
                    headers={"Retry-After": str(self.retry_after_s())},
                )
            self._waiting += 1
            try:
                async with deadline.enforce():
                    await self._permits.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._permits.acquire()
        self._in_flight += 1
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._in_flight -= 1
            self._permits.release()
            self._held_s += _SMOOTHING * (time.monotonic() - started_s - self._held_s)

    def retry_after_s(self) -> int:
        """Whole seconds after which the requests that are here now should be done."""
        ahead = self._in_flight + self._waiting
        seconds = math.ceil(self._held_s * ahead / self._max_in_flight)
        return min(max(1, seconds), _MOST_RETRY_AFTER_S)
