"""Streams whose packets do not tell what will come out: sampled as a full decode has it."""

import struct
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from clip import ClipSpec, Limits, sample_clip
from clip.sampling import part_middles
from clip.tensor import to_rgb
from tests.boxes import find_box, replace_box
from tests.drawing import Drawing, read_numbers


def remux(source, target, change=lambda place, packet: packet, shift_s=0):
    """Copy a stream, each packet through `change`, which may leave it out by None."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        for place, packet in enumerate(before.demux(stream)):
            changed = change(place, packet) if packet.size else None
            if changed is not None:
                changed.pts += int(shift_s / stream.time_base)
                changed.dts += int(shift_s / stream.time_base)
                changed.stream = copy
                after.mux(changed)
    return target


def assert_sampled_as_decoded(path):
    """The sampled frames are those of a plain full decode, by its timestamps."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            pictures.append(to_rgb(frame, 64, 64))
            times.append(frame.pts)
    sampled = sample_clip(path)
    assert sampled.info.frames_found == len(pictures)
    wanted = [pictures[index] for index in part_middles(times, 20)]
    np.testing.assert_array_equal(sampled.frames, wanted)


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4"])
@pytest.mark.parametrize("cut", [2, 13])
def test_a_recording_that_begins_between_key_frames(suffix, cut, tmp_path):
    # What comes first refers to pictures before the cut: some of it does not come out.
    options = {"bf": "3", "g": "12", "b_strategy": "0", "preset": "ultrafast"}
    whole = Drawing(suffix, frames=600, height=48, width=64, options=options)
    path = remux(
        whole.write(tmp_path / "whole"),
        tmp_path / f"cut{suffix}",
        lambda place, packet: packet if place >= cut else None,
    )
    assert_sampled_as_decoded(path)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mpeg4"), (".mov", "h263")])
def test_a_file_that_calls_every_frame_a_key_frame(suffix, codec, tmp_path):
    def mark(place, packet):
        packet.is_keyframe = True
        return packet

    drawing = Drawing(suffix, codec, frames=90, height=144, width=176, options={"g": "300"})
    path = remux(drawing.write(tmp_path / "whole"), tmp_path / f"marked{suffix}", mark)
    assert_sampled_as_decoded(path)
    numbers = read_numbers(sample_clip(path).frames)
    assert numbers == [index + 1 for index in part_middles(range(90), 20)]


def test_vp8_frames_that_are_never_shown_do_not_count(tmp_path):
    def hide(place, packet):
        if place % 20 != 9:
            return packet
        data = bytearray(packet)
        data[0] &= ~0x10
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        return hidden

    options = {"g": "1000", "auto-alt-ref": "0", "lag-in-frames": "0", "deadline": "realtime"}
    drawing = Drawing(".webm", "libvpx", frames=200, height=48, width=64, options=options)
    path = remux(drawing.write(tmp_path / "whole"), tmp_path / "hidden.webm", hide)
    assert sample_clip(path).info.frames_found == 200 - 10
    assert_sampled_as_decoded(path)


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("first_s", [0, 200])
def test_joined_recordings_are_sampled_by_their_frames(suffix, first_s, tmp_path):
    # The clock leaps 200 seconds ahead, or back, in the middle of 120 frames.
    codec = "mpeg2video" if suffix == ".mpg" else "libx264"
    part = Drawing(suffix, codec, frames=60, options={"bf": "2"}).write(tmp_path / "part")
    late = remux(part, tmp_path / f"late{suffix}", shift_s=200)
    path = tmp_path / f"joined{suffix}"
    parts = (part, late) if first_s == 0 else (late, part)
    path.write_bytes(b"".join(piece.read_bytes() for piece in parts))
    sampled = sample_clip(path, ClipSpec(frames=20), Limits(max_duration_s=30))
    assert sampled.info.frames_found == 120
    assert sampled.info.duration_s == pytest.approx(4.8)
    numbers = [*range(1, 61), *range(1, 61)]
    wanted = [numbers[index] for index in part_middles(range(120), 20)]
    assert read_numbers(sampled.frames) == wanted


def test_joined_recordings_whose_times_interleave_keep_their_order(tmp_path):
    first = Drawing(".ts", frames=60, options={"bf": "0"}).write(tmp_path / "first")
    second = Drawing(".ts", frames=60, options={"bf": "0"}).write(tmp_path / "second")
    second = remux(second, tmp_path / "shifted.ts", shift_s=Fraction(1, 90))
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    numbers = [*range(1, 61), *range(1, 61)]
    wanted = [numbers[index] for index in part_middles(range(120), 20)]
    assert read_numbers(sample_clip(path).frames) == wanted


def test_an_mp4_of_two_sample_descriptions(tmp_path):
    # Two encodings in one track. Decoded with the parameters of the other, these come out without
    # an error and wrong.
    pieces = []
    for name, qp in (("first", "29"), ("second", "36")):
        options = {"g": "10", "bf": "0", "qp": qp, "x264-params": "cabac=0"}
        pieces.append(Drawing(frames=65, options=options).write(tmp_path / name))
    path = tmp_path / "joined.mp4"
    with av.open(str(path), "w") as output:
        for count, piece in enumerate(pieces):
            with av.open(str(piece)) as source:
                stream = source.streams.video[0]
                copy = output.streams.video[0] if count else output.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.size:
                        packet.pts += int(count * 65 / 25 / stream.time_base)
                        packet.dts += int(count * 65 / 25 / stream.time_base)
                        packet.stream = copy
                        output.mux(packet)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    other = pieces[1].read_bytes()
    (start, end), (other_start, other_end) = find_box(data, b"stsd"), find_box(other, b"stsd")
    entries = data[start + 16 : end] + other[other_start + 16 : other_end]
    replace_box(data, b"stsd", struct.pack(">II", 0, 2) + entries)
    replace_box(data, b"stsc", struct.pack(">8I", 0, 2, 1, 1, 1, 66, 1, 2))
    replace_box(data, b"stco", struct.pack(f">II{len(places)}I", 0, len(places), *places))
    path.write_bytes(data)
    assert all(a < b for a, b in pairwise(places))
    assert_sampled_as_decoded(path)
