"""The model card: what a person should know before using a published model."""

from __future__ import annotations

from clip import ModelManifest

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
}
SPLITS = {
    "file": "The parts are those of a given table.",
    "group": (
        "Whole groups of clips cut from the same footage are on one side: the figures are for "
        "footage that the network has never seen."
    ),
    "random": (
        "Clips cut from the same footage are on both sides: the figures are too good for new "
        "footage and serve to compare with the paper."
    ),
}


def write_card(manifest: ModelManifest) -> str:
    """The Markdown of card.md, from the manifest alone."""
    training, test, spec = manifest.training, manifest.metrics["test"], manifest.clip_spec
    validation = manifest.metrics["validation"]
    counts = training["counts"]
    lines = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        f"{ARCHITECTURES.get(manifest.name, manifest.name)}. "
        f"{training['parameters']:,} parameters. Input: {spec.frames} RGB frames of "
        f"{spec.width}×{spec.height}.",
        "",
        "## Use",
        "",
        f"Tells which of these {len(manifest.classes)} activities a short clip shows: "
        f"{', '.join(manifest.classes)}. A clip of anything else gets one of these labels too, "
        "often with a high probability. Not for decisions about people.",
        "",
        "## Data",
        "",
        f"{training['dataset']}, {len(manifest.classes)} classes, split by `{training['split']}` "
        f"with seed {training['seed']}: {counts['train']} clips for training, "
        f"{counts['validation']} for validation, {counts['test']} for testing. "
        f"{SPLITS[training['split']]}",
        "",
    ]
    citation = CITATIONS.get(training["dataset"].upper().replace("-", ""))
    if citation:
        lines += [citation, ""]
    lines += [
        "## Measured",
        "",
        "The best epoch was picked by validation loss, nothing by the test clips. The test figures "
        "are those of this very .onnx file.",
        "",
        "| split | clips | accuracy | precision (macro) | recall (macro) | F1 (macro) |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {part['clips']} | {part['accuracy']:.1%} | {part['precision']:.1%} | "
        f"{part['recall']:.1%} | {part['f1']:.1%} |"
        for name, part in (("test", test), ("validation", validation))
    ]
    lines += [
        "",
        "| class | test clips | precision | recall | F1 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {label} | {row['clips']} | {row['precision']:.1%} | {row['recall']:.1%} | "
        f"{row['f1']:.1%} |"
        for label, row in test["per_class"].items()
    ]
    differences = manifest.parity["max_abs_difference"].values()
    lines += [
        "",
        "![Confusion matrix](confusion_test.png)",
        "",
        "## Training",
        "",
        f"One run: {training['epochs_run']} epochs, {training['seconds'] / 60:.0f} minutes, best "
        f"epoch {training['best_epoch']}. Settings, library versions and commit are in "
        "manifest.json.",
        "",
        "![Training curves](curves.png)",
        "",
        "## Export",
        "",
        f"ONNX opset {manifest.opset}. Largest difference from the Keras model on the "
        f"{manifest.parity['clips']} test clips, at batch sizes "
        f"{', '.join(manifest.parity['max_abs_difference'])}: {max(differences):.1e}; "
        "top-1 the same.",
        "",
    ]
    return "\n".join(lines)
