"""The common form of the reports in benchmarks/reports/."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

REPORTS = Path(__file__).parent / "reports"


def environment(*packages: str) -> list[str]:
    """What was measured on: processor, cores, Python and the named packages' versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0].split(":")[1].strip() if models else processor
    named = ", ".join(f"{package} {version(package)}" for package in packages)
    return [f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {named}."]


def write_report(name: str, title: str, remarks: list[str], lines: list[str]) -> None:
    """Write benchmarks/reports/<name>.md and print it."""
    text = "\n".join([f"# {title}", "", " ".join(remarks), "", *lines]) + "\n"
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{name}.md").write_text(text)
    print(text)
