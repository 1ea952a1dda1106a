"""Runtime: ready when everything is, not before; stopping without losing anyone."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from service.inference import ModelLoadError
from service.runtime import Collaborators, Phase, load_models
from tests.open_files import count_open_files
from tests.service.gate import WAIT_S


@pytest.fixture
def held_up_models(gate) -> Collaborators:
    """Models that take their time to load."""

    def load(settings):
        gate.pass_through()
        return load_models(settings)

    return Collaborators(load_models=load)


def test_it_is_alive_at_once_and_ready_only_when_the_models_are(
    start_service, held_up_models, gate, red_clip, expect_problem, wait_for
) -> None:
    with start_service(held_up_models, await_ready=False) as service:
        assert service.client.get("/health/live").status_code == 200
        for answer in (
            service.client.get("/health/ready"),
            service.client.get("/models"),
            service.predict(red_clip),
        ):
            expect_problem(answer, 503, "not_ready")
            assert int(answer.headers["retry-after"]) >= 1
        gate.open()
        wait_for(lambda: service.client.get("/health/ready").status_code == 200)
        assert service.predict(red_clip).status_code == 200


def test_readiness_is_a_metric_that_says_what_the_health_check_says(
    start_service, held_up_models, gate, wait_for
) -> None:
    def agrees(service, ready: int) -> bool:
        status = service.client.get("/health/ready").status_code
        text = service.client.get("/metrics").text
        return status == (200 if ready else 503) and f"\nhar_ready {ready}.0\n" in text

    with start_service(held_up_models, await_ready=False) as service:
        assert agrees(service, 0)
        gate.open()
        wait_for(lambda: agrees(service, 1))
        service.runtime.begin_stop()
        assert agrees(service, 0)
    with start_service(min_spool_free_bytes=2**62) as service:
        assert agrees(service, 0)


def test_f62_a_bad_model_is_never_served_nor_are_the_good_ones(
    start_service, tmp_path, publish_model, expect_problem
) -> None:
    publish_model(tmp_path / "bad", "good")
    publish_model(tmp_path / "bad", "nan", flaw="nan")
    failures: list[Exception] = []
    with (
        pytest.raises(AssertionError, match="not finite"),
        start_service(models_dir=tmp_path / "bad"),
    ):
        pytest.fail("ready")
    settled = threading.Event()

    def load(settings):
        try:
            return load_models(settings)
        except ModelLoadError as error:
            failures.append(error)
            raise
        finally:
            settled.set()

    with start_service(
        Collaborators(load_models=load), await_ready=False, models_dir=tmp_path / "bad"
    ) as service:
        assert settled.wait(WAIT_S)
        expect_problem(service.client.get("/health/ready"), 503, "not_ready")
        assert service.client.get("/health/live").status_code == 200
    assert str(failures[0]).startswith(str(tmp_path / "bad" / "nan" / "1"))


def test_a_spool_that_cannot_be_used_ends_the_start(start_service, tmp_path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(AssertionError, match="HAR_SPOOL_DIR"),
        start_service(spool_dir=tmp_path / "file"),
    ):
        pytest.fail("ready")


def test_f69_what_is_under_way_is_answered_what_comes_late_is_503(
    start_service, gated_decoders, gate, red_clip, expect_problem, wait_for
) -> None:
    answers: list[int] = []
    with start_service(gated_decoders) as service:
        early = threading.Thread(
            target=lambda: answers.append(service.predict(red_clip).status_code)
        )
        early.start()
        wait_for(lambda: gate.arrived == 1)
        service.runtime.begin_stop()
        for late in (service.client.get("/health/ready"), service.predict(red_clip)):
            expect_problem(late, 503, "stopping")
            assert late.headers["connection"] == "close"
        assert service.client.get("/health/live").status_code == 200
        service.server.should_exit = True
        gate.open()
        early.join(WAIT_S)
    assert answers == [200]


def test_a_stopped_service_leaves_no_thread_process_or_open_file(
    start_service, red_clip, wait_for
) -> None:
    def list_children() -> set[str]:
        found: set[str] = set()
        for thread in Path("/proc/self/task").iterdir():
            with suppress(FileNotFoundError):  # it has ended since
                found |= {*(thread / "children").read_text().split()}
        return found

    with start_service() as service:
        service.predict(red_clip)
    children = list_children()
    threads, files = threading.active_count(), count_open_files()
    for _ in range(3):
        with start_service() as service:
            service.predict(red_clip)
            service.predict(b"no video")
            assert list_children() > children
        assert list_children() == children
        assert service.runtime.phase is Phase.STOPPING
    wait_for(lambda: threading.active_count() <= threads)
    wait_for(lambda: count_open_files() <= files)
