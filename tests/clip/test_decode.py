import io
from contextlib import suppress
from itertools import accumulate

import av
import numpy as np
import pytest

from clip import ClipSpec, read_clip, sample_clip
from clip.sampling import part_middles
from clip.tensor import to_rgb
from tests.drawing import Drawing, read_numbers, set_display_matrix

X265 = {"x265-params": "log-level=none"}
FORMATS = {
    "xvid-avi": Drawing(".avi", "mpeg4", codec_tag="XVID", options={"bf": "2", "b": "1000000"}),
    "h264-mp4": Drawing(options={"bf": "3", "g": "12"}),
    "h264-open-gop-mkv": Drawing(".mkv", options={"bf": "3", "x264-params": "open-gop=1:keyint=9"}),
    "h264-ts": Drawing(".ts", options={"bf": "2", "g": "10"}),
    "h264-mov": Drawing(".mov"),
    "h264-10-bit-mp4": Drawing(pix_fmt="yuv420p10le"),
    "h264-444-mp4": Drawing(pix_fmt="yuv444p"),
    "vp9-webm": Drawing(".webm", "libvpx-vp9", options={"b": "400000"}),
    "vp8-webm": Drawing(".webm", "libvpx", options={"b": "800000"}),
    "hevc-mp4": Drawing(".mp4", "libx265", options=X265),
    "hevc-mkv": Drawing(".mkv", "libx265", options=X265),
    "av1-mkv": Drawing(".mkv", "libsvtav1", options={"preset": "10", "crf": "30"}),
    "mjpeg-avi": Drawing(".avi", "mjpeg", pix_fmt="yuvj420p"),
    "mpeg2-mpeg": Drawing(".mpg", "mpeg2video", options={"b": "2000000"}),
    "mpeg4-mp4": Drawing(".mp4", "mpeg4", options={"bf": "2", "b": "1000000"}),
    "7-frames": Drawing(frames=7),
    "1-frame": Drawing(frames=1),
    "one-key-frame": Drawing(frames=90, options={"g": "1000", "keyint_min": "1000", "bf": "3"}),
    "60-frames-a-second": Drawing(frames=130, rate=60, options={"g": "15"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_golden_tensor_comes_out_of_every_format(name, tmp_path):
    drawing = FORMATS[name]
    sampled = sample_clip(drawing.write(tmp_path / "clip"))
    indices = part_middles(range(drawing.frames), 20)
    numbers = list(drawing.numbers())
    assert read_numbers(sampled.frames) == [numbers[index] for index in indices]
    error = np.abs(sampled.frames - drawing.golden_tensor(indices))
    assert error.mean() < 3  # the codec's own loss on these hard edges
    assert sampled.info.frames_found == drawing.frames
    wanted_times = [index / drawing.rate for index in indices]
    assert sampled.info.timestamps_s == pytest.approx(wanted_times, abs=0.0011)


@pytest.mark.parametrize("name", FORMATS)
def test_the_sampled_frames_are_those_of_a_full_sequential_decode(name, tmp_path):
    path = FORMATS[name].write(tmp_path / "clip")
    with av.open(str(path)) as container:
        decoded = [to_rgb(frame, 64, 64) for frame in container.decode(video=0)]
    wanted = np.stack([decoded[index] for index in part_middles(range(len(decoded)), 20)])
    np.testing.assert_array_equal(read_clip(path), wanted)


def test_the_info_tells_what_was_found(tmp_path):
    info = sample_clip(FORMATS["h264-mp4"].write(tmp_path / "clip")).info
    assert (info.container, info.codec) == ("mp4", "h264")
    assert (info.width, info.height) == (160, 120)
    assert info.duration_s == pytest.approx(2.0)
    assert len(info.timestamps_s) == 20


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_f38_variable_frame_rate_is_sampled_by_time(suffix, tmp_path):
    # Ten quick frames, a long pause, ten slow ones.
    gaps = [40] * 10 + [2000] + [200] * 9
    times = [0, *accumulate(gaps)][: len(gaps)]
    drawing = Drawing(suffix, frames=len(times), times_ms=times)
    sampled = sample_clip(drawing.write(tmp_path / "clip"), ClipSpec(frames=8))
    assert read_numbers(sampled.frames) == [index + 1 for index in part_middles(times, 8)]
    assert read_numbers(sampled.frames)[1:4] == [11, 11, 11]


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        pytest.param((1, 0, 0, 1), lambda p: p, id="0"),
        pytest.param((0, 1, -1, 0), lambda p: np.rot90(p, -1), id="90-clockwise"),
        pytest.param((-1, 0, 0, -1), lambda p: np.rot90(p, 2), id="180"),
        pytest.param((0, -1, 1, 0), lambda p: np.rot90(p, 1), id="90-anticlockwise"),
        pytest.param((-1, 0, 0, 1), lambda p: p[:, ::-1], id="mirrored"),
        pytest.param((1, 0, 0, -1), lambda p: p[::-1], id="upside-down"),
        pytest.param((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2), id="transposed"),
    ],
)
def test_f39_rotated_and_mirrored_clips_are_turned_upright(matrix, upright, tmp_path):
    drawing = Drawing(frames=6)
    path = drawing.write(tmp_path / "clip")
    set_display_matrix(path, matrix)
    sampled = sample_clip(path, ClipSpec(frames=6, height=48, width=80))
    turned = matrix[0] == 0
    assert (sampled.info.width, sampled.info.height) == ((120, 160) if turned else (160, 120))
    stored_size = (80, 48) if turned else (48, 80)
    golden = drawing.golden_tensor(range(6), *stored_size)
    error = np.abs(sampled.frames - np.stack([upright(picture) for picture in golden]))
    assert error.mean() < 3


@pytest.mark.parametrize("frames", [5, 10, 30, 40])
def test_other_frame_counts_work(frames, tmp_path):
    path = FORMATS["h264-mp4"].write(tmp_path / "clip")
    tensor = read_clip(path, ClipSpec(frames=frames))
    assert read_numbers(tensor) == [index + 1 for index in part_middles(range(50), frames)]


@pytest.mark.parametrize("frames", [1, 2, 7, 19, 20, 21])
def test_f34_short_clips_repeat_by_rounding(frames, tmp_path):
    path = Drawing(frames=frames).write(tmp_path / "clip")
    assert read_numbers(read_clip(path)) == [
        (2 * part + 1) * frames // 40 + 1 for part in range(20)
    ]


def test_a_file_object_is_read_like_a_path_and_stays_open(tmp_path):
    path = FORMATS["h264-mp4"].write(tmp_path / "clip")
    with path.open("rb") as file:
        file.seek(100)
        np.testing.assert_array_equal(read_clip(file), read_clip(path))
        assert not file.closed
    np.testing.assert_array_equal(read_clip(io.BytesIO(path.read_bytes())), read_clip(path))


def test_f13_the_files_name_does_not_matter(tmp_path):
    path = FORMATS["h264-mp4"].write(tmp_path / "clip")
    wanted = read_clip(path)
    for name in ("clip.m3u8", "img%03d.png", "concat:a|b", "-i", "clip"):
        np.testing.assert_array_equal(read_clip(path.rename(tmp_path / name)), wanted)
        path = tmp_path / name


def test_f29_a_clip_cut_off_gives_what_decodes(tmp_path):
    path = Drawing(options={"bf": "2"}, container_options={"movflags": "faststart"}).write(
        tmp_path / "clip"
    )
    whole = path.read_bytes()
    index_end = whole.index(b"mdat")
    for share in (0.9, 0.5):
        path.write_bytes(whole[: index_end + int((len(whole) - index_end) * share)])
        sampled = sample_clip(path)
        assert 1 < sampled.info.frames_found < 50
        numbers = read_numbers(sampled.frames)
        assert numbers == sorted(numbers)
        assert numbers[-1] <= sampled.info.frames_found


def test_damage_in_the_middle_gives_the_frames_of_a_sequential_decode(tmp_path):
    path = Drawing(frames=60, options={"g": "10"}).write(tmp_path / "clip")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        spoiled = packets[25]
        start, size = spoiled.pos, spoiled.size
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    with av.open(str(path)) as container:
        decoded = decode_in_order(container)
    sampled = sample_clip(path)
    assert 50 <= sampled.info.frames_found == len(decoded) < 60
    wanted = part_middles([frame.pts for frame in decoded], 20)
    np.testing.assert_array_equal(
        sampled.frames, [to_rgb(decoded[index], 64, 64) for index in wanted]
    )


def decode_in_order(container):
    """Every frame that comes out, by the plainest use of PyAV; what does not decode is left out."""
    frames = []
    context = container.streams.video[0].codec_context
    context.thread_count = 1
    for packet in container.demux(video=0):
        with suppress(av.error.InvalidDataError):
            frames += context.decode(packet)
    return frames


def test_damage_after_a_change_of_parameters_gives_the_frames_of_a_sequential_decode(tmp_path):
    # Two programmes in one transport stream: the second brings its own parameter sets along.
    first = Drawing(".ts", frames=30, height=48, width=64, options={"bf": "0"})
    second = Drawing(".ts", frames=30, options={"bf": "0", "g": "10"})
    data = bytearray(first.write(tmp_path / "a").read_bytes())
    data += second.write(tmp_path / "b").read_bytes()
    middle = len(data) * 3 // 4 // 188 * 188
    data[middle + 60 : middle + 180] = bytes(range(120))
    path = tmp_path / "clip.ts"
    path.write_bytes(data)
    with av.open(str(path)) as container:
        decoded = decode_in_order(container)
    sampled = sample_clip(path)
    assert sampled.info.frames_found == len(decoded)
    pictures = {to_rgb(frame, 64, 64).tobytes() for frame in decoded}
    assert {picture.tobytes() for picture in sampled.frames} <= pictures


def test_streams_that_begin_in_the_middle_change_nothing(tmp_path):
    # Two programmes in one transport stream: the second is sound in several languages.
    first = Drawing(".ts", frames=30).write(tmp_path / "first")
    wanted = read_clip(first)
    path = tmp_path / "second.ts"
    programme = {"mpegts_service_id": "2", "mpegts_start_pid": "512", "tables_version": "1"}
    programme |= {"mpegts_pmt_start_pid": "4352"}
    with av.open(str(path), "w", container_options=programme) as output:
        streams = [output.add_stream("aac", rate=44100) for _ in range(7)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate = 44100
            output.mux([*stream.encode(frame), *stream.encode(None)])
    first.write_bytes(first.read_bytes() + path.read_bytes())
    sampled = sample_clip(first)
    assert sampled.info.frames_found == 30
    np.testing.assert_array_equal(sampled.frames, wanted)
