"""training.fit that kills itself as soon as an epoch's checkpoint is whole: fit_killed.py EPOCH ...

By SIGKILL, which no code sees coming; at which moments of a write one may come is the business of
kill_writers.py.
"""

import os
import signal
import sys

import training.fit
import training.learning.loop

write_checkpoint = training.learning.loop.write_checkpoint


def write_and_die(folder, checkpoint):
    write_checkpoint(folder, checkpoint)
    if checkpoint.epoch == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


training.learning.loop.write_checkpoint = write_and_die

if __name__ == "__main__":
    sys.exit(training.fit.main(sys.argv[2:]))
