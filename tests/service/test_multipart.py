"""FileFormParser: one file out of a form, however the bytes are cut, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import (
    InvalidParameterError,
    MalformedMultipartError,
    MissingFileError,
    ServiceError,
    TooManyPartsError,
)
from service.multipart import MAX_PART_HEADER_BYTES, MAX_PARTS, FileFormParser

BOUNDARY = b"XyZ"
FILE = b'form-data; name="file"; filename="clip.mp4"'


def part(content: bytes, disposition: bytes = FILE, *more_headers: bytes) -> bytes:
    headers = b"\r\n".join((b"Content-Disposition: " + disposition, *more_headers))
    return b"--" + BOUNDARY + b"\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def field(name: bytes, value: bytes = b"value") -> bytes:
    return part(value, b'form-data; name="' + name + b'"')


def parse(body: bytes, *cuts: int) -> bytes:
    """The file in a body that arrives in pieces, cut at the given places."""
    file = bytearray()
    parser = FileFormParser(BOUNDARY, file.extend)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for start, end in pairwise(places):
        parser.feed(body[start:end])
    parser.finish()
    return bytes(file)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", BOUNDARY, b"\r\n--XyZ", b"video"])),
    st.lists(st.integers(0, 300)),
)
@example([b"\r\n--XyZ", b"-"], [])
def test_the_file_arrives_whole_however_the_body_is_cut(
    pieces: list[bytes], cuts: list[int]
) -> None:
    content = b"".join(pieces)
    whole = content + b"."
    if b"\r\n--XyZ\r\n" in whole or b"\r\n--XyZ--" in whole or b"\r\n--XyZ\t" in whole:
        return  # such content must not be sent under this boundary
    try:
        expected = parse(form(part(whole)))
    except MalformedMultipartError:
        expected = None
    if expected is not None:
        assert expected == whole
        assert parse(form(part(whole)), *cuts) == whole


def test_small_fields_beside_the_file_are_passed_over() -> None:
    body = form(field(b"note"), part(b"video"), field(b"tag"))
    assert parse(body) == b"video"
    assert parse(body.replace(b"Content-Disposition", b"content-disposition")) == b"video"


def test_f13_the_files_name_changes_nothing() -> None:
    names = [
        b"../../etc/passwd",
        b"..\\\\..\\\\x",
        b"%2e%2e%2f",
        b"\xe2\x80\xaegpm.4pm",
        b"CON",
        b"-i",
        b"concat:a|b",
        b"a;b",
        b"x" * 10_000,
    ]
    for name in names:
        disposition = b'form-data; name="file"; filename="' + name + b'"'
        assert parse(form(part(b"video", disposition))) == b"video"
    extended = b"form-data; name=file; filename*=UTF-8''%E2%82%AC.mp4"
    assert parse(form(part(b"video", extended))) == b"video"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(form(), MissingFileError, id="f02-no-part"),
        pytest.param(form(field(b"other")), MissingFileError, id="f02-no-file"),
        pytest.param(
            form(part(b"v", b'form-data; name="File"; filename="a"')),
            MissingFileError,
            id="f02-File",
        ),
        pytest.param(form(field(b"file")), MissingFileError, id="f02-file-without-filename"),
        pytest.param(
            form(part(b"", b'form-data; name="file"; filename=""')),
            MissingFileError,
            id="f02-nothing-chosen",
        ),
        pytest.param(form(part(b"a"), part(b"b")), TooManyPartsError, id="f03-two-files"),
        pytest.param(form(*[field(b"n")] * 1000), TooManyPartsError, id="f03-1000-parts"),
        pytest.param(form(field(b"model"), part(b"v")), InvalidParameterError, id="model-as-field"),
        pytest.param(part(b"video"), MalformedMultipartError, id="f05-never-closed"),
        pytest.param(form(part(b"v")).rstrip(b"-\r\n"), MalformedMultipartError, id="f05-cut"),
        pytest.param(b"", MalformedMultipartError, id="f05-empty"),
        pytest.param(b"--other\r\n\r\n", MalformedMultipartError, id="f05-another-boundary"),
        pytest.param(b"{}", MalformedMultipartError, id="f05-no-boundary"),
        pytest.param(form(part(b"v", b"form-data")), MalformedMultipartError, id="f05-no-name"),
        pytest.param(
            form(part(b"v", b'attachment; name="file"; filename="a"')),
            MalformedMultipartError,
            id="f05-not-form-data",
        ),
        pytest.param(
            form(part(b"v", FILE, b"Content-Disposition: " + FILE)),
            MalformedMultipartError,
            id="f05-two-dispositions",
        ),
        pytest.param(
            form(part(b"v", FILE, b"X: " + b"y" * 1_000_000)), MalformedMultipartError, id="f12-1MB"
        ),
        pytest.param(
            form(part(b"v", FILE, *[b"X: y"] * 100)), MalformedMultipartError, id="f12-100-headers"
        ),
    ],
)
def test_a_form_that_is_not_as_it_should_be_is_refused(
    body: bytes, error: type[ServiceError]
) -> None:
    with pytest.raises(error):
        parse(body)
    with pytest.raises(error):
        parse(body, *range(min(len(body), 3000)))


def test_f03_reading_stops_at_the_limit() -> None:
    parser = FileFormParser(BOUNDARY, lambda data: None)
    for _ in range(MAX_PARTS):
        parser.feed(field(b"n"))
    with pytest.raises(TooManyPartsError):
        parser.feed(field(b"n"))


def test_f11_line_ends_before_and_after_the_form_are_passed_over() -> None:
    blank = b"\r\n" * 500_000
    assert parse(blank + form(part(b"video")) + blank) == b"video"


@pytest.mark.parametrize("filler", [b";", b'"', b'\\"', b"a=;", b" "])
def test_f12_a_part_header_made_to_be_slow_is_bounded_by_its_length(filler: bytes) -> None:
    disposition = FILE + b"; x=" + filler * (MAX_PART_HEADER_BYTES // len(filler))
    with pytest.raises(MalformedMultipartError):
        parse(form(part(b"video", disposition)))
