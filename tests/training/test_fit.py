"""The whole path on a tiny data set: train, measure, export, publish, and what stops a publish."""

import csv
import hashlib
import json
import math
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import training.export
from clip import ClipSpec, ModelManifest, read_clip
from clip.manifest import METADATA_KEY
from training.data.index import Clip, ClipIndex, index_clips
from training.fit import main, one_hot, weigh_classes
from training.graphs.convert import ExportError, to_onnx
from training.locking import locked
from training.run import RunDirectory

FRAMES = 3


def fit(dataset, out, *extra):
    return main(
        [
            *("--data", str(dataset), "--model", "lrcn", "--split", "group", "--epochs", "3"),
            *("--frames", str(FRAMES), "--batch-size", "4", "--label-smoothing", "0.1"),
            *("--out", str(out), *extra),
        ]
    )


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """(run directory, models folder) after one fit with --publish."""
    folder = tmp_path_factory.mktemp("fit")
    models = folder / "models"
    assert fit(dataset, folder / "runs/one", "--publish", str(models)) == 0
    return folder / "runs/one", models


def test_targets_are_smoothed_and_rare_classes_weigh_more():
    clips = [Clip(f"{place}.avi", label, "g") for place, label in enumerate("baaa")]
    index = ClipIndex(Path("data"), ("a", "b"), tuple(clips))
    assert one_hot(index, clips[:2]).tolist() == [[0, 1], [1, 0]]
    smoothed = one_hot(index, clips[:2], smoothing=0.2)
    np.testing.assert_allclose(smoothed, [[0.1, 0.9], [0.9, 0.1]], rtol=1e-6)
    assert weigh_classes(index, clips) == pytest.approx({0: 2 / 3, 1: 2})


def test_a_run_leaves_its_record_behind(finished):
    run, _ = finished
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.json",
        "split.tsv",
        "history.csv",
        "tensorboard",
        "model.keras",
        "metrics.json",
        "curves.png",
        "confusion_validation.png",
        "confusion_test.png",
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["clips"] == len(RunDirectory.open(run).read_split("test", "path"))
    assert 1 <= metrics["best_epoch"] <= metrics["epochs_run"] <= 3


def test_the_saved_model_is_that_of_the_best_epoch_by_clips_and_targets_as_they_are(
    finished, dataset
):
    run = RunDirectory.open(finished[0])
    with (run.path / "history.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    index = index_clips(dataset)
    validation = [clip for clip in index.clips if clip.path in run.read_split("validation", "path")]
    clips = np.stack(
        [read_clip(dataset / clip.path, ClipSpec(frames=FRAMES)) for clip in validation]
    )
    probabilities = run.load_model()(clips).numpy()
    targets = [index.target(clip) for clip in validation]
    loss = -np.log(probabilities[np.arange(len(targets)), targets]).mean()
    assert loss == pytest.approx(min(losses), rel=1e-3)


def test_t3_a_loss_that_is_no_number_ends_the_run_without_a_model(dataset, tmp_path, capsys):
    small = ("--height", "16", "--width", "16", "--publish", str(tmp_path / "models"))
    assert fit(dataset, tmp_path / "run", "--learning-rate", "1e30", "--no-augment", *small) == 1
    message = capsys.readouterr().err
    assert "in epoch 1, step " in message
    assert "lower --learning-rate" in message
    assert "/v_" in message
    assert not (tmp_path / "run/model.keras").exists()
    assert not (tmp_path / "models").exists()


def test_the_published_manifest_describes_the_published_file(finished):
    run, models = finished
    folder = models / "lrcn/1"
    manifest = ModelManifest.from_json((folder / "manifest.json").read_text())
    content = (folder / "model.onnx").read_bytes()
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.classes == ("Dark", "Light")
    assert manifest.clip_spec.frames == FRAMES
    assert manifest.training["counts"] == {
        part: len(RunDirectory.open(run).read_split(part, "path"))
        for part in ("train", "validation", "test")
    }
    assert sum(manifest.training["counts"].values()) == 48
    measured = json.loads((run / "metrics.json").read_text())["test"]
    assert manifest.metrics["test"]["accuracy"] == measured["accuracy"]
    assert max(manifest.parity["max_abs_difference"].values()) <= 1e-5
    inside = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}[
        METADATA_KEY
    ]
    assert json.loads(inside) == {**json.loads(manifest.to_json()), "sha256": ""}


