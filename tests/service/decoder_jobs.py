"""What decoders do in tests: the file's first word says what; anything else is a video.

Over HTTP the word has to come after VIDEO_BEGINNING: the service looks before it decodes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from clip import ClipInfo, ClipSpec, Limits, SampledClip, sample_clip
from clip.errors import DecodeError
from service.decoder_protocol import LENGTH, encode_error, encode_info

#: An empty box, as an MP4 file may begin.
VIDEO_BEGINNING = b"\0\0\0\x08free"
_leaked: list[bytes] = []
_LIE = ClipInfo("mp4", "h264", 1, 1, 0.0, 1, (0.0,) * 20)


def misbehave(file: BinaryIO, spec: ClipSpec, limits: Limits) -> SampledClip:
    file.seek(0)
    word, _, rest = file.read(64).removeprefix(VIDEO_BEGINNING).partition(b" ")
    match word:
        case b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case b"loop":
            while True:
                pass
        case b"eat":
            return [bytearray(2**20) for _ in range(2**14)]  # type: ignore[return-value]
        case b"leak":
            _leaked.append(b"\1" * 2**20)
        case b"exit":
            sys.exit(3)
        case b"lie":
            os.write(_own_socket(), b"\0\0\0\4true")
        case b"boast":
            os.write(_own_socket(), b"\xff" * LENGTH.size)
        case b"chatter":
            os.write(_own_socket(), encode_error("decode_failed", "1") + encode_info(_LIE))
        case b"bug":
            raise KeyError("/secret/path\n")
        case b"tell":
            raise DecodeError(_describe(rest))
    return sample_clip(file, spec, limits)


def _own_socket() -> int:
    """The descriptor over which this decoder is spoken to: its only socket."""
    for descriptor in range(3, 32):
        with suppress(OSError):
            if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("socket:"):
                return descriptor
    raise AssertionError("no socket")


def _describe(what: bytes) -> str:
    match what:
        case b"modules":
            heavy = {"onnxruntime", "fastapi", "pydantic", "pytest", "asyncio", "__mp_main__"}
            told = " ".join(sorted(heavy & set(sys.modules))) or "none"
        case b"environment":
            told = " ".join(sorted(os.environ))
        case b"pid":
            told = str(os.getpid())
        case b"limits":
            names = ("RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_AS")
            most = [resource.getrlimit(getattr(resource, name))[0] for name in names]
            told = " ".join(str(value) for value in most)
        case b"opening":
            told = "opened"
            try:
                Path("/proc/self/status").read_bytes()
            except OSError as error:
                told = str(error.strerror)
        case b"privileges":
            _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
            lines = Path("/proc/self/status").read_text().splitlines()
            told = next(line.split()[1] for line in lines if line.startswith("NoNewPrivs"))
        case _:
            raise AssertionError(what)
    return told
