"""create_app(): puts the parts of the service together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.access import Access
from service.descriptions import complete_document, describe_app
from service.errors import install_error_handlers
from service.middleware import RequestMiddleware
from service.page import page_router
from service.reference import reference_router
from service.reload import reload_router
from service.routes import router
from service.runtime import Collaborators, Runtime
from service.settings import Settings
from service.tracing import configure_telemetry

_DEFAULTS = Collaborators()


def create_app(settings: Settings, collaborators: Collaborators = _DEFAULTS) -> FastAPI:
    """Build the ASGI app; it lives once, from its lifespan's start to its end.

    The models load in the background: the app answers /health/live at once, and what needs them
    with 503 until they are there. If they cannot be loaded it stays up, not ready: to end the
    process is for the caller, whom `collaborators.on_failure` tells.

    Returns:
        The app; its Runtime is `app.state.runtime`.
    """
    runtime = Runtime(settings, collaborators)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A redirect would lead to whatever Host the client names.
        redirect_slashes=False,
        telemetry=configure_telemetry(settings, collaborators.tracer_provider),
        **describe_app(),
    )
    app.state.runtime = runtime
    app.state.access = Access(settings.api_keys or ())
    app.add_middleware(RequestMiddleware, metrics=runtime.metrics)
    install_error_handlers(app)
    app.include_router(router)
    app.include_router(reload_router)
    app.include_router(reference_router)
    app.include_router(page_router)
    complete_document(app)
    return app
