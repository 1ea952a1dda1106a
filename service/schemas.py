"""The JSON that goes over the wire, as pydantic models; OpenAPI is made from them.

Numbers are FiniteFloat: pydantic would write a NaN as null, with status 200.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from clip import ClipInfo, ClipSpec
from service.pipeline import Prediction

Probability = Annotated[FiniteFloat, Field(ge=0, le=1.001)]
Milliseconds = Annotated[FiniteFloat, Field(ge=0)]


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClipReport(_Schema):
    """What was found in the video and which frames were taken."""

    container: str = Field(description="Found from the file's first bytes.", examples=["mp4"])
    codec: str = Field(examples=["h264"])
    width: int = Field(description="Pixels, as the picture is shown.", examples=[320])
    height: int = Field(description="Pixels, as the picture is shown.", examples=[240])
    duration_s: FiniteFloat = Field(examples=[7.2])
    frames_found: int = Field(description="Frames that the video has.", examples=[180])
    frames_sampled: int = Field(description="Frames that the model saw.", examples=[20])
    timestamps_s: list[FiniteFloat] = Field(
        description="When the sampled frames come on screen, in seconds after the first frame."
    )

    @classmethod
    def of(cls, info: ClipInfo) -> Self:
        """The report of what clip found."""
        return cls(
            container=info.container,
            codec=info.codec,
            width=info.width,
            height=info.height,
            duration_s=info.duration_s,
            frames_found=info.frames_found,
            frames_sampled=len(info.timestamps_s),
            timestamps_s=list(info.timestamps_s),
        )


class FrameSheet(_Schema):
    """The sampled frames as the model got them: a PNG of them one below another, the first on top.

    Nothing is lost: the picture's rows are the model's input, (count, height, width, RGB).
    """

    media_type: Literal["image/png"] = "image/png"
    count: int = Field(description="Frames in the picture.", examples=[20])
    width: int = Field(description="Pixels, of a frame and of the picture.", examples=[64])
    height: int = Field(description="Pixels, of one frame.", examples=[64])
    data: str = Field(
        description="The picture, in base64.",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )

    @classmethod
    def of(cls, png: bytes, spec: ClipSpec) -> Self:
        """The report of encode_sheet()'s picture of frames of this spec."""
        return cls(
            count=spec.frames,
            width=spec.width,
            height=spec.height,
            data=base64.b64encode(png).decode("ascii"),
        )


class Timings(_Schema):
    """Where the time went, in milliseconds."""

    receive: Milliseconds = Field(description="Reading the upload.")
    decode: Milliseconds = Field(description="Decoding, the wait for a free decoder included.")
    queue: Milliseconds = Field(description="Waiting for the model's last batch to end.")
    infer: Milliseconds = Field(description="The model's run, shared by the batch.")
    total: Milliseconds = Field(description="From the request's headers to this answer.")


class PredictionReport(_Schema):
    """A clip's classes, most probable first."""

    model: str = Field(examples=["lrcn"])
    version: int = Field(examples=[1])
    label: str = Field(description="The most probable class.", examples=["YoYo"])
    probability: Probability = Field(description="Of that class.", examples=[0.93])
    probabilities: dict[str, Probability] = Field(
        description="Classes and their probabilities, highest first; all of them, or `top_k`.",
        examples=[{"YoYo": 0.93, "Archery": 0.05}],
    )
    clip: ClipReport
    timings_ms: Timings
    frames: FrameSheet | None = Field(
        default=None, description="Only there if `frames=png` asked for it."
    )

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        *,
        top_k: int | None,
        receive_s: float = 0.0,
        total_s: float = 0.0,
        frames: FrameSheet | None = None,
    ) -> Self:
        """The report of what a model said, with the `top_k` most probable classes, or all."""
        ranked = prediction.ranked()
        label, probability = ranked[0]
        return cls(
            model=prediction.manifest.name,
            version=prediction.manifest.version,
            label=label,
            probability=probability,
            probabilities=dict(ranked[:top_k]),
            clip=ClipReport.of(prediction.clip),
            timings_ms=Timings(
                receive=_milliseconds(receive_s),
                decode=_milliseconds(prediction.decode_s),
                queue=_milliseconds(prediction.queue_s),
                infer=_milliseconds(prediction.infer_s),
                total=_milliseconds(total_s),
            ),
            frames=frames,
        )


class ModelReport(_Schema):
    """A model that is served."""

    name: str = Field(examples=["lrcn"])
    version: int = Field(description="The newest.", examples=[2])
    versions: list[int] = Field(
        description="What `version` may be asked for, newest first; the rest of this is about the "
        "newest.",
        examples=[[2, 1]],
    )
    default: bool = Field(description="Whether it serves requests that name no model.")
    classes: list[str] = Field(description="In the order of the model's output.")
    clip_spec: dict[str, int | str] = Field(description="How a video becomes the model's input.")
    provider: str = Field(
        description="ONNX Runtime's execution provider that really runs it.",
        examples=["CPUExecutionProvider"],
    )
    sha256: str = Field(description="Of model.onnx.")
    shows_frames: bool = Field(
        description="Whether /predict takes `frames=png`: input above 4 MiB is not sent back."
    )
    metrics: dict[str, Any] = Field(
        description="Figures measured when the model was made: of its parts, such as `test`; where "
        "there are some, of another split (`comparison`) and of its cost (`speed`)."
    )


class ModelsReport(_Schema):
    """Every model that is served."""

    models: list[ModelReport]


class ReloadReport(_Schema):
    """What a reload changed, by <name>/<version>."""

    loaded: list[str] = Field(description="New, and served now.", examples=[["lrcn/2"]])
    kept: list[str] = Field(description="Served as before.", examples=[["lrcn/1"]])
    removed: list[str] = Field(
        description="Not in the folder any more. Requests that were using them are answered."
    )
    failed: dict[str, str] = Field(
        description="Published but bad, and why: not served, or served as it was before.",
        examples=[{"lrcn/3": "manifest.json: No such file or directory"}],
    )


class HealthReport(_Schema):
    """The service is well."""

    status: Literal["alive", "ready"]


class ProblemReport(_Schema):
    """RFC 9457 problem: why there is no answer."""

    type: str = Field(description="urn:har:problem:<code>")
    title: str
    status: int
    code: str = Field(description="Stable, for machines; docs/errors.md lists all.")
    detail: str = Field(description="For people.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the log.")


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
