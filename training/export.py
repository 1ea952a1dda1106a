"""From a finished run to a served model: export, parity gate, atomic publish.

    python -m training.export runs/lrcn --data UCF50/ --publish models/ --compare-run runs/random

`python -m training.fit --publish` does the same at its end. A model is published only if its ONNX
graph answers as the Keras model does on the test split's real clips; otherwise nothing is written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tensorflow as tf

from clip import ManifestError, ModelManifest
from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from training.arguments import command_parser
from training.card import write_card
from training.data.splits import PARTS
from training.errors import DataError
from training.files import ABANDONED_S, write_bytes
from training.graphs.convert import ExportError, to_onnx
from training.learning.batches import OrderedBatches
from training.machine import describe_libraries, describe_machine
from training.options import NAMES, FitConfig, check_apart_from_clips
from training.results.evaluate import evaluate_probabilities
from training.results.footage import inspect_groups
from training.results.measure import read_metrics
from training.results.parts import answer, read_part
from training.results.published import Published, newest_of_others, next_version
from training.results.speed import ms_per_clip
from training.run import RunDirectory

PARITY_BATCHES = (1, 3, 8)
#: The largest difference between a Keras and an ONNX probability that passes.
TOLERANCE = 1e-5

#: Not the mistakes: they are pictures from the data set.
_PLOTS = ("curves.png", "confusion_test.png")

#: uint8 tensors (frames, height, width, 3): an array of them, or clips that stay in the cache.
Clips = Sequence[npt.NDArray[np.uint8]]


def publish_run(
    run: RunDirectory,
    models_dir: Path,
    *,
    test_clips: Clips,
    compare_run: RunDirectory | None = None,
    beside: Path | None = None,
) -> Path:
    """Export a run's model and publish it as the next version of its name.

    Args:
        run: a finished run.
        models_dir: the folder that the service reads.
        test_clips: all clips of the run's test split, in the order of split.tsv.
        compare_run: a run of the same network under another split, whose test figures go beside.
        beside: a folder of published models; what the newest of each other name costs is measured
            along with this one.

    Returns:
        The published folder, models_dir/<name>/<version>.

    Raises:
        ExportError: the graph is not what it must be, or does not answer as the Keras model does,
            or the other run is not of the same network. Nothing was written.
        DataError: a run is not finished or left its test clips, or a model in `beside` cannot be
            read.
    """
    config, metrics = run.read_json("config.json"), read_metrics(run, with_test=True)
    comparison = _comparison(config, compare_run) if compare_run else None
    others = newest_of_others(beside, config["model"]) if beside else []
    model = run.load_model()
    graph = to_onnx(model)
    content = graph.SerializeToString()
    probabilities, parity = check_parity(model, content, test_clips)
    classes = config["classes"]
    targets = np.array([classes.index(label) for label in run.read_split("test", "class")])
    if len(targets) != len(test_clips):
        raise ExportError(f"the run's test split has {len(targets)} clips, not {len(test_clips)}")
    # The published figures are those of the published file, not of the Keras model before it.
    measured = evaluate_probabilities(
        probabilities, targets, classes, groups=run.read_split("test", "group")
    )
    parent = models_dir / config["model"]
    manifest = ModelManifest(
        name=config["model"],
        version=next_version(models_dir, config["model"]),
        opset=next(
            entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}
        ),
        ir_version=graph.ir_version,
        classes=tuple(classes),
        clip_spec=run.read_clip_spec(),
        training=_training_record(run, config, metrics, model),
        metrics={
            # A refit has the validation figures of the run that selected its settings.
            **{name: metrics[name] for name in ("validation", "selected_by") if name in metrics},
            "test": measured,
            "speed": _measure_speed(content, others),
            **({"comparison": comparison} if comparison else {}),
        },
        parity=parity,
    )
    onnx.helper.set_model_props(graph, {METADATA_KEY: manifest.to_json()})
    return _publish(run, manifest, graph.SerializeToString(), parent)


def check_publishable(test_clips: int) -> None:
    """Refuse to publish by so few test clips that they do not show what `check_parity` asks.

    Raises:
        ExportError: there are not as many as in its largest batch.
    """
    if test_clips < max(PARITY_BATCHES):
        raise ExportError(
            f"publishing wants {max(PARITY_BATCHES)} test clips or more, to compare the exported "
            f"graph with the network by; there are {test_clips}"
        )


def check_parity(
    model: keras.Model, content: bytes, clips: Clips
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Hold an ONNX graph to the Keras model it came from, on real clips in several batch sizes.

    Args:
        model: the trained model.
        content: the .onnx file's bytes.
        clips: what both are asked.

    Returns:
        The graph's probabilities, float32 (N, classes), one clip at a time; and the measured
        differences as JSON values.

    Raises:
        ExportError: a probability differs by more than TOLERANCE, or a clip's top-1 differs.
    """
    check_publishable(len(clips))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # A GPU would compute the reference with fewer bits than the tolerance asks for (TF32).
    with tf.device("/CPU:0"):
        wanted = answer(model, clips, batch_size=max(PARITY_BATCHES))
    differences: dict[str, float] = {}
    answers: dict[int, npt.NDArray[np.float32]] = {}
    for size in PARITY_BATCHES:
        batches = OrderedBatches(clips, batch_size=size)
        answers[size] = np.concatenate(
            [
                session.run([OUTPUT_NAME], {INPUT_NAME: batches[place][0]})[0]
                for place in range(len(batches))
            ]
        )
        difference = np.abs(answers[size] - wanted).max()
        # Not "difference > TOLERANCE": NaN must not pass.
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the ONNX graph differs from the Keras model by {difference:.2e} at batch {size}; "
                f"at most {TOLERANCE:.0e} passes"
            )
        changed = int((answers[size].argmax(axis=1) != wanted.argmax(axis=1)).sum())
        if changed:
            raise ExportError(
                f"the ONNX graph gives {changed} of {len(clips)} clips another class at batch "
                f"{size}"
            )
        differences[str(size)] = float(difference)
    return answers[PARITY_BATCHES[0]], {
        "clips": len(clips),
        "max_abs_difference": differences,
        "tolerance": TOLERANCE,
        "top1_equal": True,
        "onnxruntime": onnxruntime.__version__,
    }


