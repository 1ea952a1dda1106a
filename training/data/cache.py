"""Decoded clips on disk, so that each video is decoded once for all epochs and all runs.

    <cache>/<16 digits of the spec's fingerprint>/<sha256 of the file>.npy
        uint8 (frames, height, width, 3)

Keyed by what is in the file and how it is decoded, an entry can be neither stale nor of another
ClipSpec. Each is written under a temporary name and then renamed: one that exists is whole,
whenever the writer was killed. Training reads entries where they lie, by memory mapping: the
operating system keeps in memory what fits, and a data set may be larger than that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
import numpy.typing as npt

from clip import ClipError, ClipSpec, read_clip
from training.data.digests import Digests
from training.data.index import BadFile, Clip, ClipIndex, find_duplicates
from training.errors import DataError
from training.files import replacing, sweep
from training.progress import Progress

_NPY_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True)
class UsableClips:
    """What of a data folder can be trained on.

    Attributes:
        index: without the bad files.
        entries: the cache entry of every clip in it.
        skipped: the bad files.
    """

    index: ClipIndex
    entries: Mapping[Clip, Path]
    skipped: tuple[BadFile, ...]

    def record(self, warnings: Sequence[str]) -> dict[str, Any]:
        """What a run notes of its data, and what it warns of, as JSON values."""
        clips = {
            label: [clip for clip in self.index.clips if clip.label == label]
            for label in self.index.classes
        }
        return {
            "classes": {
                label: {"clips": len(of), "groups": len({clip.group for clip in of})}
                for label, of in clips.items()
            },
            "skipped_files": [asdict(file) for file in self.skipped],
            "ignored_files": list(self.index.ignored),
            "warnings": list(warnings),
        }


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A cache entry, or why there is none; and the file's sha256, empty if it cannot be read."""

    entry: Path | None
    digest: str = ""
    error: str = ""


def check_clips(index: ClipIndex, spec: ClipSpec, cache: Path, *, skip_bad: bool) -> UsableClips:
    """Decode all clips of a data folder and find those that cannot be used.

    Bad are files that do not decode, are empty or missing, and those with the bytes of another.

    Raises:
        DataError: there are bad files and `skip_bad` is false (the message lists them all), or
            they leave a class without clips.
        OSError: the cache cannot be written; it names the file.
    """
    decoded = _decode_all(index, spec, cache)
    broken = _broken(decoded)
    whole = {clip: result.digest for clip, result in decoded.items() if result.entry}
    bad = (*index.missing, *broken, *find_duplicates(whole))
    if bad and not skip_bad:
        raise DataError(
            f"{len(bad)} files cannot be used:{_listed(bad)}\n"
            "repair or remove them, or go on without them with --skip-bad"
        )
    usable = index.without([file.path for file in bad])
    kept = set(usable.clips)
    entries = {clip: done.entry for clip, done in decoded.items() if clip in kept and done.entry}
    return UsableClips(usable, entries, bad)


def decode_clips(index: ClipIndex, spec: ClipSpec, cache: Path) -> Mapping[Clip, Path]:
    """Decode the clips that the cache does not have, on all cores, showing progress.

    Returns:
        The cache entry of every clip, to be read with numpy.load.

    Raises:
        DataError: files that cannot be decoded; the message lists them.
        OSError: the cache cannot be written; it names the file.
    """
    decoded = _decode_all(index, spec, cache)
    broken = _broken(decoded)
    if broken:
        raise DataError(f"these files cannot be used:{_listed(broken)}")
    return {clip: done.entry for clip, done in decoded.items() if done.entry}


def entry_digest(entry: Path) -> str:
    """The sha256 of the video that a cache entry was decoded from."""
    return entry.stem


def refuse_changed(
    clips: Sequence[Clip], entries: Mapping[Clip, Path], digests: Sequence[str], *, folder: Path
) -> None:
    """Hold the clips of a data folder to the files that a run had.

    Args:
        clips: those of the run, in its order.
        entries: their cache entries now.
        digests: the sha256 of each in the run; empty where it was not known.
        folder: for the message.

    Raises:
        DataError: other files have their names now.
    """
    changed = [
        clip.path
        for clip, digest in zip(clips, digests, strict=True)
        if digest and digest != entry_digest(entries[clip])
    ]
    if changed:
        raise DataError(
            f"{len(changed)} files in {folder} are not those that the run had, as {changed[0]}"
        )


class StoredClips(Sequence[npt.NDArray[np.uint8]]):
    """Cache entries of one spec as a sequence of tensors, uint8 (frames, height, width, 3).

    Each is mapped anew when asked for and closed when its array is dropped: a thousand clips do not
    hold a thousand files open.
    """

    def __init__(self, entries: Mapping[Clip, Path], clips: Sequence[Clip]) -> None:
        self._files = [entries[clip] for clip in clips]
        # One spec, one header. NumPy parses it as Python source, which in CPython 3.11 fails by
        # chance while another thread parses some too, as TensorFlow does when it traces a model:
        # so it is not read anew in the threads that make batches.
        self._shape: tuple[int, ...] = ()
        self._offset = 0
        if self._files:
            first = np.load(self._files[0], mmap_mode="r")
            self._shape, self._offset = first.shape, first.offset

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.uint8]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self._map(file) for file in self._files[index]]
        return self._map(self._files[index])

    def _map(self, file: Path) -> npt.NDArray[np.uint8]:
        return np.memmap(file, np.uint8, "r", self._offset, self._shape)


def _decode_all(index: ClipIndex, spec: ClipSpec, cache: Path) -> dict[Clip, _Decoded]:
    folder = cache / spec.fingerprint[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for place in (cache, folder):
        sweep(place)
    digests = Digests(cache)
    # The threads below take up the cores; OpenCV's own, in the whole process, would compete with
    # them. Threads will do: the decoder, the resize and the hashing all run outside the
    # interpreter's lock.
    cv2.setNumThreads(1)

    def decode(clip: Clip) -> _Decoded:
        return _decode(index.folder / clip.path, folder, spec, digests)

    decoded = {}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(total=len(index.clips), title="decoding", unit="clips") as progress,
    ):
        for clip, result in zip(index.clips, pool.map(decode, index.clips), strict=True):
            decoded[clip] = result
            progress.advance(1)
    digests.save()
    return decoded


def _decode(video: Path, folder: Path, spec: ClipSpec, digests: Digests) -> _Decoded:
    digest = ""
    try:
        digest = digests.of(video)
        entry = folder / f"{digest}.npy"
        # A crash of the whole machine can leave a name without all of its bytes.
        if entry.exists() and entry.stat().st_size == _NPY_HEADER_BYTES + spec.nbytes:
            return _Decoded(entry, digest)
        tensor = read_clip(video, spec)
    except (ClipError, OSError) as error:
        # An OSError's own words name the whole path; the list has it already.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return _Decoded(None, digest, reason)
    _write(entry, tensor)
    return _Decoded(entry, digest)


def _write(entry: Path, tensor: npt.NDArray[np.uint8]) -> None:
    # Two threads may decode files with the same bytes at once.
    with replacing(entry, shared=True) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(tensor))
        # Not numpy's own writing, which does not tell why it fails.
        file.write(np.ascontiguousarray(tensor).data)


def _broken(decoded: Mapping[Clip, _Decoded]) -> list[BadFile]:
    return [BadFile(clip.path, done.error) for clip, done in decoded.items() if not done.entry]


def _listed(files: Sequence[BadFile]) -> str:
    return "".join(f"\n  {file.path}: {file.reason}" for file in files)
