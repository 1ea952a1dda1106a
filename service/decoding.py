"""DecodePool: decodes uploads in child processes, a bounded number at a time.

A video is a stranger's input to a million lines of C. What the pool protects from:

- a crash, an endless loop, a decoder that stops or eats memory or CPU: that clip is answered with
  a problem, its process is killed and replaced, the service and the other clips notice nothing;
- a file that names other files or addresses: a decoder gets an open descriptor and can open no
  second one while it decodes (and `clip.source` asks for none);
- a codec that leaks: a decoder is replaced after `max_jobs` clips;
- a decoder's lies: what it answers is plain bytes and JSON of which every value is checked.

What it does not protect from: code that a hostile file manages to run in a decoder. It runs as the
service's user. It can lift the soft limits, read what that user may read, open connections, and see
and falsify the clips that this decoder is given until it is replaced (`max_jobs=1`: none). It finds
no keys in its memory or environment, gains no privileges by exec, and dies with the service. More
takes a container with a read-only file system, no network and seccomp, or a virtual machine, around
the whole service.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

import numpy as np

from clip import ClipError, ClipSpec, Limits, SampledClip
from clip.errors import DecodeTimeoutError
from service.deadline import Deadline
from service.decoder_protocol import (
    LENGTH,
    MAX_MESSAGE_BYTES,
    OutOfMemoryError,
    ProtocolError,
    encode_job,
    parse_answer,
)
from service.errors import DeadlineError, DecoderCrashedError, StoppingError
from service.forkserver import ForkServer, ForkServerError
from service.memory import describe_shortage, find_available_memory
from service.sandbox import Confinement

logger: Final = logging.getLogger(__name__)

#: Why a decoder was replaced.
RESTART_REASONS: Final = ("crashed", "timeout", "cancelled", "out_of_memory", "recycled")
_ROUTINE: Final = frozenset({"cancelled", "recycled"})

#: A decoder minds its time limit by itself between packets; this much later it is killed.
_KILL_GRACE_S: Final = 0.5
_RETRY_S: Final = 0.5
_MEBIBYTE: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Decoder:
    """A child process and the socket to it; `jobs` counts what it was given."""

    server: ForkServer
    process_id: int
    channel: socket.socket
    jobs: int = 0

    @property
    def is_usable(self) -> bool:
        """Whether it waits for a job: it is not dead and has said nothing that nobody asked for."""
        try:
            self.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def sample(self, descriptor: int, spec: ClipSpec, limits: Limits) -> SampledClip:
        """Have it decode a video; whoever gives up on the answer has to end the decoder.

        Raises:
            OSError, EOFError: it is gone.
            ProtocolError: it does not answer as a decoder does.
            ClipError, OutOfMemoryError, UnexpectedError: its answer.
        """
        self.jobs += 1
        # It is idle, so its socket is empty: a few hundred bytes always fit.
        socket.send_fds(self.channel, [encode_job(spec, limits)], [descriptor])
        (length,) = LENGTH.unpack(await self._receive(LENGTH.size))
        if length > MAX_MESSAGE_BYTES:
            raise ProtocolError("a message that is too long")
        info = parse_answer(await self._receive(length), spec)
        tensor = await self._receive(spec.nbytes)
        return SampledClip(np.frombuffer(tensor, np.uint8).reshape(spec.shape), info)

    async def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        loop = asyncio.get_running_loop()
        while rest:
            count = await loop.sock_recv_into(self.channel, rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data


class DecodePool:
    """Decoder processes in one event loop: start(), then decode() at will, then close().

    Args:
        workers: processes, and so clips at one time.
        limits: what a video may cost.
        timeout_s: wall-clock seconds for one video, from when a decoder has it.
        memory_bytes: address space that a decoder may use for a video.
        max_jobs: clips after which a decoder is replaced.
        job: "module:function", what a decoder does; importable without this process.
        on_restart: told one of RESTART_REASONS whenever a decoder is replaced.
    """

    def __init__(
        self,
        *,
        workers: int,
        limits: Limits,
        timeout_s: float,
        memory_bytes: int = 1024 * _MEBIBYTE,
        max_jobs: int = 200,
        job: str = "clip:sample_clip",
        on_restart: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._workers = workers
        self._limits = limits
        self._timeout_s = timeout_s
        self._confinement = Confinement(
            memory_bytes=memory_bytes, cpu_s=math.ceil(timeout_s + _KILL_GRACE_S) + 1
        )
        self._max_jobs = max_jobs
        self._job = job
        self._on_restart = on_restart
        # Once started there are `workers` places: each is in this line, in a decode() or in one of
        # the tasks that replace a decoder. None is a place that was not filled again because the
        # pool is closing.
        self._idle: asyncio.Queue[_Decoder | None] = asyncio.Queue()
        self._decoders: set[_Decoder] = set()
        self._replacing: set[asyncio.Task[None]] = set()
        self._server: ForkServer | None = None
        self._forking = asyncio.Lock()
        self._places = 0
        self._closing = asyncio.Event()

    @property
    def process_ids(self) -> list[int]:
        """The decoders that live now, and the process that forks them."""
        server = [] if self._server is None else [self._server.process_id]
        return server + [decoder.process_id for decoder in self._decoders]

    async def start(self) -> None:
        """Start the processes; a warning is logged if together they may exhaust the memory.

        Raises:
            ForkServerError: they cannot be started.
        """
        shortage = describe_shortage(
            self._workers, self._confinement.memory_bytes, find_available_memory()
        )
        if shortage:
            logger.warning(shortage)
        for _ in range(self._workers):
            self._idle.put_nowait(await self._fork())
            self._places += 1

    async def decode(self, file: BinaryIO, spec: ClipSpec, deadline: Deadline) -> SampledClip:
        """Sample the video in `file` as `spec` says; may be cancelled at any moment.

        A job that is cancelled in the line is never begun; one in work is killed.

        Args:
            file: an open file of the operating system, flushed.
            spec: which frames, which size.
            deadline: of the request; the pool's own `timeout_s` holds beside it.

        Raises:
            ClipError: the video cannot or must not be decoded.
            DecoderCrashedError: its decoder crashed, or needed more memory than it may use.
            DeadlineError: the request's time ran out first.
            StoppingError: close() has been called.
            service.decoder_protocol.UnexpectedError: a fault in the decoding code.
        """
        async with deadline.enforce():
            decoder = await self._take()
            return await self._run(decoder, file.fileno(), spec, deadline)

    async def close(self) -> None:
        """Refuse the jobs in the line, finish those in work, and end every process."""
        self._closing.set()
        for _ in range(self._places):
            decoder = await self._idle.get()
            if decoder is not None:
                self._drop(decoder)
        await asyncio.gather(*self._replacing)
        if self._server is not None:
            await self._server.close()
            self._server = None

    async def _take(self) -> _Decoder:
        """The next free decoder, first come, first served."""
        while True:
            decoder = await self._idle.get()
            if decoder is None or self._closing.is_set():
                self._idle.put_nowait(decoder)
                raise StoppingError("The service is stopping.")
            if decoder.is_usable:
                return decoder
            # It died while it had nothing to do: no video's fault.
            self._replace(decoder, "crashed")

    async def _run(
        self, decoder: _Decoder, descriptor: int, spec: ClipSpec, deadline: Deadline
    ) -> SampledClip:
        remaining_s = deadline.remaining_s()
        limits = replace(self._limits, timeout_s=min(self._timeout_s, remaining_s))
        restart: str | None = None
        try:
            async with asyncio.timeout(self._timeout_s + _KILL_GRACE_S):
                return await decoder.sample(descriptor, spec, limits)
        except DecodeTimeoutError as error:
            if deadline.has_passed:
                raise DeadlineError("The request took longer than allowed.") from error
            raise
        except ClipError:
            raise
        except TimeoutError:
            restart = "timeout"
            raise DecodeTimeoutError("Decoding the video takes too long.") from None
        except (OSError, EOFError, ProtocolError) as error:
            restart = "crashed"
            logger.warning("decoder %d: %r", decoder.process_id, error)
            raise DecoderCrashedError("The decoder crashed on this video.") from None
        except OutOfMemoryError:
            restart = "out_of_memory"
            raise DecoderCrashedError(
                "Decoding the video takes more memory than allowed."
            ) from None
        except asyncio.CancelledError:
            restart = "timeout" if deadline.has_passed else "cancelled"
            raise
        finally:
            if restart is None and decoder.jobs >= self._max_jobs:
                restart = "recycled"
            if restart is None:
                self._idle.put_nowait(decoder)
            else:
                self._replace(decoder, restart)

    def _replace(self, decoder: _Decoder, reason: str) -> None:
        self._on_restart(reason)
        task = asyncio.create_task(self._refill(decoder, reason), name="replace-decoder")
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _refill(self, decoder: _Decoder, reason: str) -> None:
        self._drop(decoder)
        try:
            ended = _describe_end(await decoder.server.end(decoder.process_id))
        except ForkServerError:
            ended = "its parent is gone"  # and it with its parent
        level = logging.DEBUG if reason in _ROUTINE else logging.WARNING
        logger.log(level, "decoder %d replaced: %s (%s)", decoder.process_id, reason, ended)
        while not self._closing.is_set():
            try:
                self._idle.put_nowait(await self._fork())
                return
            except ForkServerError as error:
                logger.error("%s; trying again", error)
            except Exception:
                # Whatever it is, this place must not be lost for good.
                logger.exception("a decoder cannot be replaced; trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._closing.wait()
        self._idle.put_nowait(None)

    async def _fork(self) -> _Decoder:
        async with self._forking:
            if self._server is not None and self._server.broken:
                await self._server.close()
                self._server = None
            if self._server is None:
                self._server = await ForkServer.start(self._job, self._confinement)
            process_id, channel = await self._server.fork()
            decoder = _Decoder(self._server, process_id, channel)
            self._decoders.add(decoder)
            return decoder

    def _drop(self, decoder: _Decoder) -> None:
        decoder.channel.close()
        self._decoders.discard(decoder)


def _describe_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # most real-time signals have no name
        return f"signal {-exit_code}"
