"""Signals that come while the service starts, and starts that fail halfway."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip import Limits
from service.decoding import DecodePool
from service.runtime import Collaborators, Phase, load_models, reload_models
from service.session import ModelLoadError
from tests.service.process import WAIT_S, await_gone, find_children, started


@pytest.fixture
def variables(gate, tmp_path: Path, models_dir: Path) -> dict[str, Any]:
    """Of a process whose models wait at the gate."""
    return {
        "HAR_PORT": 0,
        "HAR_MODELS_DIR": models_dir,
        "HAR_SPOOL_DIR": tmp_path / "spool",
        "HAR_LOG_LEVEL": "warning",
        "HAR_SHUTDOWN_GRACE_S": 3600,
        "GATE_FOLDER": tmp_path / "gate",
    }


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_f69_a_stop_does_not_wait_for_models_that_are_being_loaded(
    variables, gate, stop: signal.Signals
) -> None:
    with started(variables, module="tests.service.slow_load_service") as process:
        gate.await_arrivals(1)
        children = find_children(process.pid)
        process.send_signal(stop)
        out, err = process.communicate(timeout=WAIT_S / 2)
    assert (process.returncode, out, err) == (0, "", "")
    await_gone(children)


def test_f69_a_stop_does_not_wait_for_a_reload(start_service, gate) -> None:
    def reload_slowly(settings, registry):
        gate.pass_through()
        return reload_models(settings, registry)

    with start_service(Collaborators(reload_models=reload_slowly)) as service:
        service.runtime.request_reload()
        gate.await_arrivals(1)
    assert service.runtime.phase is Phase.STOPPING  # and the gate is still closed


def test_what_is_loaded_for_nobody_is_closed(start_service, gate, wait_for) -> None:
    loaded = []

    def load(settings):
        gate.pass_through()
        registry = load_models(settings)
        loaded.extend(registry)
        return registry

    with start_service(Collaborators(load_models=load), await_ready=False):
        gate.await_arrivals(1)
    gate.open()
    wait_for(lambda: loaded)
    for model in loaded:
        wait_for(lambda model=model: not any(thread.is_alive() for thread in model.runner._threads))


@pytest.mark.parametrize("in_grace", [True, False])
def test_what_a_reload_loads_for_nobody_is_closed(
    start_service, gate, publish_model, tmp_path: Path, wait_for, *, in_grace: bool
) -> None:
    """It is done while the service waits for its requests at a stop, or when all is over."""
    loaded = []

    def reload_slowly(settings, registry):
        gate.pass_through()
        after, changes = reload_models(settings, registry)
        loaded.extend(set(after) - set(registry))
        return after, changes

    def is_closed() -> bool:
        return bool(loaded) and not any(one.is_alive() for one in loaded[0].runner._threads)

    models = tmp_path / "models"
    publish_model(models, "lrcn", 1)
    with start_service(Collaborators(reload_models=reload_slowly), models_dir=models) as service:
        publish_model(models, "lrcn", 2)
        service.runtime.request_reload()
        gate.await_arrivals(1)
        if in_grace:
            service.runtime.begin_stop()
            gate.open()
            wait_for(is_closed)
    gate.open()
    wait_for(is_closed)


def test_decoders_are_not_left_at_it_when_the_models_cannot_be_loaded(
    start_service, gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for
) -> None:
    (tmp_path / "slow_import.py").write_text(
        "from pathlib import Path\n"
        "from clip import sample_clip as sample\n"
        "from tests.service.gate import Gate\n"
        f"Gate(Path({str(tmp_path / 'gate')!r})).pass_through()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def build(settings, metrics):
        return DecodePool(workers=1, limits=Limits(), timeout_s=20, job="slow_import:sample")

    def fail(settings):
        gate.await_arrivals(1)  # the process that forks decoders is there, and takes its time
        raise ModelLoadError("none of them")

    before = find_children(os.getpid())
    failing = Collaborators(load_models=fail, build_decoders=build)
    with start_service(failing, await_ready=False) as service:
        wait_for(lambda: service.runtime.phase is Phase.FAILED)
        wait_for(lambda: find_children(os.getpid()) <= before)
        assert service.client.get("/health/live").status_code == 200


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_sighup_amid_the_imports_is_ignored(variables, gate, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.service.gate import Gate\n"
        "Gate(Path(os.environ['GATE_FOLDER'])).pass_through()\n"
        "sys.exit(7)\n"
    )
    with started(variables | {"PYTHONPATH": tmp_path}) as process:
        gate.await_arrivals(1)
        process.send_signal(signal.SIGHUP)
        gate.open()
        assert process.wait(WAIT_S) == 7


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_sighup_while_the_models_load_has_the_folder_read_again_after_that(
    variables, gate, tmp_path: Path, publish_model, red_clip, wait_for
) -> None:
    models = tmp_path / "models"
    publish_model(models, "lrcn", 1)
    with started(
        variables | {"HAR_MODELS_DIR": models}, module="tests.service.slow_load_service"
    ) as process:
        gate.await_arrivals(1)
        publish_model(models, "lrcn", 2)
        process.send_signal(signal.SIGHUP)
        gate.open()
        assert process.stdout is not None
        address = process.stdout.readline().split(" at ")[1].split()[0]

        def newest() -> int:
            answer = httpx.post(f"{address}/predict", files={"file": red_clip}, timeout=WAIT_S)
            version: int = answer.json()["version"]
            return version

        wait_for(lambda: newest() == 2)
