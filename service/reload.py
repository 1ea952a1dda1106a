"""POST /models/reload: serve what is published now, without a restart."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from service.access import require_key
from service.descriptions import document_problems
from service.errors import ReloadDisabledError
from service.routes import RuntimeDependency
from service.schemas import ReloadReport

reload_router = APIRouter()


@reload_router.post(
    "/models/reload",
    summary="Serve what is published now",
    response_description="What has changed. Bad models are listed and do not fail the reload.",
    responses=document_problems("/models/reload"),
    dependencies=[Depends(require_key)],
)
async def reload_models(runtime: RuntimeDependency) -> ReloadReport:
    """Read the models folder again, as SIGHUP does; answered when it is done.

    New versions are loaded, verified and warmed before they serve, and requests that use a removed
    one are answered first: none fails. Open only where keys are set.
    """
    if not runtime.settings.api_keys:
        raise ReloadDisabledError("Set HAR_API_KEYS, or send the process a SIGHUP instead.")
    changes = await runtime.reload()
    return ReloadReport(
        loaded=changes.loaded, kept=changes.kept, removed=changes.removed, failed=changes.failed
    )
