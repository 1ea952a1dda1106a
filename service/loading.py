"""Loading in a thread that nobody has to wait for: a model takes seconds, a stop must not.

A thread cannot be ended from outside. asyncio's own are waited for when its loop ends and again
when Python does; these are not. Whoever ends a process should ask is_loading() first: Python's
own end, beside a thread that is amid ONNX Runtime's code, may crash.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

_Result = TypeVar("_Result")

_THREAD_NAME: Final = "load-models"


def is_loading() -> bool:
    """Whether one of these threads still runs in this process."""
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())


async def load_in_thread(
    load: Callable[[], _Result], *, discard: Callable[[_Result], None]
) -> _Result:
    """Call `load` in a thread. If this is cancelled the thread goes on, and nobody waits for it.

    Args:
        load: what to call.
        discard: called with the result, in any thread, if by then nobody wants it.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Result] = loop.create_future()

    def work() -> None:
        try:
            result = load()
        except BaseException as error:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_fail, answer, error)
            return
        try:
            loop.call_soon_threadsafe(_settle, answer, result, discard)
        except RuntimeError:
            discard(result)

    threading.Thread(target=work, name=_THREAD_NAME, daemon=True).start()
    return await answer


def _settle(
    answer: asyncio.Future[_Result], result: _Result, discard: Callable[[_Result], None]
) -> None:
    if answer.done():
        discard(result)
    else:
        answer.set_result(result)


def _fail(answer: asyncio.Future[_Result], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
