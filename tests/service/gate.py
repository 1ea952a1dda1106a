"""Gate: holds up whoever passes through, in this process or another, until it is opened."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

WAIT_S = 60.0


class Gate:
    """A folder. Folders in it are made and looked for without opening a file: decoders may not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def arrived(self) -> int:
        """How many have come to the gate so far."""
        return len(list(self._folder.glob("arrived-*")))

    def open(self) -> None:
        (self._folder / "open").mkdir(exist_ok=True)

    def await_arrivals(self, count: int) -> None:
        """Block until so many have come to the gate."""
        give_up_s = time.monotonic() + WAIT_S
        while self.arrived < count:
            assert time.monotonic() < give_up_s, f"only {self.arrived} came"
            time.sleep(0.005)

    def pass_through(self) -> None:
        (self._folder / f"arrived-{uuid.uuid4().hex}").mkdir()
        give_up_s = time.monotonic() + WAIT_S
        while not (self._folder / "open").exists():
            assert time.monotonic() < give_up_s, "nobody opened the gate"
            time.sleep(0.005)
