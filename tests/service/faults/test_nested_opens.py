"""Files that name other files and addresses: none is opened, by the kernel's word."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clip import Limits
from service.decoding import DecodePool
from service.metrics import Metrics
from service.runtime import Collaborators
from service.settings import Settings
from tests.drawing import Drawing
from tests.service.decoder_jobs import VIDEO_BEGINNING
from tests.service.faults import surgery
from tests.service.faults.nested_opens import traced

LINK_LOCAL = "http://169.254.169.254/latest/meta-data/"
NEIGHBOUR = "neighbour.mp4"
#: Such a file can have something put in front of it.
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

Files = dict[str, bytes]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket; connections to it wait to be accepted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def was_connected(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def hls(target: str) -> bytes:
    lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", target, "#EXT-X-ENDLIST", "")
    return "\n".join(lines).encode()


def concat(*lines: str) -> bytes:
    return "\n".join(("ffconcat version 1.0", *lines, "")).encode()


def texts(port: int, folder: Path) -> Files:
    """Playlists, descriptions of sessions, and other text that FFmpeg acts upon."""
    url = f"http://127.0.0.1:{port}/clip.mp4"
    neighbour = folder / NEIGHBOUR
    return {
        "f47-passwd": hls("/etc/passwd"),
        "f47-model": hls(f"{folder}/models/lrcn/1/model.onnx"),
        "f47-link-local": hls(LINK_LOCAL),
        "f47-loopback": hls(url),
        "f48-sibling": concat(f"file {NEIGHBOUR}"),
        "f48-working-directory": concat(f"file {os.path.relpath(neighbour)}"),
        "f48-absolute": concat(f"file {neighbour}"),
        "f48-http": concat(f"file {url}"),
        "f48-unsafe": concat("option safe 0", f"file {neighbour}"),
        "f49-sdp": f"v=0\ns=x\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n".encode(),
        "f49-mpd": f"<?xml version='1.0'?><MPD><BaseURL>{url}</BaseURL></MPD>".encode(),
        "f49-smil": f"<smil><body><video src='{url}'/></body></smil>".encode(),
        "f49-pls": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n".encode(),
        "f49-rtsp": f"rtsp://127.0.0.1:{port}/clip".encode(),
        "f49-pattern": b"img%03d.png",
        "f49-ansi": b"\x1b[2J\x1b[31mhello\x1b[0m" * 100,
        "f49-xbin": b"XBIN\x1a" + struct.pack("<HHBB", 80, 25, 16, 0) + bytes(4000),
    }


def gab2_avi(playlist: bytes) -> bytes:
    """An AVI whose second stream is a subtitle file that is a playlist (CVE-2017-9993)."""
    file = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    with av.open(file, "w", format="avi") as output:
        streams = [output.add_stream("mjpeg", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(3):
            for stream in streams:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        for stream in streams:
            output.mux(stream.encode(None))
    data = bytearray(file.getvalue())
    second = data.index(b"strh", data.index(b"strh") + 4)
    data[second + surgery.STRH_TYPE : second + surgery.STRH_TYPE + 4] = b"txts"
    name = "x".encode("utf-16-le")
    packet = b"GAB2\0" + struct.pack("<HI", 2, len(name)) + name
    packet += struct.pack("<HI", 4, len(playlist)) + playlist
    start = data.index(b"01dc", data.index(b"movi"))
    end = data.index(b"idx1")
    while 0 <= start < end:
        (size,) = struct.unpack_from("<I", data, start + 4)
        assert len(packet) <= size
        data[start + 2 : start + 4] = b"tx"
        data[start + 8 : start + 8 + size] = packet.ljust(size, b"\n")
        start = data.find(b"01dc", start + 1)
    return bytes(data)


def zip_tail() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("index.m3u8", hls("/etc/passwd"))
    return file.getvalue()


def videos(port: int, folder: Path) -> Files:
    """Videos that name other files, and files that are a video and something else."""
    clip = (folder / NEIGHBOUR).read_bytes()
    mov = Drawing(".mov", frames=8).write(folder / "other").read_bytes()
    mkv = Drawing(".mkv", frames=8).write(folder / "other").read_bytes()
    playlist = hls(f"http://127.0.0.1:{port}/clip.mp4")
    return {
        "f50-gab2": gab2_avi(hls(f"{folder}/{NEIGHBOUR}")),
        "f50-attachment": surgery.add_attachments(mkv, 1, playlist),
        "f50-attachments": surgery.add_attachments(mkv, 900, playlist),
        "f50-more-attachments-than-ffmpeg-takes": surgery.add_attachments(mkv, 2000, playlist),
        # Not self-contained: the pictures are in a file that the data reference names.
        "f50-dref": surgery.replace_once(mov, b"url \0\0\0\1", b"url \0\0\0\0"),
        "f51-playlist-first": surgery.box(b"free", playlist) + clip,
        "f51-playlist-last": clip + surgery.box(b"free", playlist),
        "f51-zip": clip + zip_tail(),
        "f51-pdf": b"%PDF-1.4\n" + clip,
    }


#: The answer's status, or its problem's code, of each of videos().
EXPECTED = {
    "f50-gab2": {200},
    "f50-attachment": {200},
    "f50-attachments": {"too_many_streams"},
    "f50-more-attachments-than-ffmpeg-takes": {"too_many_streams", "decode_failed"},
    "f50-dref": {200, "decode_failed"},
    "f51-playlist-first": {200},
    "f51-playlist-last": {200},
    "f51-zip": {200},
    "f51-pdf": {"unknown_container"},
}


@pytest.fixture
def neighbourhood(tmp_path: Path, models_dir: Path) -> Path:
    """A folder with things that no upload may reach."""
    Drawing(frames=4, container_options=FRAGMENTED).write(tmp_path / NEIGHBOUR)
    shutil.copytree(models_dir, tmp_path / "models")
    return tmp_path


@pytest.mark.parametrize("name", texts(0, Path("/")))
@pytest.mark.parametrize("file_name", ["clip.mp4", "clip.m3u8", "img%03d.png"])
def test_text_that_ffmpeg_would_act_upon_is_415(
    service, neighbourhood: Path, listener, expect_problem, name: str, file_name: str
) -> None:
    content = texts(listener.getsockname()[1], neighbourhood)[name]
    before = (neighbourhood / NEIGHBOUR).stat()
    response = service.client.post("/predict", files={"file": (file_name, content)})
    expect_problem(response, 415, "unknown_container")
    assert not was_connected(listener)
    after = (neighbourhood / NEIGHBOUR).stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


def outcome(response: Any) -> int | str:
    return 200 if response.status_code == 200 else str(response.json()["code"])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_video_that_names_others_is_answered_by_itself_or_refused(
    service, neighbourhood: Path, listener, name: str
) -> None:
    content = videos(listener.getsockname()[1], neighbourhood)[name]
    response = service.predict(content)
    assert outcome(response) in EXPECTED[name], response.text
    if name.startswith("f51") and response.status_code == 200:
        plain = service.predict((neighbourhood / NEIGHBOUR).read_bytes())
        assert response.json()["probabilities"] == plain.json()["probabilities"]
        for fact in ("frames_found", "timestamps_s", "width", "height"):
            assert response.json()["clip"][fact] == plain.json()["clip"][fact]
    assert not was_connected(listener)


@pytest.fixture
def watched_decoders() -> tuple[Collaborators, Callable[[], list[int]]]:
    """A service's decoders as usual, and a way to ask which processes they are."""
    pools: list[DecodePool] = []

    def build(settings: Settings, metrics: Metrics) -> DecodePool:
        pools.append(DecodePool(workers=2, limits=Limits(), timeout_s=settings.decode_timeout_s))
        return pools[0]

    return Collaborators(build_decoders=build), lambda: pools[0].process_ids


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_f47_f48_f50_f51_no_decoder_opens_or_connects_to_anything(
    start_service, watched_decoders, neighbourhood: Path, listener, tmp_path: Path
) -> None:
    collaborators, find_process_ids = watched_decoders
    port = listener.getsockname()[1]
    files = texts(port, neighbourhood) | videos(port, neighbourhood)
    with start_service(collaborators, max_upload_bytes=2**24) as service:
        try:
            with traced(find_process_ids(), tmp_path / "trace") as trace:
                for content in files.values():
                    assert service.predict(content).status_code in {200, 415, 422}
                calls = trace.calls()
        except PermissionError as error:
            pytest.skip(f"strace may not watch here: {error}")
    assert not calls
    assert not was_connected(listener)


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_the_trace_sees_what_a_decoder_opens(start_service, tmp_path: Path, run_async) -> None:
    """The test above would be worth nothing if the trace were blind."""
    pools: list[DecodePool] = []

    def build(settings: Settings, metrics: Metrics) -> DecodePool:
        job = "tests.service.decoder_jobs:misbehave"
        pools.append(DecodePool(workers=1, limits=Limits(), timeout_s=20, job=job))
        return pools[0]

    with start_service(Collaborators(build_decoders=build)) as service:
        try:
            with traced(pools[0].process_ids, tmp_path / "trace") as trace:
                service.predict(VIDEO_BEGINNING + b"tell opening")
                calls = trace.calls()
        except PermissionError as error:
            pytest.skip(f"strace may not watch here: {error}")
    assert any("/proc/self/status" in call and "EMFILE" in call for call in calls), calls
