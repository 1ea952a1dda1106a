"""Server: uvicorn, set up for this service, on a socket that was bound beforehand."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from types import FrameType
from typing import Final

from fastapi import FastAPI
from uvicorn import Server as UvicornServer

from service.connection import BACKLOG, ConnectionConfig, ConnectionLimits
from service.deadline import Deadline
from service.descriptors import count_possible_connections
from service.runtime import Runtime
from service.settings import SettingsError

logger: Final = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.02


class Server(UvicornServer):
    """uvicorn's server, which goes on answering until what is under way at a stop is done."""

    def __init__(self, app: FastAPI, *, shutdown_grace_s: int) -> None:
        self._runtime: Runtime = app.state.runtime
        settings = self._runtime.settings
        super().__init__(
            ConnectionConfig(
                app,
                limits=ConnectionLimits(
                    max_connections=count_possible_connections(settings),
                    header_timeout_s=settings.header_timeout_s,
                    drain_timeout_s=settings.request_timeout_s,
                    read_timeout_s=settings.upload_idle_timeout_s,
                    min_bytes_per_s=settings.min_upload_bytes_per_s,
                ),
                on_refusal=self._runtime.metrics.count_refused_connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # uvicorn would otherwise believe its own machine, and a variable of its own.
                proxy_headers=settings.trusted_proxies is not None,
                forwarded_allow_ips=list(settings.trusted_proxies or ()),
                root_path=settings.root_path or "",
                timeout_graceful_shutdown=shutdown_grace_s,
                backlog=BACKLOG,
            )
        )
        self._grace_s = shutdown_grace_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler: not ready from this moment on.

        A second SIGINT (Ctrl+C) ends the wait; a second SIGTERM changes nothing, since supervisors
        send it to a process and to its group.
        """
        self._runtime.begin_stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests under way, within the grace time, then stop listening and end.

        Until they are done new connections are taken and new requests answered with 503: to a load
        balancer that has not noticed yet, a closed port would be an error of its client's request.
        """
        self._runtime.begin_stop()
        deadline = Deadline.after(self._grace_s)
        # A signal handler sets force_exit: there is no event to wait for.
        while self._runtime.is_busy and not (  # noqa: ASYNC110
            self.force_exit or deadline.has_passed
        ):
            await asyncio.sleep(_LOOK_AGAIN_S)
        self.config.timeout_graceful_shutdown = math.ceil(deadline.remaining_s())
        await super().shutdown(sockets)


def open_listener(host: str, port: int) -> socket.socket:
    """Bind the address now, so that a taken port is told before anything is loaded.

    Raises:
        SettingsError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"HAR_HOST={host} HAR_PORT={port}: {reason}") from error
    # asyncio sets this only on sockets that it made itself. Connections inherit it; without it the
    # second packet of every answer waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
