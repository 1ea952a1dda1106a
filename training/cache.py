"""Decoded clips on disk, so that each video is decoded once for all epochs and all runs.

    <cache>/<16 digits of the spec's fingerprint>/<sha256 of the file>.npy      uint8 (frames,
    height, width, 3)

Keyed by what is in the file and how it is decoded, an entry can be neither stale nor of another
ClipSpec. Each is
written under a temporary name and then renamed: one that exists is whole, whenever the writer was
killed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from clip import ClipError, ClipSpec, read_clip
from training.data import Clip, ClipIndex, DataError


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A cache entry, or why there is none."""

    entry: Path | None
    error: str = ""


def decode_clips(index: ClipIndex, spec: ClipSpec, cache: Path) -> Mapping[Clip, Path]:
    """Decode the clips that the cache does not have, on all cores, with a progress bar.

    Returns:
        The cache entry of every clip, to be read with numpy.load.

    Raises:
        DataError: files that cannot be decoded; the message lists them.
    """
    folder = cache / spec.fingerprint[:16]
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(index.folder / clip.path, folder, spec) for clip in index.clips]
    # The threads below take up the cores; OpenCV's own, in the whole process, would compete with
    # them.
    # Threads will do: the decoder, the resize and the hashing all run outside the interpreter's
    # lock.
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(
            tqdm(
                pool.map(_decode, jobs),
                total=len(jobs),
                desc="decoding",
                unit="clip",
            )
        )
    bad = [
        f"{clip.path}: {result.error}"
        for clip, result in zip(index.clips, decoded, strict=True)
        if result.entry is None
    ]
    if bad:
        raise DataError("these files cannot be used:\n  " + "\n  ".join(bad))
    return {
        clip: result.entry
        for clip, result in zip(index.clips, decoded, strict=True)
        if result.entry is not None
    }


def load_clips(entries: Mapping[Clip, Path], clips: Sequence[Clip]) -> npt.NDArray[np.uint8]:
    """The tensors of `clips` in their order: uint8 (N, frames, height, width, 3)."""
    return np.stack([np.load(entries[clip]) for clip in clips])


def _decode(job: tuple[Path, Path, ClipSpec]) -> _Decoded:
    video, folder, spec = job
    try:
        with video.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            entry = folder / f"{digest}.npy"
            if not entry.exists():
                _write_whole(entry, read_clip(file, spec))
    except (ClipError, OSError) as error:
        return _Decoded(None, str(error))
    return _Decoded(entry)


def _write_whole(entry: Path, tensor: npt.NDArray[np.uint8]) -> None:
    # The thread's own name: two may decode files with the same bytes at once.
    part = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        with part.open("wb") as file:
            np.save(file, tensor)
        part.replace(entry)
    finally:
        part.unlink(missing_ok=True)
