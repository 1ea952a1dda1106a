"""What the tests of the deployment share: a clip, and a models folder that loads quickly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.drawing import Drawing

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Drawing().write(tmp_path_factory.mktemp("clip") / "drawn").read_bytes()


@pytest.fixture(scope="session")
def lrcn_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "lrcn", folder / "lrcn")
    return folder
