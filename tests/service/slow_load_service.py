"""python -m tests.service.slow_load_service: models that, once read, wait at a gate.

GATE_FOLDER names the gate's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from service.__main__ import main
from service.registry import ModelRegistry
from service.runtime import Collaborators, load_models
from service.settings import Settings
from tests.service.gate import Gate


def load_slowly(settings: Settings) -> ModelRegistry:
    registry = load_models(settings)
    Gate(Path(os.environ["GATE_FOLDER"])).pass_through()
    return registry


if __name__ == "__main__":
    sys.exit(main(Collaborators(load_models=load_slowly)))
