"""What is answered to a raw request, what a problem has to be, what the proxy has to refuse, and
the service's line of a request."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from service.errors import KINDS, MEDIA_TYPE, TYPE_PREFIX
from tests.deploy.nginx import WAIT_S, Nginx
from tests.service.process import ServiceProcess
from tests.service.wire import request_head

Answer = tuple[int, Mapping[str, str], bytes]

#: Ways to write addresses that are not for everyone.
CLOSED = [
    "/metrics",
    "/metrics?x",
    "//metrics",
    "/./metrics",
    "/docs/../metrics",
    "/docs/..%2fmetrics",
    "/%6detrics",
    "/web/%2e%2e/metrics",
    "/web/%252e%252e/metrics",
    "/models/reload",
    "/har-problem/bad_request",
    "/nothing.html",
]


def read_answer(connection: socket.socket) -> Answer:
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()


def expect_problem(answer: httpx.Response | Answer, code: str) -> dict[str, Any]:
    """The problem, which is what the service would have said, whoever said it."""
    if isinstance(answer, httpx.Response):
        answer = answer.status_code, answer.headers, answer.content
    status, headers, content = answer
    kind = KINDS[code]
    problem: dict[str, Any] = json.loads(content)
    assert (status, headers["content-type"]) == (kind.status, MEDIA_TYPE)
    assert problem == {
        "type": TYPE_PREFIX + code,
        "title": kind.title,
        "status": kind.status,
        "code": code,
        "detail": problem["detail"],
        "request_id": headers["x-request-id"],
    }
    assert re.match(r"[A-Za-z0-9._-]{1,64}\Z", problem["request_id"])
    return problem


def ask_raw(nginx: Nginx, path: str, method: str = "GET") -> Answer:
    """As it stands: a client library would tidy the path up."""
    with nginx.connect() as connection:
        connection.sendall(request_head(path, method))
        return read_answer(connection)


def await_request(service: ServiceProcess, request_id: str) -> dict[str, Any]:
    """The service's line of a request: it is written a moment after the answer."""
    give_up_s = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_s:
        for line in service.requests():
            if line["request_id"] == request_id:
                return line
        time.sleep(0.01)
    pytest.fail(f"no line of {request_id}")
