"""Access: who may use the service, by the keys in HAR_API_KEYS."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from service.errors import UnauthorizedError

KEY_HEADER: Final = "X-API-Key"
#: RFC 9110 wants the scheme named; a key in X-API-Key has no scheme of its own.
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="har-service"'}
_OPTIONAL: Final = "Needed only where HAR_API_KEYS is set."

_read_header = APIKeyHeader(
    name=KEY_HEADER, scheme_name="api_key", description=_OPTIONAL, auto_error=False
)
_read_bearer = HTTPBearer(scheme_name="bearer", description=_OPTIONAL, auto_error=False)


class Access:
    """The accepted keys; without any, everyone is let in."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        # Digests are all of one length: how long a comparison takes tells nothing of a key.
        self._digests = [_digest(key.get_secret_value()) for key in keys]

    def check(self, offered: Sequence[str]) -> None:
        """Let a request in that offers an accepted key.

        Args:
            offered: the keys that the request's headers hold.

        Raises:
            UnauthorizedError: keys are set, and none of `offered` is one of them.
        """
        if not self._digests:
            return
        # Every key is compared with every other, so that the time does not tell which one was near.
        matches = [
            hmac.compare_digest(_digest(key), digest) for key in offered for digest in self._digests
        ]
        if not any(matches):
            raise UnauthorizedError(
                f"Send an accepted key in {KEY_HEADER}, or as Authorization: Bearer.",
                headers=_CHALLENGE,
            )


async def require_key(
    request: Request,
    key: Annotated[str | None, Depends(_read_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_read_bearer)],
) -> None:
    """Dependency of endpoints that are not for everyone; runs before their body is read.

    Raises:
        UnauthorizedError: see Access.check().
    """
    access: Access = request.app.state.access
    offered = [key, bearer.credentials if bearer else None]
    access.check([one for one in offered if one])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
