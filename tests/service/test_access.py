"""Access: with keys set, nobody gets in without one, and no key gets out."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from service import access
from service.access import Access
from service.errors import UnauthorizedError

OLD, NEW = "the-old-key-0123456789", "the-new-key-0123456789"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, models_dir, start_shared) -> Iterator[Any]:
    """A service that two keys open."""
    folder = tmp_path_factory.mktemp("locked")
    with start_shared(folder, models_dir, api_keys=f"{OLD},{NEW}", decoders=1) as service:
        yield service


def post(service, clip: bytes, headers: dict[str, str], path: str = "/predict"):
    return service.client.post(path, files={"file": clip}, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": OLD},
        {"X-API-Key": NEW},
        {"Authorization": f"Bearer {NEW}"},
        {"Authorization": f"bearer {OLD}"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {NEW}"},
        {"X-API-Key": OLD, "Authorization": "Bearer of-a-proxy-in-between"},
    ],
)
def test_any_of_the_keys_lets_in_by_either_header(locked, red_clip, headers) -> None:
    assert post(locked, red_clip, headers).json()["label"] == "red"
    assert locked.client.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"X-API-Key": ""}, ""),
        ({"X-API-Key": OLD[:-1]}, ""),
        ({"X-API-Key": OLD + "x"}, ""),
        ({"X-API-Key": OLD.upper()}, ""),
        ({"X-API-Key": f"{OLD},{NEW}"}, ""),
        ({"X-API-Key": "x" * 50_000}, ""),
        ({"X-API-Key": "\xff\xfe"}, ""),
        ({"Authorization": f"Basic {NEW}"}, ""),
        ({"Authorization": NEW}, ""),
        ({}, f"?key={NEW}"),
        ({}, f"?api_key={NEW}&X-API-Key={NEW}"),
        ({}, "?model=nope&top_k=x"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_f23_without_a_key_nothing_is_answered_but_401(
    locked, red_clip, expect_problem, headers, query
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    for response in (
        post(locked, red_clip, raw, "/predict" + query),
        locked.client.get("/models" + query, headers=raw),
    ):
        expect_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer ")


def test_f23_a_body_without_a_key_is_not_asked_for(locked) -> None:
    with locked.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: video/mp4\r\n"
            b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
        )
        status, headers, problem = locked.read_answer(connection)
    assert (status, problem["code"], headers["connection"]) == (401, "unauthorized", "close")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json"])
def test_what_machines_poll_needs_no_key(locked, path: str) -> None:
    assert locked.client.get(path).status_code == 200


def test_f23_no_key_is_in_the_log_the_metrics_or_an_answer(locked, red_clip, caplog) -> None:
    # The client's own, and those that service.__main__ silences.
    for logger in ("httpcore", "httpx", "uvicorn", "asyncio"):
        caplog.set_level(logging.WARNING, logger)
    caplog.set_level(logging.DEBUG)
    answers = [
        post(locked, red_clip, {"X-API-Key": NEW}),
        post(locked, red_clip, {"Authorization": f"Bearer {NEW}x"}),
        post(locked, red_clip, {}, f"/predict?key={NEW}"),
        locked.client.get("/metrics"),
    ]
    locked.settle()
    logged = str([vars(record) for record in caplog.records])
    assert "unauthorized" in logged
    for text in (logged, caplog.text, *(answer.text + str(answer.headers) for answer in answers)):
        assert NEW not in text


def test_f23_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return original(one, other)

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    gate = Access([SecretStr(OLD), SecretStr(NEW)])
    gate.check([OLD])
    assert len(compared) == 2
    with pytest.raises(UnauthorizedError):
        gate.check(["x"])
    assert len(compared) == 4
    assert {len(digest) for pair in compared for digest in pair} == {32}


def test_without_keys_everyone_is_let_in() -> None:
    Access([]).check([])
    Access([]).check(["whatever"])
