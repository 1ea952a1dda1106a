"""The endpoints: thin, because the work is elsewhere."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.datastructures import QueryParams

from service.access import require_key
from service.context import UNKNOWN_MODEL, get_context
from service.deadline import Deadline
from service.descriptions import PREDICT_BODY, document_problems
from service.disconnect import find_departure_watch, read_chunks, run_unless_gone
from service.errors import InvalidParameterError, UnknownModelError
from service.framesheet import encode_sheet, fits_sheet
from service.inference import OnnxModel
from service.multipart import QUERY_PARAMETERS
from service.pipeline import Prediction
from service.registry import ModelRegistry
from service.runtime import Runtime
from service.schemas import (
    FrameSheet,
    HealthReport,
    ModelReport,
    ModelsReport,
    PredictionReport,
)
from service.upload import check_headers, hold_to_pace, receive_upload

router = APIRouter()

MAX_TOP_K = 1000


async def get_runtime(request: Request) -> Runtime:
    """The app's runtime, which create_app() put there.

    Not that there is anything to await: FastAPI would send a plain function to a thread.
    """
    return cast(Runtime, request.app.state.runtime)


RuntimeDependency = Annotated[Runtime, Depends(get_runtime)]


@router.post(
    "/predict",
    summary="Classify the activity in a video",
    response_description="The clip's classes, what was found in the file, and where the time went.",
    responses=document_problems("/predict"),
    dependencies=[Depends(require_key)],
    openapi_extra={"requestBody": PREDICT_BODY},
    response_model_exclude_none=True,
)
async def predict(
    request: Request,
    runtime: RuntimeDependency,
    *,
    model: Annotated[
        str | None,
        Query(description="A name from /models; without it the default one.", examples=["lrcn"]),
    ] = None,
    version: Annotated[
        int | None,
        Query(ge=1, description="A version of it from /models; without it the newest."),
    ] = None,
    top_k: Annotated[
        int | None,
        Query(ge=1, le=MAX_TOP_K, description="How many classes to return; without it all."),
    ] = None,
    frames: Annotated[
        Literal["png"] | None,
        Query(description="Return the frames that the model was given, too, as this."),
    ] = None,
) -> PredictionReport:
    """Send the video as the field `file` of a form, or as the body itself.

    Everything that the headers tell (the key, the model's name, the size, the kind of body) is
    checked before the first byte of the body is read.
    """
    context = get_context(request)
    settings = runtime.settings
    registry = runtime.registry
    context.model = UNKNOWN_MODEL
    chosen = _choose_model(registry, model, version, request.query_params)
    context.model = chosen.manifest.name
    _check_parameters(request.query_params)
    if frames and not fits_sheet(chosen.manifest.clip_spec):
        raise InvalidParameterError("This model's frames are too large to be sent back.")
    body_format = check_headers(request.headers, max_upload_bytes=settings.max_upload_bytes)
    deadline = Deadline.after(settings.request_timeout_s, since_s=context.started_s)
    in_line = runtime.admission.admit(
        deadline, line=context.model, watch_departure=find_departure_watch(request)
    )
    async with runtime.pipeline.use(chosen), in_line:
        began_s = time.monotonic()
        async with receive_upload(
            hold_to_pace(
                read_chunks(request),
                idle_timeout_s=settings.upload_idle_timeout_s,
                min_bytes_per_s=settings.min_upload_bytes_per_s,
            ),
            body_format,
            runtime.spool,
            max_upload_bytes=settings.max_upload_bytes,
            deadline=deadline,
        ) as upload:
            receive_s = time.monotonic() - began_s
            context.note_stage("receive", receive_s)
            runtime.metrics.observe_upload(upload.size_bytes)
            prediction = await run_unless_gone(
                request,
                runtime.pipeline.classify(
                    upload.file, chosen, deadline, on_stage=context.note_stage
                ),
            )
        sheet = await _draw_frames(prediction) if frames else None
    total_s = context.elapsed_s()
    context.note_stage("total", total_s)
    runtime.metrics.observe_prediction(context.model, receive_s=receive_s, total_s=total_s)
    return PredictionReport.of(
        prediction, top_k=top_k, receive_s=receive_s, total_s=total_s, frames=sheet
    )


@router.get(
    "/models",
    summary="List the models",
    response_description="The models, by name.",
    responses=document_problems("/models"),
    dependencies=[Depends(require_key)],
)
async def list_models(runtime: RuntimeDependency) -> ModelsReport:
    """Every model that is served: its classes, its input, where it runs, how good it is.

    Of each name the newest version, and which versions there are besides.
    """
    registry = runtime.registry
    return ModelsReport(
        models=[
            ModelReport(
                name=model.manifest.name,
                version=model.manifest.version,
                versions=list(registry.versions(model.manifest.name)),
                default=model.manifest.name == registry.default,
                classes=list(model.manifest.classes),
                clip_spec=model.manifest.clip_spec.to_dict(),
                provider=model.provider,
                sha256=model.manifest.sha256,
                shows_frames=fits_sheet(model.manifest.clip_spec),
                metrics=dict(model.manifest.metrics),
            )
            for model in registry.newest()
        ]
    )


@router.get(
    "/health/live",
    summary="Is the process alive?",
    response_description="It is.",
    responses=document_problems("/health/live"),
)
async def report_alive() -> HealthReport:
    """200 as long as the event loop turns. A failing answer means: restart it."""
    return HealthReport(status="alive")


@router.get(
    "/health/ready",
    summary="Can it classify?",
    response_description="It can.",
    responses=document_problems("/health/ready"),
)
async def report_ready(runtime: RuntimeDependency) -> HealthReport:
    """200 once every model is loaded, verified and warmed, until the service is told to stop.

    503 too while there is less space for uploads than HAR_MIN_SPOOL_FREE_BYTES.
    """
    await runtime.check_ready()
    return HealthReport(status="ready")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text, or OpenMetrics where the Accept header asks for it.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **document_problems("/metrics"),
    },
)
async def expose_metrics(request: Request, runtime: RuntimeDependency) -> Response:
    """What docs/metrics.md lists."""
    runtime.metrics.set_ready(ready=await runtime.is_ready())
    text, content_type = runtime.metrics.render(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})


def _choose_model(
    registry: ModelRegistry, name: str | None, version: int | None, query: QueryParams
) -> OnnxModel:
    if len(query.getlist("model")) > 1:
        raise UnknownModelError("Name one model, once.")
    return registry.get(name, version)


def _check_parameters(query: QueryParams) -> None:
    """A misspelled parameter would silently mean the default: refuse it."""
    names = [name for name, _ in query.multi_items()]
    if len(set(names)) < len(names) or not set(names) <= set(QUERY_PARAMETERS):
        raise InvalidParameterError(
            f"Query parameters are {', '.join(QUERY_PARAMETERS)}, each at most once."
        )


async def _draw_frames(prediction: Prediction) -> FrameSheet:
    png = await asyncio.to_thread(encode_sheet, prediction.frames)
    return FrameSheet.of(png, prediction.manifest.clip_spec)
