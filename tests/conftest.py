"""What tests of several packages share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips that lies beside a developer's checkout; tests skip without it."""
    folder = Path(os.environ.get("HAR_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "robust").is_dir():
        pytest.skip(f"no real clips: HAR_SHARED or ../shared names no folder with them ({folder})")
    return folder
