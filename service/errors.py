"""What can go wrong with a request, and the one place that turns it into an answer.

    ServiceError                       code
    ├── BadRequestError                bad_request
    ├── InvalidParameterError          invalid_parameter
    ├── MissingFileError               missing_file
    ├── TooManyPartsError              too_many_parts
    ├── MalformedMultipartError        malformed_multipart
    ├── UnauthorizedError              unauthorized
    ├── ReloadDisabledError            reload_disabled
    ├── UnknownModelError              unknown_model
    ├── UnknownVersionError            unknown_version
    ├── UploadTimeoutError             upload_timeout
    ├── ReloadRefusedError             reload_refused
    ├── UploadTooLargeError            upload_too_large
    ├── UnsupportedMediaTypeError      unsupported_media_type
    ├── UnsupportedEncodingError       unsupported_encoding
    ├── DecoderCrashedError            decoder_crashed
    ├── OverloadedError                overloaded
    ├── ModelOutputError               model_output_invalid
    ├── InferenceError                 inference_failed
    ├── GpuMemoryError                 gpu_out_of_memory
    ├── NotReadyError                  not_ready
    │   └── GpuLostError               not_ready
    ├── OutOfConnectionsError          out_of_connections
    ├── StoppingError                  stopping
    ├── DeadlineError                  deadline_exceeded
    └── SpoolFullError                 spool_full
    ClientGoneError                    no answer: there is nobody to read it
    clip.ClipError                     what is wrong with the video; codes of clip.errors

Every answer is RFC 9457 problem+json. `KINDS` is the whole list of codes; docs/errors.md is held to
it by a test. `detail` never holds a path, an address or the words of a library.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from clip.errors import ClipError
from service.context import get_context

logger: Final = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:har:problem:"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of refusal or failure: its stable code, HTTP status and title."""

    code: str
    status: int
    title: str


KINDS: Mapping[str, ProblemKind] = {
    kind.code: kind
    for kind in (
        ProblemKind("bad_request", 400, "Request not understood"),
        ProblemKind("invalid_parameter", 400, "Invalid query parameter"),
        ProblemKind("missing_file", 400, "No file in the request"),
        ProblemKind("empty_file", 400, "Empty file"),
        ProblemKind("too_many_parts", 400, "Too many parts in the form"),
        ProblemKind("malformed_multipart", 400, "Malformed multipart body"),
        ProblemKind("unauthorized", 401, "Key missing or not accepted"),
        ProblemKind("reload_disabled", 403, "Reload not open to everyone"),
        ProblemKind("not_found", 404, "No such address"),
        ProblemKind("unknown_model", 404, "Unknown model"),
        ProblemKind("unknown_version", 404, "Unknown version of the model"),
        ProblemKind("method_not_allowed", 405, "Method not allowed"),
        ProblemKind("upload_timeout", 408, "Upload too slow"),
        ProblemKind("reload_refused", 409, "Models cannot be reloaded"),
        ProblemKind("upload_too_large", 413, "Upload too large"),
        ProblemKind("unsupported_media_type", 415, "Unsupported Content-Type"),
        ProblemKind("unsupported_encoding", 415, "Unsupported Content-Encoding"),
        ProblemKind("unknown_container", 415, "Not a known video container"),
        ProblemKind("no_video_stream", 422, "No video in the file"),
        ProblemKind("unsupported_codec", 422, "Unsupported video codec"),
        ProblemKind("encrypted_video", 422, "Encrypted video"),
        ProblemKind("decode_failed", 422, "Video cannot be decoded"),
        ProblemKind("decode_timeout", 422, "Video takes too long to decode"),
        ProblemKind("decoder_crashed", 422, "Video crashes the decoder"),
        ProblemKind("too_many_pixels", 422, "Picture too large"),
        ProblemKind("too_long", 422, "Video too long"),
        ProblemKind("too_many_streams", 422, "Too many streams in the file"),
        ProblemKind("overloaded", 429, "Too many requests at once"),
        ProblemKind("internal_error", 500, "Internal error"),
        ProblemKind("model_output_invalid", 500, "Model gave an invalid answer"),
        ProblemKind("inference_failed", 500, "Inference failed"),
        ProblemKind("gpu_out_of_memory", 503, "No GPU memory"),
        ProblemKind("not_ready", 503, "Service not ready"),
        ProblemKind("out_of_connections", 503, "Too many connections at once"),
        ProblemKind("stopping", 503, "Service is stopping"),
        ProblemKind("deadline_exceeded", 504, "Request took too long"),
        ProblemKind("spool_full", 507, "No space for the upload"),
    )
}


class ServiceError(Exception):
    """A request that gets no answer but a problem; `detail` is shown to its sender."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class BadRequestError(ServiceError):
    """The request contradicts itself."""

    code = "bad_request"


class InvalidParameterError(ServiceError):
    """A query parameter is unknown, repeated or out of range."""

    code = "invalid_parameter"


class MissingFileError(ServiceError):
    """The request holds no file where one has to be."""

    code = "missing_file"


class TooManyPartsError(ServiceError):
    """The form holds more than one file, or more fields than anyone needs."""

    code = "too_many_parts"


class MalformedMultipartError(ServiceError):
    """The body is not the multipart/form-data that its header announces."""

    code = "malformed_multipart"


class UnauthorizedError(ServiceError):
    """Keys are set, and the request has none of them."""

    code = "unauthorized"


class UnknownModelError(ServiceError):
    """No model of that name is served."""

    code = "unknown_model"


class UnknownVersionError(ServiceError):
    """The model is served, that version of it is not."""

    code = "unknown_version"


class ReloadDisabledError(ServiceError):
    """No keys are set: whoever can reach the service could have it reload its models."""

    code = "reload_disabled"


class ReloadRefusedError(ServiceError):
    """The models folder as a whole cannot be used; what was served still is."""

    code = "reload_refused"


class UploadTimeoutError(ServiceError):
    """The body did not arrive within the request's time."""

    code = "upload_timeout"


