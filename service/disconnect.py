"""Work that is dropped when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, Final, TypeAlias, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import ClientGoneError

_Result = TypeVar("_Result")

#: With it a request whose body is not wanted yet learns that its client has hung up: for the
#: duration of the `with` the callback is called once when that happens, or has happened.
WatchDeparture: TypeAlias = Callable[[Callable[[], None]], AbstractContextManager[None]]

#: Among a request's ASGI extensions: its connection's WatchDeparture. ASGI itself tells of a
#: disconnect only after the whole body has been taken.
DEPARTURE_EXTENSION: Final = "har.departure"


def find_departure_watch(request: Request) -> WatchDeparture:
    """The request's WatchDeparture; where the server has none, it never calls."""
    watch: WatchDeparture = request.scope.get("extensions", {}).get(
        DEPARTURE_EXTENSION, watch_nobody
    )
    return watch


def watch_nobody(callback: Callable[[], None]) -> AbstractContextManager[None]:
    """A WatchDeparture of a client that does not hang up."""
    return nullcontext()


async def read_chunks(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. Raises ClientGoneError if the client hangs up before its end."""
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                yield chunk
    except ClientDisconnect:
        raise ClientGoneError from None


async def run_unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await `work`, but cancel it if the client hangs up. To be called once the body has been read.

    Raises:
        ClientGoneError: the client hung up first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
