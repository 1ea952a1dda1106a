"""A file server that keeps to HTTP, or breaks it in the ways that servers and networks do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What it serves and how; tests change it between and read `requests` after."""

    content: bytes
    etag: str = '"one"'
    #: Last-Modified of answers with the whole file; those with a part need not repeat it.
    modified: str = ""
    ranges: bool = True
    #: Whether it looks at If-Range; a server that does not sends parts of whatever it has now.
    if_range: bool = True
    #: Bytes after which each of the next connections is dropped.
    drops: list[int] = field(default_factory=list)
    #: Statuses that the next requests are answered with.
    statuses: list[int] = field(default_factory=list)
    #: What Content-Length says more than there is.
    lie: int = 0
    #: Whether an answer with the whole file comes in a chunk, and its length is not told before.
    chunked: bool = False
    url: str = ""
    #: The Range header of each request, "" without one.
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(content: bytes, name: str = "data.zip") -> Iterator[FileServer]:
    state = FileServer(content)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.requests.append(asked)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start = 0
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            same = self.headers.get("If-Range", "") in {state.etag, state.modified} - {""}
            if match and state.ranges and (same or not state.if_range):
                start = int(match[1])
                if start >= len(state.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(state.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            total = len(state.content) + state.lie
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.modified and not start:
                self.send_header("Last-Modified", state.modified)
            if start or not state.chunked:
                self.send_header("Content-Length", str(total - start))
            else:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if state.chunked and not start:
                self.wfile.write(b"%x\r\n" % total)
            end = start + state.drops.pop(0) if state.drops else None
            self.wfile.write(state.content[start:end])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/{name}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
