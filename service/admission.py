"""Admission: a place among the requests in work, a place in a line, or a refusal at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.deadline import Deadline
from service.disconnect import WatchDeparture, watch_nobody
from service.errors import ClientGoneError, OverloadedError

_SMOOTHING = 0.1
_FIRST_GUESS_S = 1.0
_MOST_RETRY_AFTER_S = 60


class Admission:
    """Permits for `max_in_flight` requests and first-come lines of `max_waiting` behind them.

    Each model has a line of its own, and the lines take turns: a crowd that wants one model holds
    up those who want another by no more than its turn. Belongs to one event loop.
    """

    def __init__(self, *, max_in_flight: int, max_waiting: int) -> None:
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._in_flight = 0
        # In the order of their turns; a line that is empty is not kept.
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._held_s = _FIRST_GUESS_S

    @property
    def in_flight(self) -> int:
        """Permits that are taken."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests in all lines."""
        return sum(len(line) for line in self._lines.values())

    @asynccontextmanager
    async def admit(
        self,
        deadline: Deadline,
        *,
        line: str = "",
        watch_departure: WatchDeparture = watch_nobody,
    ) -> AsyncIterator[None]:
        """Hold a permit for the duration of the `async with`.

        Args:
            deadline: of the request.
            line: where to wait for the permit.
            watch_departure: tells in the line that the client has hung up.

        Raises:
            OverloadedError: at once, if the line is full.
            DeadlineError: the deadline passed in the line.
            ClientGoneError: the client hung up in the line.
        """
        if self._in_flight < self._max_in_flight:
            self._in_flight += 1
        else:
            await self._wait_in(line, deadline, watch_departure)
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._held_s += _SMOOTHING * (time.monotonic() - started_s - self._held_s)
            self._pass_on()

    def retry_after_s(self) -> int:
        """Whole seconds after which the requests that are here now should be done."""
        ahead = self._in_flight + self.waiting
        seconds = math.ceil(self._held_s * ahead / self._max_in_flight)
        return min(max(1, seconds), _MOST_RETRY_AFTER_S)

    async def _wait_in(
        self, name: str, deadline: Deadline, watch_departure: WatchDeparture
    ) -> None:
        """Return with a permit."""
        if len(self._lines.get(name, ())) >= self._max_waiting:
            raise OverloadedError(
                "The service has as many requests as it can take: try again later.",
                headers={"Retry-After": str(self.retry_after_s())},
            )
        line = self._lines.setdefault(name, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)

        def give_up() -> None:
            if not turn.done():
                turn.set_exception(ClientGoneError())

        try:
            async with deadline.enforce():
                with watch_departure(give_up):
                    await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the permit came in the moment in which it was given up
            elif turn in line:
                line.remove(turn)
                if not line:
                    del self._lines[name]
            raise

    def _pass_on(self) -> None:
        """Give a permit to the line whose turn it is, and put that line behind the others."""
        while self._lines:
            name, line = next(iter(self._lines.items()))
            del self._lines[name]
            turn = line.popleft()
            if line:
                self._lines[name] = line
            if not turn.done():  # done means given up
                turn.set_result(None)
                return
        self._in_flight -= 1
