"""What the service, its fork server and its decoders say to each other.

A job is a length, JSON and an open descriptor; its answer a length, JSON and a tensor's raw bytes.

Nothing is pickled: the answer is from a process that has read a stranger's file, and every value of
it is checked before it is believed.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from clip import ClipError, ClipInfo, ClipSpec, Limits
from clip.errors import DecodeError
from clip.sniff import CONTAINERS

#: To the fork server: (FORK or END, child). FORK goes with a descriptor, the child's socket.
REQUEST: Final = struct.Struct("!cq")
#: FORK: the child's process id, or an error number, negative. END: how it ended, as waitpid() says.
#: Unasked, when it is ready: its own process id.
REPLY: Final = struct.Struct("!q")
FORK: Final = b"F"
END: Final = b"E"

#: Before every message of a job: the length of its JSON in bytes.
LENGTH: Final = struct.Struct("!I")
MAX_MESSAGE_BYTES: Final = 64 * 1024

#: `error` of an answer that is not a ClipError's code.
OUT_OF_MEMORY: Final = "out_of_memory"
UNEXPECTED: Final = "unexpected"

_MAX_TEXT = 500
_MAX_TRACEBACK = 8_000
_CODEC = re.compile(r"[a-z0-9_]{1,40}\Z")
_CONTAINER_NAMES = frozenset(container.name for container in CONTAINERS)
#: More than any limit allows, and what JSON and JavaScript still hold exactly.
_MOST = 2**53


class ProtocolError(ValueError):
    """A decoder said something that no working decoder says."""


class OutOfMemoryError(Exception):
    """The decoder's memory limit was too small for this clip."""


class UnexpectedError(Exception):
    """A fault of the decoding code; the message is the decoder's traceback, escaped."""


def frame(message: Mapping[str, object]) -> bytes:
    """A message as it is sent."""
    text = json.dumps(message).encode()
    return LENGTH.pack(len(text)) + text


def encode_job(spec: ClipSpec, limits: Limits) -> bytes:
    """The message that goes with a video's descriptor."""
    return frame({"spec": asdict(spec), "limits": asdict(limits)})


def parse_job(text: bytes) -> tuple[ClipSpec, Limits]:
    """The reverse of encode_job(), without the length."""
    message = json.loads(text)
    return ClipSpec(**message["spec"]), Limits(**message["limits"])


def encode_info(info: ClipInfo) -> bytes:
    """The message ahead of a tensor's bytes."""
    return frame({"info": asdict(info)})


def encode_error(code: str, text: str = "") -> bytes:
    """The message of a job that gave no tensor; a long text loses its beginning."""
    return frame({"error": code, "text": text[-_MAX_TRACEBACK:]})


def parse_answer(text: bytes | bytearray, spec: ClipSpec) -> ClipInfo:
    """What a decoder found in a video; the tensor's `spec.nbytes` bytes follow.

    Raises:
        ClipError: the decoder says that the video cannot or must not be decoded.
        OutOfMemoryError, UnexpectedError: see their names.
        ProtocolError: it is no such answer.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    match message:
        case {"info": dict() as info, **rest} if not rest:
            return _parse_info(info, spec)
        case {"error": str() as code, "text": str() as words, **rest} if not rest:
            raise _parse_error(code, words)
        case _:
            raise ProtocolError("neither info nor error")


def _parse_error(code: str, words: str) -> Exception:
    if code == OUT_OF_MEMORY:
        return OutOfMemoryError("The decoder ran out of memory.")
    if code == UNEXPECTED:
        # ascii(): what a hostile file made of it stays one harmless line in the log.
        return UnexpectedError(ascii(words))
    # The words go to whoever sent the file: one line of text, or nothing.
    if len(words) > _MAX_TEXT or not words.isprintable():
        raise ProtocolError("an error with strange words")
    kind = _error_classes().get(code)
    if kind is None:
        raise ProtocolError("an unknown error")
    return kind(words)


def _error_classes() -> dict[str, type[ClipError]]:
    classes: dict[str, type[ClipError]] = {}
    pending: list[type[ClipError]] = [ClipError]
    while pending:
        kind = pending.pop()
        classes.setdefault(kind.code, kind)
        pending += kind.__subclasses__()
    classes[ClipError.code] = DecodeError
    return classes


def _parse_info(info: Mapping[str, Any], spec: ClipSpec) -> ClipInfo:
    if set(info) != {field.name for field in fields(ClipInfo)}:
        raise ProtocolError("info with other fields")
    times = info["timestamps_s"]
    well_formed = (
        isinstance(info["container"], str)
        and info["container"] in _CONTAINER_NAMES
        and isinstance(info["codec"], str)
        and _CODEC.match(info["codec"]) is not None
        and all(_is_count(info[name]) for name in ("width", "height", "frames_found"))
        and _is_seconds(info["duration_s"])
        and isinstance(times, list)
        and len(times) == spec.frames
        and all(_is_seconds(time) for time in times)
    )
    if not well_formed:
        raise ProtocolError("info with strange values")
    return ClipInfo(**(dict(info) | {"timestamps_s": tuple(times)}))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_seconds(value: object) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and 0 <= value < _MOST  # type: ignore[arg-type,operator]
