"""python -m service: start the service as the HAR_ variables say.

Exit codes: 0 stopped as asked, 1 a model or the spool cannot be used, 2 a setting or the address
cannot.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys

from service.access import KEY_HEADER
from service.app import create_app
from service.registry import ModelRegistry
from service.runtime import Collaborators
from service.server import Server, open_listener
from service.settings import Settings, SettingsError, load_settings

_EXIT_START_FAILED = 1
_EXIT_BAD_SETTINGS = 2
_ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


def serve(settings: Settings, listener: socket.socket) -> int:
    """Run the service on a bound socket until it is told to stop; the process's exit code."""
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    def greet(registry: ModelRegistry) -> None:
        print(_greeting(listener, registry, settings), flush=True)

    app = create_app(settings, Collaborators(on_ready=greet, on_failure=fail))
    server = Server(app, shutdown_grace_s=settings.shutdown_grace_s)
    # uvicorn raises the signal that ended it once more, for whoever handled it before: nobody, so
    # that a stop that was asked for ends with exit code 0.
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda number, frame: None)
    server.run(sockets=[listener])
    for error in failures:
        print(f"har-service cannot start: {error}", file=sys.stderr)
    return _EXIT_START_FAILED if failures else 0


def _greeting(listener: socket.socket, registry: ModelRegistry, settings: Settings) -> str:
    host, port = listener.getsockname()[:2]
    if host in _ALL_INTERFACES:
        host = "localhost"
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    models = ", ".join(f"{model.manifest.name} {model.manifest.version}" for model in registry)
    key = f"-H '{KEY_HEADER}: ...' " if settings.api_keys else ""
    return (
        f"har-service is ready at {address} ({models}), docs at {address}/docs. "
        f"Try: curl {key}-F file=@clip.mp4 {address}/predict"
    )


def main() -> int:
    """Read the settings and serve; the process's exit code."""
    argparse.ArgumentParser(
        prog="python -m service",
        description="Serve activity recognition over HTTP.",
        epilog="All options are HAR_ environment variables: see docs/settings.md.",
    ).parse_args()
    try:
        settings = load_settings()
        listener = open_listener(settings.host, settings.port)
    except SettingsError as error:
        print(f"har-service cannot start: {error}", file=sys.stderr)
        return _EXIT_BAD_SETTINGS
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    # They comment on every connection and every malformed body; the request's own line says enough.
    for chatty in ("uvicorn", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    with listener:
        return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main())
