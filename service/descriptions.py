"""What OpenAPI says beyond what FastAPI finds out by itself: the upload's body and the problems."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

from fastapi import FastAPI

from service.errors import KINDS, MEDIA_TYPE, TYPE_PREFIX, ProblemKind
from service.multipart import FILE_FIELD, MAX_PARTS
from service.schemas import ProblemReport
from service.version import find_version

_BINARY = {"type": "string", "format": "binary", "minLength": 1}

PREDICT_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "MP4, MOV, WebM, Matroska, AVI, MPEG-TS or MPEG-PS, whatever its name.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FILE_FIELD],
                "properties": {FILE_FIELD: _BINARY},
                # Whatever else a browser's form holds is not looked at.
                "additionalProperties": {"type": "string"},
                "maxProperties": MAX_PARTS,
            }
        },
        "video/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}

_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
}
_HEADERS_BY_STATUS: Final[Mapping[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": {"description": "RFC 9110.", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods there are.", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
# The router's own: an address or method that is not in the document cannot be documented in it.
_OUTSIDE_CODES = frozenset({"not_found", "method_not_allowed"})
_RELOAD_CODES = frozenset({"reload_disabled", "reload_refused"})
_CODES_BY_PATH: Final[Mapping[str, frozenset[str]]] = {
    "/predict": frozenset(KINDS) - _OUTSIDE_CODES - _RELOAD_CODES,
    "/models": frozenset({"internal_error", "not_ready", "stopping", "unauthorized"}),
    "/models/reload": frozenset({"internal_error", "not_ready", "stopping", "unauthorized"})
    | _RELOAD_CODES,
    "/health/live": frozenset({"internal_error"}),
    "/health/ready": frozenset({"internal_error", "not_ready", "stopping"}),
    "/metrics": frozenset({"internal_error"}),
}


def document_problems(path: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: for each status an example of every problem it may have."""
    kinds = sorted(
        (KINDS[code] for code in _CODES_BY_PATH[path]), key=lambda kind: (kind.status, kind.code)
    )
    return {
        status: _document_status(list(group))
        for status, group in groupby(kinds, key=lambda kind: kind.status)
    }


def describe_app() -> dict[str, Any]:
    """What the document says about the whole: FastAPI's arguments."""
    return {
        "title": "Human activity recognition",
        "summary": "A video file in, the probabilities of its activity classes out.",
        "description": "Every answer that is not a success is a problem (RFC 9457), also at other "
        "addresses (404) and for other methods (405): see components/responses.",
        "version": find_version(),
        "generate_unique_id_function": lambda route: route.name,
    }


def complete_document(app: FastAPI) -> None:
    """Add to the app's OpenAPI document what belongs to no single endpoint.

    That is the schema that document_problems() refers to, and the problems of addresses and methods
    that are not in the document.
    """
    components = app.openapi()["components"]
    components["schemas"][ProblemReport.__name__] = ProblemReport.model_json_schema()
    components["responses"] = {
        code: _document_status([KINDS[code]]) for code in sorted(_OUTSIDE_CODES)
    }


def _document_status(kinds: list[ProblemKind]) -> dict[str, Any]:
    headers = _HEADERS_BY_STATUS.get(kinds[0].status)
    return {
        "description": "; ".join(kind.title for kind in kinds),
        **({"headers": headers} if headers else {}),
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": f"#/components/schemas/{ProblemReport.__name__}"},
                "examples": {
                    kind.code: {
                        "value": {
                            "type": TYPE_PREFIX + kind.code,
                            "title": kind.title,
                            "status": kind.status,
                            "code": kind.code,
                            "detail": "What exactly was wrong, in words.",
                            "request_id": "5f0c6c3e0d0b4c8f9a1e2b3c4d5e6f70",
                        }
                    }
                    for kind in kinds
                },
            }
        },
    }
