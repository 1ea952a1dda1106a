"""Requests as bytes, for what no HTTP library would send."""

from __future__ import annotations

import socket

FORM_HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}
FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="c.mp4"\r\n\r\n'
FORM_TAIL = b"\r\n--b--\r\n"
#: Enough of a video's beginning for its whole upload to be wanted.
VIDEO_HEAD = b"\0\0\0\x18ftypmp42" + b"\0" * 1024


def request_head(path: str = "/predict", method: str = "POST", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunked(content: bytes, size: int) -> bytes:
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = bytearray()
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return bytes(received)
