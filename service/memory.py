"""How much memory there is, and whether the decoders could need more."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_GIBIBYTE = 1024**3


def find_available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can still be used: of the machine, or of the container where that is less.

    Args:
        meminfo: Linux's /proc/meminfo.
        cgroup: folder of the container's cgroup v2, with memory.max and memory.current.

    Returns:
        None where the system does not tell, as on macOS.
    """
    found = [_available_in_machine(meminfo), _available_in_cgroup(cgroup)]
    return min((available for available in found if available is not None), default=None)


def describe_shortage(decoders: int, memory_bytes: int, available: int | None) -> str | None:
    """What to tell the operator if all decoders together may use more than there is."""
    needed = decoders * memory_bytes
    if available is None or needed <= available:
        return None
    return (
        f"HAR_DECODERS={decoders} x HAR_DECODER_MEMORY_BYTES={memory_bytes} is "
        f"{needed / _GIBIBYTE:.1f} GiB, but only {available / _GIBIBYTE:.1f} GiB are available: "
        "a few large videos at once can exhaust the memory. Lower one of them."
    )


def _available_in_machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _available_in_cgroup(cgroup: Path) -> int | None:
    try:
        most = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no limit
        return None
    return max(0, most - used)
