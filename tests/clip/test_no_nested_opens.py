"""No file makes clip/ open another file or a connection, as the kernel and a listener see it."""

import ctypes
import os
import select
import socket
import struct
import sys
from contextlib import contextmanager

import av
import numpy as np
import pytest

from clip import ClipError, read_clip
from tests.drawing import Drawing

IN_OPEN = 0x20
IN_NONBLOCK = os.O_NONBLOCK


class OpenWatch:
    """Names of the files in a folder that anybody opened, as the kernel reports them (inotify)."""

    def __init__(self, folder):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(IN_NONBLOCK)
        assert self._fd >= 0
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_OPEN)
        assert watch >= 0

    def opened(self):
        names = set()
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 65536)
            while data:
                _, _, _, length = struct.unpack_from("iIII", data)
                names.add(data[16 : 16 + length].rstrip(b"\0").decode())
                data = data[16 + length :]
        return names

    def close(self):
        os.close(self._fd)


@contextmanager
def open_watch(folder):
    watch = OpenWatch(folder)
    try:
        yield watch
    finally:
        watch.close()


@pytest.fixture
def listener():
    """A listening socket; connections to it wait to be accepted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def was_connected(server):
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def playlists(port, folder):
    url = f"http://127.0.0.1:{port}/clip.mp4"
    return {
        "f48-ffconcat": "ffconcat version 1.0\nfile neighbour.mp4\n",
        "f48-ffconcat-absolute": f"ffconcat version 1.0\nfile {folder}/neighbour.mp4\n",
        "f47-hls-http": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "f47-hls-file": f"#EXTM3U\n#EXTINF:9,\n{folder}/neighbour.mp4\n#EXT-X-ENDLIST\n",
        "f49-sdp": f"v=0\ns=x\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
        "f49-dash": f"<?xml version='1.0'?><MPD><BaseURL>{url}</BaseURL></MPD>",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's watch is Linux's inotify")
@pytest.mark.parametrize("name", sorted(playlists(0, "")))
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_a_playlist_is_refused_and_opens_nothing(name, suffix, tmp_path, listener):
    Drawing(frames=4).write(tmp_path / "neighbour")
    text = playlists(listener.getsockname()[1], tmp_path)[name]
    path = tmp_path / f"upload{suffix}"
    path.write_text(text)
    with open_watch(tmp_path) as watch:
        with pytest.raises(ClipError) as refused:
            read_clip(path)
        assert refused.value.code == "unknown_container"
        with path.open("rb") as file, pytest.raises(ClipError):
            read_clip(file)
        assert watch.opened() == {path.name}
    assert not was_connected(listener)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's watch is Linux's inotify")
def test_the_watch_sees_what_ffmpeg_would_do_unguarded(tmp_path, listener):
    """The two tests above and below would be worth nothing if the watch were blind."""
    neighbour = Drawing(frames=4).write(tmp_path / "neighbour")
    path = tmp_path / "upload.mp4"
    path.write_text("ffconcat version 1.0\nfile neighbour.mp4\n")
    with open_watch(tmp_path) as watch:
        with av.open(str(path)) as container:
            assert next(container.decode(video=0)) is not None
        assert neighbour.name in watch.opened()
    socket.create_connection(listener.getsockname()).close()
    assert was_connected(listener)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's watch is Linux's inotify")
def test_f51_a_playlist_inside_an_mp4_is_padding(tmp_path, listener):
    Drawing(frames=4).write(tmp_path / "neighbour")
    path = Drawing(frames=20).write(tmp_path / "upload")
    wanted = read_clip(path)
    text = playlists(listener.getsockname()[1], tmp_path)["f47-hls-http"].encode()
    box = (len(text) + 8).to_bytes(4, "big") + b"free" + text
    path.write_bytes(path.read_bytes() + box)
    with open_watch(tmp_path) as watch:
        np.testing.assert_array_equal(read_clip(path), wanted)
        assert watch.opened() == {path.name}
    assert not was_connected(listener)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's watch is Linux's inotify")
def test_f50_a_mov_that_points_to_another_file_opens_nothing(tmp_path):
    neighbour = Drawing(".mov", frames=8).write(tmp_path / "neighbour")
    data = bytearray(neighbour.read_bytes())
    # The data reference "url ", self-contained, becomes one to a file beside it.
    place = data.index(b"url \x00\x00\x00\x01")
    data[place : place + 8] = b"url \x00\x00\x00\x00"
    path = tmp_path / "upload.mov"
    path.write_bytes(data)
    with open_watch(tmp_path) as watch:
        try:
            assert read_clip(path).shape == (20, 64, 64, 3)
        except ClipError as error:
            assert error.code == "decode_failed"  # noqa: PT017  either outcome will do
        assert watch.opened() == {path.name}