def _training_record(
    run: RunDirectory, config: dict[str, Any], metrics: dict[str, Any], model: keras.Model
) -> dict[str, Any]:
    groups = {name: run.read_split(name, "group") for name in PARTS}
    return {
        "dataset": config["dataset"],
        "split": config["split"],
        "seed": config["seed"],
        "counts": {name: len(names) for name, names in groups.items()},
        "groups": {name: len(set(names)) for name, names in groups.items()},
        "footage": inspect_groups(run),
        "parameters": model.count_params(),
        "best_epoch": metrics["best_epoch"],
        "epochs_run": metrics["epochs_run"],
        "seconds": metrics["training_seconds"],
        "hardware": metrics.get("hardware"),
        # Of a run of older code, which did not note them, those that export it.
        "libraries": metrics.get("libraries") or describe_libraries(),
        "git_commit": config["git_commit"],
        "config": config,
    }


def _comparison(config: dict[str, Any], other: RunDirectory) -> dict[str, Any]:
    """The test figures of another run, for the manifest."""
    theirs, metrics = other.read_json("config.json"), read_metrics(other, with_test=True)
    for name in ("model", "dataset", "classes", "clip_spec"):
        if theirs[name] != config[name]:
            raise ExportError(
                f"{other.path} cannot stand beside this run: its {name} is {theirs[name]}, not "
                f"{config[name]}"
            )
    if theirs["split"] == config["split"]:
        raise ExportError(f"{other.path} is under the same split: there is nothing to compare")
    # The split is what is compared, and the test clips were measured in both, sooner or later.
    own = NAMES | {"split", "fold", "test"}
    # A run of older code had the defaults of what was not an option yet.
    mine, others = ({**FitConfig.defaults(), **options} for options in (config, theirs))
    names = sorted((mine.keys() | others.keys()) - own)
    figures = ("clips", "accuracy", "accuracy_interval", "precision", "recall", "f1")
    return {
        **{name: metrics["test"][name] for name in figures},
        **{name: theirs[name] for name in ("split", "seed", "git_commit")},
        "counts": {name: len(other.read_split(name, "path")) for name in PARTS},
        "footage": inspect_groups(other),
        "best_epoch": metrics["best_epoch"],
        "seconds": metrics["training_seconds"],
        "other_settings": [name for name in names if others.get(name) != mine.get(name)],
    }


def _measure_speed(content: bytes, others: Sequence[Published]) -> dict[str, Any]:
    """What a clip costs, and what it costs in other published models at the same time."""
    taken = ms_per_clip(
        {"": content, **{other.manifest.name: other.read_graph() for other in others}}
    )
    return {
        "cpu_ms_per_clip": taken[""],
        "hardware": describe_machine(),
        "onnxruntime": onnxruntime.__version__,
        "others": {
            other.manifest.name: {
                "version": other.manifest.version,
                "clip_spec": other.manifest.clip_spec.to_dict(),
                "cpu_ms_per_clip": taken[other.manifest.name],
            }
            for other in others
        },
    }


def _publish(run: RunDirectory, manifest: ModelManifest, content: bytes, parent: Path) -> Path:
    """Put everything into a folder that the service does not look at, then rename that folder."""
    published = replace(manifest, sha256=hashlib.sha256(content).hexdigest())
    # A process id would not do: in containers it is the same again and again.
    staging = parent / f".{manifest.version}-{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    _sweep_staging(parent)
    try:
        for name, written in (
            ("model.onnx", content),
            ("manifest.json", published.to_json().encode()),
            ("card.md", write_card(published).encode()),
            *((name, (run.path / name).read_bytes()) for name in _PLOTS),
        ):
            write_bytes(staging / name, written)
        target = parent / str(manifest.version)
        try:
            staging.rename(target)
        except OSError as error:
            if not target.exists():
                raise
            raise ExportError(
                f"{target} was published by another process meanwhile: the same command publishes "
                "the next version"
            ) from error
    except BaseException:
        shutil.rmtree(staging)
        raise
    return target


def _sweep_staging(parent: Path) -> None:
    """Remove what killed publishers left; those that are at work have younger folders."""
    for left in parent.glob(".*-*"):
        if left.is_dir() and time.time() - left.stat().st_mtime >= ABANDONED_S:
            shutil.rmtree(left)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "export",
        "Export a finished run to ONNX, check it on the test clips, publish it.",
    )
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("--data", type=Path, required=True, help="the folder it was trained on")
    parser.add_argument("--publish", type=Path, required=True, help="models folder")
    parser.add_argument("--cache", type=Path, help="decoded clips (default: cache/ beside the run)")
    parser.add_argument(
        "--compare-run",
        type=Path,
        help="a run of the same network under another split, to stand beside it in the card",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        help="models folder: measure what the newest of each other name costs, for the card",
    )
    options = parser.parse_args(arguments)
    try:
        check_apart_from_clips(options, "publish", "cache")
        run = RunDirectory.open(options.run)
        published = publish_run(
            run,
            options.publish,
            test_clips=read_part(run, "test", data=options.data, cache=options.cache),
            compare_run=RunDirectory.open(options.compare_run) if options.compare_run else None,
            beside=options.beside,
        )
    except (DataError, ExportError, ManifestError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"published {published}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
