"""Receiving a video: what its headers allow, then its body, counted, into a private file.

A body is refused from its headers where they suffice, before its first byte is asked for; a client
that sent `Expect: 100-continue` then never sends it. A file that is no video is refused once its
first kilobyte is there: the rest is neither stored nor waited for.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from clip.errors import EmptyFileError
from clip.sniff import SNIFF_BYTES, sniff
from service.deadline import Deadline
from service.errors import (
    BadRequestError,
    MalformedMultipartError,
    MissingFileError,
    OutOfConnectionsError,
    ServiceError,
    SpoolFullError,
    UnsupportedEncodingError,
    UnsupportedMediaTypeError,
    UploadTimeoutError,
    UploadTooLargeError,
)
from service.multipart import FILE_FIELD, FileFormParser
from service.spool import Spool

#: What a multipart body may hold beside the file: boundaries, part headers, small fields.
MAX_ENVELOPE_BYTES: Final = 64 * 1024
#: RFC 2046 says 70.
MAX_BOUNDARY_BYTES: Final = 70

_MAX_CONTENT_TYPE_CHARACTERS = 1024
_WRITE_BYTES = 256 * 1024
#: The folder is full, read-only, gone, no folder any more, or its disk or network is broken: the
#: operator's to mend, not a bug.
_UNWRITABLE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        *(errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP),
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
    }
)
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_ACCEPTED = (
    f"Send multipart/form-data with the video in a field named {FILE_FIELD!r}, or the video itself "
    "as video/* or application/octet-stream."
)

_Result = TypeVar("_Result")

logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BodyFormat:
    """How the body carries the video: multipart with this boundary, or raw if there is none."""

    boundary: bytes | None

    def max_body_bytes(self, max_upload_bytes: int) -> int:
        """The whole body's limit for a file of at most `max_upload_bytes`."""
        return max_upload_bytes + (0 if self.boundary is None else MAX_ENVELOPE_BYTES)


@dataclass(frozen=True, slots=True)
class Upload:
    """A received file; its bytes are all in the descriptor, none in a buffer."""

    file: BinaryIO
    size_bytes: int


def check_headers(headers: Headers, *, max_upload_bytes: int) -> BodyFormat:
    """Decide from the headers alone whether, and as what, the body is to be read.

    Raises:
        BadRequestError, UnsupportedEncodingError, UnsupportedMediaTypeError,
        MalformedMultipartError, UploadTooLargeError, MissingFileError, EmptyFileError: the body is
            not worth a byte.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        # A proxy that believes the one and a server that believes the other see other requests.
        raise BadRequestError(
            "Content-Length and Transfer-Encoding exclude each other.",
            headers={"Connection": "close"},
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedEncodingError("Send the video as it is, without Content-Encoding.")
    length = headers.get("content-length", "0")
    declared_bytes = int(length) if length.isascii() and length.isdigit() else 0
    has_body = declared_bytes > 0 or "transfer-encoding" in headers
    content_types = headers.getlist("content-type")
    if not content_types and not has_body:
        raise MissingFileError(f"The request has no body. {_ACCEPTED}")
    body_format = _parse_content_type(content_types)
    if not has_body:
        if body_format.boundary is None:
            raise EmptyFileError("The file is empty.")
        raise MissingFileError("The form is empty.")
    if declared_bytes > body_format.max_body_bytes(max_upload_bytes):
        raise _too_large(max_upload_bytes)
    return body_format


@asynccontextmanager
async def receive_upload(
    chunks: AsyncGenerator[bytes, None],
    body_format: BodyFormat,
    spool: Spool,
    *,
    max_upload_bytes: int,
    deadline: Deadline,
) -> AsyncIterator[Upload]:
    """Read the body into a file of the spool, which is gone when the `async with` ends.

    Raises:
        UploadTooLargeError: more bytes came than allowed; the rest is not read.
        UploadTimeoutError: the deadline passed before the body's end.
        UnknownContainerError: the file's first bytes are no video's; the rest is not read.
        EmptyFileError, MissingFileError, TooManyPartsError, MalformedMultipartError: see their
        names.
        SpoolFullError: the file could not be written, or there is too little space to begin.
        OutOfConnectionsError: there is no descriptor left for the file.
    """
    writer = _SpoolWriter(spool, max_upload_bytes)
    try:
        async with deadline.enforce(UploadTimeoutError), aclosing(chunks):
            await check_space(spool)
            if body_format.boundary is None:
                async for chunk in chunks:
                    writer.add(chunk)
                    await writer.write_if_due()
            else:
                await _receive_form(chunks, body_format.boundary, writer)
            file = await writer.finish()
        yield Upload(file, writer.size_bytes)
    finally:
        await writer.close()


async def hold_to_pace(
    chunks: AsyncGenerator[bytes, None], *, idle_timeout_s: float, min_bytes_per_s: float
) -> AsyncGenerator[bytes, None]:
    """The same chunks, from a client that keeps sending.

    Only the time spent waiting for the client counts, and its pace only once that is as long as one
    pause may be: the beginning of a transfer is slow.

    Raises:
        UploadTimeoutError: nothing came for `idle_timeout_s`, or less than `min_bytes_per_s`.
    """
    waited_s, received_bytes = 0.0, 0
    async with aclosing(chunks):
        while True:
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(idle_timeout_s):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise UploadTimeoutError(f"Nothing came for {idle_timeout_s:g} seconds.") from None
            if chunk is None:
                return
            waited_s += time.monotonic() - began_s
            received_bytes += len(chunk)
            if waited_s > idle_timeout_s and received_bytes < waited_s * min_bytes_per_s:
                raise UploadTimeoutError(f"Less than {min_bytes_per_s:g} bytes came a second.")
            yield chunk


async def check_space(spool: Spool) -> None:
    """Return if an upload may begin.

    Raises:
        SpoolFullError: there is less space than the settings ask for, or no folder.
    """
    try:
        has_space = await asyncio.to_thread(spool.has_space)
    except OSError as error:
        raise _explain(error, spool) from error
    if not has_space:
        raise SpoolFullError("There is too little space for uploads here now.")


async def _receive_form(
    chunks: AsyncIterator[bytes], boundary: bytes, writer: _SpoolWriter
) -> None:
    parser = FileFormParser(boundary, writer.add)
    received_bytes = 0
    async for chunk in chunks:
        received_bytes += len(chunk)
        parser.feed(chunk)
        if received_bytes - writer.size_bytes > MAX_ENVELOPE_BYTES:
            raise MalformedMultipartError("The form holds too much beside the file.")
        await writer.write_if_due()
    parser.finish()


def _parse_content_type(content_types: list[str]) -> BodyFormat:
    content_type = content_types[0] if len(content_types) == 1 else ""
    media_type, options = parse_options_header(content_type[:_MAX_CONTENT_TYPE_CHARACTERS])
    if media_type.startswith(b"video/") or media_type == b"application/octet-stream":
        return BodyFormat(boundary=None)
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaTypeError(_ACCEPTED)
    boundary = options.get(b"boundary", b"")
    if content_type.lower().count("boundary=") != 1 or not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise MalformedMultipartError(
            f"Content-Type must name one boundary of 1 to {MAX_BOUNDARY_BYTES} characters."
        )
    return BodyFormat(boundary)


def _explain(error: OSError, spool: Spool) -> ServiceError:
    """What an error of the spool means for the request; raises the error if it is a bug's."""
    if error.errno in _OUT_OF_FILES:
        logger.error("no descriptor is left: %s", error.strerror)
        return OutOfConnectionsError(
            "The service has as many files open as it can have.", headers={"Retry-After": "1"}
        )
    if error.errno not in _UNWRITABLE:
        raise error
    logger.error("%s cannot be written: %s", spool.folder, error.strerror)
    return SpoolFullError("The upload cannot be stored here now.")


