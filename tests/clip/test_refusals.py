"""Clips that are refused: what is no video, what is damaged, and what is above a limit."""

import io
import struct
from unittest import mock

import av
import numpy as np
import pytest

from clip import ClipError, Limits, read_clip
from clip.errors import (
    DecodeError,
    DecodeTimeoutError,
    EncryptedVideoError,
    NoVideoStreamError,
    TooLongError,
    TooManyPixelsError,
    TooManyStreamsError,
    UnknownContainerError,
    UnsupportedCodecError,
)
from tests.boxes import replace_box
from tests.drawing import Drawing


def test_f28_a_clip_without_its_index_is_refused(tmp_path):
    path = Drawing().write(tmp_path / "clip")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:32]):
        with pytest.raises(DecodeError):
            read_clip(io.BytesIO(data))


def write_audio(path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_f31_audio_alone_is_refused(tmp_path):
    with pytest.raises(NoVideoStreamError):
        read_clip(write_audio(tmp_path / "song.mp4"))


@pytest.mark.parametrize("codec", ["jpeg2000", "png", "magicyuv"])
def test_f45_a_codec_off_the_list_is_refused(codec, tmp_path):
    pix_fmt = {"jpeg2000": "yuv420p", "png": "rgb24", "magicyuv": "gbrp"}[codec]
    path = Drawing(".avi", codec, frames=3, pix_fmt=pix_fmt).write(tmp_path / "clip")
    with pytest.raises(UnsupportedCodecError, match=codec):
        read_clip(path)


def test_f46_an_encrypted_clip_is_refused(tmp_path):
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32}
    drawing = Drawing(container_options={**key, "encryption_kid": "1" * 32})
    with pytest.raises(EncryptedVideoError):
        read_clip(drawing.write(tmp_path / "clip"))


def test_f42_a_picture_above_the_limit_is_refused(tmp_path):
    path = Drawing(frames=2).write(tmp_path / "clip")
    assert read_clip(path, limits=Limits(max_pixels=160 * 120)).any()
    with pytest.raises(TooManyPixelsError, match="160x120"):
        read_clip(path, limits=Limits(max_pixels=160 * 120 - 1))


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".ts", "mpeg2video"), (".avi", "mpeg4"), (".webm", "libvpx-vp9")]
)
def test_f42_a_picture_that_stops_the_probing_is_still_told_from_damage(suffix, codec, tmp_path):
    path = Drawing(suffix, codec, frames=3, height=480, width=640).write(tmp_path / "clip")
    with pytest.raises(TooManyPixelsError, match="640x480"):
        read_clip(path, limits=Limits(max_pixels=100 * 100))


def test_f42_a_header_that_understates_the_size_hides_nothing(tmp_path):
    path = Drawing(".mkv", frames=4, height=480, width=640).write(tmp_path / "clip")
    data = path.read_bytes()
    # PixelWidth (B0) and PixelHeight (BA), two bytes each.
    small = data.replace(b"\xb0\x82\x02\x80\xba\x82\x01\xe0", b"\xb0\x82\x00\x40\xba\x82\x00\x30")
    assert small != data
    with pytest.raises((TooManyPixelsError, DecodeError)):
        read_clip(io.BytesIO(small), limits=Limits(max_pixels=320 * 240))


def test_f44_a_clip_that_is_too_long_is_refused(tmp_path):
    path = Drawing(frames=50).write(tmp_path / "clip")
    with pytest.raises(TooLongError, match="49 frames"):
        read_clip(path, limits=Limits(max_frames=49))
    with pytest.raises(TooLongError, match="2 s"):
        read_clip(path, limits=Limits(max_duration_s=1.9))
    with pytest.raises(TooLongError, match="bytes"):
        read_clip(path, limits=Limits(max_stream_bytes=1000))


@pytest.mark.parametrize(("count", "error"), [(30_000_000, DecodeError), (1_000, TooLongError)])
def test_f44_a_header_that_claims_many_frames_costs_nothing(count, error, tmp_path):
    data = bytearray(Drawing(frames=2).write(tmp_path / "clip").read_bytes())
    # One byte a sample, all in one chunk: no table has to list them.
    replace_box(data, b"stsz", struct.pack(">III", 0, 1, count))
    replace_box(data, b"stts", struct.pack(">IIII", 0, 1, count, 1))
    replace_box(data, b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1))
    path = tmp_path / "bomb.mp4"
    path.write_bytes(data)
    with pytest.raises(error), no_ffmpeg():
        read_clip(path, limits=Limits(max_frames=500))


def no_ffmpeg():
    """Fails the test if FFmpeg is asked to open anything."""
    return mock.patch("clip.source.av.open", side_effect=AssertionError("FFmpeg was asked"))


