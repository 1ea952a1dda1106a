"""ProgressBar: how far a long job is, in one line of a terminal."""

from __future__ import annotations

import time
from typing import Final, TextIO

_WIDTH: Final = 24
_CLEAR: Final = "\r\x1b[K"
#: A terminal is not there to be redrawn a thousand times a second.
_REDRAW_S: Final = 0.1


class ProgressBar:
    """Drawn on a terminal where there is more than one thing to do; elsewhere nothing is written.

    Lines printed between clear() and advance() or draw() stay above it.
    """

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._visible = total > 1 and stream.isatty()
        self._began_s = time.monotonic()
        self._drawn_s = 0.0
        self._done = 0
        self._failed = 0

    def advance(self, *, failed: bool) -> None:
        """One more is done; draw, unless that was just done."""
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._drawn_s >= _REDRAW_S:
            self.draw()

    def draw(self) -> None:
        """Draw the line anew."""
        if self._visible:
            self._drawn_s = time.monotonic()
            self._write(_CLEAR + self._line(self._drawn_s - self._began_s))

    def clear(self) -> None:
        """Take the line away."""
        if self._visible:
            self._write(_CLEAR)

    def _line(self, elapsed_s: float) -> str:
        filled = _WIDTH * self._done // self._total
        bar = "█" * filled + "░" * (_WIDTH - filled)
        failed = f", {self._failed} failed" if self._failed else ""
        rest = ""
        if self._done:
            left_s = round(elapsed_s / self._done * (self._total - self._done))
            rest = f", {left_s // 60}:{left_s % 60:02d} left"
        return f"{bar} {self._done} of {self._total}{failed}{rest}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
