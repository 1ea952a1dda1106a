"""The command line of training.fit, and what of it fixes a run."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from clip import ClipSpec, SpecError
from training.arguments import command_parser
from training.data.splits import FOLDS, PROTOCOLS, check_protocol
from training.errors import OptionError
from training.learning.augment import add_augmentation_arguments, read_augmentation
from training.learning.pace import MONITORS, SCHEDULES
from training.networks.recipes import RECIPES, Phase

#: What a configuration calls its data and its code: another name is no other setting.
NAMES = frozenset({"data", "dataset", "groups", "split_file", "git_commit"})


@dataclass(frozen=True, slots=True)
class FitConfig:
    """What fixes a run; written to config.json.

    Raises:
        OptionError: a value that cannot be; the message names its option.
    """

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
    monitor: str
    schedule: str
    warmup_epochs: int
    label_smoothing: float
    class_weights: bool
    weight_decay: float
    mixed_precision: bool
    phases: tuple[dict[str, Any], ...]
    git_commit: str
    # What is younger than the first runs has the default by which these were made.
    test: bool = True
    ema: float | None = None
    refit: bool = False
    fold: int = 0

    @classmethod
    def of_arguments(
        cls, arguments: argparse.Namespace, classes: Sequence[str], commit: str
    ) -> FitConfig:
        """What the command line asks for, of these classes, by this commit of the code."""
        names = {field.name for field in fields(cls)} & vars(arguments).keys()
        taken = {name: getattr(arguments, name) for name in names}
        return cls(
            **{
                **taken,
                # Not the whole path: a run says what it was, not where.
                "data": arguments.data.resolve().name,
                "dataset": arguments.dataset or arguments.data.resolve().name,
                "groups": arguments.groups.name if arguments.groups else None,
                "split_file": arguments.split_file.name if arguments.split_file else None,
                "classes": tuple(classes),
                "clip_spec": read_clip_spec(arguments).to_dict(),
                "augmentation": asdict(read_augmentation(arguments)),
                "phases": tuple(phase.to_dict() for phase in read_phases(arguments)),
                "refit": arguments.refit is not None,
                "git_commit": commit,
            }
        )

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The options that a config.json of an older version may lack, as that version had them."""
        return {field.name: field.default for field in fields(cls) if field.default is not MISSING}

    def __post_init__(self) -> None:
        given = [phase["epochs"] for phase in self.phases]
        left = self.epochs - sum(epochs or 0 for epochs in given)
        shortest = min((epochs or left for epochs in given), default=self.epochs)
        for fits, wanted in (
            (self.epochs >= 1, "--epochs must be at least 1"),
            (self.batch_size >= 1, "--batch-size must be at least 1"),
            (0 < self.learning_rate < math.inf, "--learning-rate must be a number above 0"),
            (self.patience >= 1, "--patience must be at least 1"),
            (
                shortest >= 1,
                "--epochs must be more than --frozen-epochs, or nothing is tuned",
            ),
            (
                0 <= self.warmup_epochs < shortest,
                "--warmup-epochs must be at least 0 and less than the epochs of each phase",
            ),
            (0 <= self.label_smoothing < 1, "--label-smoothing must be at least 0 and less than 1"),
            (0 <= self.weight_decay < math.inf, "--weight-decay must be a number of at least 0"),
            (self.ema is None or 0 < self.ema < 1, "--ema must be above 0 and less than 1"),
            (
                self.ema is None or not self.mixed_precision,
                "--ema must be left out with --mixed-precision",
            ),
            (
                not self.refit or self.schedule == "cosine",
                "--refit wants --schedule cosine: no validation loss is left to lower the rate by",
            ),
            (
                not self.refit or self.patience >= self.epochs,
                "--refit wants --patience as high as --epochs, and a RUN that had it: nothing is "
                "left to end a phase early",
            ),
            (0 <= self.seed < 2**32, "--seed must be at least 0 and less than 2**32"),
        ):
            if not fits:
                raise OptionError(wanted)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        "fit",
        "Train a network on a folder of class folders, measure, export and publish it.",
        epilog="--split random is the paper's protocol. After a crash, or a kill, the same command "
        "with --resume goes on from the last finished epoch.",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="folder of class folders"
    )
    data.add_argument(
        "--dataset", metavar="NAME", help="the data set's name for the model card (default: folder)"
    )
    data.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="class folders to take, in output order (default: PAPER_CLASSES of "
        "training.data.index where all ten are there, else every folder)",
    )
    data.add_argument(
        "--groups", metavar="FILE", type=Path, help="TSV with the columns path and source_group"
    )
    data.add_argument("--split", choices=sorted(PROTOCOLS), default="group", help="protocol")
    data.add_argument(
        "--split-file",
        metavar="FILE",
        type=Path,
        help="for --split file: TSV with the columns path and part",
    )
    data.add_argument(
        "--fold",
        metavar="K",
        type=int,
        default=0,
        help=f"for --split group: which of {FOLDS} folds of the clips that are not for testing is "
        f"for validation, 0 to {FOLDS - 1}",
    )
    data.add_argument("--skip-bad", action="store_true", help="go on without unusable files")
    data.add_argument(
        "--cache", metavar="FOLDER", type=Path, help="decoded clips (default: cache/ beside --out)"
    )
    network = parser.add_argument_group("network")
    network.add_argument("--model", choices=sorted(RECIPES), required=True, help="architecture")
    network.add_argument("--frames", metavar="N", type=int, default=20, help="frames a clip")
    for side in ("height", "width"):
        network.add_argument(
            f"--{side}", metavar="N", type=int, help=f"pixels (default: {_sides(side)})"
        )
    fit = parser.add_argument_group("training")
    fit.add_argument(
        "--epochs", metavar="N", type=int, default=400, help="at most so many, over all phases"
    )
    frozen, tuned = RECIPES["lrcn-efficientnet"].phases
    fit.add_argument(
        "--frozen-epochs",
        metavar="N",
        type=int,
        help="with a pretrained encoder: epochs before any of it is trained "
        f"(default: {frozen.epochs})",
    )
    fit.add_argument(
        "--tuned-blocks",
        metavar="N",
        type=int,
        help="with a pretrained encoder: so many of its last blocks are trained then "
        f"(default: {tuned.encoder_blocks})",
    )
    fit.add_argument("--batch-size", metavar="N", type=int, default=16, help="clips a step")
    fit.add_argument(
        "--learning-rate",
        metavar="RATE",
        type=float,
        default=1e-3,
        help="of Adam, after any warm-up",
    )
    fit.add_argument(
        "--monitor", choices=MONITORS, default=MONITORS[0], help="what picks the best epoch"
    )
    fit.add_argument(
        "--patience",
        metavar="N",
        type=int,
        default=15,
        help="epochs without a better --monitor after which a phase ends; its best weights count",
    )
    fit.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default=SCHEDULES[0],
        help="of the learning rate. plateau: a fifth after each third of --patience without "
        "progress; cosine: down to zero over --epochs (choose these to be reached)",
    )
    fit.add_argument(
        "--warmup-epochs",
        metavar="N",
        type=int,
        default=0,
        help="epochs in which the rate climbs from zero",
    )
    fit.add_argument(
        "--label-smoothing",
        metavar="SHARE",
        type=float,
        default=0.0,
        help="share of a training target that goes to all classes alike, 0 to 1",
    )
    fit.add_argument(
        "--weight-decay",
        metavar="SHARE",
        type=float,
        default=0.0,
        help="share of each kernel that a step at rate 1 takes away (AdamW)",
    )
    fit.add_argument(
        "--ema",
        metavar="DECAY",
        type=float,
        help="validate and keep an average of the weights over the steps, each with a share of "
        "1 - DECAY; 0.99 goes back some hundred steps",
    )
    fit.add_argument(
        "--class-weights",
        action="store_true",
        help="weigh each training clip by the rarity of its class",
    )
    fit.add_argument(
        "--mixed-precision",
        action="store_true",
        help="compute in 16 bits: faster on a GPU, on a CPU only where it has BF16 or AMX. What is "
        "saved has 32",
    )
    fit.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of split, weights, order and dropout"
    )
    add_augmentation_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", metavar="FOLDER", type=Path, required=True, help="the run's directory"
    )
    output.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, if there is one"
    )
    output.add_argument(
        "--no-test",
        dest="test",
        action="store_false",
        help="leave the test clips for later: for runs to choose settings by",
    )
    output.add_argument(
        "--refit",
        metavar="RUN",
        type=Path,
        help="once validation has selected the settings: give RUN's options again, to train anew "
        "on its training and validation clips together (wants --schedule cosine, and --patience "
        "as high as --epochs). The last epoch counts",
    )
    output.add_argument(
        "--publish", metavar="FOLDER", type=Path, help="models folder to publish the ONNX model to"
    )
    return parser.parse_args(arguments)


