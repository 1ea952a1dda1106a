import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clip import ClipSpec, read_clip
from tests.open_files import expect_nothing_left_open
from training.data.cache import StoredClips, check_clips, decode_clips
from training.data.digests import Digests
from training.data.index import index_clips
from training.errors import DataError
from training.files import ABANDONED_S

SPEC = ClipSpec(frames=3, height=32, width=32)


def test_the_cache_holds_what_read_clip_gives(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    for clip, tensor in zip(index.clips, StoredClips(entries, index.clips), strict=True):
        assert tensor.shape == (3, 32, 32, 3)
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
    entry.with_name(f".part.{entry.name}.1-1").write_bytes(whole[:100])
    entry.unlink()
    assert decode_clips(index, SPEC, tmp_path) == entries
    assert entry.read_bytes() == whole


def test_clips_are_read_where_they_lie_without_holding_files_open(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    stored = StoredClips(entries, index.clips)
    with expect_nothing_left_open():
        tensors = [np.array(stored[place]) for place in range(len(stored))]
        np.testing.assert_array_equal(tensors, [np.load(entries[clip]) for clip in index.clips])
        np.testing.assert_array_equal(stored[1:3], tensors[1:3])


def test_no_source_is_parsed_where_another_thread_may_parse_some(dataset, tmp_path, monkeypatch):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    stored = StoredClips(entries, index.clips)
    monkeypatch.setattr("ast.literal_eval", lambda _: pytest.fail("parsed"))
    assert [clip.shape for clip in stored[:]] == [(3, 32, 32, 3)] * len(index.clips)
    assert len(StoredClips(entries, [])[:]) == 0


def test_an_entry_that_lost_its_bytes_is_made_again(dataset, tmp_path):
    index = index_clips(dataset)
    entry = decode_clips(index, SPEC, tmp_path)[index.clips[0]]
    whole = entry.read_bytes()
    entry.write_bytes(whole[:200])
    decode_clips(index, SPEC, tmp_path)
    assert entry.read_bytes() == whole


def test_a_changed_file_gets_an_entry_of_its_own(dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    index = index_clips(data)
    before = decode_clips(index, SPEC, tmp_path / "cache")
    changed, other = index.clips[0], index.clips[-1]
    shutil.copy(data / other.path, data / changed.path)
    after = decode_clips(index, SPEC, tmp_path / "cache")
    assert after[changed] == before[other]
    assert {**after, changed: before[changed]} == before


def test_a_digest_is_remembered_while_the_file_has_its_size_and_time(tmp_path):
    video = tmp_path / "clip.avi"

    def ask(content, time_ns):
        video.write_bytes(content)
        os.utime(video, ns=(time_ns, time_ns))
        digests = Digests(tmp_path)
        found = digests.of(video)
        digests.save()
        return found

    one, two, three = (hashlib.sha256(word).hexdigest() for word in (b"one", b"two", b"three"))
    assert ask(b"one", 10**18) == one
    assert ask(b"two", 10**18) == one, "taken for the same file, and not read"
    assert ask(b"two", 10**18 + 1) == two
    assert ask(b"three", 10**18 + 1) == three


def test_decoding_leaves_the_digests_of_all_clips_for_the_next_run(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    known = json.loads((tmp_path / "digests.json").read_text())
    assert {path: record[2] for path, record in known.items()} == {
        str((dataset / clip.path).resolve()): entry.stem for clip, entry in entries.items()
    }


def test_a_store_of_digests_that_is_damaged_costs_only_the_hashing(dataset, tmp_path):
    index = index_clips(dataset)
    entries = decode_clips(index, SPEC, tmp_path)
    for text in ("{", "[]", '{"a": 1}'):
        (tmp_path / "digests.json").write_text(text)
        assert decode_clips(index, SPEC, tmp_path) == entries


def test_what_a_killed_writer_left_is_swept_and_a_living_ones_is_not(dataset, tmp_path):
    index = index_clips(dataset)
    entry = decode_clips(index, SPEC, tmp_path)[index.clips[0]]
    old, young = (entry.with_name(f".part.{entry.name}.{owner}") for owner in ("1-1", "2-2"))
    old_store = tmp_path / ".part.digests.json.1-1"
    for part in (old, young, old_store):
        part.write_bytes(b"x")
    for part in (old, old_store):
        os.utime(part, (time.time() - ABANDONED_S - 60,) * 2)
    decode_clips(index, SPEC, tmp_path)
    assert not old.exists()
    assert not old_store.exists()
    assert young.exists()


DECODE = """
import sys
from pathlib import Path
from clip import ClipSpec
from training.data.cache import decode_clips
from training.data.index import index_clips
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
decode_clips(index_clips(Path(sys.argv[1])), ClipSpec(), Path(sys.argv[2]))
"""


def start_decoding(data, cache, *limit):
    return subprocess.Popen(
        [sys.executable, "-c", DECODE, str(data), str(cache), *limit],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("entries_first", [1, 7, 20])
def test_t1_a_cache_survives_kill_9(dataset, tmp_path, entries_first):
    with start_decoding(dataset, tmp_path) as process:
        deadline = time.monotonic() + 600
        while len(list(tmp_path.glob("*/*.npy"))) < entries_first and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    index = index_clips(dataset)
    survived = {path: path.read_bytes() for path in tmp_path.glob("*/*.npy")}
    assert len(survived) >= entries_first
    entries = decode_clips(index, ClipSpec(), tmp_path)
    assert set(survived) <= set(entries.values())
    for clip, entry in entries.items():
        np.testing.assert_array_equal(np.load(entry), read_clip(dataset / clip.path))
        assert survived.get(entry, entry.read_bytes()) == entry.read_bytes()


def test_t2_a_cache_that_cannot_be_written_names_the_file_and_keeps_no_part(dataset, tmp_path):
    pytest.importorskip("resource")
    with start_decoding(dataset, tmp_path, "100000") as process:  # an entry has 245,888 bytes
        message = process.stderr.read()
    assert process.returncode != 0
    assert "File too large" in message
    assert ".npy" in message
    assert str(tmp_path) in message
    assert [path.name for path in tmp_path.glob("*/*")] == []


def spoil(dataset, data):
    """A copy of the data set with one file of each kind that cannot be used."""
    shutil.copytree(dataset, data)
    clips = sorted(path for path in (data / "Dark").iterdir())
    (data / "Dark/empty.mp4").touch()
    (data / "Dark/broken.mp4").write_bytes(clips[0].read_bytes()[:300])
    (data / "Dark/text.avi").write_text("no video")
    (data / "Dark/z_copy.mp4").write_bytes(clips[1].read_bytes())
    (data / "Light/z_copy.mp4").write_bytes(clips[2].read_bytes())
    (data / "Light/link.mp4").symlink_to(data / "gone.mp4")
    return {
        "Light/link.mp4": "leads nowhere",
        "Dark/broken.mp4": "",
        "Dark/empty.mp4": "empty",
        "Dark/text.avi": "known container",
        "Dark/z_copy.mp4": f"same bytes as Dark/{clips[1].name}",
        "Light/z_copy.mp4": "another class",
        f"Dark/{clips[2].name}": "another class",
    }


def test_t4_bad_files_are_all_listed_at_once(dataset, tmp_path):
    bad = spoil(dataset, tmp_path / "data")
    with pytest.raises(DataError, match=r"^7 files cannot be used") as refusal:
        check_clips(index_clips(tmp_path / "data"), SPEC, tmp_path / "cache", skip_bad=False)
    for path, reason in bad.items():
        (line,) = (line for line in str(refusal.value).splitlines() if f"  {path}:" in line)
        assert reason in line
    assert "--skip-bad" in str(refusal.value)


def test_t4_skipping_bad_files_records_which_and_why(dataset, tmp_path):
    bad = spoil(dataset, tmp_path / "data")
    index = index_clips(tmp_path / "data")
    usable = check_clips(index, SPEC, tmp_path / "cache", skip_bad=True)
    assert {file.path for file in usable.skipped} == set(bad)
    assert all(bad[file.path] in file.reason for file in usable.skipped)
    kept = {clip.path for clip in index.clips} - set(bad)
    assert {clip.path for clip in usable.index.clips} == kept
    assert set(usable.entries) == set(usable.index.clips)
    record = usable.record(["Look twice."])
    assert record["classes"]["Dark"] == {"clips": 23, "groups": 6}
    assert len(record["skipped_files"]) == 7
    assert all(file["reason"] for file in record["skipped_files"])


def test_t4_each_bad_file_is_listed_once_with_the_reason_alone(dataset, tmp_path):
    data = shutil.copytree(dataset, tmp_path / "data")
    for name in ("empty1.mp4", "empty2.mp4", "gone.mp4"):
        (data / "Dark" / name).touch()
    index = index_clips(data)
    (data / "Dark/gone.mp4").unlink()
    usable = check_clips(index, SPEC, tmp_path / "cache", skip_bad=True)
    assert [(file.path, file.reason) for file in usable.skipped] == [
        ("Dark/empty1.mp4", "The file is empty."),
        ("Dark/empty2.mp4", "The file is empty."),
        ("Dark/gone.mp4", "No such file or directory"),
    ]


def test_a_data_set_without_bad_files_is_used_whole(dataset, tmp_path):
    index = index_clips(dataset)
    usable = check_clips(index, SPEC, tmp_path, skip_bad=False)
    assert usable.index == index
    assert usable.skipped == ()
    assert usable.entries == decode_clips(index, SPEC, tmp_path)


def test_t4_files_that_do_not_decode_are_all_listed(dataset, tmp_path):
    for label in ("A", "B"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "empty.mp4").touch()
    with pytest.raises(DataError, match=r"(?s)A/empty\.mp4: The file is empty.*B/empty\.mp4"):
        decode_clips(index_clips(tmp_path), SPEC, tmp_path / "cache")
