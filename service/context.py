"""RequestContext: what is known about a request from its headers to its log line."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import HTTPConnection

REQUEST_ID_HEADER = "X-Request-ID"

#: The model labels of requests that are about no model, or name one that is not served.
NO_MODEL = "none"
UNKNOWN_MODEL = "unknown"
#: Asked for every few seconds by machines: their log lines and spans would bury the others.
POLLED_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})

# Ids come from strangers and go into logs and headers: a plain alphabet, and not long.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_STATE_KEY = "request_context"


@dataclass(slots=True)
class RequestContext:
    """One request's identity and outcome.

    Attributes:
        request_id: the client's X-Request-ID if it is well formed, else a new one.
        started_s: monotonic time at which the headers had been read.
        model: the label for metrics; set once the model is known.
        problem_code: the code of the problem it was answered with, if any.
        received_bytes: of the body, so far.
        stages_s: seconds of each stage of a prediction that the request has been through.
    """

    request_id: str
    started_s: float = field(default_factory=time.monotonic)
    model: str = NO_MODEL
    problem_code: str | None = None
    received_bytes: int = 0
    stages_s: dict[str, float] = field(default_factory=dict)

    def note_stage(self, stage: str, duration_s: float) -> None:
        """Keep how long a stage took, for the log line and the Server-Timing header."""
        self.stages_s[stage] = duration_s

    def elapsed_s(self) -> float:
        """Seconds since the headers had been read."""
        return time.monotonic() - self.started_s


def open_context(connection: HTTPConnection) -> RequestContext:
    """Start a request's context; get_context() finds it from then on."""
    offered = connection.headers.get(REQUEST_ID_HEADER, "")
    request_id = offered if _REQUEST_ID.match(offered) else uuid.uuid4().hex
    context = RequestContext(request_id)
    setattr(connection.state, _STATE_KEY, context)
    return context


def get_context(connection: HTTPConnection) -> RequestContext:
    """The context that open_context() started for this request."""
    return cast(RequestContext, getattr(connection.state, _STATE_KEY))
