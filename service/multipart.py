"""FileFormParser: picks the one file out of a multipart/form-data body while the body arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import (
    InvalidParameterError,
    MalformedMultipartError,
    MissingFileError,
    TooManyPartsError,
)

FILE_FIELD: Final = "file"
#: A browser's form may hold a few fields beside the file; nobody needs more.
MAX_PARTS: Final = 8
#: Room for a file name of 10 KB; the header's parser takes quadratic time, milliseconds at this
#: size.
MAX_PART_HEADER_BYTES: Final = 16 * 1024
MAX_PART_HEADERS: Final = 8

#: What /predict takes in the address; in the form it would count for nothing.
QUERY_PARAMETERS: Final = ("model", "version", "top_k", "frames")


class FileFormParser:
    """Push parser: feed() it the body's chunks, then finish().

    The file's bytes go to `write_file` as they come. The file's name is looked at only to tell a
    file from a field; it is neither kept nor used.
    """

    def __init__(self, boundary: bytes, write_file: Callable[[bytes], None]) -> None:
        self._write_file = write_file
        self._parts = 0
        self._in_file = False
        self._file_seen = False
        self._ended = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition: bytes | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_begin": self._begin_header,
                "on_header_field": self._extend_header_name,
                "on_header_value": self._extend_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._take_data,
                "on_end": self._end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            MalformedMultipartError, MissingFileError, TooManyPartsError, InvalidParameterError:
                as soon as the bytes so far leave no other end.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedMultipartError("The multipart body is malformed.") from error

    def finish(self) -> None:
        """Check that the body ended where it should and held a file.

        Raises:
            MalformedMultipartError: the closing boundary never came.
            MissingFileError: no part was the file.
        """
        if not self._ended:
            raise MalformedMultipartError("The multipart body ends before its closing boundary.")
        if not self._file_seen:
            raise MissingFileError(f"The form has no file in a field named {FILE_FIELD!r}.")

    def _begin_part(self) -> None:
        self._parts += 1
        self._disposition = None
        if self._parts > MAX_PARTS:
            raise TooManyPartsError(f"The form has more than {MAX_PARTS} parts.")

    def _begin_header(self) -> None:
        self._header_name.clear()
        self._header_value.clear()

    def _extend_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _extend_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            if self._disposition is not None:
                raise MalformedMultipartError("A part has two Content-Disposition headers.")
            self._disposition = bytes(self._header_value)

    def _open_part(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise MalformedMultipartError("A part has no Content-Disposition with a name.")
        # Older clients send a name outside of ASCII only in the extended form, which is ignored
        # above.
        has_name = bool(options.get(b"filename")) or b"filename*=" in (self._disposition or b"")
        if has_name and name != FILE_FIELD.encode():
            raise MissingFileError(f"The file has to be in a field named {FILE_FIELD!r}.")
        if has_name and self._file_seen:
            raise TooManyPartsError("The form has more than one file: send one clip at a time.")
        parameter = name.decode("latin-1")
        if parameter in QUERY_PARAMETERS:
            raise InvalidParameterError(
                f"Give {parameter} in the address (?{parameter}=...), not as a form field."
            )
        self._in_file = has_name
        self._file_seen = self._file_seen or has_name

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._write_file(data[start:end])

    def _end(self) -> None:
        self._ended = True