def test_f44_fragments_that_claim_many_frames_cost_nothing(tmp_path):
    fragmented = Drawing(frames=20, container_options={"movflags": "frag_keyframe+empty_moov"})
    path = fragmented.write(tmp_path / "clip")
    assert read_clip(path).shape == (20, 64, 64, 3)
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(b"trun") + 8, 2**31)
    path.write_bytes(data)
    with pytest.raises(DecodeError), no_ffmpeg():
        read_clip(path)


def test_a_fragment_for_every_frame_of_a_long_recording_is_not_too_many_parts(tmp_path):
    flags = "frag_every_frame+empty_moov+default_base_moof"
    path = Drawing(frames=5, container_options={"movflags": flags}).write(tmp_path / "clip")
    wanted = read_clip(path)
    data = path.read_bytes()
    # 20,000 times a fragment of no samples, before the first with one.
    (size,) = struct.unpack_from(">I", data, start := data.index(b"moof") - 4)
    fragment = bytearray(data[start : start + size])
    struct.pack_into(">I", fragment, fragment.index(b"trun") + 8, 0)
    path.write_bytes(data[:start] + bytes(fragment) * 20_000 + data[start:])
    np.testing.assert_array_equal(read_clip(path), wanted)
    with pytest.raises(DecodeError, match="too many parts"), no_ffmpeg():
        read_clip(path, limits=Limits(max_frames=100))


def test_f44_an_edit_list_that_repeats_a_video_without_end_costs_nothing(tmp_path):
    path = Drawing(frames=200, height=32, width=32).write(tmp_path / "clip")
    whole = path.read_bytes()
    for edits, match in ((200, "36000 frames"), (60_000, "edit list")):
        data = bytearray(whole)
        entry = struct.pack(">IiI", 8000, 0, 0x10000)
        parents = (b"moov", b"trak", b"edts")
        replace_box(data, b"elst", struct.pack(">II", 0, edits) + entry * edits, parents)
        path.write_bytes(data)
        with pytest.raises((TooLongError, DecodeError), match=match):
            read_clip(path)


@pytest.mark.parametrize("kind", [b"edts", b"dinf", b"tref", b"udta", b"ilst", b"wave", b"sinf"])
def test_f44_a_table_in_an_unusual_place_is_seen(kind, tmp_path):
    data = bytearray(Drawing(frames=2).write(tmp_path / "clip").read_bytes())
    table = struct.pack(">I4sIII", 20, b"stsz", 0, 1, 30_000_000)
    replace_box(data, b"stsz", table)
    data[(place := data.index(b"stsz")) : place + 4] = kind
    path = tmp_path / "bomb.mp4"
    path.write_bytes(data)
    with pytest.raises(DecodeError), no_ffmpeg():
        read_clip(path)


def test_f37_a_table_that_points_beyond_any_file_is_damage(tmp_path):
    path = Drawing(frames=5).write(tmp_path / "clip")
    data = bytearray(path.read_bytes())
    replace_box(data, b"stco", b"")
    place = data.index(b"stco") - 4
    data[place : place + 8] = struct.pack(">I4s", 8, b"free")
    box = struct.pack(">I4sIIQ", 24, b"co64", 0, 1, 2**62)
    data[place + 8 : place + 8] = box
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.index(parent) - 4
        struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + len(box))
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        read_clip(path)


def test_codec_parameters_that_no_decoder_takes_are_damage(tmp_path):
    # Of two frames with B-frames libx265 makes up timestamps that the writer may not take.
    options = {"x265-params": "log-level=none:bframes=0"}
    drawing = Drawing(".mp4", "libx265", frames=2, height=64, width=64, options=options)
    whole = drawing.write(tmp_path / "clip").read_bytes()
    start = whole.index(b"hvcC") + 4
    refused = []
    for place in range(start, start + 160):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            assert read_clip(io.BytesIO(data)).shape == (20, 64, 64, 3)
        except ClipError as error:
            refused.append(str(error))
    assert "The video's codec parameters are damaged." in refused


def test_f33_too_many_streams_are_refused(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("mpeg4", rate=25) for _ in range(4)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for stream in streams:
            output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
            output.mux(stream.encode(None))
    assert read_clip(path).shape == (20, 64, 64, 3)
    with pytest.raises(TooManyStreamsError):
        read_clip(path, limits=Limits(max_streams=3))


def test_a_time_limit_ends_the_decoding(tmp_path):
    path = Drawing().write(tmp_path / "clip")
    with pytest.raises(DecodeTimeoutError):
        read_clip(path, limits=Limits(timeout_s=0.0))


def test_messages_never_show_the_path(tmp_path):
    path = tmp_path / "secret-name.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 300)
    with pytest.raises(DecodeError) as caught:
        read_clip(path)
    assert "secret" not in str(caught.value)
    path.write_bytes(b"hello")
    with pytest.raises(UnknownContainerError) as refused:
        read_clip(path)
    assert "secret" not in str(refused.value)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_clip(tmp_path / "none.mp4")
