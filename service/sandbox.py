"""Confinement of a decoder process, by what the operating system offers without privileges.

Linux has all of it. macOS has no PR_SET_PDEATHSIG and no PR_SET_NO_NEW_PRIVS and does not hold a
process to RLIMIT_AS: there a decoder's memory is unlimited, and one whose service was killed ends
when it next turns to it, at the latest by RLIMIT_CPU.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
#: Room for a module that Python imports late; a job gets less, see forbid_opening().
_MAX_DESCRIPTORS: Final = 32


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a decoder may use.

    Attributes:
        memory_bytes: address space beyond what it maps when it starts.
        cpu_s: CPU seconds for one job.
    """

    memory_bytes: int
    cpu_s: int


def confine(confinement: Confinement, parent: int) -> None:
    """Confine this process, for good, and have it die with the process `parent`.

    Raises:
        OSError: the system refuses.
        ProcessLookupError: the parent is gone already.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        mapped_bytes = _mapped_bytes()
        _limit(resource.RLIMIT_AS, mapped_bytes + confinement.memory_bytes)
        # Where a container's memory runs out, a decoder is to be ended and not the service.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if os.getppid() != parent:  # it died before PR_SET_PDEATHSIG could tell
        raise ProcessLookupError("the parent is gone")
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)


def limit_cpu(cpu_s: int) -> None:
    """Have the system end this process once it has used `cpu_s` more CPU seconds.

    The service's own deadline comes first; this one holds where there is no service any more.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = math.ceil(usage.ru_utime + usage.ru_stime)
    _, most_s = resource.getrlimit(resource.RLIMIT_CPU)
    soft_s = used_s + cpu_s if most_s == resource.RLIM_INFINITY else min(used_s + cpu_s, most_s)
    resource.setrlimit(resource.RLIMIT_CPU, (soft_s, most_s))


@contextmanager
def forbid_opening(last_descriptor: int) -> Iterator[None]:
    """For the duration of the `with` no descriptor above `last_descriptor` can be opened.

    It stops what a library would open at a file's word. Code that has taken over the process can
    lift it again.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last_descriptor + 1, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _limit(what: int, most: int) -> None:
    _, allowed = resource.getrlimit(what)
    if allowed != resource.RLIM_INFINITY:
        most = min(most, allowed)
    resource.setrlimit(what, (most, most))


def _prctl(option: int, value: int) -> None:
    # Unused arguments have to be zero, and as long as a register.
    zero = ctypes.c_ulong(0)
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), zero, zero, zero):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()
