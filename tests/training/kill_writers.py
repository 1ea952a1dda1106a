"""Kills writers of checkpoints at random moments: python kill_writers.py FOLDER TIMES SEED.

Each writer is a fork that goes on after the last checkpoint and writes until it is killed with
SIGKILL. After every kill the last checkpoint must be whole and not older than the one before.
Prints, as JSON, how many kills there were, how many of them left a half-written file behind, and
how many checkpoints were written in all.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from training.checkpoints import Checkpoint, read_last, write_checkpoint

SIZE = 100_000


def write_until_killed(folder: Path) -> None:
    last = read_last(folder)
    epoch = last.epoch if last else 0
    while True:
        epoch += 1
        arrays = {"model": [np.full(SIZE, epoch), np.full(3, epoch)], "best": [np.full(5, epoch)]}
        write_checkpoint(folder, Checkpoint(epoch, {"of": epoch}, arrays))


def main() -> None:
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(int(sys.argv[3]))
    before = torn = 0
    for _ in range(times):
        child = os.fork()
        if child == 0:
            write_until_killed(folder)
        time.sleep(rng.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        torn += any(folder.glob("part.*"))
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
    print(json.dumps({"kills": times, "torn": torn, "epochs": before}))


if __name__ == "__main__":
    main()
