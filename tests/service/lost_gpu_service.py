"""python -m tests.service.lost_gpu_service: the service on a GPU that fails once it serves."""

from __future__ import annotations

import sys

from service.__main__ import main
from service.registry import ModelRegistry
from service.runtime import Collaborators, configure_registry
from service.settings import Settings
from tests.service.fake_gpu import ILLEGAL_ACCESS, FakeGpu


def load_models(settings: Settings) -> ModelRegistry:
    """The models, warmed up on a GPU that then is lost."""
    gpu = FakeGpu()
    registry = ModelRegistry.load(configure_registry(settings), gpu)
    gpu.failure = lambda clips: ILLEGAL_ACCESS
    return registry


if __name__ == "__main__":
    sys.exit(main(Collaborators(load_models=load_models)))
