"""RequestMiddleware: each request's id, its measurement, its log line and the last catch."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import POLLED_ROUTES, REQUEST_ID_HEADER, RequestContext, open_context
from service.errors import ClientGoneError, StoppingError, describe_error, render_problem
from service.logs import log_event
from service.metrics import ABORTED, CLIENT_GONE, STAGES, UNMATCHED_ROUTE, Metrics
from service.tracing import describe_request, find_trace_id

logger: Final = logging.getLogger(__name__)


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
        describe_request(context.request_id)
        waits_for_continue = connection.headers.get("expect", "").lower() == "100-continue"
        status: int | None = None
        code = ABORTED

        async def receive_noting() -> Message:
            nonlocal waits_for_continue
            waits_for_continue = False
            message = await receive()
            context.received_bytes += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[REQUEST_ID_HEADER] = context.request_id
                if context.stages_s:
                    headers["Server-Timing"] = _render_stages(context)
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
            except asyncio.CancelledError:
                # The server's stop ran out of patience; nobody else cancels a request's task.
                stopped = describe_error(
                    StoppingError("The service stopped first.", headers={"Connection": "close"})
                )
                context.problem_code = stopped.kind.code
                if status is None:
                    response = render_problem(stopped, context.request_id)
                    await response(scope, receive, send_with_id)
            except Exception as error:
                logger.exception("request %s failed", context.request_id)
                problem = describe_error(error)
                context.problem_code = problem.kind.code
                code = str(problem.kind.status)
                if status is None:
                    response = render_problem(problem, context.request_id)
                    await response(scope, receive, send_with_id)
            finally:
                self._report(scope, context, code, status)

    def _report(self, scope: Scope, context: RequestContext, code: str, status: int | None) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        duration_s = context.elapsed_s()
        self._metrics.observe_request(
            route=route,
            model=context.model,
            code=code,
            problem_code=context.problem_code,
            duration_s=duration_s,
        )
        # Nothing here is the client's own text: the id is checked, route, model and scheme are from
        # fixed sets, and the client's address is one.
        stages_ms = {
            f"{stage}_ms": _milliseconds(seconds)
            for stage, seconds in context.stages_s.items()
            if stage != "total"
        }
        log_event(
            logger,
            logging.DEBUG if route in POLLED_ROUTES else logging.INFO,
            "request",
            request_id=context.request_id,
            route=route,
            status=status,
            outcome=code if status is None else context.problem_code or "ok",
            model=context.model,
            received_bytes=context.received_bytes,
            **stages_ms,
            total_ms=_milliseconds(duration_s),
            client=_find_client(scope),
            scheme=scope["scheme"],
            trace_id=find_trace_id(),
        )


def _render_stages(context: RequestContext) -> str:
    stages_s = {"total": context.elapsed_s()} | context.stages_s
    return ", ".join(
        f"{stage};dur={_milliseconds(stages_s[stage])}" for stage in STAGES if stage in stages_s
    )


def _find_client(scope: Scope) -> str | None:
    """The client's address: the connection's, or what one of HAR_TRUSTED_PROXIES tells of it."""
    host = (scope.get("client") or ("",))[0]
    # An IPv6 address's scope may be any text, and what was forwarded is somebody else's word.
    address, _, _ = host.partition("%")
    try:
        return str(ip_address(address))
    except ValueError:
        return None


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