def read_clip_spec(arguments: argparse.Namespace) -> ClipSpec:
    """The clips that the command line asks for; the network's own size where it names none.

    Raises:
        OptionError: they cannot be.
    """
    recipe = RECIPES[arguments.model]
    try:
        return ClipSpec(
            frames=arguments.frames,
            height=recipe.height if arguments.height is None else arguments.height,
            width=recipe.width if arguments.width is None else arguments.width,
        )
    except SpecError as error:
        raise OptionError(f"--{str(error).removeprefix('clip_spec.')}") from error


def read_phases(arguments: argparse.Namespace) -> tuple[Phase, ...]:
    """The phases that the command line asks for; the network's own where it names none.

    Raises:
        OptionError: they cannot be.
    """
    return RECIPES[arguments.model].phases_with(
        frozen_epochs=arguments.frozen_epochs, tuned_blocks=arguments.tuned_blocks
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what can be known to be wrong before the data is looked at.

    Raises:
        OptionError: two options do not go together, or a folder cannot be written.
    """
    _check_names(arguments)
    check_protocol(arguments.split, arguments.split_file, arguments.fold)
    _check_writable("--out", arguments.out)
    check_apart_from_clips(arguments, "out", "cache", "publish")
    if arguments.cache:
        _check_writable("--cache", arguments.cache)
        if arguments.cache.resolve().is_relative_to(arguments.out.resolve()):
            raise OptionError("--cache: choose a folder that is not in that of the run, --out")
    if arguments.refit and not arguments.test:
        raise OptionError("--refit leaves nothing but test clips to measure: not with --no-test")
    if arguments.publish:
        if not arguments.test:
            raise OptionError("--publish compares on the test clips: it does not go with --no-test")
        _check_writable("--publish", arguments.publish / arguments.model)


def check_apart_from_clips(arguments: argparse.Namespace, *options: str) -> None:
    """Refuse to write among the clips: a folder there would be a class to every later training.

    Args:
        arguments: has `data`, the folder of the class folders, and the options.
        options: names of those whose folders are written, where they are given.

    Raises:
        OptionError: one of them is `data` or in it.
    """
    data = arguments.data.resolve()
    for name in options:
        folder = getattr(arguments, name)
        if folder and folder.resolve().is_relative_to(data):
            raise OptionError(f"--{name}: choose a folder that is not in that of the clips, --data")


def _check_names(arguments: argparse.Namespace) -> None:
    """Refuse names that reports and records, which are UTF-8, could not tell."""
    for option, name in (
        ("--out", str(arguments.out)),
        ("--data", arguments.data.resolve().name),
        ("--dataset", arguments.dataset),
        ("--groups", arguments.groups and arguments.groups.name),
        ("--split-file", arguments.split_file and arguments.split_file.name),
    ):
        try:
            (name or "").encode()
        except UnicodeEncodeError as error:
            raise OptionError(f"{option}: the name is not UTF-8, choose another") from error


def _check_writable(option: str, folder: Path) -> None:
    """Refuse a folder that is none, or that cannot be made or written in."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OptionError(f"{option}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(f"{option}: {there} cannot be written")


def _sides(side: str) -> str:
    """The networks' defaults, in words: "64", or "64; 128 for lrcn-large"."""
    by_model = {name: int(getattr(recipe, side)) for name, recipe in sorted(RECIPES.items())}
    usual = min(by_model.values())
    others = [f"{value} for {name}" for name, value in by_model.items() if value != usual]
    return "; ".join([str(usual), *others])
