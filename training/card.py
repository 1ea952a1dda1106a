"""The model card: what a person should know before using a published model.

    python -m training.card models/lrcn/2

The sections are those of Mitchell et al., "Model Cards for Model Reporting", 2019. A card is made
of the manifest alone, so the command can write it anew when this code learns to say more.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip import ManifestError, ModelManifest
from training.arguments import command_parser
from training.files import write_text
from training.results.footage import explain_split, warn_of_groups
from training.results.tables import (
    class_table,
    confusions,
    duration,
    explain_interval,
    explain_selection,
    hardware,
    interval,
    kept_epoch,
    percent,
    table,
)

#: How to cite the public data sets that people train on here.
CITATIONS = {
    "UCF101": (
        "K. Soomro, A. R. Zamir and M. Shah, *UCF101: A Dataset of 101 Human Actions Classes From "
        "Videos in The Wild*, CRCV-TR-12-01, University of Central Florida, 2012."
    ),
    "UCF50": (
        "K. K. Reddy and M. Shah, *Recognizing 50 Human Action Categories of Web Videos*, Machine "
        "Vision and Applications 24(5), 2013."
    ),
}
ARCHITECTURES = {
    "convlstm": "ConvLSTM: four convolutional LSTM layers, max pooling, two dense layers",
    "lrcn": "LRCN: four convolutional blocks for each frame, an LSTM over the frames",
    "lrcn-efficientnet": (
        "LRCN on a pretrained encoder: EfficientNet-Lite0 (Tan and Le, 2019; ImageNet weights "
        "of Google's release, Apache License 2.0) for each frame, then an LSTM and a mean over the "
        "frames"
    ),
}
#: Why the same network has another figure under the other protocol: (this card's split, the other).
GAPS = {
    ("group", "random"): (
        "Why the figures differ: the random split has clips cut from the same footage in training "
        "and test, and a network that remembers the footage (the place, the clothes, the light) is "
        "right without knowing the activity. For new footage expect the figure of the group split."
    ),
    ("random", "group"): (
        "Why the figures differ: the group split keeps clips cut from the same footage on one "
        "side, so that remembering the footage does not help. For new footage expect its figure, "
        "not that of the random split."
    ),
}
CONFUSIONS = 5


def write_card(manifest: ModelManifest) -> str:
    """The Markdown of card.md, from the manifest alone."""
    sections = (
        _details(manifest),
        _use(manifest),
        _data(manifest),
        _measured(manifest),
        _by_class(manifest),
        _limits(manifest),
        _cost(manifest),
        _export(manifest),
    )
    return "\n".join(line for section in sections for line in (*section, "")).rstrip() + "\n"


def _details(manifest: ModelManifest) -> list[str]:
    training, spec = manifest.training, manifest.clip_spec
    return [
        f"# {manifest.name}, version {manifest.version}",
        "",
        "## Model",
        "",
        f"{ARCHITECTURES.get(manifest.name, manifest.name)}. {training['parameters']:,} "
        f"parameters. Input: {spec.frames} RGB frames of {spec.width}×{spec.height}, evenly spaced "
        f"over the clip. Output: a probability for each of {len(manifest.classes)} classes. "
        f"Trained at commit {training['git_commit']}.",
    ]


def _use(manifest: ModelManifest) -> list[str]:
    return [
        "## Intended use",
        "",
        f"Tells which of these {len(manifest.classes)} activities a short clip shows: "
        f"{', '.join(manifest.classes)}. For research, for demonstrations, and as the start of a "
        "model trained on clips of one's own.",
        "",
        "Out of scope:",
        "",
        "- decisions about people: surveillance, safety, medicine, employment, insurance;",
        "- clips that may show something else: they get one of these labels too, often with a high "
        "probability;",
        "- finding when something happens in a long video: the frames are spread over all of it.",
    ]


def _data(manifest: ModelManifest) -> list[str]:
    training = manifest.training
    counts, groups = training["counts"], training.get("groups")
    table = training["config"].get("groups")
    selected_by = manifest.metrics.get("selected_by")
    kept = kept_epoch(training["config"], training["best_epoch"], training["epochs_run"])
    fold = f", fold {chosen}" if (chosen := training["config"].get("fold")) else ""
    told = f", as the table {table} tells them" if table else ""
    lines = [
        "## Data and protocol",
        "",
        f"{training['dataset']}, {len(manifest.classes)} classes, split by `{training['split']}` "
        f"with seed {training['seed']}{fold}: {counts['train']} clips for training, "
        f"{counts['validation']} for validation, {counts['test']} for testing"
        + (
            f" (of {groups['train']}, {groups['validation']} and {groups['test']} groups{told})"
            if groups
            else ""
        )
        + f". {explain_split(training['split'], training.get('footage'))} {kept}.",
    ]
    if selected_by:
        lines[-1] += f" {explain_selection(selected_by)}"
    if not (selected_by and selected_by["tested"]):
        lines[-1] += " Nothing was picked by the test clips."
    citation = CITATIONS.get(training["dataset"].upper().replace("-", ""))
    return [*lines, "", citation] if citation else lines


def _measured(manifest: ModelManifest) -> list[str]:
    metrics, split = manifest.metrics, manifest.training["split"]
    other = metrics.get("comparison")
    rows = [_figures(part, metrics[part]) for part in ("test", "validation") if part in metrics]
    selected_by = metrics.get("selected_by")
    if selected_by:
        folds = selected_by.get("folds")
        which = "the cross-validation" if folds else "the training"
        name = f"validation, {which} that selected the settings"
        rows.append(_figures(name, folds or selected_by["validation"]))
    lines = ["## Metrics", "", "The test figures are those of this very .onnx file."]
    if other:
        rows.append(_figures(f"test, `{other['split']}` split, another training", other))
        lines[-1] += (
            f" The last row is the same network trained and tested under the `{other['split']}` "
            f"split (seed {other['seed']}, {other['counts']['train']} clips for training), "
            "for comparison only."
        )
    header = ("part", "clips", "accuracy", "95 % interval", "precision", "recall", "F1")
    lines += ["", *table(header, rows), "", "Precision, recall and F1 are macro averages."]
    test = metrics["test"]
    if "accuracy_interval" in test:
        calibration = test["calibration"]
        lines[-1] += (
            f" {explain_interval(test['accuracy_interval'])} On the test clips: top-3 accuracy "
            f"{percent(test['top3_accuracy'])}, F1 weighted by clips "
            f"{percent(test['weighted']['f1'])}, expected calibration error "
            f"{percent(calibration['expected_error'])} ({len(calibration['bins'])} bins of equal "
            f"width; mean confidence {percent(calibration['confidence'])})."
        )
    doubts = warn_of_groups(split, manifest.training.get("footage"))
    if selected_by:
        for warning in warn_of_groups(split, selected_by["footage"]):
            lines += ["", f"Of the training that selected: {warning}"]
    if other:
        theirs = warn_of_groups(other["split"], other.get("footage"))
        lines += [line for warning in theirs for line in ("", f"Of the last row: {warning}")]
        doubts += theirs
    if other and not doubts and (split, other["split"]) in GAPS:
        lines += ["", GAPS[split, other["split"]]]
        if other.get("other_settings"):
            differing = ", ".join(name.replace("_", " ") for name in other["other_settings"])
            lines[-1] += (
                " Not all of the difference need come from that: the other training also had "
                f"other settings ({differing})."
            )
    return lines


def _figures(name: str, part: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        name,
        part["clips"],
        percent(part["accuracy"]),
        interval(part.get("accuracy_interval")),
        *(percent(part[key]) for key in ("precision", "recall", "f1")),
    )


def _by_class(manifest: ModelManifest) -> list[str]:
    test = manifest.metrics["test"]
    pairs = confusions(test["confusion_matrix"], manifest.classes, CONFUSIONS)
    listed = "; ".join(f"{a} called {b} ({count} of {total})" for a, b, count, total in pairs)
    return [
        "## By class",
        "",
        *class_table(test["per_class"], "test clips"),
        "",
        f"Most often confused: {listed}." if listed else "No test clip was confused.",
        "",
        "![Confusion matrix](confusion_test.png)",
    ]


def _limits(manifest: ModelManifest) -> list[str]:
    test = manifest.metrics["test"]
    label, weakest = min(test["per_class"].items(), key=lambda item: item[1]["recall"])
    return [
        "## Limits",
        "",
        f"- It knows {len(manifest.classes)} activities as {manifest.training['dataset']} shows "
        "them. Other cameras, places, people and ways to do the same are not in the figures.",
        f"- Recall is not the same for all classes: {label} has {percent(weakest['recall'])} of "
        f"{weakest['clips']} clips.",
        "- How well it does for people of different age, sex, skin or build was not measured: the "
        "data has no such labels.",
        "- A probability is not a measure of how familiar a clip is: there is no class for "
        "anything else.",
        "- The frames carry no sound, and what happens between two of them is not seen.",
    ]


def _cost(manifest: ModelManifest) -> list[str]:
    training, speed = manifest.training, manifest.metrics.get("speed")
    lines = [
        "## Cost",
        "",
        f"Training, one run: {training['epochs_run']} epochs in {duration(training['seconds'])} on "
        f"{hardware(training.get('hardware'))}. Settings, library versions and commit are in "
        "manifest.json.",
    ]
    if speed:
        lines[-1] += (
            f" Inference: {speed['cpu_ms_per_clip']:.1f} ms a clip without decoding (processor "
            f"time, median; ONNX Runtime {speed['onnxruntime']}, one thread of "
            f"{hardware(speed['hardware'])})."
        )
        if speed.get("others"):
            lines += ["", *_speed_lines(manifest, speed)]
    return [*lines, "", "![Training curves](curves.png)"]


def _speed_lines(manifest: ModelManifest, speed: Mapping[str, Any]) -> list[str]:
    """What the network costs beside others that were measured with it."""
    mine = speed["cpu_ms_per_clip"]
    rows = [
        (name, other["version"], other["clip_spec"], other["cpu_ms_per_clip"])
        for name, other in speed["others"].items()
    ]
    rows.append((manifest.name, manifest.version, manifest.clip_spec.to_dict(), mine))
    return [
        "What it costs beside the other networks, measured together, the graphs taking turns:",
        "",
        *table(
            ("network", "version", "input", "ms a clip", "of this one's"),
            (
                (
                    f"**{name}**" if name == manifest.name else name,
                    version,
                    f"{spec['frames']}×{spec['width']}×{spec['height']}",
                    f"{taken:.1f}",
                    f"{taken / mine:.2f}",
                )
                for name, version, spec, taken in sorted(rows, key=lambda row: row[3])
            ),
        ),
    ]


def _export(manifest: ModelManifest) -> list[str]:
    differences = manifest.parity["max_abs_difference"]
    return [
        "## Export",
        "",
        f"ONNX opset {manifest.opset}. Largest difference from the Keras model on the "
        f"{manifest.parity['clips']} test clips, at batch sizes {', '.join(differences)}: "
        f"{max(differences.values()):.1e}; top-1 the same.",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "card",
        "Write the card of a published model anew, from its manifest.json.",
    )
    parser.add_argument("model", type=Path, help="the folder models/<name>/<version>")
    folder = parser.parse_args(arguments).model
    try:
        card = write_card(ModelManifest.from_json((folder / "manifest.json").read_bytes()))
        write_text(folder / "card.md", card)
    except (ManifestError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder / 'card.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
