"""The frame sheet: exactly what the model was given, and only where it was asked for."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from clip import ClipSpec, read_clip
from service.framesheet import MAX_SHEET_BYTES, encode_sheet, fits_sheet
from tests.drawing import Drawing


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of which every frame is another."""
    return Drawing(height=64, width=64).write(tmp_path_factory.mktemp("clips") / "drawn")


def read_png(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_a_sheet_holds_the_tensor_without_loss() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 5, 9, 3), np.uint8)
    assert (read_png(encode_sheet(frames)).reshape(frames.shape) == frames).all()


@pytest.mark.parametrize(
    ("model", "spec"),
    [("lrcn", ClipSpec()), ("tiny", ClipSpec(frames=5, height=32, width=48))],
)
def test_the_frames_in_an_answer_are_the_models_input(
    service, drawn: Path, model: str, spec: ClipSpec
) -> None:
    body = service.predict(drawn.read_bytes(), model=model, frames="png").json()
    sheet = body["frames"]
    assert sheet["media_type"] == "image/png"
    assert (sheet["count"], sheet["height"], sheet["width"], 3) == spec.shape
    pixels = read_png(base64.b64decode(sheet["data"], validate=True))
    assert (pixels.reshape(spec.shape) == read_clip(drawn, spec)).all()


def test_an_answer_has_no_frames_unless_asked(service, red_clip) -> None:
    assert "frames" not in service.predict(red_clip).json()


@pytest.mark.parametrize("value", ["", "true", "1", "jpeg", "PNG"])
def test_there_is_one_kind_of_sheet(service, expect_problem, value: str) -> None:
    response = service.client.post(f"/predict?frames={value}")
    assert "frames" in expect_problem(response, 400, "invalid_parameter")["detail"]


def test_frames_asked_for_in_the_form_are_refused(service, red_clip, expect_problem) -> None:
    response = service.client.post("/predict", data={"frames": "png"}, files={"file": red_clip})
    expect_problem(response, 400, "invalid_parameter")


def test_a_models_large_frames_are_refused_before_the_body(
    start_service, tmp_path, publish_model, expect_problem, red_clip
) -> None:
    large = ClipSpec(frames=20, height=320, width=320)
    assert large.nbytes > MAX_SHEET_BYTES
    publish_model(tmp_path / "models", "large", clip_spec=large)
    publish_model(tmp_path / "models", "small")
    with start_service(models_dir=tmp_path / "models", default_model="large") as service:
        refused = service.client.post("/predict?frames=png")
        expect_problem(refused, 400, "invalid_parameter")
        assert service.predict(red_clip).status_code == 200
        models = service.client.get("/models").json()["models"]
    assert {model["name"]: model["shows_frames"] for model in models} == {
        "large": False,
        "small": True,
    }


def test_the_limit_lets_common_inputs_through() -> None:
    assert fits_sheet(ClipSpec(frames=40))
    assert fits_sheet(ClipSpec(frames=20, height=224, width=224))
    assert not fits_sheet(ClipSpec(frames=512, height=1024, width=1024))
