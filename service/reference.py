"""The page at /docs: Swagger UI, served from here, so that it works without the Internet.

FastAPI's own page loads its script and style from a CDN and so stays blank in a closed network. The
package fastapi-swagger carries both; nothing of it is imported, only its files are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

reference_router = APIRouter(include_in_schema=False)

#: The files that the page needs, and their media types.
ASSETS: Final[Mapping[str, str]] = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# Should a version of the page come to want something of another host, the browser does not ask.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@reference_router.get("/docs")
async def show_reference(request: Request) -> Response:
    """Every endpoint, with a form to try it."""
    # Relative addresses: behind a proxy the service may sit below another path.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        # Without it the page sends the document's address to validator.swagger.io.
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@reference_router.get("/docs/{asset}")
async def send_asset(asset: str) -> Response:
    """One of ASSETS."""
    if asset not in ASSETS:
        raise HTTPException(404)
    return Response(_read(asset), media_type=ASSETS[asset])


@cache
def _read(asset: str) -> bytes:
    package = find_spec("fastapi_swagger")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package fastapi-swagger is not installed")
    return (Path(package.origin).parent / "resources" / asset).read_bytes()
