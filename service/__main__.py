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
from typing import Final

from service.access import KEY_HEADER
from service.app import create_app
from service.logs import configure_logging, log_event
from service.registry import ModelRegistry
from service.runtime import Collaborators
from service.server import Server, open_listener
from service.settings import Settings, SettingsError, load_settings
from service.tracing import check_tracing

logger: Final = logging.getLogger("service")

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
        if settings.log_format == "json":
            models = {model.manifest.name: model.manifest.version for model in registry}
            address = _find_address(listener)
            log_event(logger, logging.INFO, "ready", address=address, models=models)
        else:
            print(_greeting(listener, registry, settings), flush=True)

    app = create_app(settings, Collaborators(on_ready=greet, on_failure=fail))
    server = Server(app, shutdown_grace_s=settings.shutdown_grace_s)
    # uvicorn raises the signal that ended it once more, for whoever handled it before: nobody, so
    # that a stop that was asked for ends with exit code 0.
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda number, frame: None)
    server.run(sockets=[listener])
    for error in failures:
        if settings.log_format == "json":
            log_event(logger, logging.CRITICAL, "cannot start", reason=str(error))
        else:
            print(f"har-service cannot start: {error}", file=sys.stderr)
    return _EXIT_START_FAILED if failures else 0


def _find_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in _ALL_INTERFACES:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greeting(listener: socket.socket, registry: ModelRegistry, settings: Settings) -> str:
    address = _find_address(listener)
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
        check_tracing(settings)
        listener = open_listener(settings.host, settings.port)
    except SettingsError as error:
        print(f"har-service cannot start: {error}", file=sys.stderr)
        return _EXIT_BAD_SETTINGS
    configure_logging(settings)
    with listener:
        try:
            return serve(settings, listener)
        except SettingsError as error:
            print(f"har-service cannot start: {error}", file=sys.stderr)
            return _EXIT_BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