class UploadTooLargeError(ServiceError):
    """The body is, or says it is, larger than allowed."""

    code = "upload_too_large"


class UnsupportedMediaTypeError(ServiceError):
    """The body is of a Content-Type that the service does not read."""

    code = "unsupported_media_type"


class UnsupportedEncodingError(ServiceError):
    """The body is compressed; the service never inflates one."""

    code = "unsupported_encoding"


class DecoderCrashedError(ServiceError):
    """The decoder crashed on the video, or needed more memory than it may use."""

    code = "decoder_crashed"


class OverloadedError(ServiceError):
    """Every place, working and waiting, is taken."""

    code = "overloaded"


class ModelOutputError(ServiceError):
    """The model's output for this clip is not a probability distribution."""

    code = "model_output_invalid"


class InferenceError(ServiceError):
    """The runtime failed on this clip."""

    code = "inference_failed"


class GpuMemoryError(ServiceError):
    """The GPU's memory did not do, though the clip was tried alone."""

    code = "gpu_out_of_memory"

    def __init__(
        self,
        detail: str = "The GPU has no memory for this clip now: try again later.",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, headers=headers or {"Retry-After": "1"})


class NotReadyError(ServiceError):
    """The models are not all loaded and warmed yet, or one failed."""

    code = "not_ready"


class GpuLostError(NotReadyError):
    """The GPU failed for good; `reason` is for whoever runs the service, whose process ends."""

    def __init__(
        self,
        detail: str = "The GPU has failed: the service ends, to be started anew.",
        *,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(detail, headers=headers or {"Retry-After": "5"})
        self.reason = reason


class StoppingError(ServiceError):
    """The service is on its way out and takes no new work."""

    code = "stopping"


class OutOfConnectionsError(ServiceError):
    """The service has as many connections or open files as it can have."""

    code = "out_of_connections"


class DeadlineError(ServiceError):
    """The request's time ran out."""

    code = "deadline_exceeded"


class SpoolFullError(ServiceError):
    """The upload could not be stored."""

    code = "spool_full"


class ClientGoneError(Exception):
    """The client hung up before its answer: its work is dropped and nothing is sent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as its sender sees it."""

    kind: ProblemKind
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


#: What the framework refuses by itself, by its status.
_ROUTING_PROBLEMS: Mapping[int, tuple[str, str]] = {
    HTTPStatus.NOT_FOUND: ("not_found", "There is nothing here. See /docs."),
    HTTPStatus.METHOD_NOT_ALLOWED: (
        "method_not_allowed",
        "This address does not take that method. See /docs.",
    ),
}
_OTHER_ROUTING_PROBLEM = ("bad_request", "The request was not understood.")


def describe_error(error: Exception) -> Problem:
    """The problem to answer an exception with; what is not known here is an internal error."""
    match error:
        case ServiceError():
            return Problem(KINDS[error.code], error.detail, error.headers)
        case ClipError():
            # A code that is not listed is a newer ClipError: it is still the video's fault.
            return Problem(KINDS.get(error.code, KINDS["decode_failed"]), error.message)
        case RequestValidationError():
            names = sorted({str(fault["loc"][-1]) for fault in error.errors()})
            return Problem(
                KINDS["invalid_parameter"], f"Not a valid value: {', '.join(names)}. See /docs."
            )
        case HTTPException() if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            code, detail = _ROUTING_PROBLEMS.get(error.status_code, _OTHER_ROUTING_PROBLEM)
            return Problem(KINDS[code], detail, error.headers or {})
        case _:
            detail = "Something went wrong here, not with the video."
            return Problem(KINDS["internal_error"], detail)


def problem_body(kind: ProblemKind, detail: str, request_id: str) -> dict[str, object]:
    """The members of a problem+json document."""
    return {
        "type": TYPE_PREFIX + kind.code,
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "detail": detail,
        "request_id": request_id,
    }


def render_problem(problem: Problem, request_id: str) -> Response:
    """The problem+json answer."""
    return JSONResponse(
        problem_body(problem.kind, problem.detail, request_id),
        status_code=problem.kind.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler: answer the problem; note its code for the log line and the metrics."""
    context = get_context(request)
    if isinstance(error, InferenceError):
        # What the runtime said is its cause, and told nowhere else beside the id.
        logger.error("request %s failed", context.request_id, exc_info=error)
    problem = describe_error(error)
    context.problem_code = problem.kind.code
    return render_problem(problem, context.request_id)


def install_error_handlers(app: FastAPI) -> None:
    """Make every expected error a problem; unexpected ones are service.middleware's."""
    for error_class in (ServiceError, ClipError, RequestValidationError, HTTPException):
        app.add_exception_handler(error_class, answer_error)