def test_the_card_states_what_a_reader_needs(finished):
    _, models = finished
    card = (models / "lrcn/1/card.md").read_text()
    manifest = ModelManifest.from_json((models / "lrcn/1/manifest.json").read_text())
    counts, test = manifest.training["counts"], manifest.metrics["test"]
    for phrase in (
        f"{counts['train']} clips for training, {counts['validation']} for validation",
        f"{counts['test']} for testing",
        "seed 0",
        "`group`",
        "Dark, Light",
        f"| test | {test['clips']} | {test['accuracy']:.1%} |",
    ):
        assert phrase in card
    assert (models / "lrcn/1/confusion_test.png").stat().st_size > 1000


def test_the_published_model_answers_as_the_trained_one(finished, dataset):
    run, models = finished
    manifest = ModelManifest.from_json((models / "lrcn/1/manifest.json").read_text())
    video = min((dataset / "Light").iterdir())
    clips = read_clip(video, manifest.clip_spec)[None]
    session = onnxruntime.InferenceSession(
        models / "lrcn/1/model.onnx", providers=["CPUExecutionProvider"]
    )
    (answered,) = session.run(["probabilities"], {"frames": clips})
    wanted = RunDirectory.open(run).load_model()(clips).numpy()
    assert np.abs(answered - wanted).max() <= 1e-5


def test_publishing_again_makes_the_next_version_and_keeps_the_old(finished, dataset):
    run, models = finished
    before = (models / "lrcn/1/manifest.json").read_bytes()
    arguments = [str(run), "--data", str(dataset), "--publish", str(models)]
    assert training.export.main(arguments) == 0
    assert sorted(path.name for path in (models / "lrcn").iterdir()) == ["1", "2"]
    assert (models / "lrcn/1/manifest.json").read_bytes() == before


