"""openapi.yaml: the generated document, and true."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from service.app import create_app
from service.errors import KINDS
from service.openapi import render_document
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
    outside = {"bad_request", "not_found", "method_not_allowed"}
    outside |= {"reload_disabled", "reload_refused"}
    assert documented == {code: kind.status for code, kind in KINDS.items() if code not in outside}


def test_every_reference_in_the_document_leads_somewhere(document) -> None:
    schemas = document["components"]["schemas"]
    text = render_document()
    referred = {line.rpartition("/")[2].strip("'") for line in text.splitlines() if "$ref" in line}
    assert referred <= set(schemas)
    assert "ProblemReport" in referred


def test_the_served_document_is_the_same(service, document) -> None:
    assert service.client.get("/openapi.json").json() == document
