"""Print what the service's image installs: the project's requirements, with one ONNX Runtime.

    python docker/requirements.py pyproject.toml cpu|gpu [extra ...]

pyproject.toml's markers take onnxruntime-gpu on Linux. It runs on a CPU as well but brings 285 MB
of CUDA kernels. An image knows where it will run: "cpu" takes onnxruntime, "gpu" takes
onnxruntime-gpu with NVIDIA's libraries. Never both, they overwrite each other.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

_RUNTIMES: Final = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}
_GPU_EXTRAS: Final = "[cuda,cudnn]"
_AFTER_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")


def list_requirements(pyproject: str, variant: str, extras: list[str]) -> list[str]:
    """The requirements of a variant. Raises KeyError for an unknown variant or extra."""
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    chosen = _RUNTIMES[variant]
    requirements = []
    for requirement in wanted:
        name = _AFTER_NAME.split(requirement, maxsplit=1)[0]
        if name not in _RUNTIMES.values():
            requirements.append(requirement)
        elif name == chosen:
            versions = requirement.partition(";")[0].removeprefix(name)
            requirements.append(name + (_GPU_EXTRAS if variant == "gpu" else "") + versions)
    return requirements


if __name__ == "__main__":
    _, path, variant, *extras = sys.argv
    print("\n".join(list_requirements(Path(path).read_text("utf-8"), variant, extras)))
