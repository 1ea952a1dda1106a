"""docker/nginx/site-prefix.conf: the service below a path of a host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.deploy.answers import CLOSED, ask_raw, expect_problem
from tests.deploy.nginx import Nginx, needs_nginx, run_nginx
from tests.service.process import launch_service


@pytest.fixture(scope="module")
def nginx_below_har(lrcn_alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("below")
    with (
        launch_service(lrcn_alone, folder, HAR_ROOT_PATH="/har") as service,
        run_nginx(folder / "nginx", service.port, "site-prefix.conf") as nginx,
    ):
        yield nginx


@needs_nginx
def test_below_a_path_pages_work_with_all_that_they_load(nginx_below_har: Nginx) -> None:
    with nginx_below_har.client() as client:
        sent_on = client.get("/har")
        assert sent_on.headers["location"] == f"{nginx_below_har.url}/har/"
        for page in ("/har/", "/har/docs"):
            text = client.get(page).raise_for_status().text
            wanted = set(re.findall(r"""(?:src="|href="|url: ')([^"']+)["']""", text))
            assert len(wanted) >= 4
            for reference in wanted:
                answer = client.get(urljoin(f"{nginx_below_har.url}{page}", reference))
                assert answer.status_code == 200, reference


@needs_nginx
def test_below_a_path_the_document_leads_to_the_service(
    nginx_below_har: Nginx, clip: bytes
) -> None:
    with nginx_below_har.client() as client:
        document = client.get("/har/openapi.json").json()
        (server,) = document["servers"]
        assert "/predict" in document["paths"]
        answer = client.post(f"{server['url']}/predict?top_k=1", files={"file": clip})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["probabilities"]) == 1


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/predict",
        *CLOSED,
        *(f"/har{path}" for path in CLOSED),
        "/har/har/metrics",
        "/harmless",
    ],
)
def test_below_a_path_nothing_else_is_there(nginx_below_har: Nginx, path: str) -> None:
    expect_problem(ask_raw(nginx_below_har, path), "not_found")
