"""A finished run in a second, for tests of what comes after the training."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path

import keras

from clip import ClipSpec
from training.data.cache import StoredClips, decode_clips
from training.data.index import index_clips
from training.data.splits import split_clips
from training.machine import describe_machine
from training.networks.models import build_lrcn
from training.report import write_report
from training.results.measure import measure_run
from training.results.parts import MEASURED_PARTS, answer
from training.run import RunDirectory

HISTORY = """\
epoch,accuracy,learning_rate,loss,val_accuracy,val_loss
1,0.4,0.001,2.0,0.3,2.1
2,0.6,0.001,1.1,0.5,1.4
3,0.8,0.0002,0.7,0.5,1.6
"""


def make_run(dataset: Path, path: Path, *, split: str = "group", frames: int = 2) -> RunDirectory:
    """A run of which only the training was left out: the network is as it was built."""
    index, spec = index_clips(dataset), ClipSpec(frames=frames)
    parts = split_clips(index, protocol=split, seed=0)
    run = RunDirectory.create(path)
    run.write_json(
        "config.json",
        {
            "model": "lrcn",
            "dataset": "UCF101",
            "classes": index.classes,
            "clip_spec": spec.to_dict(),
            "split": split,
            "seed": 0,
            "batch_size": 4,
            "git_commit": "unknown",
        },
    )
    run.write_split(parts, {})
    run.write_text("history.csv", HISTORY)
    keras.utils.set_random_seed(3)
    model = build_lrcn(len(index.classes), frames)
    run.save_model(model)
    entries = decode_clips(index, spec, path.parent / "cache")
    clips = {part: StoredClips(entries, parts.parts[part]) for part in MEASURED_PARTS}
    answers = {part: answer(model, clips[part], batch_size=4) for part in MEASURED_PARTS}
    run.write_json(
        "metrics.json",
        {
            **measure_run(run, answers),
            "best_epoch": 2,
            "epochs_run": 3,
            "training_seconds": 125,
            "hardware": [describe_machine()],
        },
    )
    write_report(run, clips)
    return run
