"""The service as a process: stopped, killed, without space and without descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.connection import MAX_LINGERING
from service.descriptors import _FILES_PER_DECODER, _OWN_FILES
from tests.service.process import WAIT_S, await_gone, read_answer, started
from tests.service.wire import VIDEO_HEAD, request_head

# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_f69_an_idle_service_stops_at_once_with_exit_code_0(
    launch, red_clip, tmp_path, stop: signal.Signals
) -> None:
    with launch(HAR_SHUTDOWN_GRACE_S=3600) as service:
        assert service.predict(red_clip).json()["label"] == "red"
        with httpx.Client(base_url=service.url) as idle:
            idle.get("/health/live")
            assert service.stop(stop) == 0
        assert not list((tmp_path / "spool").iterdir())


def test_f69_what_is_under_way_is_finished_what_comes_late_is_503(
    launch, red_clip, tmp_path
) -> None:
    """SIGTERM, twice, amid an upload: readiness first, then every word is kept."""
    with launch(HAR_SHUTDOWN_GRACE_S=3600, HAR_UPLOAD_IDLE_TIMEOUT_S=60) as service:
        children = service.children()
        with service.connect() as uploading, httpx.Client(base_url=service.url) as kept:
            assert kept.get("/health/ready").status_code == 200
            head = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip)))
            uploading.sendall(head + red_clip[:-1])
            # The middleware counts the scrape itself, too.
            service.await_metric("har_requests_in_flight", 2)
            service.process.send_signal(signal.SIGTERM)
            late = kept.get("/health/ready")
            give_up_s = time.monotonic() + WAIT_S
            while late.status_code == 200:  # the signal is on its way
                assert time.monotonic() < give_up_s
                late = httpx.get(f"{service.url}/health/ready")
            service.process.send_signal(signal.SIGTERM)
            for answer in (late, service.predict(red_clip)):
                assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
                assert answer.headers["connection"] == "close"
            assert httpx.get(f"{service.url}/health/live").status_code == 200
            uploading.sendall(red_clip[-1:])
            answer = read_answer(uploading)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b'"label":"red"' in answer
            assert service.process.wait(WAIT_S) == 0
        await_gone(children)
        assert not list((tmp_path / "spool").iterdir())
        assert {line["outcome"] for line in service.requests()} == {"ok", "stopping"}


def test_f69_a_burst_in_the_midst_of_its_batches_loses_nobody(launch, red_clip) -> None:
    head = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip)))
    with (
        launch(
            HAR_SHUTDOWN_GRACE_S=3600, HAR_UPLOAD_IDLE_TIMEOUT_S=60, HAR_MAX_BATCH_SIZE=8
        ) as service,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(service.connect()) for _ in range(24)]
        for client in clients:
            client.sendall(head + red_clip[:-1])
        # The middleware counts the scrape itself, too.
        service.await_metric("har_requests_in_flight", 25)
        for client in clients:
            client.sendall(red_clip[-1:])
        assert service.stop() == 0
        answers = [read_answer(client) for client in clients]
        assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers), answers
        assert all(b'"label":"red"' in answer for answer in answers)
        finished = [line for line in service.requests() if line["route"] == "/predict"]
        assert [line["outcome"] for line in finished] == ["ok"] * 24


def test_f69_the_grace_time_ends_a_stop_that_waits_in_vain(launch) -> None:
    with launch(HAR_SHUTDOWN_GRACE_S=1, HAR_UPLOAD_IDLE_TIMEOUT_S=60) as service:
        with service.connect() as stalled:
            head = request_head(Content_Type="video/mp4", Content_Length="100000")
            stalled.sendall(head + VIDEO_HEAD)
            service.await_metric("har_requests_in_flight", 2)
            assert service.stop() == 0
            answer = read_answer(stalled)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"stopping"' in answer
        (line,) = (line for line in service.requests() if line["route"] == "/predict")
        assert (line["outcome"], line["status"]) == ("stopping", 503)


def test_f69_a_second_ctrl_c_ends_the_wait(launch) -> None:
    with (
        launch(HAR_SHUTDOWN_GRACE_S=3600, HAR_UPLOAD_IDLE_TIMEOUT_S=60) as service,
        service.connect() as stalled,
    ):
        head = request_head(Content_Type="video/mp4", Content_Length="100000")
        stalled.sendall(head + VIDEO_HEAD)
        service.await_metric("har_requests_in_flight", 2)
        children = service.children()
        service.process.send_signal(signal.SIGINT)
        give_up_s = time.monotonic() + WAIT_S
        while httpx.get(f"{service.url}/health/ready").status_code == 200:
            assert time.monotonic() < give_up_s
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(WAIT_S) == 0
        await_gone(children)


def test_f69_killed_amid_an_upload_nothing_is_left_and_the_next_start_sweeps(
    launch, red_clip, tmp_path
) -> None:
    spool = tmp_path / "spool"
    with launch() as service, service.connect() as uploading:
        head = request_head(Content_Type="video/mp4", Content_Length="400000")
        uploading.sendall(head + VIDEO_HEAD.ljust(390_000, b"\0"))
        service.await_metric("har_requests_in_flight", 2)
        children = service.children()
        assert len(children) >= 3
        service.process.kill()
        service.process.wait(WAIT_S)
        await_gone(children)
        assert not list(spool.iterdir())
    # As a file system without nameless files would leave it.
    (spool / "upload-left").write_bytes(b"half a video")
    (spool / "notes.txt").write_text("not the service's")
    with launch() as service:
        assert [file.name for file in spool.iterdir()] == ["notes.txt"]
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.stop() == 0


# --- descriptors and memory -----------------------------------------------------------------------


def test_f58_when_descriptors_run_out_the_surplus_is_503_and_it_recovers(launch, red_clip) -> None:
    """Twenty connections are possible; sixty come and stay."""
    reserved = _OWN_FILES + 32 + _FILES_PER_DECODER * 2
    with launch(max_files=reserved + 20, HAR_UPLOAD_IDLE_TIMEOUT_S=60) as service:
        head = request_head(Content_Type="video/mp4", Content_Length="100000")
        visitors = []
        for _ in range(60):
            connection = service.connect()
            with contextlib.suppress(OSError):  # refused ones may be closed by now
                connection.sendall(head + VIDEO_HEAD)
            visitors.append(connection)
        refused = [read_answer(connection) for connection in visitors[20:]]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
        assert all(b"out_of_connections" in answer for answer in refused)
        for connection in visitors:
            connection.close()
        service.await_metric("har_requests_in_flight", 1)
        assert service.predict(red_clip).json()["label"] == "red"
        warning = "allows 20 connections"
        assert warning in service.log.read_text()
        assert service.stop() == 0


def test_f58_a_flood_of_connections_takes_no_descriptor_from_the_others(launch, red_clip) -> None:
    """Six hundred come at once: those one too many are let go as fast as they come."""
    reserved = _OWN_FILES + 32 + _FILES_PER_DECODER * 2
    with launch(max_files=reserved + 20, HAR_UPLOAD_IDLE_TIMEOUT_S=60) as service:
        head = request_head(Content_Type="video/mp4", Content_Length="100000")
        visitors = [service.connect() for _ in range(19)]
        for connection in visitors:
            connection.sendall(head + VIDEO_HEAD)
        service.await_metric("har_requests_in_flight", 19 + 1)
        visitors.append(service.connect())
        visitors[-1].sendall(head + VIDEO_HEAD)
        flood = [socket.socket() for _ in range(600)]
        for connection in flood:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", service.port))
        time.sleep(1)  # the refused may stay so long
        for connection in (*flood, *visitors):
            connection.close()
        service.await_metric("har_requests_in_flight", 1)
        refused = 'har_rejected_total{reason="out_of_connections"}'
        assert service.metric(refused) > MAX_LINGERING
        assert service.predict(red_clip).json()["label"] == "red"
        log = service.log.read_text()
        assert "out of system resource" not in log
        assert "Traceback" not in log
        assert service.stop() == 0


def test_f58_too_few_descriptors_for_anyone_end_the_start_with_the_number(
    models_dir: Path,
) -> None:
    with started({"HAR_PORT": 0, "HAR_MODELS_DIR": models_dir}, max_files=100) as process:
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert re.match(
        r"har-service cannot start: the limit of open files \(ulimit -n\) is 100, and at least \d+",
        err,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice of victim is Linux's")
def test_f59_short_of_memory_the_kernel_ends_a_decoder_not_the_service(launch, red_clip) -> None:
    with launch() as service:

        def victims() -> list[int]:
            return [
                pid
                for pid in service.children()
                if Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
            ]

        assert Path(f"/proc/{service.process.pid}/oom_score_adj").read_text().strip() != "1000"
        give_up_s = time.monotonic() + WAIT_S
        while len(decoders := victims()) < 2:
            assert time.monotonic() < give_up_s
        os.kill(decoders[0], signal.SIGKILL)  # as the kernel does
        give_up_s = time.monotonic() + WAIT_S
        while decoders[0] in service.children() or len(victims()) < 2:
            service.predict(red_clip)
            assert time.monotonic() < give_up_s
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.stop() == 0


# --- the spool ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk("size=1m"): an empty file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs root and the right to mount")
        mounted.append(folder)
        return folder

    yield mount
    for one in mounted:
        subprocess.run(["umount", "-l", str(one)], check=True)


def big_clip(clip: bytes) -> bytes:
    """The clip, two megabytes long: players pass over a box of nothing at its end."""
    padding = 2_000_000
    return clip + (padding + 8).to_bytes(4, "big") + b"free" + b"\0" * padding


def test_f57_a_disk_that_fills_up_amid_an_upload_is_507_and_recovers(
    launch, red_clip, small_disk
) -> None:
    with launch(HAR_SPOOL_DIR=small_disk("size=1m"), HAR_MIN_SPOOL_FREE_BYTES=0) as service:
        answer = service.predict(big_clip(red_clip))
        assert (answer.status_code, answer.json()["code"]) == (507, "spool_full")
        assert service.predict(red_clip).json()["label"] == "red"
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        assert service.stop() == 0


@pytest.mark.parametrize("lack", ["space", "inodes"])
def test_f57_below_the_floor_it_is_not_ready_takes_no_body_and_recovers(
    launch, red_clip, small_disk, lack: str
) -> None:
    folder = small_disk("size=4m,nr_inodes=200")
    with launch(HAR_SPOOL_DIR=folder, HAR_MIN_SPOOL_FREE_BYTES=1_000_000) as service:
        assert service.predict(red_clip).json()["label"] == "red"
        others = folder / "others"
        others.mkdir()
        if lack == "space":
            (others / "large").write_bytes(b"\0" * 3_500_000)
        else:
            for number in range(150):
                (others / str(number)).touch()
        ready = httpx.get(f"{service.url}/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        with service.connect() as connection:
            connection.sendall(
                request_head(Content_Type="video/mp4", Content_Length="1000", Expect="100-continue")
            )
            answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 507 "), "and not 100 Continue"
        for file in others.iterdir():
            file.unlink()
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.stop() == 0


def test_f57_a_disk_that_turns_read_only_is_507_and_recovers(launch, red_clip, small_disk) -> None:
    folder = small_disk("size=4m")

    def remount(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)

    with launch(HAR_SPOOL_DIR=folder, HAR_MIN_SPOOL_FREE_BYTES=0) as service:
        remount("ro")
        answer = service.predict(red_clip)
        assert (answer.status_code, answer.json()["code"]) == (507, "spool_full")
        remount("rw")
        assert service.predict(red_clip).json()["label"] == "red"
        assert service.stop() == 0


def test_f57_a_start_below_the_floor_is_alive_but_not_ready(launch, red_clip) -> None:
    with launch(HAR_MIN_SPOOL_FREE_BYTES=2**62) as service:
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert httpx.get(f"{service.url}/health/ready").status_code == 503
        answer = service.predict(red_clip)
        assert (answer.status_code, answer.json()["code"]) == (507, "spool_full")
        assert service.stop() == 0
