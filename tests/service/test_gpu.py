"""What clients see of a GPU that fails, tested with one that is not there."""

from __future__ import annotations

from typing import Any

import pytest

from service.cuda import CUDA_PROVIDER
from service.registry import ModelRegistry
from service.runtime import Collaborators, Phase, configure_registry
from tests.service.fake_gpu import ILLEGAL_ACCESS, OUT_OF_MEMORY, FakeGpu


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def on_gpu(gpu: FakeGpu) -> Collaborators:
    return Collaborators(
        load_models=lambda settings: ModelRegistry.load(configure_registry(settings), gpu)
    )


def test_the_service_says_where_it_runs(start_service, on_gpu, red_clip) -> None:
    with start_service(on_gpu, device="cuda") as service:
        assert service.predict(red_clip).json()["label"] == "red"
        models: list[dict[str, Any]] = service.client.get("/models").json()["models"]
        assert {model["provider"] for model in models} == {CUDA_PROVIDER}
        assert f'provider="{CUDA_PROVIDER}"' in service.client.get("/metrics").text


@pytest.mark.parametrize(
    ("device", "machine", "expected"),
    [
        ("cpu", FakeGpu(), 0),
        ("auto", FakeGpu(), 1),
        ("auto", FakeGpu(complaint="libcudnn.so.9 is missing"), 1),
        ("auto", FakeGpu(falls_back=True), 1),
        ("auto", FakeGpu(obstacle="there is no driver"), 0),
        ("cuda", FakeGpu(), 1),
    ],
)
def test_f67_a_gpu_that_should_be_used_is_told_whether_it_is_or_not(
    start_service, device, machine, expected
) -> None:
    collaborators = Collaborators(
        load_models=lambda settings: ModelRegistry.load(configure_registry(settings), machine)
    )
    with start_service(collaborators, device=device) as service:
        assert service.metric("har_gpu_expected") == expected


def test_f67_a_reload_tells_anew_whether_a_gpu_should_be_used(start_service) -> None:
    driver_came_late = Collaborators(
        reload_models=lambda settings, registry: registry.reload(
            configure_registry(settings), FakeGpu()
        )
    )
    key = "a-key-for-reloads-0123"
    with start_service(driver_came_late, device="auto", api_keys=key) as service:
        before = service.metric("har_gpu_expected")
        service.client.post("/models/reload", headers={"X-API-Key": key}).raise_for_status()
        assert (before, service.metric("har_gpu_expected")) == (0, 1)


def test_f68_no_gpu_memory_is_503_with_retry_after_until_there_is_some(
    start_service, on_gpu, gpu, red_clip, expect_problem
) -> None:
    with start_service(on_gpu, device="cuda") as service:
        gpu.failure = lambda clips: OUT_OF_MEMORY
        answer = service.predict(red_clip)
        problem = expect_problem(answer, 503, "gpu_out_of_memory")
        assert int(answer.headers["retry-after"]) >= 1
        assert "939524096" not in str(problem)
        assert service.client.get("/health/ready").status_code == 200
        gpu.failure = lambda clips: None
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.metric("har_failures_total", reason="gpu_out_of_memory") == 1


def test_f68_a_lost_gpu_makes_the_service_not_ready_for_every_model(
    start_service, on_gpu, gpu, red_clip, expect_problem
) -> None:
    with start_service(on_gpu, device="cuda") as service:
        gpu.failure = lambda clips: ILLEGAL_ACCESS
        problem = expect_problem(service.predict(red_clip), 503, "not_ready")
        assert "illegal" not in problem["detail"]
        gpu.failure = lambda clips: None
        for answer in (
            service.client.get("/health/ready"),
            service.predict(red_clip),
            service.predict(red_clip, model="tiny"),
        ):
            expect_problem(answer, 503, "not_ready")
        assert service.client.get("/health/live").status_code == 200
        assert service.runtime.phase is Phase.FAILED
