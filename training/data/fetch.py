"""Fetching one large file over HTTP: resumable, and whole or not there.

    fetch(url, Path("UCF50.rar"))

While it is being fetched the file is <name>.part, and <name>.part.json says which version of it
that is: what is asked for later goes on where this ended only if the server still has the same
version (If-Range, RFC 9110, 13.1.5).
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from training.progress import Progress

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
#: So many connections in a row may bring nothing before it is given up.
ATTEMPTS = 6

_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


class DownloadError(RuntimeError):
    """The file could not be fetched; the message says why and what helps."""


class _InterruptedError(Exception):
    """The connection failed or ended early: another may go on from here."""


@dataclass(frozen=True, slots=True)
class _Version:
    """Which file a part is of: the server's validator (ETag or date; may be empty) and its size."""

    url: str
    validator: str
    total: int | None

    def is_another(self, known: _Version) -> bool:
        """Whether it cannot be that one: other bytes, by their count or the server's validator.

        An ETag and a date say nothing of each other; a server may send one now, then the other.
        """
        alike = self.validator.startswith('"') == known.validator.startswith('"')
        return (None not in {self.total, known.total} and self.total != known.total) or (
            bool(self.validator and known.validator) and alike and self.validator != known.validator
        )


def fetch(
    url: str,
    target: Path,
    *,
    context: ssl.SSLContext | None = None,
    pause_s: float = 1.0,
) -> None:
    """Fetch `url` to `target`, going on where an earlier call ended.

    Args:
        url: of http or https.
        target: where the whole file appears; its folder exists.
        context: how to check the server's certificate; as the system does if None.
        pause_s: seconds before a second try, doubled before each further one.

    Raises:
        DownloadError: no network, the server refuses, keeps breaking off or contradicts itself,
            or the disk has too little room.
        OSError: the disk cannot be written.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise DownloadError(f"{url} is no http or https address")
    part = target.with_name(f"{target.name}.part")
    tried = 0
    while True:
        before = _size(part)
        try:
            _go_on(url, part, context)
            break
        except _InterruptedError as error:
            tried = 1 if _size(part) > before else tried + 1
            if tried >= ATTEMPTS:
                raise DownloadError(
                    f"fetching {url} failed {ATTEMPTS} times in a row, at byte {_size(part)}: "
                    f"{error}. What is there is kept: the same command goes on"
                ) from error
        time.sleep(pause_s * 2 ** (tried - 1))
    part.replace(target)
    _version_file(part).unlink(missing_ok=True)


def _go_on(url: str, part: Path, context: ssl.SSLContext | None) -> None:
    """Ask for what is missing of `part` and append it."""
    known = _read_version(part)
    done = _size(part)
    if known is None or known.url != url or not known.validator:
        known, done = None, 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "har-training"}
    if known and done:
        headers |= {"Range": f"bytes={done}-", "If-Range": known.validator}
    try:
        response = urlopen(  # noqa: S310  the scheme was checked
            Request(url, headers=headers),  # noqa: S310
            timeout=TIMEOUT_S,
            context=context,
        )
    except HTTPError as error:
        with error:
            _check_refusal(error, url, part, known, done)
        return
    except URLError as error:
        raise _unreachable(url, error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error
    with response:
        start, version = _described(response, url)
        if start != done or (known and done and start and version.is_another(known)):
            if start:
                _forget(part)
                raise DownloadError(f"{url} sends another range than was asked for: try once more")
            done = 0  # it ignores ranges, or has a new version: from the beginning
        if known and done and not version.validator:
            # An answer with a part need not repeat it (RFC 9110, 15.3.7).
            version = replace(version, validator=known.validator)
        _check_room(part, version.total, done)
        _version_file(part).write_text(json.dumps(asdict(version)), encoding="utf-8")
        _append(response, part, done, version)


def _append(response: http.client.HTTPResponse, part: Path, done: int, version: _Version) -> None:
    title = f"fetching {part.name.removesuffix('.part')}"
    with (
        part.open("r+b" if part.exists() else "wb") as file,
        Progress(total=version.total, title=title, unit="B", done=done) as progress,
    ):
        file.truncate(done)
        file.seek(done)
        while True:
            try:
                # read() would lose what it has of a chunk that breaks off.
                chunk = response.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _InterruptedError(str(error) or type(error).__name__) from error
            if not chunk:
                break
            try:
                file.write(chunk)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(part)) from error
            done += len(chunk)
            progress.advance(len(chunk))
    if version.total is not None and done < version.total:
        raise _InterruptedError(f"it promised {version.total}")


def _described(response: http.client.HTTPResponse, url: str) -> tuple[int, _Version]:
    """(first byte sent, version) by the headers of an answer with content."""
    etag = response.headers.get("ETag", "")
    # A weak ETag promises no equal bytes.
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or match[1] is None:
            raise DownloadError(f"{url} sends a part of the file without saying which")
        return int(match[1]), _Version(url, validator, int(match[2]))
    length = response.headers.get("Content-Length", "")
    return 0, _Version(url, validator, int(length) if length.isdecimal() else None)


def _check_refusal(
    error: HTTPError, url: str, part: Path, known: _Version | None, done: int
) -> None:
    """Return if the refusal means that the part is whole, else raise what it means."""
    if error.code in _TRY_AGAIN:
        raise _InterruptedError(f"status {error.code}") from error
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and known:
        match = _CONTENT_RANGE.fullmatch(error.headers.get("Content-Range", ""))
        total = int(match[2]) if match else None
        if total == done and known.total in {None, done}:
            return
        _forget(part)
        raise DownloadError(
            f"{url} promised {known.total} bytes and now has {total}: its answers contradict each "
            "other; what was fetched is discarded"
        ) from error
    raise DownloadError(f"{url} answers with status {error.code} ({error.reason})") from error


def _unreachable(url: str, reason: str | BaseException) -> Exception:
    host = urlsplit(url).hostname
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(
            f"the certificate of {host} cannot be verified ({reason.verify_message}): name the "
            "missing certificates with the environment variable SSL_CERT_FILE, or go on "
            "with --insecure and compare the sha256 with somebody's whom you trust"
        )
    if isinstance(reason, socket.gaierror):
        return DownloadError(
            f"the name {host} is not known here ({reason.strerror}): is there a network? Fetch "
            f"{url} where there is one, put it into the --to folder and give the command once more"
        )
    return _InterruptedError(f"{host} cannot be reached: {reason}")


def _check_room(part: Path, total: int | None, done: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise DownloadError(
            f"{part.parent} has {free} bytes free, {total - done} are still to be fetched"
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _read_version(part: Path) -> _Version | None:
    try:
        return _Version(**json.loads(_version_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
