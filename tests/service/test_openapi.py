"""openapi.yaml: the generated document, and true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service.app import create_app
from service.errors import KINDS
from service.openapi import render_document
from service.schemas import ProblemReport
from service.settings import Settings

CHECKED_IN = Path(__file__).parents[2] / "openapi.yaml"


@pytest.fixture(scope="module")
def document() -> dict:
    return create_app(Settings()).openapi()


def test_the_file_is_what_python_m_service_openapi_writes() -> None:
    assert CHECKED_IN.read_text(encoding="utf-8") == render_document()
    assert yaml.safe_load(render_document()) == create_app(Settings()).openapi()


def test_an_upload_is_a_form_or_the_video_itself(document) -> None:
    body = document["paths"]["/predict"]["post"]["requestBody"]
    assert body["required"]
    assert set(body["content"]) == {"multipart/form-data", "video/*", "application/octet-stream"}
    form = body["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["file"]["format"] == "binary"
    assert form["required"] == ["file"]


def test_every_problem_is_documented_with_an_example_under_its_status(document) -> None:
    answers = document["paths"]["/predict"]["post"]["responses"]
    documented = {
        code: int(status)
        for status, answer in answers.items()
        if status != "200"
        for code in answer["content"]["application/problem+json"]["examples"]
    }
    outside = {"not_found", "method_not_allowed"}
    outside |= {"reload_disabled", "reload_refused"}
    assert documented == {code: kind.status for code, kind in KINDS.items() if code not in outside}


def find_examples(node) -> Iterator[dict]:
    """The bodies of all examples of problems, wherever in the document."""
    if isinstance(node, dict):
        for example in node.get("application/problem+json", {}).get("examples", {}).values():
            yield example["value"]
        for child in node.values():
            yield from find_examples(child)


def test_every_problem_there_is_has_an_example(document) -> None:
    examples = list(find_examples(document))
    assert {example["code"]: (example["status"], example["title"]) for example in examples} == {
        code: (kind.status, kind.title) for code, kind in KINDS.items()
    }
    for example in examples:
        ProblemReport.model_validate(example)


def test_headers_that_an_answer_carries_are_documented(document, service, expect_problem) -> None:
    allowed = document["components"]["responses"]["method_not_allowed"]["headers"]
    problem = service.client.get("/predict")
    expect_problem(problem, 405, "method_not_allowed")
    assert {name.lower() for name in allowed} <= set(problem.headers)
    answers = document["paths"]["/predict"]["post"]["responses"]
    assert set(answers["401"]["headers"]) == {"WWW-Authenticate"}
    assert set(answers["429"]["headers"]) == set(answers["503"]["headers"]) == {"Retry-After"}


def test_every_reference_in_the_document_leads_somewhere(document) -> None:
    schemas = document["components"]["schemas"]
    text = render_document()
    referred = {line.rpartition("/")[2].strip("'") for line in text.splitlines() if "$ref" in line}
    assert referred <= set(schemas)
    assert "ProblemReport" in referred


def test_the_served_document_is_the_same(service, document) -> None:
    assert service.client.get("/openapi.json").json() == document
