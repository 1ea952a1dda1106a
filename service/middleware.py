"""RequestMiddleware: each request's id, its measurement, its log line and the last catch."""

from __future__ import annotations

import logging
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import REQUEST_ID_HEADER, RequestContext, open_context
from service.errors import ClientGoneError, describe_error, render_problem
from service.metrics import ABORTED, CLIENT_GONE, UNMATCHED_ROUTE, Metrics

logger: Final = logging.getLogger(__name__)

#: Asked for every few seconds by machines: their log lines would bury the others.
_POLLED_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})


class RequestMiddleware:
    """Plain ASGI: Starlette's BaseHTTPMiddleware would wrap the body and hide its disconnect."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and see to it that it is answered, measured and logged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        context = open_context(connection)
        waits_for_continue = connection.headers.get("expect", "").lower() == "100-continue"
        status: int | None = None
        code = ABORTED

        async def receive_noting() -> Message:
            nonlocal waits_for_continue
            waits_for_continue = False
            return await receive()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[REQUEST_ID_HEADER] = context.request_id
                # Refused before "100 Continue": such a client sends its next request where the
                # server still expects this one's body.
                if waits_for_continue:
                    headers["Connection"] = "close"
            await send(message)

        with self._metrics.track_in_flight():
            try:
                await self._app(scope, receive_noting, send_with_id)
                code = str(status)
            except ClientGoneError:
                code = CLIENT_GONE
            except Exception as error:
                logger.exception("request %s failed", context.request_id)
                problem = describe_error(error)
                context.problem_code = problem.kind.code
                code = str(problem.kind.status)
                if status is None:
                    response = render_problem(problem, context.request_id)
                    await response(scope, receive, send_with_id)
            finally:
                self._report(scope, context, code)

    def _report(self, scope: Scope, context: RequestContext, code: str) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        duration_s = context.elapsed_s()
        self._metrics.observe_request(
            route=route,
            model=context.model,
            code=code,
            problem_code=context.problem_code,
            duration_s=duration_s,
        )
        # Nothing here is the client's own text: the id is checked, route and model are from fixed
        # sets.
        logger.log(
            logging.DEBUG if route in _POLLED_ROUTES else logging.INFO,
            "%s %s %s model=%s problem=%s %.1f ms",
            context.request_id,
            route,
            code,
            context.model,
            context.problem_code or "-",
            duration_s * 1000,
        )
