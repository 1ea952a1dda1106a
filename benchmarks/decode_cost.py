"""What sampling a clip costs against the usual ways: python -m benchmarks.decode_cost [--rounds 5].

Makes four 10 s 1080p H.264 clips with B-frames (a key frame every 30 and every 250 frames; a
pyramid of B-frames, x264's default, and none, as many hardware encoders write), then takes turns
between `clip.read_clip`, decoding every frame in order with PyAV on one thread, decoding the
reference frames alone (what any exact way has to decode where no key frame can be jumped to), and
20 OpenCV seeks (the tutorials' way). Writes medians of CPU time to
benchmarks/reports/decode_cost.md. About eight minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.report import environment, write_report
from clip import read_clip

FRAMES, RATE, HEIGHT, WIDTH = 300, 30, 1080, 1920
KEY_FRAME_GAPS = (30, 250)
#: x264's b_pyramid and what the report calls it. In a pyramid every other B-frame is a reference.
B_FRAMES = {"normal": "pyramid", "none": "plain"}


def make_clip(path: Path, key_frame_gap: int, b_pyramid: str) -> None:
    """Write a clip like filmed footage: a turning camera, moving things, a little sensor noise."""
    rng = np.random.default_rng(7)
    scene = _texture(rng, 2 * HEIGHT, 2 * WIDTH, detail=6)
    things = [_texture(rng, 240, 240, detail=4) for _ in range(12)]
    places = rng.uniform(0.3, 0.6, (len(things), 2)) * (HEIGHT, WIDTH)
    speeds = rng.uniform(-0.6, 0.6, (len(things), 2))
    noise = rng.normal(0, 3, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.int16)
    with av.open(str(path), "w") as output:
        options = {"crf": "23", "bf": "3", "g": str(key_frame_gap), "sc_threshold": "0"}
        options |= {"keyint_min": str(key_frame_gap), "b-pyramid": b_pyramid}
        stream = output.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FRAMES):
            camera = cv2.getRotationMatrix2D((WIDTH, HEIGHT), 0.03 * index, 1 + 0.0005 * index)
            camera[:, 2] -= (WIDTH / 2 + 0.7 * index, HEIGHT / 2 + 0.3 * index)
            picture = cv2.warpAffine(scene, camera, (WIDTH, HEIGHT))
            for thing, place, speed in zip(things, places, speeds, strict=True):
                top, left = (place + speed * index).astype(int)
                picture[top : top + 240, left : left + 240] = thing
            y, x = rng.integers(0, 64, 2)
            noisy = picture + noise[y : y + HEIGHT, x : x + WIDTH]
            picture = np.clip(noisy, 0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def _texture(
    rng: np.random.Generator, height: int, width: int, *, detail: int
) -> npt.NDArray[np.uint8]:
    coarse = rng.integers(40, 216, (height // detail, width // detail, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def every_frame_in_order(path: Path) -> None:
    """Decode all frames with PyAV on one thread, converting none."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def reference_frames_alone(path: Path) -> None:
    """Decode with PyAV on one thread what other frames refer to, converting none."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.skip_frame = "NONREF"
        for _ in container.decode(stream):
            pass


def opencv_seeks(path: Path) -> None:
    """Seek to 20 evenly spaced frames, read and resize each."""
    capture = cv2.VideoCapture(str(path))
    step = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT) / 20), 1)
    for index in range(20):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index * step)
        found, picture = capture.read()
        if found:
            cv2.resize(picture, (64, 64))
    capture.release()


def cpu_seconds(work: Callable[[Path], object], path: Path) -> float:
    """CPU time of one call, over all threads."""
    start = time.process_time()
    work(path)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default: 5)")
    rounds = parser.parse_args().rounds
    ways: dict[str, Callable[[Path], object]] = {
        "read_clip": read_clip,
        "every frame in order, PyAV": every_frame_in_order,
        "reference frames alone, PyAV": reference_frames_alone,
        "20 seeks, OpenCV": opencv_seeks,
    }
    lines = [
        "| key frame every | B-frames | way | CPU ms, median | read_clip takes |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for gap, (b_pyramid, b_frames) in product(KEY_FRAME_GAPS, B_FRAMES.items()):
            path = Path(folder) / f"{gap}-{b_frames}.mp4"
            make_clip(path, gap, b_pyramid)
            taken: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, work in ways.items():
                    taken[name].append(cpu_seconds(work, path) * 1e3)
            ours = median(taken["read_clip"])
            for name, times in taken.items():
                middle = median(times)
                lines.append(
                    f"| {gap} | {b_frames} | {name} | {middle:.0f} | {ours / middle:.2f} of it |"
                )
    write_report(
        "decode_cost",
        "Decoding 20 frames of a 10 s 1080p H.264 clip with B-frames",
        [*environment("av", "opencv-python-headless"), f"{rounds} rounds, the ways taking turns."],
        lines,
    )


if __name__ == "__main__":
    main()
