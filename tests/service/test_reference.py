"""/docs: complete without any other host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from service.reference import ASSETS


class References(HTMLParser):
    """The addresses that a page's elements name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "action"}]


def test_the_page_names_nothing_off_host_and_all_that_it_names_is_there(service) -> None:
    page = service.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    references = References()
    references.feed(page.text)
    documents = re.findall(r"url: '([^']+)'", page.text)
    assert documents == ["openapi.json"]
    assert len(references.found) == len(ASSETS)
    for reference in references.found + documents:
        assert not urlsplit(reference).netloc, reference
        answer = service.client.get(urljoin("/docs", reference))
        assert answer.status_code == 200, reference
        assert answer.content
    assert not re.search(r"https?:|[\"'(]//", page.text)


def test_the_browser_is_told_to_ask_no_other_host(service) -> None:
    page = service.client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "*" not in policy
    assert '"validatorUrl": null' in page.text, "it would be given the document's address"


def test_the_style_loads_nothing(service) -> None:
    style = service.client.get("/docs/swagger-ui.css").text
    assert "@import" not in style
    urls = re.findall(r"url\(\s*[\"']?([^\"')]{0,5})", style)
    assert urls
    assert set(urls) == {"data:"}


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
def test_assets_have_their_type(service, name: str, media_type: str) -> None:
    assert service.client.get(f"/docs/{name}").headers["content-type"].startswith(media_type)


def test_a_range_is_no_reason_for_another_kind_of_answer(service) -> None:
    whole = service.client.get("/docs/swagger-ui.css")
    for wanted in ("bytes=99999999-", "bytes=abc", "bytes=0-1"):
        answer = service.client.get("/docs/swagger-ui.css", headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.parametrize("name", ["__init__.py", "..%2f__init__.py", "nothing", "%2e%2e/main.py"])
def test_nothing_else_of_the_package_is_served(service, expect_problem, name: str) -> None:
    expect_problem(service.client.get(f"/docs/{name}"), 404, "not_found")
