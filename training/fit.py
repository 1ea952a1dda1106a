"""Train a network on a folder of class folders, measure it, export it, publish it.

    python -m training.fit --data UCF50/ --model lrcn --split group --out runs/lrcn --publish
    models/

On two CPU cores an epoch of 800 clips takes LRCN and ConvLSTM some 40 seconds each. The run
directory then holds config.json, data.json, split.tsv, history.csv, TensorBoard logs,
checkpoints, model.keras (the best epoch by --monitor; of a refit the last), predictions.tsv,
metrics.json, and report.md with its plots. The test clips are looked at once, at the end. A run
that was killed goes on with --resume.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

# Before TensorFlow is loaded: most of its messages say nothing about the run, and the order in
# which it adds up gradients must not depend on chance (training.learning.loop.make_deterministic).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np
import numpy.typing as npt

from clip import ClipSpec, ManifestError
from training.data.cache import StoredClips, UsableClips, check_clips, decode_clips, entry_digest
from training.data.index import BadFile, Clip, ClipIndex, index_clips
from training.data.splits import Split, split_clips
from training.errors import DataError, OptionError
from training.export import check_publishable, publish_run
from training.graphs.convert import ExportError
from training.learning.augment import mirror_sensitive, read_augmentation
from training.learning.batches import MAKERS, ClipBatches
from training.learning.checkpoints import name_last
from training.learning.loop import (
    CHECKPOINTS,
    DivergenceError,
    Examples,
    Training,
    make_deterministic,
    precision,
    train,
)
from training.learning.workers import Workers, WorkersError, join_workers
from training.locking import locked
from training.machine import describe_libraries
from training.networks.efficientnet import WeightsError
from training.networks.models import MODELS
from training.options import (
    NAMES,
    FitConfig,
    check_arguments,
    parse_arguments,
    read_clip_spec,
    read_phases,
)
from training.refit import SELECTION_FILE, Selection
from training.report import write_report
from training.results.measure import measure_run, measured_parts
from training.results.parts import MEASURED_PARTS, answer
from training.results.published import find_published
from training.results.tables import summarise
from training.run import RunDirectory, current_commit, default_cache

#: What ends a run with a message instead of a traceback.
FAILURES = (
    DataError,
    DivergenceError,
    ExportError,
    ManifestError,
    OSError,
    WeightsError,
    WorkersError,
)


def build_network(config: FitConfig) -> keras.Model:
    """The untrained network that a run trains.

    Raises:
        OptionError: it cannot take clips of that size.
        WeightsError: its pretrained weights are not installed.
    """
    spec = ClipSpec.from_dict(config.clip_spec)
    build = MODELS[config.model]
    try:
        return build(len(config.classes), spec.frames, height=spec.height, width=spec.width)
    except ValueError as error:
        raise OptionError(f"{config.model} cannot take such clips: {error}") from error


def one_hot(
    index: ClipIndex, clips: Sequence[Clip], *, smoothing: float = 0.0
) -> npt.NDArray[np.float32]:
    """What the network should say of clips, (N, classes); `smoothing` goes to all classes alike."""
    classes = len(index.classes)
    sharp = np.eye(classes, dtype=np.float32)[[index.target(clip) for clip in clips]]
    return sharp * np.float32(1 - smoothing) + np.float32(smoothing / classes)


def weigh_classes(index: ClipIndex, clips: Sequence[Clip]) -> dict[int, float]:
    """A weight for each class by its place: the rarer, the higher, and the mean clip has 1."""
    counts = np.bincount([index.target(clip) for clip in clips], minlength=len(index.classes))
    weights: list[float] = (counts.sum() / (len(counts) * counts)).tolist()
    return dict(enumerate(weights))


def find_selection(
    arguments: argparse.Namespace, run: RunDirectory, config: FitConfig
) -> Selection | None:
    """What selected the settings, if this is a refit: as the run noted, or as --refit names it.

    Raises:
        OptionError: that run did not select these settings.
    """
    if not arguments.refit:
        return None
    noted = Selection.of_refit(run, arguments.refit) if arguments.resume else None
    return noted or Selection.of_run(arguments.refit, config)


def agree(
    workers: Workers, run: RunDirectory, config: FitConfig, usable: UsableClips, split: Split
) -> None:
    """Hold all workers of a training to the same options, clips and checkpoint.

    Raises:
        OptionError: they differ; every worker raises it.
    """
    # Not the names of files, but what is in them; nor the commit, which not every copy of the code
    # knows.
    options = {name: value for name, value in asdict(config).items() if name not in NAMES}
    # An entry's name is the digest of its video, its folder's that of how it was decoded.
    entries = {clip.path: [entry.parent.name, entry.name] for clip, entry in usable.entries.items()}
    parts = {name: [clip.path for clip in part] for name, part in split.parts.items()}
    checkpoint = name_last(run.path / CHECKPOINTS)
    facts = {**options, "clips": entries, "split": parts, "last checkpoint": checkpoint}
    differing = workers.differing(facts)
    if differing:
        raise OptionError(
            f"the workers were not started alike, they differ in {', '.join(differing)}: name the "
            "same options, clips, and a folder that all see for --out"
        )


def conclude(
    run: RunDirectory,
    config: FitConfig,
    training: Training,
    clips: Mapping[str, StoredClips],
    *,
    skipped: Sequence[BadFile],
    warnings: Sequence[str],
    selection: Selection | None,
) -> None:
    """Save the network that counts, measure it on the clips of each part, and write the report."""
    model = build_network(config)
    model.set_weights(training.best_weights)
    run.save_model(model)
    metrics = measure_run(
        run, {name: answer(model, of, batch_size=config.batch_size) for name, of in clips.items()}
    )
    run.write_json(
        "metrics.json",
        {
            **metrics,
            "skipped_files": [asdict(file) for file in skipped],
            "warnings": list(warnings),
            "best_epoch": training.best_epoch,
            "epochs_run": training.epoch,
            "training_seconds": round(training.seconds),
            "hardware": training.machines,
            "libraries": describe_libraries(),
            **({"selected_by": selection.record} if selection else {}),
        },
    )
    for name, measured in metrics.items():
        print(f"{name}: {summarise(measured)} ({config.split} split)")
    print(f"wrote {write_report(run, clips)}")


def publish(run: RunDirectory, arguments: argparse.Namespace, test_clips: StoredClips) -> None:
    """Export a finished run to the models folder, unless a resumed one was before."""
    before = find_published(run, arguments.publish) if arguments.resume else None
    if before:
        print(f"published before: {before} (training.export publishes it once more)")
    else:
        print(f"published {publish_run(run, arguments.publish, test_clips=test_clips)}")


def fit(arguments: argparse.Namespace, held: ExitStack) -> None:
    """Carry out one run, top to bottom; `held` keeps its directory locked.

    Raises:
        OptionError: the command line or the run directory cannot be used; nothing was decoded.
        DataError: the data set cannot be used.
        DivergenceError: the loss is no longer a number; no model was saved.
        ExportError: the exported model is not equal to the trained one; nothing was published.
        WeightsError: the pretrained weights are not installed.
        WorkersError: another worker is gone.
    """
    check_arguments(arguments)
    spec = read_clip_spec(arguments)
    workers = join_workers()
    held.enter_context(workers.watched())
    phases = read_phases(arguments)
    augmentation = read_augmentation(arguments)
    training_spec = augmentation.training_spec(spec)
    index = index_clips(arguments.data, classes=arguments.classes, groups=arguments.groups)
    unflipped = mirror_sensitive(augmentation, index.classes)
    config = FitConfig.of_arguments(arguments, index.classes, current_commit())
    if workers.count > 1 and config.mixed_precision:
        # A worker whose 16 bits overflow skips the step, and the others would wait for it.
        raise OptionError("--mixed-precision does not go with several workers")
    run = RunDirectory(arguments.out)
    selection = find_selection(arguments, run, config)
    if workers.is_chief:
        run.check_begin(asdict(config), resume=arguments.resume)

    build_network(config)  # what it cannot take is known now, not after the decoding
    cache = arguments.cache or default_cache(arguments.out)
    usable = check_clips(index, spec, cache, skip_bad=arguments.skip_bad)
    index = usable.index
    split = (
        selection.split(usable, config.split)
        if selection
        else split_clips(
            index,
            protocol=config.split,
            seed=config.seed,
            fold=config.fold,
            table=arguments.split_file,
        )
    )
    warnings = (*index.warnings, *split.warnings)
    if arguments.publish:
        check_publishable(len(split.test))

    agree(workers, run, config, usable, split)
    if workers.is_chief:
        held.enter_context(locked(run.path))
        run = (RunDirectory.resume if arguments.resume else RunDirectory.create)(run.path)
        run.fix_config(asdict(config))
        if selection:
            # The network must not be lost because that run is moved in the meantime.
            run.write_json(SELECTION_FILE, selection.record)
        run.write_split(split, {clip: entry_digest(at) for clip, at in usable.entries.items()})
        run.write_json("data.json", usable.record(warnings))  # not by a run that was just refused
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(", ".join(f"{len(part)} {name}" for name, part in split.parts.items()), "clips")
    candidates = decode_clips(replace(index, clips=split.train), training_spec, cache)
    parts = {name: StoredClips(usable.entries, split.parts[name]) for name in MEASURED_PARTS}
    batches = ClipBatches(
        StoredClips(candidates, split.train),
        one_hot(index, split.train, smoothing=config.label_smoothing),
        batch_size=config.batch_size,
        seed=config.seed,
        augmentation=augmentation,
        mirror_sensitive=unflipped,
        workers=MAKERS,
    )
    examples = Examples(
        batches,
        names=[clip.path for clip in split.train],
        # Not smoothed, so that the validation loss stays comparable between runs.
        validation=None if selection else (parts["validation"], one_hot(index, split.validation)),
        class_weights=weigh_classes(index, split.train) if config.class_weights else None,
    )

    make_deterministic(config.seed)
    with precision(mixed=config.mixed_precision):
        training = train(
            build_network(config),
            examples,
            config,
            phases,
            run.path,
            workers=workers,
        )
    if not workers.is_chief:
        return
    clips = {name: parts[name] for name in measured_parts(run)}
    conclude(
        run,
        config,
        training,
        clips,
        skipped=usable.skipped,
        warnings=warnings,
        selection=selection,
    )
    if arguments.publish:
        publish(run, arguments, parts["test"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 or 2 with a message on standard error.

    2 is for the command line, as with what argparse refuses, 1 for all else.
    """
    try:
        with ExitStack() as held:
            fit(parse_arguments(arguments), held)
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
