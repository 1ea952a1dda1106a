"""Server: uvicorn, set up for this service, on a socket that was bound beforehand."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.runtime import Runtime
from service.settings import SettingsError

_BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server, which tells the runtime of a stop before it begins to wait for requests."""

    def __init__(self, app: FastAPI, *, shutdown_grace_s: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=shutdown_grace_s,
                backlog=_BACKLOG,
            )
        )
        self._runtime: Runtime = app.state.runtime

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler: not ready from this moment on."""
        self._runtime.begin_stop()
        super().handle_exit(sig, frame)


def open_listener(host: str, port: int) -> socket.socket:
    """Bind the address now, so that a taken port is told before anything is loaded.

    Raises:
        SettingsError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"HAR_HOST={host} HAR_PORT={port}: {reason}") from error
    # asyncio sets this only on sockets that it made itself. Connections inherit it; without it the
    # second packet of every answer waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
