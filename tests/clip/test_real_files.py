"""Real files from the wild, which lie beside a developer's checkout."""

import csv

import av
import numpy as np
import pytest

from clip import ClipError, sample_clip
from clip.errors import DecodeError, EmptyFileError, NoVideoStreamError, UnknownContainerError
from clip.sampling import part_middles
from clip.tensor import to_rgb

REFUSED = {"gif": UnknownContainerError, "flv": UnknownContainerError}


def manifest_rows(folder):
    with (folder / "MANIFEST.tsv").open(newline="") as table:
        return list(csv.DictReader(table, delimiter="\t"))


def expected_error(row):
    """What a row of the manifest lets one predict; None where the file decodes."""
    if row["bytes"] == "0":
        return EmptyFileError
    if row["file"].rsplit(".")[-1] in REFUSED:
        return REFUSED[row["file"].rsplit(".")[-1]]
    if row["status"] == "no video stream":
        return NoVideoStreamError
    if row["status"] == "no decodable frame":
        return DecodeError
    return None


def test_every_robustness_file_decodes_or_is_refused_as_its_manifest_says(shared):
    rows = manifest_rows(shared / "robust")
    assert len(rows) > 30
    for row in rows:
        error = expected_error(row)
        path = shared / "robust" / row["file"]
        if error is not None:
            with pytest.raises(error):
                sample_clip(path)
            continue
        sampled = sample_clip(path)
        assert sampled.frames.shape == (20, 64, 64, 3), row["file"]
        assert sampled.info.frames_found == int(row["frames_pyav"]), row["file"]
        size = (sampled.info.width, sampled.info.height)
        stored = (int(row["w"]), int(row["h"]))
        assert size == (stored[::-1] if row["rotation"] == "-90" else stored), row["file"]
        if sampled.info.frames_found > 1 and row["vfr"] == "no":
            assert sampled.info.duration_s == pytest.approx(float(row["duration_s"]), abs=0.1)


def decode_everything(path):
    """All frames in order by the plainest use of PyAV."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames += [to_rgb(frame, 64, 64) for frame in stream.codec_context.decode(packet)]
            except av.error.InvalidDataError:
                continue
    return frames


def test_the_originals_give_the_frames_of_a_full_sequential_decode(shared):
    originals = sorted((shared / "originals").glob("*.avi"))
    assert len(originals) == 19
    for path in originals:
        frames = decode_everything(path)
        sampled = sample_clip(path)
        assert sampled.info.frames_found == len(frames), path.name
        wanted = np.stack([frames[index] for index in part_middles(range(len(frames)), 20)])
        np.testing.assert_array_equal(sampled.frames, wanted, err_msg=path.name)


def test_the_training_clips_give_the_frames_of_a_full_sequential_decode(shared):
    clips = sorted((shared / "clips").glob("*/*.mp4"))[::60]
    assert len(clips) > 15
    for path in clips:
        frames = decode_everything(path)
        wanted = np.stack([frames[index] for index in part_middles(range(len(frames)), 20)])
        np.testing.assert_array_equal(sample_clip(path).frames, wanted, err_msg=path.name)


def test_f30_damaged_real_clips_decode_or_are_refused(shared, tmp_path):
    damaged = tmp_path / "damaged"  # a file, not bytes in memory: only a file can refuse to seek
    rng = np.random.default_rng(11)
    outcomes = set()
    for path in [*sorted((shared / "originals").glob("*.avi"))[:3], shared / "robust/demo.mp4"]:
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(8):
            data = whole.copy()
            places = rng.integers(0, len(data), 40)
            data[places] ^= rng.integers(1, 256, 40).astype(np.uint8)
            damaged.write_bytes(data.tobytes())
            outcomes.add(_decode(damaged))
    assert "decoded" in outcomes


def _decode(path):
    try:
        assert sample_clip(path).frames.shape == (20, 64, 64, 3)
    except ClipError as error:
        return error.code
    return "decoded"
