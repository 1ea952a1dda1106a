"""python -m tests.service.lost_gpu_classify FILES: the command line on a GPU that then fails."""

from __future__ import annotations

from service.classify import run
from service.runtime import Collaborators
from tests.service.lost_gpu_service import load_models

if __name__ == "__main__":
    run(Collaborators(load_models=load_models))
