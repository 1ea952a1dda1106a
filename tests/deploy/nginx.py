"""The real nginx with the configuration of docker/nginx/, on ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

WAIT_S = 60.0
CONFIGURATION = Path(__file__).parents[2] / "docker" / "nginx"
#: The site without TLS, docker-compose.yml's own.
PLAIN = "site-plain.conf"
#: Debian has it where a user's PATH does not look.
PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
OPENSSL = shutil.which("openssl")

needs_nginx = pytest.mark.skipif(
    PROGRAM is None or OPENSSL is None, reason="nginx or openssl is not installed"
)


@dataclass(frozen=True)
class Nginx:
    """A running nginx: its ports, which one clients ask, and how to believe its certificate."""

    http_port: int
    https_port: int
    tls: ssl.SSLContext
    log: Path
    is_plain: bool

    @property
    def url(self) -> str:
        if self.is_plain:
            return f"http://127.0.0.1:{self.http_port}"
        return f"https://127.0.0.1:{self.https_port}"

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client that comes from that address of the loopback network."""
        transport = httpx.HTTPTransport(verify=self.tls, local_address=address)
        return httpx.Client(base_url=self.url, transport=transport, timeout=WAIT_S)

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        """A raw connection, for requests that no client library would send."""
        port = self.http_port if self.is_plain else self.https_port
        plain = socket.create_connection(
            ("127.0.0.1", port), timeout=WAIT_S, source_address=(address, 0)
        )
        if self.is_plain:
            return plain
        return self.tls.wrap_socket(plain, server_hostname="127.0.0.1")

    def await_log_line(self, request_id: str) -> dict[str, Any]:
        """The access log's line of a request: it is written a moment after the answer."""
        give_up_s = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_s:
            for line in self.log.read_text().splitlines():
                entry: dict[str, Any] = json.loads(line)
                if entry["request_id"] == request_id:
                    return entry
            time.sleep(0.01)
        pytest.fail(f"no line of {request_id}: {self.log.read_text()}")


def make_certificate(folder: Path) -> None:
    assert OPENSSL is not None
    command = [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run(command, check=True, capture_output=True)


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write_configuration(
    folder: Path, site: str, ports: tuple[int, int, int], changes: Mapping[str, str]
) -> Path:
    """Copy docker/nginx/ with other ports, paths and `changes`; each of them has to be found."""
    http_port, https_port, service_port = ports
    changes = {
        "/tmp/": f"{folder}/",  # first: the folder may be below it
        "listen 80 default_server": f"listen 127.0.0.1:{http_port} default_server",
        "listen 8080;": f"listen 127.0.0.1:{http_port};",  # in the place of the other two
        "listen 443 ssl default_server": f"listen 127.0.0.1:{https_port} ssl default_server",
        "https://$host": f"https://$host:{https_port}",
        "har_service service:8000": f"har_service 127.0.0.1:{service_port}",
        "/etc/nginx/certs": str(folder),
        "/var/log/nginx": str(folder),
        "/dev/stderr warn": f"{folder}/error.log notice",
        **changes,
    }
    (folder / "har").mkdir()
    found: set[str] = set()
    for source in CONFIGURATION.glob("*.conf"):
        text = source.read_text(encoding="utf-8")
        for old, new in changes.items():
            if old in text:
                found.add(old)
                text = text.replace(old, new)
        (folder / "har" / source.name).write_text(text, encoding="utf-8")
    assert found == set(changes)
    shutil.copy(folder / "har" / site, folder / "site.conf")  # as the compose files mount it
    main = folder / "nginx.conf"
    # Root's workers are another user's, who could not reach a test's folder.
    user = "user root root;\n" if os.geteuid() == 0 else ""
    main.write_text(user + (folder / "har" / main.name).read_text(encoding="utf-8"))
    return main


def await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < give_up_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    pytest.fail(f"nginx does not start: {log.read_text()}")


@contextmanager
def run_nginx(
    folder: Path,
    service_port: int,
    site: str = "site.conf",
    changes: Mapping[str, str] | None = None,
) -> Iterator[Nginx]:
    """Start nginx in front of a port of this machine, and stop it at the end.

    Args:
        changes: what to put for a text of the configuration, for limits that a test can wait for.
    """
    assert PROGRAM is not None
    folder.mkdir()
    make_certificate(folder)
    http_port, https_port = find_free_port(), find_free_port()
    ports = http_port, https_port, service_port
    main = write_configuration(folder, site, ports, changes or {})
    errors = folder / "error.log"
    command = [PROGRAM, "-p", str(folder), "-c", str(main), "-e", str(errors), "-g", "daemon off;"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr
    with subprocess.Popen(command) as process:
        try:
            await_listening(process, http_port, errors)
            tls = ssl.create_default_context(cafile=str(folder / "tls.crt"))
            yield Nginx(http_port, https_port, tls, folder / "access.log", is_plain=site == PLAIN)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
