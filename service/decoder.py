"""python -m service.decoder: the process that forks decoders, and what a decoder does.

The service starts one of these. It imports the decoding code once and forks itself whenever the
service asks, which takes milliseconds where a new Python takes a quarter of a second. It is started
by exec, not by a fork of the service: nothing of the service's memory, environment or open files is
in it, and it imports neither the web nor the inference stack.

It is not meant for people: arguments and messages are service.forkserver's.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final, NoReturn

from clip import ClipError, ClipSpec, Limits, SampledClip
from service.decoder_protocol import (
    END,
    FORK,
    LENGTH,
    OUT_OF_MEMORY,
    REPLY,
    REQUEST,
    UNEXPECTED,
    encode_error,
    encode_info,
    parse_job,
)
from service.sandbox import Confinement, confine, forbid_opening, limit_cpu

Job = Callable[[BinaryIO, ClipSpec, Limits], SampledClip]

_STDERR: Final = 2


def load_job(name: str) -> Job:
    """The callable that `name`, "module:function", stands for."""
    module, _, function = name.partition(":")
    job: Job = getattr(importlib.import_module(module), function)
    return job


def serve_forks(control: socket.socket, job: Job, confinement: Confinement) -> None:
    """Fork and end decoders as `control` asks, until the service closes it or dies."""
    children: set[int] = set()
    # A service that is gone cannot be told anything: that is an end like another.
    with suppress(ConnectionError):
        control.sendall(REPLY.pack(os.getpid()))
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
            if not request:
                break
            what, child = REQUEST.unpack(request)
            if what == FORK:
                reply = _fork(control, descriptors[0], job, confinement)
                if reply > 0:
                    children.add(reply)
            elif what == END:
                reply = _end(child)
                children.discard(child)
            else:
                raise ValueError(f"no such request: {what}")
            control.sendall(REPLY.pack(reply))
    for child in children:
        _end(child)


def _fork(control: socket.socket, descriptor: int, job: Job, confinement: Confinement) -> int:
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        os.close(descriptor)
        return -(error.errno or 1)
    if child:
        os.close(descriptor)
        return child
    try:
        control.close()
        _redirect_output()
        confine(confinement, parent)
        with socket.socket(fileno=descriptor) as channel:
            serve_jobs(channel, job, confinement)
    finally:
        # Whatever happened: a child must never return into its parent's loop.
        os._exit(0)


def _end(child: int) -> int:
    """Kill a child and wait for it; how it ended, as waitpid() tells.

    The number cannot have become another process's: a child is not waited for anywhere else.
    """
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _redirect_output() -> None:
    """A decoder writes nowhere: FFmpeg's complaints are the file's own words."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)


def serve_jobs(channel: socket.socket, job: Job, confinement: Confinement) -> None:
    """Do the jobs that come over `channel`, one after another, until it is closed."""
    while True:
        head, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, 1)
        if not head:
            return
        (length,) = LENGTH.unpack(head)
        text = channel.recv(length, socket.MSG_WAITALL)
        limit_cpu(confinement.cpu_s)
        for part in _do_job(job, descriptors[0], text):
            channel.sendall(part)


def _do_job(job: Job, descriptor: int, text: bytes) -> list[bytes | memoryview]:
    spec, limits = parse_job(text)
    try:
        with open(descriptor, "rb") as video, forbid_opening(descriptor):
            sampled = job(video, spec, limits)
    except MemoryError:
        return [encode_error(OUT_OF_MEMORY)]
    except ClipError as error:
        return [encode_error(error.code, error.message)]
    except Exception:
        return [encode_error(UNEXPECTED, traceback.format_exc())]
    return [encode_info(sampled.info), sampled.frames.data.cast("B")]


def main() -> NoReturn:
    """Serve on the socket that the service passed down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--cpu-s", type=int, required=True)
    arguments = parser.parse_args()
    # A terminal's Ctrl-C and a supervisor's SIGTERM reach the whole group. The service answers
    # what is under way before it stops, and needs its decoders for that; it closes the socket then.
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, signal.SIG_IGN)
    job = load_job(arguments.job)
    # Objects that exist now stay in pages that all children share.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=arguments.control) as control:
        serve_forks(control, job, Confinement(arguments.memory_bytes, arguments.cpu_s))
    sys.exit(0)


if __name__ == "__main__":
    main()
