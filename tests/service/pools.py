"""A DecodePool to ask, and what a test sees of its processes."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from clip import ClipSpec, Limits
from clip.errors import DecodeError
from service.deadline import Deadline
from service.decoding import DecodePool

FAR = Deadline.after(3600)
MISBEHAVE = "tests.service.decoder_jobs:misbehave"
MEBIBYTE = 1024 * 1024


@contextmanager
def file_of(content: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file


class Decoding:
    """A started pool, what it told of its restarts, and a shorter way to ask it."""

    def __init__(self, **options: Any) -> None:
        self.restarts: Counter[str] = Counter()
        defaults: dict[str, Any] = {"workers": 1, "limits": Limits(), "timeout_s": 20}
        self.pool = DecodePool(**(defaults | options), on_restart=self._note)

    def _note(self, reason: str) -> None:
        self.restarts[reason] += 1

    async def decode(self, content: bytes, deadline: Deadline = FAR) -> Any:
        with file_of(content) as file:
            return await self.pool.decode(file, ClipSpec(), deadline)

    async def ask(self, what: str) -> str:
        """What a decoder tells of itself."""
        with pytest.raises(DecodeError) as told:
            await self.decode(b"tell " + what.encode())
        return told.value.message

    async def until_refilled(self, workers: int = 1) -> None:
        await until(lambda: len(self.pool.process_ids) == workers + 1)


@asynccontextmanager
async def decoding(**options: Any) -> AsyncIterator[Decoding]:
    it = Decoding(**options)
    await it.pool.start()
    try:
        yield it
    finally:
        await it.pool.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds; the test's own bound ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what it waits for happens in other processes
        await asyncio.sleep(0.005)


def is_running(process_id: int) -> bool:
    """Whether it is a process that is not dead: a zombie is."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
