"""What tests of several packages share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Time says nothing here: a test of code that is too slow belongs in benchmarks/.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips that lies beside a developer's checkout; tests skip without it."""
    folder = Path(os.environ.get("HAR_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "robust").is_dir():
        pytest.skip(f"no real clips: HAR_SHARED or ../shared names no folder with them ({folder})")
    return folder
