"""One service for all faulty files, and what each of them must have left behind: nothing."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip import ClipInfo, sample_clip
from tests.drawing import Drawing

MEBIBYTE = 1024 * 1024
#: Threads of which there are a fixed few, started when they are first needed: those in which files
#: are written, and the web framework's.
_POOLS = ("asyncio_", "AnyIO ")
#: What the test's model multiplies the mean colour with before its softmax.
_SCALE = 0.02

Draw = Callable[..., bytes]
ExpectAsInTraining = Callable[[bytes], ClipInfo]


@pytest.fixture(scope="session")
def shared_service(start_shared, tmp_path_factory, models_dir) -> Iterator[Any]:
    spool_dir: Path = tmp_path_factory.mktemp("spool")
    with start_shared(spool_dir, models_dir, max_upload_bytes=16 * MEBIBYTE) as service:
        yield service


@pytest.fixture(autouse=True)
def threads_end(request: pytest.FixtureRequest, wait_for) -> Iterator[None]:
    """No test leaves a thread behind."""
    if "service" in request.fixturenames:
        request.getfixturevalue("service")

    def count() -> int:
        return sum(not thread.name.startswith(_POOLS) for thread in threading.enumerate())

    before = count()
    yield
    wait_for(lambda: count() <= before)


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """draw(suffix, codec, ...): the bytes of a clip whose frames show their own numbers."""

    def encode(*args: Any, **options: Any) -> bytes:
        return Drawing(*args, **options).write(tmp_path / "drawn").read_bytes()

    return encode


@pytest.fixture
def expect_as_in_training(service) -> ExpectAsInTraining:
    """expect_as_in_training(content): the answer is 200 and made of the frames training samples."""

    def expect(content: bytes) -> ClipInfo:
        response = service.predict(content)
        assert response.status_code == 200, response.text
        body = response.json()
        sampled = sample_clip(io.BytesIO(content))
        assert body["clip"]["frames_found"] == sampled.info.frames_found
        assert body["clip"]["timestamps_s"] == list(sampled.info.timestamps_s)
        powers = np.exp(sampled.frames.mean(axis=(0, 1, 2)) * _SCALE)
        wanted = dict(zip(("red", "green", "blue"), powers / powers.sum(), strict=True))
        assert body["probabilities"] == pytest.approx(wanted, abs=1e-5)
        return sampled.info

    return expect
