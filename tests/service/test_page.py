"""/: the page's files, and what the browser is told about them; web/ uses the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from service.page import ASSETS


class Page(HTMLParser):
    """The ids and addresses in a page, and what would need a looser policy."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.inline += [name for name in named if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in named):
            self.inline.append(tag)


@pytest.fixture(scope="module")
def page(shared_service) -> Page:
    return Page(shared_service.client.get("/").text)


def test_all_that_the_page_and_its_scripts_name_is_here(service, page) -> None:
    imported = {
        name
        for asset in ASSETS
        for name in re.findall(r'from "\./([^"]+)"', service.client.get(f"/web/{asset}").text)
    }
    needed = {address for address in page.addresses if address.startswith("web/")}
    assert {f"web/{name}" for name in ASSETS} == needed | {f"web/{name}" for name in imported}
    for address in page.addresses:
        assert not urlsplit(address).netloc, address
        assert service.client.get(urljoin("/", address)).status_code == 200, address


def test_the_page_and_its_files_name_no_other_host(service) -> None:
    for path in ["", *(f"web/{name}" for name in ASSETS)]:
        text = service.client.get(f"/{path}").text
        assert not re.search(r"(?<!xmlns=\")https?://", text), path


def test_the_policy_lets_nothing_in_from_elsewhere_and_nothing_inline(service, page) -> None:
    answer = service.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert not re.search(r"unsafe|http|\*|data:", policy)
    assert not page.inline


@pytest.mark.parametrize("path", ["/", "/web/main.js"])
def test_the_page_can_be_framed_by_nobody_and_tells_nobody_where_it_is(service, path: str) -> None:
    headers = service.client.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert {"frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} <= {*policy}
    assert "require-trusted-types-for 'script'" in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"


def test_every_element_that_the_script_asks_for_is_in_the_page(service, page) -> None:
    script = service.client.get("/web/main.js").text
    asked = set(re.findall(r'\$\("([^"]+)"\)', script))
    assert len(asked) > 20
    assert asked <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_is_told_the_upload_limit(service) -> None:
    text = service.client.get("/").text
    limit = service.runtime.settings.max_upload_bytes
    assert f'<meta name="max-upload-bytes" content="{limit}">' in text
    assert "{{" not in text


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
def test_files_have_their_type_and_are_asked_for_anew(service, name: str, media_type: str) -> None:
    answer = service.client.get(f"/web/{name}")
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["index.html", "..%2fpage.py", "%2e%2e/page.py", "nothing"])
def test_nothing_else_is_served(service, expect_problem, name: str) -> None:
    expect_problem(service.client.get(f"/web/{name}"), 404, "not_found")


@pytest.mark.parametrize(("path", "route"), [("/", "/"), ("/web/main.js", "/web/{asset}")])
def test_visits_are_counted_under_a_fixed_route(service, path: str, route: str) -> None:
    labels = {"route": route, "model": "none", "code": "200"}
    before = service.metric("har_request_duration_seconds_count", **labels)
    service.client.get(path)
    assert service.metric("har_request_duration_seconds_count", **labels) == before + 1


def test_the_page_needs_no_key(start_service) -> None:
    with start_service(api_keys=("a-key-of-16-chars",)) as service:
        assert service.client.get("/").status_code == 200
        assert service.client.get("/web/main.js").status_code == 200
