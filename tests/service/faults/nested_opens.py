"""What a process opens and connects to, as the kernel reports it through strace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CALLS = "open,openat,openat2,creat,socket,connect,execve,fork,vfork,clone,clone3"


class Trace:
    """The calls so far of the processes that are watched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def calls(self) -> list[str]:
        """One line for each call, with its arguments and result."""
        return [
            line
            for file in sorted(self._folder.iterdir())
            for line in file.read_text().splitlines()
            if not line.startswith(("+++", "---"))
        ]


@contextmanager
def traced(process_ids: Iterable[int], folder: Path) -> Iterator[Trace]:
    """Watch processes for the duration of the `with`; they are not ended.

    Raises:
        PermissionError: this system lets nobody watch.
    """
    folder.mkdir()
    words = [word for process_id in process_ids for word in ("-p", str(process_id))]
    with subprocess.Popen(
        ["strace", "-ff", "-e", f"trace={_CALLS}", "-o", str(folder / "trace"), *words],
        stderr=subprocess.PIPE,
        text=True,
    ) as strace:
        assert strace.stderr is not None
        try:
            for _ in process_ids:
                told = strace.stderr.readline()
                if "attached" not in told:
                    raise PermissionError(told)
            yield Trace(folder)
        finally:
            strace.terminate()
