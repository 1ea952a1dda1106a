"""python -m service: start the service as the HAR_ variables say.

SIGHUP makes it serve what is in the models folder by then; one that comes too early for that is
ignored: the folder is still to be read. Exit codes: 0 stopped as asked, 1 a
model or the spool cannot be used, 2 a setting or the address cannot, 3 the GPU failed and the
service has to be started anew.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from dataclasses import replace
from typing import Final

# Its default would end the process. The imports below take seconds.
if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

from service.access import KEY_HEADER
from service.app import create_app
from service.cuda import exit_without_cleanup
from service.errors import GpuLostError
from service.loading import is_loading
from service.logs import configure_logging, log_event
from service.registry import ModelRegistry
from service.runtime import Collaborators
from service.server import Server, open_listener
from service.settings import Settings, SettingsError, load_settings, warn_of_unknown_variables
from service.tracing import check_tracing

logger: Final = logging.getLogger("service")

_EXIT_START_FAILED = 1
_EXIT_BAD_SETTINGS = 2
_EXIT_GPU_LOST = 3
_DEFAULTS = Collaborators()
_ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


def serve(
    settings: Settings, listener: socket.socket, collaborators: Collaborators = _DEFAULTS
) -> int:
    """Run the service on a bound socket until it is told to stop; the process's exit code."""
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    def greet(registry: ModelRegistry) -> None:
        if settings.log_format == "json":
            models = {model.manifest.name: model.manifest.version for model in registry.newest()}
            address = _find_address(listener)
            log_event(logger, logging.INFO, "ready", address=address, models=models)
        else:
            print(_greeting(listener, registry, settings), flush=True)

    app = create_app(settings, replace(collaborators, on_ready=greet, on_failure=fail))
    server = Server(app, shutdown_grace_s=settings.shutdown_grace_s)
    # uvicorn raises the signal that ended it once more, for whoever handled it before: nobody, so
    # that a stop that was asked for ends with exit code 0.
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, server.handle_exit)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: app.state.runtime.request_reload())
    server.run(sockets=[listener])
    for error in failures:
        lost = isinstance(error, GpuLostError)
        happening = "ends, to be started anew" if lost else "cannot start"
        reason = error.reason if isinstance(error, GpuLostError) else str(error)
        if settings.log_format == "json":
            log_event(logger, logging.CRITICAL, happening, reason=reason)
        else:
            print(f"har-service {happening}: {reason}", file=sys.stderr)
        if lost:
            return _EXIT_GPU_LOST
    return _EXIT_START_FAILED if failures else 0


def _find_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in _ALL_INTERFACES:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greeting(listener: socket.socket, registry: ModelRegistry, settings: Settings) -> str:
    address = _find_address(listener)
    models = ", ".join(
        f"{model.manifest.name} {model.manifest.version}" for model in registry.newest()
    )
    key = f"-H '{KEY_HEADER}: ...' " if settings.api_keys else ""
    return (
        f"har-service is ready at {address} ({models}), docs at {address}/docs. "
        f"Try: curl {key}-F file=@clip.mp4 {address}/predict"
    )


def main(collaborators: Collaborators = _DEFAULTS) -> int:
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
    warn_of_unknown_variables()
    with listener:
        try:
            code = serve(settings, listener, collaborators)
        except SettingsError as error:
            print(f"har-service cannot start: {error}", file=sys.stderr)
            return _EXIT_BAD_SETTINGS
    if code == _EXIT_GPU_LOST or is_loading():
        exit_without_cleanup(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
