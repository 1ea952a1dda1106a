"""Kills writers of checkpoints at random moments: python kill_writers.py FOLDER TIMES SEED.

Each writer is a fork that goes on after the last checkpoint and writes until it is killed with
SIGKILL, some time within its first three checkpoints as fast as this machine writes them. After
every kill the last checkpoint must be whole and not older than the one before. TIMES is the least;
on a busy machine it goes on until a kill has hit a write. Prints, as JSON, how many kills there
were, how many of them left a half-written file behind, and how many checkpoints were written.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from training.learning.checkpoints import Checkpoint, read_last, write_checkpoint

SIZE = 100_000


def make_checkpoint(epoch: int) -> Checkpoint:
    arrays = {"model": [np.full(SIZE, epoch), np.full(3, epoch)], "best": [np.full(5, epoch)]}
    return Checkpoint(epoch, {"of": epoch}, arrays)


def write_until_killed(folder: Path, ready: int) -> None:
    os.write(ready, b"x")
    last = read_last(folder)
    epoch = last.epoch if last else 0
    while True:
        epoch += 1
        write_checkpoint(folder, make_checkpoint(epoch))


def time_a_write(folder: Path) -> float:
    """Seconds that a checkpoint takes here, the middle one of five."""
    taken = []
    for epoch in range(5):
        start = time.monotonic()
        write_checkpoint(folder, make_checkpoint(epoch))
        taken.append(time.monotonic() - start)
    return median(taken)


def main() -> None:
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(int(sys.argv[3]))
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        pace_s = time_a_write(Path(beside))
    before = torn = kills = 0
    reader, ready = os.pipe()
    while kills < times or (kills < 10 * times and not (torn and before)):
        child = os.fork()
        if child == 0:
            write_until_killed(folder, ready)
        os.read(reader, 1)
        time.sleep(rng.uniform(0.0, 3 * pace_s))
        kills += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        torn += any(folder.glob(".part.*"))
        last = read_last(folder)
        if last is None:
            assert before == 0, "the last checkpoint is gone"
            continue
        assert last.epoch >= before, (last.epoch, before)
        assert last.record == {"of": last.epoch}
        for arrays in last.arrays.values():
            for array in arrays:
                assert (array == last.epoch).all()
        before = last.epoch
    write_checkpoint(folder, Checkpoint(before + 1, {}, {"model": [np.zeros(1)]}))
    assert len(list(folder.iterdir())) == 3, "kills have left files for good"
    print(json.dumps({"kills": kills, "torn": torn, "epochs": before}))


if __name__ == "__main__":
    main()
