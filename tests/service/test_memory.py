"""Memory: what there is, and what the operator is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.memory import describe_shortage, find_available_memory

GIBIBYTE = 1024**3


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")
    return file


def test_the_machines_available_memory_counts(meminfo: Path, tmp_path: Path) -> None:
    assert find_available_memory(meminfo, tmp_path) == 8 * GIBIBYTE


@pytest.mark.parametrize(("most", "found"), [(2 * GIBIBYTE, 1), (64 * GIBIBYTE, 8), ("max", 8)])
def test_a_containers_limit_counts_where_it_is_less(
    meminfo: Path, tmp_path: Path, most: object, found: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{most}\n")
    (tmp_path / "memory.current").write_text(f"{GIBIBYTE}\n")
    assert find_available_memory(meminfo, tmp_path) == found * GIBIBYTE


def test_a_system_that_does_not_tell_is_believed_to_have_enough(tmp_path: Path) -> None:
    available = find_available_memory(tmp_path / "none", tmp_path)
    assert available is None
    assert describe_shortage(64, GIBIBYTE, available) is None


def test_a_shortage_is_told_with_its_variables_and_figures() -> None:
    assert describe_shortage(4, GIBIBYTE, 4 * GIBIBYTE) is None
    told = describe_shortage(4, GIBIBYTE, 3 * GIBIBYTE)
    assert told is not None
    assert "HAR_DECODERS=4 x HAR_DECODER_MEMORY_BYTES=1073741824 is 4.0 GiB" in told
    assert "only 3.0 GiB are available" in told
