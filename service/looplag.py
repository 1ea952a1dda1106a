"""How late the event loop is: whatever blocks it holds up every client at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.1


async def watch_loop_lag(observe: Callable[[float], None], interval_s: float = INTERVAL_S) -> None:
    """Until cancelled, tell `observe` by how many seconds each of a row of short sleeps overslept.

    A stall that is shorter than the interval may fall between two looks and is then told in part.
    """
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, loop.time() - due_s))
