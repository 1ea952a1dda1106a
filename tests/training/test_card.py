import json
import shutil

import pytest

import training.export
from clip import ModelManifest
from tests.training.finished_run import make_run
from training.card import main, write_card
from training.run import RunDirectory


@pytest.fixture(scope="module")
def random_run(dataset, tmp_path_factory):
    return make_run(dataset, tmp_path_factory.mktemp("random") / "run", split="random")


def export(run, dataset, models, *extra):
    paths = [str(run.path), "--data", str(dataset), "--publish", str(models)]
    return training.export.main([*paths, *extra])


@pytest.fixture(scope="module")
def published(untrained_run, random_run, dataset, tmp_path_factory):
    """The folder of a model published with a run of the other split beside it."""
    models = tmp_path_factory.mktemp("models")
    assert export(untrained_run, dataset, models, "--compare-run", str(random_run.path)) == 0
    return models / "lrcn/1"


@pytest.fixture(scope="module")
def manifest(published):
    return ModelManifest.from_json((published / "manifest.json").read_text())


def test_the_card_has_the_sections_of_the_convention(published):
    lines = (published / "card.md").read_text().splitlines()
    assert [line[3:] for line in lines if line.startswith("## ")] == [
        "Model",
        "Intended use",
        "Data and protocol",
        "Metrics",
        "By class",
        "Limits",
        "Cost",
        "Export",
    ]


def test_the_card_states_the_figures_of_the_published_file_with_their_interval(published, manifest):
    card, test = (published / "card.md").read_text(), manifest.metrics["test"]
    bounds = test["accuracy_interval"]
    row = f"| test | {test['clips']} | {test['accuracy']:.1%} | {bounds['low']:.1%} to "
    assert row in card
    assert bounds["unit"] == "groups"
    assert "resamples of whole groups" in card
    assert f"expected calibration error {test['calibration']['expected_error']:.1%}" in card


def test_the_card_tells_what_the_model_cost(published, manifest, untrained_run):
    card, speed = (published / "card.md").read_text(), manifest.metrics["speed"]
    assert 0 < speed["cpu_ms_per_clip"] < 10_000
    assert f"{speed['cpu_ms_per_clip']:.1f} ms a clip" in card
    processor = untrained_run.read_json("metrics.json")["hardware"][0]["processor"]
    assert f"3 epochs in 2 min on {processor}" in card


def test_the_other_splits_figure_stands_beside_with_the_reason(published, manifest, random_run):
    card, other = (published / "card.md").read_text(), manifest.metrics["comparison"]
    theirs = random_run.read_json("metrics.json")["test"]
    assert (other["split"], other["accuracy"]) == ("random", theirs["accuracy"])
    row = f"| test, `random` split, another training | {theirs['clips']} | {theirs['accuracy']:.1%}"
    assert row in card
    assert "Why the figures differ" in card
    assert other["other_settings"] == []
    assert "other settings" not in card


def test_settings_that_the_other_training_had_otherwise_are_named(
    untrained_run, random_run, dataset, tmp_path
):
    other = RunDirectory.open(shutil.copytree(random_run.path, tmp_path / "other"))
    config = other.read_json("config.json")
    changed = {"epochs": 9, "label_smoothing": 0.1, "git_commit": "another", "data": "elsewhere"}
    other.write_json("config.json", {**config, **changed})
    models = tmp_path / "models"
    assert export(untrained_run, dataset, models, "--compare-run", str(other.path)) == 0
    record = json.loads((models / "lrcn/1/manifest.json").read_text())
    assert record["metrics"]["comparison"]["other_settings"] == ["epochs", "label_smoothing"]
    assert "had other settings (epochs, label smoothing)" in (models / "lrcn/1/card.md").read_text()


@pytest.fixture
def two_others(published, tmp_path):
    """A models folder with two versions of another network and one of a third."""
    models = tmp_path / "models"
    for name, version in (("convlstm", 1), ("convlstm", 10), ("lrcn-efficientnet", 2)):
        folder = shutil.copytree(published, models / name / str(version))
        record = json.loads((folder / "manifest.json").read_text())
        record |= {"name": name, "version": version}
        (folder / "manifest.json").write_text(json.dumps(record))
    return models


