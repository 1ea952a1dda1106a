import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import training.data.fetch
from tests.training.fileserver import serving
from training.data.fetch import ATTEMPTS, DownloadError, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server():
    with serving(CONTENT) as state:
        yield state


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data.zip"


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_is_fetched_whole(server, target):
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert names(target) == ["data.zip"]


def test_dropped_connections_are_taken_up_where_they_ended(server, target):
    server.drops = [100_000, 50_000, 1]
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["", "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_download_that_began_without_its_length_is_taken_up(server, target):
    server.chunked = True
    server.drops = [100_000, 50_000]
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["", "bytes=100000-", "bytes=150000-"]


def test_a_date_is_remembered_where_the_answer_with_a_part_leaves_it_out(server, target):
    server.etag, server.modified = "", "Thu, 26 Nov 2026 08:00:00 GMT"
    server.drops = [100_000, 50_000]
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["", "bytes=100000-", "bytes=150000-"]


def test_progress_between_drops_starts_the_count_anew(server, target):
    server.drops = [10_000] * (2 * ATTEMPTS)
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT


def test_a_later_call_goes_on_where_the_first_gave_up(server, target):
    server.drops = [100_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(DownloadError, match=r"at byte 100000.*the same command goes on"):
        fetch(server.url, target, pause_s=0)
    assert names(target) == ["data.zip.part", "data.zip.part.json"]
    server.requests.clear()
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["bytes=100000-"]


def test_a_part_of_another_version_is_not_mixed_with_this_one(server, target):
    server.drops = [100_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(server.url, target, pause_s=0)
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_part_is_not_completed_from_another_version_by_a_server_that_ignores_if_range(
    server, target
):
    server.drops = [100_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(server.url, target, pause_s=0)
    server.content, server.etag, server.if_range = CONTENT[::-1], '"two"', False
    with pytest.raises(DownloadError, match="another range than was asked for"):
        fetch(server.url, target, pause_s=0)
    assert names(target) == []
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"one"'), (True, ""), (True, 'W/"one"')])
def test_a_server_that_cannot_resume_is_asked_for_all_of_it_again(server, target, ranges, etag):
    server.ranges, server.etag, server.drops = ranges, etag, [100_000]
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT


def test_a_part_without_its_record_is_fetched_from_the_beginning(server, target):
    target.with_name("data.zip.part").write_bytes(b"x" * 1000)
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT


def test_a_whole_part_needs_only_its_name(server, target):
    server.drops = [len(CONTENT) - 1] + [0] * (ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(server.url, target, pause_s=0)
    with target.with_name("data.zip.part").open("ab") as part:
        part.write(CONTENT[-1:])
    server.requests.clear()
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_a_server_that_lies_about_the_length_is_not_believed(server, target):
    server.lie = 1000
    with pytest.raises(DownloadError, match="promised 301000 bytes and now has 300000"):
        fetch(server.url, target, pause_s=0)
    assert names(target) == []


def test_a_server_that_promises_too_much_and_cannot_resume_is_given_up(server, target):
    server.lie, server.etag = 1000, ""
    with pytest.raises(DownloadError, match=f"failed {ATTEMPTS} times in a row.*promised 301000"):
        fetch(server.url, target, pause_s=0)
    assert not target.exists()


def test_a_busy_server_is_tried_again_and_a_refusing_one_is_not(server, target):
    server.statuses = [503, 429, 500]
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == CONTENT
    server.statuses, server.requests = [404], []
    with pytest.raises(DownloadError, match="status 404"):
        fetch(server.url, target.with_name("other"), pause_s=0)
    assert server.requests == [""]


def test_no_listening_server_is_said_in_words(target):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 cannot be reached.*refused"):
        fetch(f"http://127.0.0.1:{port}/a.rar", target, pause_s=0)


def test_no_network_is_said_in_words_at_once(target):
    with pytest.raises(DownloadError, match=r"no-such-host\.invalid is not known here.*network"):
        fetch("http://no-such-host.invalid/a.rar", target, pause_s=3600)


def test_a_certificate_that_cannot_be_verified_is_said_in_words():
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_message = "unable to get local issuer certificate"
    message = str(training.data.fetch._unreachable("https://host.example/a.rar", error))
    assert "certificate of host.example" in message
    assert "--insecure" in message


def test_a_disk_with_too_little_room_is_said_before_anything_is_written(
    server, target, monkeypatch
):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(training.data.fetch.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match="1000 bytes free, 300000 are still"):
        fetch(server.url, target, pause_s=0)
    assert names(target) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "UCF50.rar"])
def test_only_http_is_spoken(url, target):
    with pytest.raises(DownloadError, match="no http or https"):
        fetch(url, target)


def test_a_fetch_that_is_killed_is_gone_on_with(server, target):
    server.content = CONTENT * 200  # 60 MB
    code = "import sys; from pathlib import Path; from training.data.fetch import fetch;"
    code += "fetch(sys.argv[1], Path(sys.argv[2]))"
    part = target.with_name("data.zip.part")
    with subprocess.Popen(
        [sys.executable, "-c", code, server.url, str(target)],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size == 0:
            assert time.monotonic() < deadline
        os.kill(process.pid, signal.SIGKILL)
    server.requests.clear()
    fetch(server.url, target, pause_s=0)
    assert target.read_bytes() == server.content
    assert not server.requests or server.requests[0].startswith("bytes=")
