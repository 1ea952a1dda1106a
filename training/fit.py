"""Train a network on a folder of class folders, measure it, export it, publish it.

    python -m training.fit --data UCF50/ --model lrcn --split group --out runs/lrcn --publish
    models/

On two CPU cores an epoch of 800 clips takes LRCN about two minutes and ConvLSTM one and a half. The
run directory then holds config.json, data.json, split.tsv, history.csv, TensorBoard logs,
checkpoints, model.keras (the best epoch by --monitor), predictions.tsv, metrics.json, and report.md
with its plots. The test clips are looked at once, at the end. A run that was killed goes on with
--resume.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

# Before TensorFlow is loaded: its start-up messages say nothing about the run, and the order in
# which it adds up gradients must not depend on chance (training.loop.make_deterministic).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np

from clip import ClipSpec, ManifestError
from training.augment import mirror_sensitive, read_augmentation
from training.batches import ClipBatches
from training.cache import StoredClips, check_clips, decode_clips
from training.data import DataError, index_clips
from training.efficientnet import WeightsError
from training.export import publish_run
from training.graphs import ExportError
from training.locking import locked
from training.loop import DivergenceError, Examples, make_deterministic, precision, train
from training.models import MODELS
from training.options import FitConfig, parse_arguments
from training.parts import PARTS, answer
from training.recipes import RECIPES
from training.report import measure_run, write_report
from training.run import RunDirectory, current_commit
from training.speed import describe_machine
from training.splits import split_clips
from training.tables import summarise
from training.workers import join_workers


def fit(arguments: argparse.Namespace, held: ExitStack) -> None:
    """Carry out one run, top to bottom; `held` keeps its directory locked.

    Raises:
        DataError: the data set, an option or the run directory cannot be used.
        DivergenceError: the loss is no longer a number; no model was saved.
        ExportError: the exported model is not equal to the trained one; nothing was published.
        WeightsError: the pretrained weights are not installed.
    """
    workers = join_workers()
    if workers.count > 1 and arguments.mixed_precision:
        # A worker whose 16 bits overflow skips the step, and the others would wait for it.
        raise DataError("--mixed-precision does not go with several workers")
    recipe = RECIPES[arguments.model]
    spec = ClipSpec(
        frames=arguments.frames,
        height=arguments.height or recipe.height,
        width=arguments.width or recipe.width,
    )
    augmentation = read_augmentation(arguments)
    training_spec = augmentation.training_spec(spec)
    index = index_clips(arguments.data, classes=arguments.classes, groups=arguments.groups)
    unflipped = mirror_sensitive(augmentation, index.classes)
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
        monitor=arguments.monitor,
        schedule=arguments.schedule,
        warmup_epochs=arguments.warmup_epochs,
        label_smoothing=arguments.label_smoothing,
        class_weights=arguments.class_weights,
        weight_decay=arguments.weight_decay,
        mixed_precision=arguments.mixed_precision,
        phases=tuple(phase.to_dict() for phase in recipe.phases),
        git_commit=current_commit(),
    )
    cache = arguments.cache or arguments.out.parent / "cache"
    usable = check_clips(index, spec, cache, skip_bad=arguments.skip_bad)
    index = usable.index
    split = split_clips(index, protocol=config.split, seed=config.seed, table=arguments.split_file)

    run = RunDirectory(arguments.out)
    if workers.is_chief:
        held.enter_context(locked(run.path))
        run = (RunDirectory.resume if arguments.resume else RunDirectory.create)(run.path)
        run.fix_config(asdict(config))
        run.write_json("data.json", usable.record())
        run.write_split(split)
    for warning in (*index.warnings, *split.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    print(", ".join(f"{len(part)} {name}" for name, part in split.parts.items()), "clips")
    candidates = decode_clips(replace(index, clips=split.train), training_spec, cache)
    clips = {name: StoredClips(usable.entries, split.parts[name]) for name in PARTS}
    targets = {
        name: np.array([index.target(clip) for clip in part]) for name, part in split.parts.items()
    }
    one_hot = np.eye(len(index.classes), dtype=np.float32)

    # Not in the loss itself, so that the validation loss stays comparable between runs.
    smoothed = one_hot * (1 - config.label_smoothing) + config.label_smoothing / len(index.classes)
    counts = np.bincount(targets["train"], minlength=len(index.classes))
    weights = counts.sum() / (len(counts) * counts)

    def build_model() -> keras.Model:
        return MODELS[config.model](
            len(index.classes), spec.frames, height=spec.height, width=spec.width
        )

    make_deterministic(config.seed)
    with precision(mixed=config.mixed_precision):
        training = train(
            build_model(),
            Examples(
                batches=ClipBatches(
                    StoredClips(candidates, split.train),
                    smoothed[targets["train"]],
                    batch_size=config.batch_size,
                    seed=config.seed,
                    augmentation=augmentation,
                    mirror_sensitive=unflipped,
                    # One is not enough: deterministic TensorFlow does not prefetch, and the step
                    # would wait for every batch.
                    workers=2,
                ),
                names=[clip.path for clip in split.train],
                validation=(clips["validation"], one_hot[targets["validation"]]),
                class_weights=dict(enumerate(weights.tolist())) if config.class_weights else None,
            ),
            config,
            recipe.phases,
            run.path,
            workers=workers,
        )
    if not workers.is_chief:
        return
    model = build_model()
    model.set_weights(training.best_weights)
    run.save_model(model)

    metrics = measure_run(
        run,
        {name: answer(model, clips[name], batch_size=config.batch_size) for name in PARTS},
    )
    run.write_json(
        "metrics.json",
        {
            **metrics,
            "skipped_files": [asdict(file) for file in usable.skipped],
            "best_epoch": training.best_epoch,
            "epochs_run": training.epoch,
            "training_seconds": round(training.seconds),
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
        with ExitStack() as held:
            fit(parse_arguments(arguments), held)
    except (DataError, DivergenceError, ExportError, ManifestError, WeightsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
