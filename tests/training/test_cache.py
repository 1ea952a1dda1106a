import numpy as np
import pytest

from clip import ClipSpec, read_clip
from training.cache import decode_clips, load_clips
from training.data import DataError, index_clips

SPEC = ClipSpec(frames=3, height=32, width=32)


def test_the_cache_holds_what_read_clip_gives(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    clips = load_clips(entries, index.clips)
    assert clips.shape == (len(index.clips), 3, 32, 32, 3)
    for clip, tensor in zip(index.clips, clips, strict=True):
        np.testing.assert_array_equal(tensor, read_clip(dataset / clip.path, SPEC))


def test_a_second_run_decodes_nothing(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    before = {entry: entry.stat().st_mtime_ns for entry in entries.values()}
    assert decode_clips(index, SPEC, tmp_path) == entries
    assert {entry: entry.stat().st_mtime_ns for entry in entries.values()} == before


def test_another_spec_has_other_entries(dataset, tmp_path):
    index = index_clips(dataset)
    small = decode_clips(index, SPEC, tmp_path)
    large = decode_clips(index, ClipSpec(frames=3, height=48, width=48), tmp_path)
    assert not set(small.values()) & set(large.values())


def test_an_unfinished_entry_is_never_taken_for_a_whole_one(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    entry = entries[index.clips[0]]
    whole = entry.read_bytes()
    # What a killed writer leaves behind: a part under another name, and no entry.
    entry.with_suffix(".1-1.part").write_bytes(whole[:100])
    entry.unlink()
    assert decode_clips(index, SPEC, tmp_path) == entries
    assert entry.read_bytes() == whole


def test_t4_files_that_do_not_decode_are_all_listed(dataset, tmp_path):
    for label in ("A", "B"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "empty.mp4").touch()
    with pytest.raises(DataError, match=r"(?s)A/empty\.mp4: The file is empty.*B/empty\.mp4"):
        decode_clips(index_clips(tmp_path), SPEC, tmp_path / "cache")
