"""Videos that are strange within a good container: few frames, odd times, odd and huge pictures."""

from __future__ import annotations

import io
import re
import struct
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest

from clip import ClipSpec, read_clip
from clip.source import CODECS
from tests.drawing import Drawing, read_numbers, set_display_matrix
from tests.service.faults import surgery

X265 = {"x265-params": "log-level=none"}
QUIET_AV1 = {"preset": "12", "crf": "50"}


def sampled_numbers(content: bytes, frames: int = 20) -> list[int]:
    """The numbers on the frames that training samples from a drawn clip."""
    return read_numbers(read_clip(io.BytesIO(content), ClipSpec(frames=frames)))


@pytest.mark.parametrize("frames", [1, 2, 7, 19, 20, 21])
def test_f34_short_clips_are_answered(expect_as_in_training, draw, frames: int) -> None:
    content = draw(frames=frames)
    assert expect_as_in_training(content).frames_found == frames
    numbers = sampled_numbers(content)
    assert sorted(set(numbers)) == sorted(set(numbers) & set(range(1, frames + 1)))
    assert numbers == [(2 * part + 1) * frames // 40 + 1 for part in range(20)]


def test_f38_variable_frame_rate_is_answered(expect_as_in_training, draw) -> None:
    gaps = [40] * 10 + [2000] + [200] * 9
    times = [0, *accumulate(gaps)][: len(gaps)]
    for suffix in (".mp4", ".mkv"):
        info = expect_as_in_training(draw(suffix, frames=len(times), times_ms=times))
        assert info.duration_s == pytest.approx(times[-1] / 1000 * 20 / 19, abs=0.01)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_f38_b_frames_are_sampled_in_the_order_of_the_screen(
    expect_as_in_training, draw, suffix: str
) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    content = draw(suffix, codec, options={"bf": "2", "b": "1000000"})
    assert expect_as_in_training(content).frames_found == 50
    assert sampled_numbers(content) == [(2 * part + 1) * 50 // 40 + 1 for part in range(20)]


def test_f38_times_below_zero_change_nothing(expect_as_in_training, draw) -> None:
    # A whole clip's edit list moved by ten seconds: its first frames come before zero.
    plain = draw(options={"bf": "2"})
    assert b"elst" in plain
    late = surgery.overwrite(plain, b"elst", 16, ">i", 0)
    for content in (plain, late):
        info = expect_as_in_training(content)
        assert info.frames_found >= 48
        assert info.timestamps_s[0] >= 0


def test_f38_an_edit_list_hides_what_no_player_shows(expect_as_in_training, draw) -> None:
    content = draw(options={"g": "10", "bf": "0"})
    shifted = surgery.overwrite(content, b"elst", 16, ">i", 20 * 512)
    info = expect_as_in_training(shifted)
    assert info.frames_found == 30
    assert sampled_numbers(shifted)[0] == 21


MATRICES = {
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
}


@pytest.mark.parametrize("name", MATRICES)
def test_f39_a_turned_video_is_answered_upright(
    expect_as_in_training, draw, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes(draw())
    set_display_matrix(path, MATRICES[name])
    info = expect_as_in_training(path.read_bytes())
    assert (info.width, info.height) == ((160, 120) if name in {"180", "mirrored"} else (120, 160))


@pytest.mark.parametrize("change", ["size", "pix_fmt"])
def test_f40_pictures_that_change_on_the_way_are_answered(
    expect_as_in_training, draw, change: str
) -> None:
    other = {"size": {"height": 240, "width": 320}, "pix_fmt": {"pix_fmt": "yuv444p"}}[change]
    content = draw(".ts", frames=20) + draw(".ts", frames=20, **other)
    assert expect_as_in_training(content).frames_found == 40


def test_f40_pictures_that_grow_above_the_limit_are_never_decoded(
    start_service, draw, expect_problem
) -> None:
    small = draw(".ts", frames=20)
    with start_service(max_pixels=160 * 120) as service:
        larger = small + draw(".ts", frames=20, height=240, width=320)
        expect_problem(service.predict(larger), 422, "too_many_pixels")
        # Far above, the decoder itself refuses: as damage, so that the rest is still answered.
        huge = small + draw(".ts", frames=20, height=960, width=1280)
        assert service.predict(huge).json()["clip"]["frames_found"] == 20


PICTURES = {
    "1x1": Drawing(".avi", "mpeg4", frames=3, height=1, width=1),
    "odd": Drawing(".mkv", "mpeg4", frames=5, height=47, width=63),
    "long": Drawing(".avi", "mjpeg", frames=2, height=16, width=65_496, pix_fmt="yuvj420p"),
    "longest": Drawing(".webm", "libvpx-vp9", frames=2, height=16, width=65_535),
    "alpha-vp9": Drawing(".webm", "libvpx-vp9", frames=5, pix_fmt="yuva420p"),
    "10-bit": Drawing(".mp4", "libx264", frames=5, pix_fmt="yuv420p10le"),
    "12-bit": Drawing(".mp4", "libx265", frames=5, pix_fmt="yuv422p12le", options=X265),
    "grey": Drawing(".mkv", "libx264", frames=5, pix_fmt="gray"),
    "grey-10-bit": Drawing(".mkv", "libx264", frames=5, pix_fmt="gray10le"),
    "full-range": Drawing(".mp4", "libx264", frames=5, pix_fmt="yuvj420p"),
    "rgb": Drawing(".webm", "libvpx-vp9", frames=5, pix_fmt="gbrp"),
    "av1": Drawing(".mkv", "libsvtav1", frames=5, options=QUIET_AV1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_f41_odd_pictures_are_answered(expect_as_in_training, tmp_path: Path, name: str) -> None:
    drawing = PICTURES[name]
    content = drawing.write(tmp_path / "odd").read_bytes()
    info = expect_as_in_training(content)
    assert (info.width, info.height) == (drawing.width, drawing.height)


LARGE = {"preset": "ultrafast", "crf": "51"}


def test_f42_an_8k_picture_is_422_whatever_its_header_tells(service, draw, expect_problem) -> None:
    large = draw(".mkv", frames=1, height=8192, width=8192, options=LARGE)
    lying = surgery.set_matroska_size(large, (8192, 8192), (64, 48))
    for content in (large, lying):
        expect_problem(service.predict(content), 422, "too_many_pixels")


@pytest.mark.parametrize(("told", "code"), [(16_384, "too_many_pixels"), (120, "decode_failed")])
def test_f42_a_16k_picture_is_422_whatever_its_header_tells(
    service, draw, expect_problem, told: int, code: str
) -> None:
    content = draw(".avi", "mjpeg", frames=2, pix_fmt="yuvj420p")
    content = surgery.set_jpeg_size(content, 16_384, 16_384)
    for offset in (surgery.STRF_WIDTH, surgery.STRF_HEIGHT):
        content = surgery.overwrite(content, b"strf", offset, "<i", told)
    expect_problem(service.predict(content), 422, code)


def test_f42_a_header_that_overstates_the_size_changes_nothing(expect_as_in_training, draw) -> None:
    honest = draw(".webm", "libvpx-vp9", frames=5, height=256, width=320)
    lying = surgery.set_matroska_size(honest, (320, 256), (16_384, 16_384))
    assert expect_as_in_training(lying) == expect_as_in_training(honest)


def test_f43_a_clip_with_one_key_frame_costs_one_pass(expect_as_in_training, draw) -> None:
    options = {"g": "1000", "keyint_min": "1000", "bf": "3"}
    content = draw(frames=250, options=options)
    with av.open(io.BytesIO(content)) as opened:
        assert sum(packet.is_keyframe for packet in opened.demux(video=0)) == 1
    assert expect_as_in_training(content).frames_found == 250


def many_frames(container: str, count: int) -> bytes:
    """One tiny picture, `count` times, one a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        # A new VideoFrame's memory is whatever lay there, which can be costly to encode.
        black = av.VideoFrame.from_ndarray(np.zeros((24, 16), np.uint8), "yuv420p")
        (packet,) = stream.encode(black)
        data, time_base = bytes(packet), packet.time_base
        for number in range(count):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, time_base
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            output.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_f44_ten_hours_are_422(service, expect_problem, container: str) -> None:
    expect_problem(service.predict(many_frames(container, 36_001)), 422, "too_long")


def test_f44_few_frames_over_ten_hours_are_422(service, draw, expect_problem) -> None:
    content = draw(".mkv", frames=20, times_ms=[number * 1_800_000 for number in range(20)])
    problem = expect_problem(service.predict(content), 422, "too_long")
    assert "lasts 36000 s" in problem["detail"]


def test_f44_a_million_frames_in_a_megabyte_are_422(service, draw, expect_problem) -> None:
    count = 1_000_000
    content = draw(frames=2)
    for kind, payload in (
        (b"stsz", struct.pack(">III", 0, 1, count)),
        (b"stts", struct.pack(">IIII", 0, 1, count, 1)),
        (b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1)),
    ):
        content = surgery.replace_table(content, kind, payload)
    expect_problem(service.predict(content + surgery.box(b"free", bytes(count))), 422, "too_long")


REFUSED_CODECS = {
    "jpeg2000-avi": (".avi", "jpeg2000", "yuv420p"),
    "jpeg2000-mov": (".mov", "jpeg2000", "yuv420p"),
    "magicyuv-avi": (".avi", "magicyuv", "gbrp"),
    "png-avi": (".avi", "png", "rgb24"),
    "png-mov": (".mov", "png", "rgb24"),
    "ffv1-mkv": (".mkv", "ffv1", "yuv420p"),
    "dirac-mkv": (".mkv", "vc2", "yuv420p"),
    "rawvideo-avi": (".avi", "rawvideo", "yuv420p"),
}


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("name", REFUSED_CODECS)
def test_f45_a_codec_off_the_list_is_refused_before_its_first_frame(
    service, tmp_path: Path, expect_problem, name: str, *, spoiled: bool
) -> None:
    suffix, codec, pix_fmt = REFUSED_CODECS[name]
    options = {"b": "5000000"} if codec == "vc2" else {}
    drawing = Drawing(suffix, codec, frames=3, pix_fmt=pix_fmt, options=options)
    path = drawing.write(tmp_path / "clip")
    with av.open(str(path)) as opened:
        places = [(packet.pos, packet.size) for packet in opened.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    if spoiled:  # what a decoder that is asked would complain of
        for start, size in places:
            content[start : start + size] = bytes(size)
    problem = expect_problem(service.predict(bytes(content)), 422, "unsupported_codec")
    named = re.fullmatch(r"The video codec (\w+) is not accepted: use one of .*", problem["detail"])
    assert named is not None
    assert named[1] not in CODECS


def test_f46_an_encrypted_clip_is_422(service, draw, expect_problem) -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32}
    content = draw(container_options={**key, "encryption_kid": "1" * 32})
    expect_problem(service.predict(content), 422, "encrypted_video")
