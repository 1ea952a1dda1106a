"""The page at /: drop a video, see what a model says. Plain files of this package, in web/.

It asks no other host for anything, and the browser is told to hold it to that. It is a client like
any other: what it shows, it has from /models and /predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from service.settings import Settings

page_router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).parent / "web"
_PAGE: Final = "index.html"
_MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
#: The page's files beside the page itself, and their media types.
ASSETS: Final[Mapping[str, str]] = {
    path.name: _MEDIA_TYPES[path.suffix]
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _MEDIA_TYPES
}
#: In the page's text: what stands for the setting of that name.
_MAX_UPLOAD_BYTES: Final = "{{ max_upload_bytes }}"

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Stored, but asked after each time: an upgraded service must not meet an old script.
    "Cache-Control": "no-cache",
}


def render_page(settings: Settings) -> str:
    """The page of a service with these settings."""
    return _read(_PAGE).decode().replace(_MAX_UPLOAD_BYTES, str(settings.max_upload_bytes))


@page_router.get("/")
async def show_page(request: Request) -> Response:
    """The page for people."""
    settings: Settings = request.app.state.runtime.settings
    return Response(render_page(settings), media_type="text/html", headers=_HEADERS)


@page_router.get("/web/{asset}")
async def send_page_asset(asset: str) -> Response:
    """One of ASSETS."""
    if asset not in ASSETS:
        raise HTTPException(404)
    return Response(_read(asset), media_type=ASSETS[asset], headers=_HEADERS)


@cache
def _read(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
