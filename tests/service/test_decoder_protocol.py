"""What a decoder says is believed only as far as it can be checked."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip import ClipError, ClipInfo, ClipSpec, Limits
from clip.errors import TooManyPixelsError
from service.decoder_protocol import (
    LENGTH,
    OUT_OF_MEMORY,
    UNEXPECTED,
    OutOfMemoryError,
    ProtocolError,
    UnexpectedError,
    encode_error,
    encode_info,
    encode_job,
    parse_answer,
    parse_job,
)

SPEC = ClipSpec(frames=2)
INFO = ClipInfo(
    container="mp4",
    codec="h264",
    width=64,
    height=48,
    duration_s=3.0,
    frames_found=30,
    timestamps_s=(0.7, 2.2),
)


def message_of(framed: bytes) -> bytes:
    (length,) = LENGTH.unpack(framed[: LENGTH.size])
    assert length == len(framed) - LENGTH.size
    return framed[LENGTH.size :]


def test_a_job_arrives_as_it_was_sent() -> None:
    limits = Limits(max_pixels=7, timeout_s=0.5)
    assert parse_job(message_of(encode_job(SPEC, limits))) == (SPEC, limits)


def test_an_answer_arrives_as_it_was_sent() -> None:
    assert parse_answer(message_of(encode_info(INFO)), SPEC) == INFO


def test_an_error_arrives_with_its_class_and_words() -> None:
    error = TooManyPixelsError("Too many.")
    with pytest.raises(TooManyPixelsError, match=r"Too many\."):
        parse_answer(message_of(encode_error(error.code, error.message)), SPEC)
    with pytest.raises(OutOfMemoryError):
        parse_answer(message_of(encode_error(OUT_OF_MEMORY)), SPEC)


def test_a_traceback_is_one_harmless_line() -> None:
    with pytest.raises(UnexpectedError) as fault:
        parse_answer(message_of(encode_error(UNEXPECTED, "Trace\n\x1b[31m" * 10_000)), SPEC)
    assert str(fault.value).isprintable()
    assert len(str(fault.value)) < 50_000


@pytest.mark.parametrize(
    "changes",
    [
        {"container": "exe"},
        {"container": []},
        {"codec": "h264\n"},
        {"codec": 3},
        {"width": -1},
        {"width": True},
        {"height": 1.5},
        {"frames_found": 10**30},
        {"duration_s": math.nan},
        {"duration_s": math.inf},
        {"duration_s": "3"},
        {"timestamps_s": [0.0]},
        {"timestamps_s": [0.0, -1.0]},
        {"timestamps_s": [0.0, math.nan]},
        {"timestamps_s": None},
        {"more": 1},
    ],
    ids=str,
)
def test_an_answer_with_a_strange_value_is_no_answer(changes: dict[str, Any]) -> None:
    text = json.dumps({"info": asdict(INFO) | changes}).encode()
    with pytest.raises(ProtocolError):
        parse_answer(text, SPEC)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"true",
        b"\xff",
        b"[" * 60_000,
        b"9" * 10_000,
        b'{"info": null}',
        b'{"error": "no_such_code", "text": ""}',
        b'{"error": "decode_failed", "text": "two\\nlines"}',
        b'{"error": "decode_failed", "text": "\\ud800"}',
        b'{"error": "decode_failed", "text": "' + b"x" * 1000 + b'"}',
        b'{"error": "decode_failed", "text": "x", "more": 1}',
    ],
    ids=lambda text: repr(text[:40]),
)
def test_what_is_no_answer_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_answer(text, SPEC)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["info", "error", "text"]), _VALUES)
    | st.builds(
        lambda name, value: {"info": asdict(INFO) | {name: value}},
        st.sampled_from(sorted(asdict(INFO))),
        _VALUES,
    )
)
def test_any_json_is_an_answer_an_error_or_refused(message: dict[str, Any]) -> None:
    try:
        info = parse_answer(json.dumps(message).encode(), SPEC)
    except (ProtocolError, ClipError, OutOfMemoryError, UnexpectedError):
        return
    assert json.loads(json.dumps(asdict(info), allow_nan=False))
