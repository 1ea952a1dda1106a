"""Connection: uvicorn's HTTP protocol, with an end to a client's every pause and a limit to all.

uvicorn waits for ever for the rest of a request's headers, and for the rest of a body that was
refused, and for a client that does not read its answers; it takes connections until the process has
no descriptor left; it parses whatever one read brings, 256 KiB, before anyone else gets a turn; and
a request that has not asked for its body is not told that its client has gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import h11
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.disconnect import DEPARTURE_EXTENSION
from service.errors import KINDS, MEDIA_TYPE, OutOfConnectionsError, problem_body
from service.hangup import HangUps

#: Of a body in chunks of six bytes that is some 5 ms of parsing.
_READ_BYTES: Final = 8 * 1024
_MAX_HEADER_BYTES: Final = 64 * 1024
_LINGER_S = 1.0
#: Connections that wait to be accepted, and the most that asyncio accepts in one round of its loop.
BACKLOG: Final = 64
#: Connections one too many that are told so; each has a descriptor meanwhile.
MAX_LINGERING: Final = 64
#: A client that connects has its first request ready.
_FIRST_REQUEST_S = 1.0
#: The two ways to tell where a body ends.
_LENGTHS: Final = {b"content-length", b"transfer-encoding"}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one client's connection may take.

    Attributes:
        max_connections: of all clients together.
        header_timeout_s: from the first moment, or the first byte of a next request, to the end of
            its headers.
        drain_timeout_s: from an answer that came early to the end of the body it did not wait for.
        read_timeout_s: for how long a client may fail to read its answers at `min_bytes_per_s`.
        min_bytes_per_s: see there.
    """

    max_connections: int
    header_timeout_s: float
    drain_timeout_s: float
    read_timeout_s: float
    min_bytes_per_s: float


class ConnectionConfig(uvicorn.Config):
    """uvicorn's configuration, which its protocols are handed, with what ours share.

    Args:
        limits: of each connection, and of all.
        on_refusal: called for each connection that is refused.
    """

    def __init__(
        self,
        app: Any,
        *,
        limits: ConnectionLimits,
        on_refusal: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(
            app, http=Connection, h11_max_incomplete_event_size=_MAX_HEADER_BYTES, **options
        )
        self.limits = limits
        self.on_refusal = on_refusal
        self.hang_ups = HangUps()
        self.lingering: set[Connection] = set()


class _Owed(Enum):
    """What a client has yet to send before anything can go on."""

    NOTHING = auto()
    HEADERS = auto()
    REST_OF_BODY = auto()


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """One client's connection."""

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._on_refusal = config.on_refusal
        self._hang_ups = config.hang_ups
        self._lingering = config.lingering
        self._own_app, self.app = self.app, self._run_app
        self._buffer = bytearray(_READ_BYTES)
        self._owed = _Owed.NOTHING
        self._patience: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._idle_since_s = self.loop.time()
        self._refused = False
        self._lost = False
        self._on_departure: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; if there are too many, at the cost of the one idle the longest."""
        super().connection_made(transport)
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._watch()
        if len(self.connections) > self._limits.max_connections:
            self._make_room()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the next read goes: small, so that nobody has the event loop for long."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        if self._refused:
            return
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))
        self._watch()
        self._renew_keep_alive()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; after an answer has begun there is nothing that could be said."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self._idle_since_s = self.loop.time()
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        self._lost = True
        self._stop_watch()
        if self._reading is not None:
            self._reading.cancel()
        self._hang_ups.forget(self._descriptor)
        self._lingering.discard(self)
        super().connection_lost(exc)
        if self._on_departure is not None:
            self._on_departure()

    def pause_writing(self) -> None:
        """Wait for a client that does not read its answers, but not for ever."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Go on: it has read."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _await_reading(self) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        timeout_s = self._limits.read_timeout_s
        self._reading = self.loop.call_later(timeout_s, self._check_reading, unread_bytes)

    def _check_reading(self, unread_bytes: int) -> None:
        read_bytes = unread_bytes - self.transport.get_write_buffer_size()
        if read_bytes < max(1, self._limits.read_timeout_s * self._limits.min_bytes_per_s):
            self.transport.abort()
        else:
            self._await_reading()

    @contextmanager
    def watch_departure(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` once the client has hung up: service.disconnect's WatchDeparture.

        uvicorn stops to read from a client of whose body it has enough for now, and with that to
        notice its end.
        """
        if self._lost:
            callback()
        else:
            self._on_departure = callback
            self._hang_ups.watch(self._descriptor, self.transport.abort)
        try:
            yield
        finally:
            self._on_departure = None
            if not self._lost:
                self._hang_ups.forget(self._descriptor)

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[DEPARTURE_EXTENSION] = self.watch_departure
        if {name for name, _ in scope["headers"]} >= _LENGTHS:
            # A proxy that believed the other of the two sees the next request elsewhere: there is
            # none. RFC 9112, 6.1.
            self.cycle.keep_alive = False
        await self._own_app(scope, receive, send)

    def _watch(self) -> None:
        """Start the clock when the client begins to owe something, stop it when that has come."""
        owed = self._find_owed()
        if owed is self._owed:
            return
        self._stop_watch()
        self._owed = owed
        if owed is _Owed.HEADERS:
            patience_s = self._limits.header_timeout_s
        elif owed is _Owed.REST_OF_BODY:
            patience_s = self._limits.drain_timeout_s
        else:
            return
        self._patience = self.loop.call_later(patience_s, self.transport.abort)

    def _find_owed(self) -> _Owed:
        if self.transport.is_closing():
            return _Owed.NOTHING
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            return _Owed.REST_OF_BODY
        # Between two requests, as long as no byte has come, uvicorn's own timer runs.
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            return _Owed.HEADERS
        return _Owed.NOTHING

    def _renew_keep_alive(self) -> None:
        """Start uvicorn's timer of idle connections anew: the rest of a refused body stopped it."""
        if (
            self.timeout_keep_alive_task is None
            and self.cycle is not None
            and self.cycle.response_complete
            and self._owed is _Owed.NOTHING
            and not self.transport.is_closing()
        ):
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _stop_watch(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _make_room(self) -> None:
        idle = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self and other._may_be_closed()
        ]
        if idle:
            longest = min(idle, key=lambda other: other._idle_since_s)
            # It counts no longer from now on, not only when the event loop comes round to it.
            self.connections.discard(longest)
            longest.transport.abort()
        else:
            self._refuse()

    def _may_be_closed(self) -> bool:
        """Whether no request is under way, and none that was sent is yet to be read."""
        if self.cycle is None:
            return self.loop.time() - self._idle_since_s > _FIRST_REQUEST_S
        return self.cycle.response_complete

    def _refuse(self) -> None:
        """Answer 503 before any request, and give the client a moment to read it.

        Not when very many come at once: nobody's descriptors may be taken by those who get none.
        """
        self._refused = True
        self._on_refusal()
        self.connections.discard(self)
        self._stop_watch()
        if len(self._lingering) >= MAX_LINGERING:
            self.transport.abort()
            return
        self._lingering.add(self)
        self._patience = self.loop.call_later(_LINGER_S, self.transport.abort)
        kind = KINDS[OutOfConnectionsError.code]
        detail = "The service has as many connections as it can take: try again later."
        body = json.dumps(problem_body(kind, detail, request_id="")).encode()
        head = (
            f"HTTP/1.1 {kind.status} Service Unavailable\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # Closed now, what the client is about to send would make the system drop the answer.
        with suppress(OSError):  # it has gone already
            self.transport.write_eof()
