"""Behind a proxy: whose word is taken for a client's address, and where the service says it is."""

from __future__ import annotations

import logging
from typing import Any

import pytest


def log_of(service: Any, caplog: pytest.LogCaptureFixture, **headers: str) -> dict[str, Any]:
    """The fields of the log's line of one request with these headers."""
    service.settle()
    caplog.clear()
    caplog.set_level(logging.INFO, "service.middleware")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    service.client.get("/models", headers=named)
    service.settle()
    (record,) = caplog.records
    fields: dict[str, Any] = record.fields
    return fields


@pytest.mark.parametrize("trusted", [None, ["192.0.2.1/32"]])
def test_f25_a_stranger_is_not_believed_about_addresses(start_service, caplog, trusted) -> None:
    with start_service(trusted_proxies=trusted) as service:
        fields = log_of(service, caplog, X_Forwarded_For="203.0.113.7", X_Forwarded_Proto="https")
    assert (fields["client"], fields["scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::1%a b", "fe80::1"),
        ("a lie, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.1.2.3", "203.0.113.7"),
    ],
)
def test_a_trusted_proxy_tells_the_clients_address(
    start_service, caplog, forwarded: str, client: str
) -> None:
    with start_service(trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"]) as service:
        fields = log_of(service, caplog, X_Forwarded_For=forwarded, X_Forwarded_Proto="https")
    assert (fields["client"], fields["scheme"]) == (client, "https")


def test_f25_what_is_no_address_stays_out_of_the_log(start_service, caplog) -> None:
    with start_service(trusted_proxies=["127.0.0.1"]) as service:
        fields = log_of(service, caplog, X_Forwarded_For="evil.example", X_Forwarded_Proto="evil")
    assert "client" not in fields
    assert fields["scheme"] == "http"


def test_below_a_path_the_document_names_it_and_nothing_moves(start_service, red_clip) -> None:
    with start_service(root_path="/video/har") as service:
        document = service.client.get("/openapi.json").json()
        assert document["servers"] == [{"url": "/video/har"}]
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.client.get("/health/ready").status_code == 200
        # Else a proxy that keeps /metrics to itself would open it under another name.
        assert service.client.get("/video/har/metrics").status_code == 404
        assert service.client.get("/video/harmetrics").status_code == 404
        assert (
            service.metric(
                "har_request_duration_seconds_count", route="/predict", model="lrcn", code="200"
            )
            == 1
        )


def test_without_a_path_the_document_names_no_server(service) -> None:
    assert "servers" not in service.client.get("/openapi.json").json()
