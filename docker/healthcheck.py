"""Exit code 0 if the service in this container is ready, 1 if not: the image's HEALTHCHECK."""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_S = 4.0


def is_ready(port: int) -> bool:
    """Whether the service on this machine answers that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_ready(int(os.environ.get("HAR_PORT") or 8000)))
