"""ForkServer: the service's handle on the process that forks its decoders, service.decoder."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from service.decoder_protocol import END, FORK, REPLY, REQUEST
from service.sandbox import Confinement

#: It only forks and waits for what it killed; longer than this means that it is stuck.
_REPLY_TIMEOUT_S: Final = 30.0
#: Importing on a machine that has other things to do.
_START_TIMEOUT_S: Final = 120.0
_CLOSE_TIMEOUT_S: Final = 5.0
#: What Python and its libraries need to run. The rest, keys among it, is no business of a process
#: that reads strangers' files.
_KEPT_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
#: Threads that numpy's linear algebra would start at import: fork() and threads do not go together.
_SINGLE_THREADED: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class ForkServerError(Exception):
    """The fork server cannot be started, has died, or is stuck."""


class ForkServer:
    """One process of service.decoder. Belongs to one event loop; start() makes one.

    It ends when this handle is closed or this process ends, however that happens: it reads the end
    of its socket then. Its children end with it.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._asking = asyncio.Lock()
        self.broken = False

    @property
    def process_id(self) -> int:
        """Of the fork server itself."""
        return self._process.pid

    @classmethod
    async def start(cls, job: str, confinement: Confinement) -> ForkServer:
        """Start the process and wait until it can fork.

        Args:
            job: "module:function", importable there: what its children do.
            confinement: of each child.

        Raises:
            ForkServerError: it ended instead; its own words are on stderr.
        """
        control, theirs = _socketpair()
        with theirs:
            process = _launch(theirs, job, confinement)
        server = cls(process, control)
        try:
            await server._receive(_START_TIMEOUT_S)
        except BaseException:
            await server.close()
            raise
        return server

    async def fork(self) -> tuple[int, socket.socket]:
        """A new child: its process id and the socket to it, which is the caller's to close.

        Raises:
            ForkServerError: no child could be made.
        """
        channel, theirs = _socketpair()
        try:
            with theirs:
                child = await self._ask(FORK, 0, theirs)
        except BaseException:
            channel.close()
            raise
        if child < 0:
            channel.close()
            raise ForkServerError(f"a decoder cannot be forked: {os.strerror(-child)}")
        return child, channel

    async def end(self, child: int) -> int:
        """Kill a child, whatever it is doing; how it ended: its exit code, or minus its signal.

        Raises:
            ForkServerError: nobody is left to do it.
        """
        return os.waitstatus_to_exitcode(await self._ask(END, child))

    async def close(self) -> None:
        """End the process and its children."""
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, _CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        except asyncio.CancelledError:
            # to_thread's thread goes on, and collects it.
            self._process.kill()
            raise

    async def _ask(self, what: bytes, child: int, passed: socket.socket | None = None) -> int:
        async with self._asking:
            if self.broken:
                # A reply that nobody waited for would be taken for the answer to this.
                raise ForkServerError("the fork server of the decoders is stuck")
            try:
                # A few bytes into a socket that is empty between replies: they always fit.
                descriptors = [] if passed is None else [passed.fileno()]
                socket.send_fds(self._control, [REQUEST.pack(what, child)], descriptors)
            except OSError as error:
                self.broken = True
                raise ForkServerError("the fork server of the decoders is gone") from error
            return await self._receive(_REPLY_TIMEOUT_S)

    async def _receive(self, timeout_s: float) -> int:
        """The next reply; a caller that gives up on it leaves nothing that can be used."""
        try:
            async with asyncio.timeout(timeout_s):
                reply = await asyncio.get_running_loop().sock_recv(self._control, REPLY.size)
            (number,) = REPLY.unpack(reply) if len(reply) == REPLY.size else (None,)
        except BaseException as error:
            self.broken = True
            if isinstance(error, TimeoutError | OSError):
                raise ForkServerError("the fork server of the decoders is stuck") from error
            raise
        if number is None:
            self.broken = True
            raise ForkServerError("the fork server of the decoders has ended")
        return int(number)


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """An end that does not block, for this process, and one for the other."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:  # no descriptor is left, which can change
        raise ForkServerError(f"a decoder cannot be reached: {error.strerror}") from error
    ours.setblocking(False)
    return ours, theirs


def _launch(control: socket.socket, job: str, confinement: Confinement) -> subprocess.Popen[bytes]:
    arguments = {
        "--control": control.fileno(),
        "--job": job,
        "--memory-bytes": confinement.memory_bytes,
        "--cpu-s": confinement.cpu_s,
    }
    words = [str(word) for pair in arguments.items() for word in pair]
    try:
        return subprocess.Popen(  # noqa: S603 - every word is this program's own
            # -P: modules come from where this process has them from, not from the current folder.
            [sys.executable, "-P", "-s", "-m", "service.decoder", *words],
            env=_environment(os.environ),
            pass_fds=[control.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ForkServerError(f"the decoders cannot be started: {error.strerror}") from error


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: variables[name] for name in _KEPT_VARIABLES if name in variables}
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109 - text
    return kept | _SINGLE_THREADED | {"PYTHONPATH": path}
