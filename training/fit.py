"""Train a network on a folder of class folders, measure it, export it, publish it.

    python -m training.fit --data UCF50/ --model lrcn --split group --out runs/lrcn --publish
    models/

On two CPU cores an epoch of 800 clips takes LRCN about two minutes and ConvLSTM one and a half. The
run directory then holds config.json, split.tsv, history.csv, TensorBoard logs, model.keras (the
epoch with the lowest validation loss), predictions.tsv, metrics.json, and report.md with its plots.
The test clips are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# Before TensorFlow is loaded: its start-up messages say nothing about the run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from clip import ClipSpec, ManifestError
from training.arguments import HelpFormatter
from training.augment import add_augmentation_arguments, mirror_sensitive, read_augmentation
from training.batches import ClipBatches, FollowEpochs
from training.cache import StoredClips, check_clips, decode_clips, load_clips
from training.data import DataError, index_clips
from training.export import publish_run
from training.graphs import ExportError
from training.models import MODELS
from training.report import PARTS, measure_run, write_report
from training.run import RunDirectory, current_commit
from training.speed import describe_machine
from training.splits import PROTOCOLS, split_clips
from training.tables import summarise


class DivergenceError(RuntimeError):
    """The training ended without a usable network."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """What fixes a run; written to config.json."""

    data: str
    dataset: str
    groups: str | None
    classes: tuple[str, ...]
    model: str
    clip_spec: dict[str, int | str]
    skip_bad: bool
    split: str
    split_file: str | None
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    augmentation: dict[str, Any]
    patience: int
    git_commit: str


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fit",
        description="Train a network on a folder of class folders, measure, export and publish it.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of class folders"
    )
    data.add_argument(
        "--dataset", metavar="NAME", help="the data set's name for the model card (default: folder)"
    )
    data.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="class folders to take, in output order (default: the ten of training.data where all "
        "are there, else every folder)",
    )
    data.add_argument(
        "--groups", type=Path, metavar="FILE", help="TSV with the columns path and source_group"
    )
    data.add_argument("--split", choices=sorted(PROTOCOLS), default="group", help="protocol")
    data.add_argument(
        "--split-file",
        type=Path,
        metavar="FILE",
        help="for --split file: TSV with the columns path and part",
    )
    data.add_argument("--skip-bad", action="store_true", help="go on without unusable files")
    data.add_argument(
        "--cache", type=Path, metavar="DIR", help="decoded clips (default: cache/ beside --out)"
    )
    network = parser.add_argument_group("network")
    network.add_argument("--model", choices=sorted(MODELS), required=True, help="architecture")
    network.add_argument("--frames", type=int, default=20, help="frames a clip")
    fit = parser.add_argument_group("training")
    fit.add_argument("--epochs", type=int, default=400, help="at most so many")
    fit.add_argument("--batch-size", type=int, default=16, help="clips a step")
    fit.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam, at the start")
    fit.add_argument("--patience", type=int, default=15, help="epochs without progress to the end")
    fit.add_argument("--seed", type=int, default=0, help="of split, weights and order")
    add_augmentation_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, help="the run's new directory")
    output.add_argument("--publish", type=Path, help="models folder to publish the ONNX model to")
    return parser.parse_args(arguments)


def fit(arguments: argparse.Namespace) -> None:
    """Carry out one run, top to bottom.

    Raises:
        DataError: the data set or the run directory cannot be used.
        DivergenceError: the loss is no longer a number; no model was saved.
        ExportError: the exported model is not equal to the trained one; nothing was published.
    """
    spec = ClipSpec(frames=arguments.frames)
    augmentation = read_augmentation(arguments)
    training_spec = augmentation.training_spec(spec)
    index = index_clips(arguments.data, classes=arguments.classes, groups=arguments.groups)
    unflipped = mirror_sensitive(augmentation, index.classes)
    run = RunDirectory.create(arguments.out)
    cache = arguments.cache or arguments.out.parent / "cache"
    usable = check_clips(index, spec, cache, skip_bad=arguments.skip_bad)
    index = usable.index
    config = FitConfig(
        data=arguments.data.name,
        dataset=arguments.dataset or arguments.data.name,
        groups=arguments.groups.name if arguments.groups else None,
        classes=index.classes,
        model=arguments.model,
        clip_spec=spec.to_dict(),
        skip_bad=arguments.skip_bad,
        split=arguments.split,
        split_file=arguments.split_file.name if arguments.split_file else None,
        seed=arguments.seed,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        augmentation=asdict(augmentation),
        patience=arguments.patience,
        git_commit=current_commit(),
    )
    split = split_clips(index, protocol=config.split, seed=config.seed, table=arguments.split_file)
    run.write_json("config.json", asdict(config))
    run.write_json("data.json", usable.record())
    run.write_split(split)
    for warning in (*index.warnings, *split.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    print(", ".join(f"{len(part)} {name}" for name, part in split.parts.items()), "clips")
    candidates = decode_clips(replace(index, clips=split.train), training_spec, cache)
    clips = {name: load_clips(usable.entries, split.parts[name]) for name in ("validation", "test")}
    targets = {
        name: np.array([index.target(clip) for clip in part]) for name, part in split.parts.items()
    }
    one_hot = np.eye(len(index.classes), dtype=np.float32)

    keras.utils.set_random_seed(config.seed)
    model = MODELS[config.model](len(index.classes), spec.frames)
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # several times slower on a CPU with these layers
    )
    batches = ClipBatches(
        StoredClips(candidates, split.train),
        one_hot[targets["train"]],
        batch_size=config.batch_size,
        seed=config.seed,
        augmentation=augmentation,
        mirror_sensitive=unflipped,
    )
    started = time.monotonic()
    history = model.fit(
        batches,
        validation_data=(clips["validation"], one_hot[targets["validation"]]),
        epochs=config.epochs,
        callbacks=[
            FollowEpochs(batches),
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=config.patience, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=0.2, patience=max(config.patience // 3, 1)
            ),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.CSVLogger(run.path / "history.csv"),
            keras.callbacks.TensorBoard(run.path / "tensorboard"),
        ],
        verbose=2,
    ).history
    seconds = time.monotonic() - started
    if not np.isfinite(history["loss"][-1]):
        raise DivergenceError(
            f"the loss is {history['loss'][-1]} in epoch {len(history['loss'])}: try a lower "
            "--learning-rate"
        )
    run.save_model(model)

    metrics = measure_run(
        run,
        {
            name: model.predict(clips[name], batch_size=config.batch_size, verbose=0)
            for name in PARTS
        },
    )
    run.write_json(
        "metrics.json",
        {
            **metrics,
            "skipped_files": [asdict(file) for file in usable.skipped],
            "best_epoch": int(np.argmin(history["val_loss"])) + 1,
            "epochs_run": len(history["loss"]),
            "training_seconds": round(seconds),
            "hardware": describe_machine(),
        },
    )
    for name in PARTS:
        print(f"{name}: {summarise(metrics[name])} ({config.split} split)")
    print(f"wrote {write_report(run, clips['test'])}")

    if arguments.publish:
        published = publish_run(run, arguments.publish, test_clips=clips["test"])
        print(f"published {published}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    try:
        fit(parse_arguments(arguments))
    except (DataError, DivergenceError, ExportError, ManifestError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