def _too_large(max_upload_bytes: int) -> UploadTooLargeError:
    return UploadTooLargeError(f"The file is larger than {max_upload_bytes} bytes.")


class _SpoolWriter:
    """Collects a file's bytes and writes them in threads, so that a slow disk holds up nobody else.

    While a write is under way nothing is read from the client: TCP holds it back.
    """

    def __init__(self, spool: Spool, max_bytes: int) -> None:
        self._spool = spool
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._pending = bytearray()
        self._sniffed = False
        self.size_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Take more of the file.

        Raises:
            UploadTooLargeError: at the first byte above the limit.
            UnknownContainerError: once enough has come to tell.
        """
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._pending += chunk
        if self.size_bytes >= SNIFF_BYTES:
            self._sniff()

    async def write_if_due(self) -> None:
        """Write once enough has come together to be worth a thread's while."""
        if len(self._pending) >= _WRITE_BYTES:
            await self._write()

    async def finish(self) -> BinaryIO:
        """Write what is left; the file, at its end.

        Raises:
            EmptyFileError, UnknownContainerError: a file too short to tell before.
        """
        self._sniff()
        return await self._write()

    async def close(self) -> None:
        """Close the file, which deletes it."""
        if self._file is not None:
            await _finish_in_thread(self._discard)

    def _sniff(self) -> None:
        """Look at the first bytes, once; nothing has been written yet when add() or finish() do."""
        if not self._sniffed:
            sniff(bytes(self._pending[:SNIFF_BYTES]))
            self._sniffed = True

    async def _write(self) -> BinaryIO:
        data, self._pending = self._pending, bytearray()
        try:
            return await _finish_in_thread(lambda: self._append(data))
        except OSError as error:
            raise _explain(error, self._spool) from error

    def _discard(self) -> None:
        # Closing tries once more to write what a full disk refused, and the file goes anyway.
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _append(self, data: bytearray) -> BinaryIO:
        if self._file is None:
            self._file = self._spool.open_file()
        self._file.write(data)
        # The decoder reads from the descriptor, past this object's buffer.
        self._file.flush()
        return self._file


async def _finish_in_thread(function: Callable[[], _Result]) -> _Result:
    """Run a function in a thread; if cancelled, wait for it to end before passing that on.

    A write that outlives its request would meet a closed file.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
