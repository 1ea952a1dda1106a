"""Files whose container is no video's, damaged, or tells other things than it holds."""

from __future__ import annotations

import io
import struct
import zipfile

import av
import cv2
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tests.service.faults import surgery

PICTURE = np.full((48, 64, 3), 90, np.uint8)


def encode_picture(suffix: str) -> bytes:
    encoded, data = cv2.imencode(suffix, PICTURE)
    assert encoded
    return data.tobytes()


def encode_gif() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="gif") as output:
        stream = output.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(PICTURE, "rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("clip.mp4", b"\0" * 2000)
    return file.getvalue()


NO_VIDEOS = {
    "f26-random": bytes(np.random.default_rng(3).integers(1, 256, 5000, np.uint8)),
    "f26-text": b"A video of a cat.\n" * 200,
    "f26-html": b"<!DOCTYPE html><html><video src=clip.mp4></video></html>",
    "f26-elf": b"\x7fELF\x02\x01\x01" + bytes(3000),
    "f26-zip": zip_file(),
    "f27-png": encode_picture(".png"),
    "f27-jpeg": encode_picture(".jpg"),
    "f27-webp": encode_picture(".webp"),
    "f27-gif": encode_gif(),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_f26_f27_what_is_no_video_is_415(service, expect_problem, name: str) -> None:
    expect_problem(service.predict(NO_VIDEOS[name]), 415, "unknown_container")


def test_f26_f27_what_is_no_video_reaches_no_decoder(
    start_service, gated_decoders, gate, expect_problem
) -> None:
    with start_service(gated_decoders) as service:
        for content in NO_VIDEOS.values():
            expect_problem(service.predict(content), 415, "unknown_container")
    assert gate.arrived == 0


@pytest.mark.parametrize("kept", ["half", "ftyp"])
def test_f28_an_mp4_without_its_index_is_422(service, draw, expect_problem, kept: str) -> None:
    whole = draw()
    (ftyp_bytes,) = struct.unpack_from(">I", whole)
    cut = whole[: len(whole) // 2] if kept == "half" else whole[:ftyp_bytes]
    assert b"moov" not in cut
    expect_problem(service.predict(cut), 422, "decode_failed")


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_f29_an_mp4_cut_off_is_answered_by_the_frames_that_it_has(
    expect_as_in_training, draw, share: float
) -> None:
    whole = draw(options={"bf": "2"}, container_options={"movflags": "faststart"})
    start = whole.index(b"mdat")
    info = expect_as_in_training(whole[: start + int((len(whole) - start) * share)])
    assert 1 <= info.frames_found < 50


@pytest.mark.parametrize("kept_bytes", [0, 50])
def test_f29_an_mp4_cut_off_in_its_first_frame_is_422(
    service, draw, expect_problem, kept_bytes: int
) -> None:
    whole = draw(container_options={"movflags": "faststart"})
    cut = whole[: whole.index(b"mdat") + 4 + kept_bytes]
    expect_problem(service.predict(cut), 422, "decode_failed")


def test_f31_sound_alone_is_422(service, expect_problem) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        write_sound(output, output.add_stream("aac", rate=44100))
    expect_problem(service.predict(file.getvalue()), 422, "no_video_stream")


def write_sound(output: OutputContainer, stream: AudioStream) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.rate = 44100
    output.mux([*stream.encode(frame), *stream.encode(None)])


def write_pictures(
    output: OutputContainer, stream: VideoStream, colour: tuple[int, int, int], count: int
) -> None:
    picture = np.full((stream.height, stream.width, 3), colour, np.uint8)
    for _ in range(count):
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    output.mux(stream.encode(None))


def clip_with_cover(*, moving: bool) -> bytes:
    """An MP4 with sound and a green cover and, if so told, a red video after it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = output.add_stream("aac", rate=44100)
        videos = [output.add_stream("mpeg4", rate=10)] if moving else []
        for video in videos:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        write_pictures(output, cover, (20, 200, 20), 1)
        write_sound(output, sound)
        for video in videos:
            write_pictures(output, video, (200, 20, 20), 30)
    return file.getvalue()


def test_f32_a_cover_alone_is_no_video(service, expect_problem) -> None:
    expect_problem(service.predict(clip_with_cover(moving=False)), 422, "no_video_stream")


def test_f32_a_cover_beside_a_video_is_passed_over(service) -> None:
    body = service.predict(clip_with_cover(moving=True)).json()
    assert (body["label"], body["clip"]["frames_found"]) == ("red", 30)


def clip_with_streams(colours: list[tuple[int, int, int]]) -> bytes:
    """A Matroska file with a video stream of each colour."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("mjpeg", rate=10) for _ in colours]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        for stream, colour in zip(streams, colours, strict=True):
            write_pictures(output, stream, colour, 2)
    return file.getvalue()


def test_f33_of_two_videos_the_first_is_taken(service) -> None:
    two = clip_with_streams([(20, 20, 200), (200, 20, 20)])
    assert service.predict(two).json()["label"] == "blue"


def test_f33_a_thousand_streams_are_422(service, expect_problem) -> None:
    crowd = clip_with_streams([(0, 0, 0)] * 1000)
    problem = expect_problem(service.predict(crowd), 422, "too_many_streams")
    assert "1000 streams" in problem["detail"]


def test_f35_thirty_frames_of_which_none_decodes_are_422(service, draw, expect_problem) -> None:
    hollow = surgery.empty_media(draw(frames=30))
    expect_problem(service.predict(hollow), 422, "decode_failed")


COUNTS = {"most": 2**31 - 1, "none": 0, "minus-one": 2**32 - 1}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_f36_an_avis_word_for_its_frames_is_not_believed(
    service, expect_as_in_training, draw, codec: str, count: str
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    honest = draw(".avi", codec, pix_fmt=pix_fmt)
    value = COUNTS[count]
    lying = surgery.overwrite(honest, b"avih", surgery.AVIH_TOTAL_FRAMES, "<I", value)
    lying = surgery.overwrite(lying, b"strh", surgery.STRH_LENGTH, "<I", value)
    assert expect_as_in_training(lying) == expect_as_in_training(honest)
    answers = [service.predict(content).json()["probabilities"] for content in (honest, lying)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("duration", [0, 2**31 - 1, 2**32 - 1])
def test_f36_an_mp4s_word_for_its_length_is_not_believed(
    expect_as_in_training, draw, duration: int
) -> None:
    honest = draw()
    lying = surgery.overwrite(honest, b"mdhd", surgery.MDHD_DURATION, ">I", duration)
    lying = surgery.overwrite(lying, b"mvhd", surgery.MVHD_DURATION, ">I", duration)
    lying = surgery.overwrite(lying, b"tkhd", surgery.TKHD_DURATION, ">I", duration)
    assert expect_as_in_training(lying) == expect_as_in_training(honest)


@pytest.mark.parametrize("units", [0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_f36_a_matroskas_word_for_its_length_is_not_believed(
    expect_as_in_training, draw, units: float
) -> None:
    honest = draw(".mkv")
    lying = surgery.set_duration(honest, units)
    assert expect_as_in_training(lying) == expect_as_in_training(honest)


def strange_rates(draw) -> dict[str, bytes]:
    """Files whose clock stands still, runs at any speed or backwards."""
    avi, mp4, mkv = draw(".avi", "mpeg4"), draw(), draw(".mkv")
    files = {}
    for scale, rate in ((0, 0), (0, 25), (1, 0), (1, 10**9), (2**32 - 1, 1), (1, 2**32 - 1)):
        content = surgery.overwrite(avi, b"strh", surgery.STRH_SCALE, "<I", scale)
        content = surgery.overwrite(content, b"strh", surgery.STRH_RATE, "<I", rate)
        files[f"avi-{rate}/{scale}"] = content
    for timescale in (0, 1, 2**31, 2**32 - 1):
        content = surgery.overwrite(mp4, b"mdhd", surgery.MDHD_TIMESCALE, ">I", timescale)
        files[f"mdhd-{timescale}"] = content
        content = surgery.overwrite(mp4, b"mvhd", surgery.MVHD_TIMESCALE, ">I", timescale)
        files[f"mvhd-{timescale}"] = content
    files["stts-0"] = surgery.replace_table(mp4, b"stts", struct.pack(">IIII", 0, 1, 50, 0))
    files["stts-most"] = surgery.replace_table(
        mp4, b"stts", struct.pack(">IIII", 0, 1, 50, 2**32 - 1)
    )
    for nanoseconds in (0, 1, 2**24 - 1):
        files[f"scale-{nanoseconds}"] = surgery.set_timestamp_scale(mkv, nanoseconds)
    for nanoseconds in (0, 1, 2**32 - 1):
        files[f"default-{nanoseconds}"] = surgery.set_default_duration(mkv, nanoseconds)
    return files


def test_f37_a_clock_that_makes_no_sense_is_answered_or_refused(service, draw) -> None:
    codes = {}
    for name, content in strange_rates(draw).items():
        response = service.predict(content)
        assert response.status_code in {200, 422}, (name, response.text)
        codes[name] = response.json().get("code", "answered")
    assert set(codes.values()) <= {"answered", "decode_failed", "too_long"}, codes
    assert {"answered"} <= set(codes.values())
