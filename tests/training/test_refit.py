"""A network trained anew with its validation clips, once they have chosen its settings."""

import json
import shutil

import numpy as np
import pytest

import training.compare
import training.export
import training.fit
import training.report
import training.study
from clip import ModelManifest
from training.learning.checkpoints import read_last
from training.learning.loop import CHECKPOINTS
from training.results.predictions import read_predictions
from training.run import RunDirectory

EPOCHS = 3


def options(dataset, folder, *changed):
    return [
        *("--data", str(dataset), "--model", "lrcn", "--schedule", "cosine"),
        *("--epochs", str(EPOCHS), "--patience", str(EPOCHS), "--frames", "2"),
        *("--batch-size", "16", "--no-augment", "--height", "16", "--width", "16"),
        *("--cache", str(folder / "cache"), *changed),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("refit")


@pytest.fixture(scope="module")
def chosen(dataset, folder):
    """The run that chose the settings; not to be changed."""
    out = folder / "chosen"
    assert training.fit.main([*options(dataset, folder), "--no-test", "--out", str(out)]) == 0
    return RunDirectory.open(out)


@pytest.fixture(scope="module")
def refit(dataset, folder, chosen):
    """The refit; not to be changed."""
    out = folder / "refit"
    again = ["--refit", str(chosen.path), "--out", str(out)]
    assert training.fit.main([*options(dataset, folder), *again]) == 0
    return RunDirectory.open(out)


def paths(run, *parts):
    return {path for part in parts for path in run.read_split(part, "path")}


def test_it_is_trained_on_the_chosen_runs_training_and_validation_clips(chosen, refit):
    assert paths(refit, "train") == paths(chosen, "train", "validation")
    assert paths(refit, "validation") == set()
    assert paths(refit, "test") == paths(chosen, "test") != set()


def test_the_last_epoch_is_kept(refit):
    metrics = refit.read_json("metrics.json")
    assert metrics["best_epoch"] == metrics["epochs_run"] == EPOCHS
    arrays = read_last(refit.path / CHECKPOINTS).arrays
    kept = refit.load_model().get_weights()
    assert {weight.tobytes() for weight in kept} <= {array.tobytes() for array in arrays["model"]}


def test_it_has_test_figures_and_those_of_the_run_that_chose(chosen, refit):
    metrics, before = refit.read_json("metrics.json"), chosen.read_json("metrics.json")
    assert "validation" not in metrics
    assert metrics["test"]["clips"] == len(paths(chosen, "test"))
    assert set(read_predictions(refit, ["Dark", "Light"])) == {"test"}
    assert metrics["chosen_by"] == {
        "run": "chosen",
        "git_commit": chosen.read_json("config.json")["git_commit"],
        "counts": {part: len(paths(chosen, part)) for part in ("train", "validation", "test")},
        "best_epoch": before["best_epoch"],
        "epochs_run": EPOCHS,
        "validation": before["validation"],
    }


def test_the_report_says_how_it_came_about(chosen, refit):
    report = (refit.path / "report.md").read_text()
    assert f"Last of {EPOCHS} epochs; trained for" in report
    accuracy = chosen.read_json("metrics.json")["validation"]["accuracy"]
    assert f"were chosen by {len(paths(chosen, 'validation'))} validation clips" in report
    assert f"(validation accuracy {accuracy:.1%}" in report
    shown = {line.split("(")[1].rstrip(")") for line in report.splitlines() if line[:2] == "!["}
    assert shown == {path.name for path in refit.path.glob("*.png")}
    assert "confusion_validation.png" not in shown


def test_the_report_can_be_written_anew(refit, dataset, tmp_path):
    run = RunDirectory.open(shutil.copytree(refit.path, tmp_path / "run"))
    shutil.copytree(refit.path.parent / "cache", tmp_path / "cache")
    before = run.read_json("metrics.json")
    for extra in ([], ["--data", str(dataset)], ["--data", str(dataset), "--test"]):
        assert training.report.main([str(run.path), *extra]) == 0
        assert run.read_json("metrics.json") == before


def test_it_is_published_with_the_figures_of_the_choice(chosen, refit, dataset, folder, tmp_path):
    models = tmp_path / "models"
    arguments = [str(refit.path), "--data", str(dataset), "--publish", str(models)]
    assert training.export.main([*arguments, "--cache", str(folder / "cache")]) == 0
    version = models / "lrcn/1"
    manifest = ModelManifest.from_json((version / "manifest.json").read_text())
    validation = chosen.read_json("metrics.json")["validation"]
    assert "validation" not in manifest.metrics
    assert manifest.metrics["chosen_by"]["validation"] == validation
    card = (version / "card.md").read_text()
    assert f"were chosen by {validation['clips']} validation clips" in card
    assert "Nothing was picked by the test clips." in card
    row = f"| validation, the training that chose the settings | {validation['clips']} | "
    assert f"{row}{validation['accuracy']:.1%} | " in card


def test_it_has_a_dash_in_a_comparison_by_validation(chosen, refit, capsys):
    runs = [str(chosen.path), str(refit.path)]
    assert training.compare.main([*runs, "--part", "validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("| refit |")]
    assert "| group | – | – | – |" in row
    assert any("A dash: a run trained on its validation clips too" in line for line in lines)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--seed", "1"), "other settings: seed (0, now 1)"),
        (("--weight-decay", "0.1"), "weight_decay (0.0, now 0.1)"),
        (("--schedule", "plateau"), "--refit wants --schedule cosine"),
        (("--no-test",), "nothing but test clips"),
    ],
    ids=["seed", "weight decay", "plateau", "no test"],
)
def test_what_the_chosen_run_does_not_speak_for_is_refused(
    changed, message, chosen, dataset, folder, tmp_path, capsys
):
    again = ["--refit", str(chosen.path), "--out", str(tmp_path / "run")]
    assert training.fit.main([*options(dataset, folder, *changed), *again]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refit_a_short_run_and_no_run_are_refused(
    chosen, refit, dataset, folder, tmp_path, capsys
):
    short = RunDirectory.open(shutil.copytree(chosen.path, tmp_path / "short"))
    short.write_json("metrics.json", {**short.read_json("metrics.json"), "epochs_run": EPOCHS - 1})
    unfinished = shutil.copytree(chosen.path, tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    for path, status, message in (
        (refit.path, 2, "is a refit itself"),
        (short.path, 2, f"ended early, after {EPOCHS - 1} of {EPOCHS} epochs"),
        (unfinished, 1, "not a finished run"),
        (tmp_path / "none", 1, "not a finished run"),
    ):
        again = ["--refit", str(path), "--out", str(tmp_path / "run")]
        assert training.fit.main([*options(dataset, folder), *again]) == status
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("column", ["path", "sha256"])
def test_other_clips_than_the_chosen_runs_are_refused(
    column, chosen, dataset, folder, tmp_path, capsys
):
    other = shutil.copytree(chosen.path, tmp_path / "other")
    first = chosen.read_split("validation", column)[0]
    table = (other / "split.tsv").read_text()
    (other / "split.tsv").write_text(table.replace(first, first[::-1], 1))
    again = ["--refit", str(other), "--out", str(tmp_path / "run")]
    assert training.fit.main([*options(dataset, folder), *again]) == 2
    assert "had other validation clips" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_study_does_not_take_it(chosen, dataset, folder, tmp_path, capsys):
    arguments = ["--frames", "2", "--out", str(tmp_path / "study"), *options(dataset, folder)]
    assert training.study.main([*arguments, "--refit", str(chosen.path)]) == 1
    assert "--refit: the study decides that itself" in capsys.readouterr().err


def test_begun_without_it_a_run_does_not_go_on_with_it(chosen, dataset, folder, capsys):
    again = ["--refit", str(chosen.path), "--out", str(chosen.path), "--resume"]
    before = json.dumps(chosen.read_json("metrics.json"))
    assert training.fit.main([*options(dataset, folder), *again]) == 2
    assert '"refit": true' in capsys.readouterr().err
    assert json.dumps(chosen.read_json("metrics.json")) == before


def test_resumed_after_an_epoch_it_ends_as_uninterrupted(
    chosen, refit, dataset, folder, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    again = [*options(dataset, folder), "--refit", str(chosen.path), "--out", str(out)]
    write = training.learning.loop.write_checkpoint

    def write_and_stop(folder, checkpoint):
        write(folder, checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.learning.loop, "write_checkpoint", write_and_stop)
        assert training.fit.main(again) == 130
    assert read_last(out / CHECKPOINTS).epoch == 1
    assert training.fit.main([*again, "--resume"]) == 0
    assert (out / "history.csv").read_text() == (refit.path / "history.csv").read_text()
    ours, theirs = (run.load_model().get_weights() for run in (RunDirectory.open(out), refit))
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, wanted)