def test_a_finished_run_that_is_resumed_is_not_published_twice(finished, dataset, capsys):
    run, models = finished
    before = {path: path.stat().st_mtime_ns for path in models.glob("lrcn/*/*")}
    assert fit(dataset, run, "--publish", str(models), "--resume") == 0
    newest = max(int(path.name) for path in (models / "lrcn").iterdir())
    assert f"published before: {models / 'lrcn' / str(newest)}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in models.glob("lrcn/*/*")} == before


def spoil_weights(graph, by):
    """Move the head's bias for the first class, the last thing before the softmax."""
    floats = [t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    (bias,) = (tensor for tensor in floats if list(tensor.dims) == [2])
    moved = onnx.numpy_helper.to_array(bias) + np.array([by, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    return graph


@pytest.mark.parametrize("by", [0.1, math.nan])
def test_t6_a_graph_that_answers_differently_is_not_published(
    finished, dataset, tmp_path, monkeypatch, capsys, by
):
    run, _ = finished
    monkeypatch.setattr(training.export, "to_onnx", lambda model: spoil_weights(to_onnx(model), by))
    arguments = [str(run), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main(arguments) == 1
    assert "differs from the Keras model" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_t6_a_graph_that_cannot_be_made_is_not_published(
    finished, dataset, tmp_path, monkeypatch, capsys
):
    def refuse(model):
        raise ExportError("the graph holds a Loop")

    run, _ = finished
    monkeypatch.setattr(training.export, "to_onnx", refuse)
    arguments = [str(run), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main(arguments) == 1
    assert "Loop" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_t2_a_publish_that_fails_half_way_leaves_nothing_to_be_seen(
    finished, dataset, tmp_path, monkeypatch, capsys
):
    def disk_full(descriptor):
        raise OSError(28, "No space left on device", str(tmp_path))

    run, _ = finished
    monkeypatch.setattr(os, "fsync", disk_full)
    arguments = [str(run), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main(arguments) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "models/lrcn").iterdir()) == []


def test_t2_what_a_killed_publisher_left_is_in_nobodys_way(finished, dataset, tmp_path):
    models = tmp_path / "models/lrcn"
    for name in (".1-old", ".1-young"):
        (models / name).mkdir(parents=True)
        (models / name / "model.onnx").write_bytes(b"half")
    os.utime(models / ".1-old", (0, 0))
    arguments = [str(finished[0]), "--data", str(dataset), "--publish", str(models.parent)]
    assert training.export.main(arguments) == 0
    assert {folder.name for folder in models.iterdir()} == {".1-young", "1"}


def test_a_version_that_another_process_publishes_meanwhile_stays(
    finished, dataset, tmp_path, monkeypatch, capsys
):
    theirs = tmp_path / "models/lrcn/1/model.onnx"
    measure = training.export.ms_per_clip

    def measure_while_they_publish(graphs):
        theirs.parent.mkdir(parents=True)
        theirs.write_bytes(b"theirs")
        return measure(graphs)

    monkeypatch.setattr(training.export, "ms_per_clip", measure_while_they_publish)
    arguments = [str(finished[0]), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main(arguments) == 1
    assert "was published by another process meanwhile" in capsys.readouterr().err
    assert theirs.read_bytes() == b"theirs"
    assert [folder.name for folder in theirs.parents[1].iterdir()] == ["1"]


def test_the_libraries_are_those_that_trained(finished):
    run = RunDirectory.open(finished[0])
    libraries = run.read_json("metrics.json")["libraries"]
    assert libraries["keras"] == version("keras")
    manifest = json.loads((finished[1] / "lrcn/1/manifest.json").read_text())
    assert manifest["training"]["libraries"] == libraries


def test_t7_a_second_fit_in_the_same_directory_refuses(finished, dataset, capsys):
    run, _ = finished
    before = (run / "metrics.json").read_bytes()
    assert fit(dataset, run) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before


def test_t7_a_run_that_another_process_trains_is_not_resumed(finished, dataset, tmp_path, capsys):
    run = shutil.copytree(finished[0], tmp_path / "run")
    with locked(run):  # the kernel's lock is of the open file: it holds within a process too
        assert fit(dataset, run, "--resume", "--cache", str(finished[0].parent / "cache")) == 1
    assert f"in use: process {os.getpid()} trains there" in capsys.readouterr().err


def test_t5_a_file_that_was_exchanged_under_its_name_is_noticed(
    finished, dataset, tmp_path, capsys
):
    run = RunDirectory.open(shutil.copytree(finished[0], tmp_path / "run"))
    # A run knows the name of its data folder.
    data = shutil.copytree(dataset, tmp_path / dataset.name)
    path = run.read_split("test", "path")[0]
    with (data / path).open("ab") as file:
        file.write(b"\0")
    (data / "data.txt").write_text("no video")
    before = (run.path / "data.json").read_bytes()
    assert fit(data, run.path, "--resume") == 2
    assert "its split.tsv would be another" in capsys.readouterr().err
    assert (run.path / "data.json").read_bytes() == before
    (data / "data.txt").unlink()
    publish = ["--publish", str(tmp_path / "models")]
    assert training.export.main([str(run.path), "--data", str(data), *publish]) == 1
    assert f"1 files in {data} are not those that the run had, as {path}" in capsys.readouterr().err


def test_t4_bad_files_end_the_run_before_it_begins(tmp_path, capsys):
    for label in ("A", "B"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "one.mp4").write_bytes(b"x")
    assert fit(tmp_path / "data", tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert "2 files cannot be used" in message
    assert "--skip-bad" in message
    assert not (tmp_path / "run").exists()


def test_t4_skipped_files_are_counted_and_named_in_the_run(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data/Dark/empty.mp4").touch()
    options = ("--skip-bad", "--epochs", "1", "--no-flip-classes", "Dark")
    assert fit(tmp_path / "data", tmp_path / "run", *options) == 0
    metrics, config, data = (
        json.loads((tmp_path / "run" / name).read_text())
        for name in ("metrics.json", "config.json", "data.json")
    )
    skipped = [{"path": "Dark/empty.mp4", "reason": "The file is empty."}]
    assert metrics["skipped_files"] == data["skipped_files"] == skipped
    assert config["skip_bad"] is True
    assert config["augmentation"]["jitter"] == 3
    assert config["augmentation"]["no_flip_classes"] == ["Dark"]


def test_a_data_set_that_cannot_be_split_is_an_error_in_words(dataset, tmp_path, capsys):
    for label in ("Dark", "Light"):
        (tmp_path / "data" / label).mkdir(parents=True)
        shutil.copy(min((dataset / label).iterdir()), tmp_path / "data" / label)
    assert fit(tmp_path / "data", tmp_path / "run") == 1
    assert "too small" in capsys.readouterr().err


def test_a_run_can_take_the_split_of_another(finished, dataset, tmp_path):
    run, _ = finished
    options = ("--split", "file", "--split-file", str(run / "split.tsv"), "--epochs", "1")
    assert fit(dataset, tmp_path / "run", *options) == 0
    assert (tmp_path / "run/split.tsv").read_text() == (run / "split.tsv").read_text()
