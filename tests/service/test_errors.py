"""Errors: one list of codes, which everything that can go wrong is on."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from clip import errors as clip_errors
from clip.errors import ClipError, EmptyFileError, UnknownContainerError
from service import errors
from service.errors import KINDS, ServiceError, UnknownModelError, describe_error


def leaves(base: type[Exception]) -> Iterator[type[Exception]]:
    """The classes below `base` that nothing in the code derives from."""
    below = [kind for kind in base.__subclasses__() if kind.__module__ in MODULES]
    for kind in below:
        yield from leaves(kind)
    if not below:
        yield base


MODULES = (clip_errors.__name__, errors.__name__)


@pytest.mark.parametrize("error", list(leaves(ServiceError)), ids=lambda error: error.__name__)
def test_every_service_error_is_listed_and_drawn_in_the_tree(error: type[ServiceError]) -> None:
    problem = describe_error(error("What happened."))
    assert problem.kind is KINDS[error.code]
    assert problem.detail == "What happened."
    assert f"{error.__name__} " in str(errors.__doc__)


@pytest.mark.parametrize("error", list(leaves(ClipError)), ids=lambda error: error.__name__)
def test_every_clip_error_is_listed_and_is_the_videos_fault(error: type[ClipError]) -> None:
    problem = describe_error(error("What is wrong with it."))
    assert problem.kind is KINDS[error.code]
    statuses = {EmptyFileError: 400, UnknownContainerError: 415}
    assert problem.kind.status == statuses.get(error, 422)
    assert problem.detail == "What is wrong with it."


def test_a_clip_error_of_tomorrow_is_still_the_videos_fault() -> None:
    class NewError(ClipError):
        code = "something_new"

    assert describe_error(NewError("New.")).kind.status == 422


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_code_has_a_real_status_and_words(kind: errors.ProblemKind) -> None:
    assert HTTPStatus(kind.status) >= 400
    assert kind.title
    assert kind.code == kind.code.lower()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HTTPException(404), "not_found"),
        (HTTPException(405), "method_not_allowed"),
        (HTTPException(400), "bad_request"),
        (HTTPException(503), "internal_error"),
        (RequestValidationError([]), "invalid_parameter"),
        (KeyError("/secret/path"), "internal_error"),
    ],
)
def test_errors_of_the_framework_and_unexpected_ones_have_a_code(
    error: Exception, code: str
) -> None:
    problem = describe_error(error)
    assert problem.kind.code == code
    assert "secret" not in problem.detail


def test_headers_of_an_error_reach_the_answer() -> None:
    error = UnknownModelError("None.", headers={"Retry-After": "3"})
    response = errors.render_problem(describe_error(error), "id")
    assert response.headers["retry-after"] == "3"
    assert response.media_type == "application/problem+json"
