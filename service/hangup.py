"""HangUps: who has hung up of the clients from whom nothing is read at the moment.

A server that does not read from a client, because it has no use for its body yet, does not see it
leave either: the end of a stream comes after all that was sent. What is still with the client,
because the system's buffers here are full, keeps that end from coming at all, unless the client
resets the connection.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress


class HangUps:
    """Watches sockets for their other side's end, past what it has sent; in one event loop.

    It takes one descriptor, and only while there is a socket to watch. Only Linux tells
    (EPOLLRDHUP). Elsewhere, and where no descriptor is left, nobody is found to have left until the
    server reads from them again.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._poll: select.epoll | None = None

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` when that socket's other side has closed it, or has already."""
        if not hasattr(select, "epoll"):
            return
        with suppress(OSError):
            if self._poll is None:
                self._poll = select.epoll()
                asyncio.get_running_loop().add_reader(self._poll.fileno(), self._tell)
            self._poll.register(descriptor, select.EPOLLRDHUP)
            self._callbacks[descriptor] = callback
        self._close_unused()

    def forget(self, descriptor: int) -> None:
        """Watch that socket no more; to be called before it is closed."""
        if self._poll is None or self._callbacks.pop(descriptor, None) is None:
            return
        self._poll.unregister(descriptor)
        self._close_unused()

    def _close_unused(self) -> None:
        if self._poll is not None and not self._callbacks:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    def _tell(self) -> None:
        for descriptor, _ in self._poll.poll(0) if self._poll else ():
            self._callbacks[descriptor]()
