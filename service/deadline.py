"""Deadline: the one moment by which a request has to be answered, on the monotonic clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.errors import DeadlineError, ServiceError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of time.monotonic(), in seconds."""

    at_s: float

    @classmethod
    def after(cls, seconds: float, *, since_s: float | None = None) -> Deadline:
        """The deadline `seconds` after now, or after the monotonic time `since_s`."""
        return cls((time.monotonic() if since_s is None else since_s) + seconds)

    def remaining_s(self) -> float:
        """Seconds left; 0 once it has passed."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def has_passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining_s() == 0.0

    @asynccontextmanager
    async def enforce(self, error: type[ServiceError] = DeadlineError) -> AsyncIterator[None]:
        """Cancel the body of the `async with` when the deadline passes, and raise `error`."""
        try:
            async with asyncio.timeout(self.remaining_s()) as timer:
                yield
        except TimeoutError as timeout:
            # A TimeoutError of the body's own, such as clip's, is not this deadline.
            if not timer.expired() or type(timeout) is not TimeoutError:
                raise
            raise error("The request took longer than allowed.") from None
