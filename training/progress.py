"""Progress on standard error: a bar for a person, a line now and then for a log file."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

#: So many lines, evenly spaced, tell a log file how far the work is.
LINES = 10


class Progress:
    """Counts up to `total`; as a context manager it tidies up its bar.

        with Progress(total=len(clips), title="decoding", unit="clip") as progress:
            progress.advance(1)

    Args:
        total: how many units the whole work has; None if nobody knows, which a log file is then
            told once.
        title: what is being done.
        unit: of `total`; "B" is counted in powers of 1024.
        done: units done before.
        stream: standard error if None.
    """

    def __init__(
        self,
        *,
        total: int | None,
        title: str,
        unit: str,
        done: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._title, self._unit, self._done = total, title, unit, done
        self._bar: Any = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=title,
                unit=unit,
                unit_scale=unit == "B",
                unit_divisor=1024 if unit == "B" else 1000,
                file=self._stream,
            )
        elif total is None:
            print(f"{title} ...", file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, units: int) -> None:
        """Count `units` more as done."""
        before, self._done = self._done, self._done + units
        if self._bar is not None:
            self._bar.update(units)
        elif self._total:
            line = min(self._done * LINES // self._total, LINES)
            if line > before * LINES // self._total:
                share = self._done * 100 // self._total
                print(
                    f"{self._title}: {self._done} of {self._total} {self._unit} ({share} %)",
                    file=self._stream,
                    flush=True,
                )
