import pytest

from clip.errors import EmptyFileError, UnknownContainerError
from clip.sniff import SNIFF_BYTES, sniff

TS_PACKET = b"\x47" + b"\xff" * 187


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0", "mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0", "mov"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "mov"),
        (b"RIFF\x10\0\0\0AVI LIST", "avi"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "webm"),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska", "matroska"),
        (TS_PACKET * 5, "mpegts"),
        ((b"\0\0\0\0" + TS_PACKET) * 5, "mpegts"),
        (b"\0\0\1\xba\x44\0\4\0", "mpeg"),
    ],
)
def test_known_containers_are_told_from_their_first_bytes(head, name):
    assert sniff(head[:SNIFF_BYTES]).name == name


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"ffconcat version 1.0\nfile clip.mp4\n", id="f48-ffconcat"),
        pytest.param(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/\n", id="f47-hls"),
        pytest.param(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", id="f49-sdp"),
        pytest.param(b"<?xml version='1.0'?><MPD></MPD>", id="f49-dash"),
        pytest.param(b"<smil></smil>", id="f49-smil"),
        pytest.param(b"[playlist]\nFile1=x.mp4\n", id="f49-pls"),
        pytest.param(b"rtsp://127.0.0.1/stream", id="f49-rtsp"),
        pytest.param(b"\x1b[2J\x1b[1;1Hhello", id="f49-ansi"),
        pytest.param(b"XBIN\x1a\x50\0\x19\0", id="f49-xbin"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", id="f27-png"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF", id="f27-jpeg"),
        pytest.param(b"GIF89a\1\0\1\0", id="f27-gif"),
        pytest.param(b"RIFF\x1a\0\0\0WEBPVP8L", id="f27-webp"),
        pytest.param(b"\x7fELF\2\1\1", id="f26-elf"),
        pytest.param(b"PK\3\4\x14\0", id="f26-zip"),
        pytest.param(b"<!doctype html><html>", id="f26-html"),
        pytest.param(b"%PDF-1.7\n" + b"\0\0\0\x20ftypisom", id="f51-leading-junk"),
        pytest.param(b"FLV\1\5\0\0\0\t", id="flv"),
        pytest.param(b"\x47", id="one sync byte"),
        pytest.param(b"G" * 40, id="the letter G"),
    ],
)
def test_everything_else_is_refused(head):
    with pytest.raises(UnknownContainerError):
        sniff(head)


def test_f04_an_empty_file_is_its_own_error():
    with pytest.raises(EmptyFileError):
        sniff(b"")
