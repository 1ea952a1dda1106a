"""The service's version, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def find_version() -> str:
    """The installed package's version; "0" in a checkout that was never installed."""
    try:
        return version("har-service")
    except PackageNotFoundError:
        return "0"