def test_the_card_shows_what_the_other_networks_cost(untrained_run, dataset, two_others):
    assert export(untrained_run, dataset, two_others, "--beside", str(two_others)) == 0
    folder = two_others / "lrcn/1"
    speed = json.loads((folder / "manifest.json").read_text())["metrics"]["speed"]
    newest = {name: other["version"] for name, other in speed["others"].items()}
    assert newest == {"convlstm": 10, "lrcn-efficientnet": 2}
    lines = (folder / "card.md").read_text().splitlines()
    start = lines.index("| network | version | input | ms a clip | of this one's |")
    rows = [line.split(" | ") for line in lines[start + 2 : start + 5]]
    assert {row[0].strip("| *") for row in rows} == {"lrcn", *newest}
    assert [row[2] for row in rows] == ["2×64×64"] * 3
    assert [float(row[3]) for row in rows] == sorted(float(row[3]) for row in rows)
    (mine,) = (row for row in rows if "**lrcn**" in row[0])
    assert mine[3:] == [f"{speed['cpu_ms_per_clip']:.1f}", "1.00 |"]


def test_a_model_that_is_not_its_manifests_is_not_measured(
    untrained_run, dataset, two_others, capsys
):
    (two_others / "convlstm/10/model.onnx").write_bytes(b"another")
    assert export(untrained_run, dataset, two_others, "--beside", str(two_others)) == 1
    assert "convlstm/10/model.onnx is not the file of its manifest" in capsys.readouterr().err
    assert not (two_others / "lrcn").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "group"}, "under the same split"),
        ({"model": "convlstm"}, "its model is convlstm"),
        ({"classes": ["Dark", "Grey"]}, "its classes is"),
    ],
    ids=["same split", "other model", "other classes"],
)
def test_a_run_that_does_not_compare_is_refused_and_nothing_published(
    change, message, untrained_run, random_run, dataset, tmp_path, capsys
):
    other = RunDirectory.open(shutil.copytree(random_run.path, tmp_path / "other"))
    other.write_json("config.json", {**other.read_json("config.json"), **change})
    arguments = [untrained_run, dataset, tmp_path / "models", "--compare-run", str(other.path)]
    assert export(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_the_card_can_be_written_anew_from_the_manifest(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "1")
    (folder / "card.md").unlink()
    assert main([str(folder)]) == 0
    assert (folder / "card.md").read_text() == (published / "card.md").read_text()
    assert {path.name for path in folder.iterdir()} == {path.name for path in published.iterdir()}


def test_a_manifest_with_fewer_figures_has_a_card_too(manifest):
    record = json.loads(manifest.to_json())
    for name in ("speed", "comparison"):
        del record["metrics"][name]
    for part in ("test", "validation"):
        for name in ("accuracy_interval", "calibration", "weighted", "top3_accuracy"):
            del record["metrics"][part][name]
    for name in ("groups", "hardware"):
        del record["training"][name]
    card = write_card(ModelManifest.from_json(json.dumps(record)))
    test = record["metrics"]["test"]
    assert f"| test | {test['clips']} | {test['accuracy']:.1%} | – |" in card
    assert "a machine that was not recorded" in card


def write_changed(manifest, change):
    """The card after a change of the manifest's record."""
    record = json.loads(manifest.to_json())
    change(record)
    return write_card(ModelManifest.from_json(json.dumps(record)))


def test_the_limits_name_the_class_of_the_lowest_recall(manifest):
    def change(record):
        dark, light = (record["metrics"]["test"]["per_class"][name] for name in ("Dark", "Light"))
        dark |= {"recall": 0.75, "clips": 4}
        light |= {"recall": 0.5, "clips": 6}

    card = write_changed(manifest, change)
    assert "not the same for all classes: Light has 50.0% of 6 clips." in card


def test_the_largest_difference_of_the_export_is_told(manifest):
    def change(record):
        record["parity"]["max_abs_difference"] = {"1": 2e-7, "3": 9e-6, "8": 1e-8}

    card = write_changed(manifest, change)
    assert "test clips, at batch sizes 1, 3, 8: 9.0e-06; top-1 the same." in card


def test_footage_on_both_sides_takes_the_reason_of_the_difference_away(manifest):
    def change(record):
        record["training"]["footage"] = {"clips": 48, "ungrouped": 0, "straddling": 2}

    card = write_changed(manifest, change)
    assert "2 groups of clips cut from the same footage are in more than one part" in card
    assert "Why the figures differ" not in card


def test_pictures_from_the_data_set_are_not_published(published):
    assert {path.name for path in published.iterdir()} == {
        "model.onnx",
        "manifest.json",
        "card.md",
        "curves.png",
        "confusion_test.png",
    }


def test_a_folder_without_a_manifest_is_an_error_in_words(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_nothing_is_published_among_the_clips(untrained_run, dataset, capsys):
    assert export(untrained_run, dataset, dataset / "models") == 1
    assert "--publish: choose a folder that is not in that of the clips" in capsys.readouterr().err
    assert not (dataset / "models").exists()
