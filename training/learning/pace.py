"""The pace of a training: learning rate, early stopping and the plateau rule, free of Keras.

Keras' EarlyStopping and ReduceLROnPlateau keep their counts to themselves and begin anew with every
fit(); its BackupAndRestore does not save them. Here the counts are a value, `Progress`, that goes
into each checkpoint, and the rules are those of the two callbacks (a test compares them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SCHEDULES = ("plateau", "cosine")
MONITORS = ("val_loss", "val_accuracy")

#: What the plateau rule multiplies the learning rate by, and the least that counts as progress.
DROP = 0.2
LEAST_PROGRESS = 1e-4


@dataclass(frozen=True, slots=True)
class Progress:
    """What the epochs of a phase have shown so far; JSON values."""

    epochs: int = 0
    best: float | None = None
    waited: int = 0
    plateau_best: float | None = None
    plateau_waited: int = 0
    drops: int = 0
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """The rules of one phase.

    Attributes:
        peak: the learning rate after the warm-up.
        epochs: at most so many; where the cosine reaches zero.
        patience: epochs without a better `monitor` after which the phase ends; after a third of
            them the plateau rule drops the rate. Neither counts the warm-up's.
        monitor: "val_loss" or "val_accuracy".
        schedule: "plateau", or "cosine": from the peak to zero over the epochs after the warm-up.
        warmup_epochs: the first ones, fewer than `epochs`, in which the rate climbs from zero, a
            little every step.
    """

    peak: float
    epochs: int
    patience: int
    monitor: str = "val_loss"
    schedule: str = "plateau"
    warmup_epochs: int = 0

    def rate(self, at: float, progress: Progress) -> float:
        """The learning rate `at` so many epochs into the phase; the end of a step, not its start.

        The end, because a warm-up from zero would waste its first step.
        """
        if at < self.warmup_epochs:
            return self.peak * at / self.warmup_epochs
        if self.schedule == "cosine":
            share = (at - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            return self.peak * 0.5 * (1 + math.cos(math.pi * share))
        rate: float = self.peak * DROP**progress.drops
        return rate

    def is_better(self, value: float | None, best: float | None, *, by: float = 0.0) -> bool:
        """Whether `value` improves on `best` by more than `by`; NaN never does.

        None, where nothing is validated, always does: the last epoch is the best.
        """
        if value is None:
            return True
        if best is None:
            return not math.isnan(value)
        return value - by > best if self.monitor == "val_accuracy" else value + by < best

    def advance(self, progress: Progress, value: float | None) -> Progress:
        """What is known after one more epoch, with its value of `monitor`; None without one."""
        better = self.is_better(value, progress.best)
        warming = progress.epochs < self.warmup_epochs
        waited = 0 if better or warming else progress.waited + 1
        after = replace(
            progress,
            epochs=progress.epochs + 1,
            best=value if better else progress.best,
            waited=waited,
            stopped=waited >= self.patience,
        )
        if self.is_better(value, progress.plateau_best, by=LEAST_PROGRESS):
            return replace(after, plateau_best=value, plateau_waited=0)
        if warming:
            return after
        if progress.plateau_waited + 1 >= self.patience // 3:
            return replace(after, plateau_waited=0, drops=progress.drops + 1)
        return replace(after, plateau_waited=progress.plateau_waited + 1)
