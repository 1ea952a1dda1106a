"""A network trained anew with its validation clips, once they have selected its settings."""

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
from training.errors import OptionError
from training.learning.checkpoints import read_last
from training.learning.loop import CHECKPOINTS
from training.options import FitConfig
from training.refit import open_selection
from training.results.predictions import read_predictions
from training.run import RunDirectory

EPOCHS = 3


def options(dataset, folder, *changed):
    return [
        *("--data", str(dataset), "--model", "lrcn", "--schedule", "cosine"),
        *("--epochs", str(EPOCHS), "--patience", str(EPOCHS), "--frames", "2"),
        *("--batch-size", "16", "--no-augment", "--height", "16", "--width", "16"),
        *("--ema", "0.5", "--class-weights", "--cache", str(folder / "cache"), *changed),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("refit")


@pytest.fixture(scope="module")
def selection(dataset, folder):
    """The run that selected the settings; not to be changed."""
    out = folder / "selection"
    assert training.fit.main([*options(dataset, folder), "--no-test", "--out", str(out)]) == 0
    return RunDirectory.open(out)


@pytest.fixture(scope="module")
def refit(dataset, folder, selection):
    """The refit; not to be changed."""
    out = folder / "refit"
    again = ["--refit", str(selection.path), "--out", str(out)]
    assert training.fit.main([*options(dataset, folder), *again]) == 0
    return RunDirectory.open(out)


def paths(run, *parts):
    return {path for part in parts for path in run.read_split(part, "path")}


def test_it_is_trained_on_the_selecting_runs_training_and_validation_clips(selection, refit):
    assert paths(refit, "train") == paths(selection, "train", "validation")
    assert paths(refit, "validation") == set()
    assert paths(refit, "test") == paths(selection, "test") != set()


def test_the_last_epoch_is_kept(refit):
    metrics = refit.read_json("metrics.json")
    assert metrics["best_epoch"] == metrics["epochs_run"] == EPOCHS
    arrays = read_last(refit.path / CHECKPOINTS).arrays
    last = {array.tobytes() for name in ("model", "optimizer") for array in arrays[name]}
    # With --ema the averages, which the optimizer has, and the moving statistics.
    assert {weight.tobytes() for weight in refit.load_model().get_weights()} <= last


def test_it_has_test_figures_and_those_of_the_run_that_chose(selection, refit):
    metrics, before = refit.read_json("metrics.json"), selection.read_json("metrics.json")
    assert "validation" not in metrics
    assert metrics["test"]["clips"] == len(paths(selection, "test"))
    assert set(read_predictions(refit, ["Dark", "Light"])) == {"test"}
    assert metrics["selected_by"] == {
        "run": "selection",
        "git_commit": selection.read_json("config.json")["git_commit"],
        "counts": {part: len(paths(selection, part)) for part in ("train", "validation", "test")},
        "footage": {"clips": 48, "ungrouped": 0, "straddling": 0},
        "best_epoch": before["best_epoch"],
        "epochs_run": EPOCHS,
        "validation": before["validation"],
        "last_epoch": {name: values[-1] for name, values in selection.read_history().items()},
        "tested": False,
    }


def test_the_report_says_how_it_came_about(selection, refit):
    report = (refit.path / "report.md").read_text()
    assert f"Last of {EPOCHS} epochs; trained for" in report
    accuracy = selection.read_json("metrics.json")["validation"]["accuracy"]
    last = selection.read_history()["val_accuracy"][-1]
    assert f"were selected by {len(paths(selection, 'validation'))} validation clips" in report
    assert f"others: accuracy {accuracy:.1%} (" in report
    assert f"of {EPOCHS}, and {last:.1%} at its last." in report
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


def test_it_is_published_with_the_figures_of_the_choice(
    selection, refit, dataset, folder, tmp_path
):
    models = tmp_path / "models"
    arguments = [str(refit.path), "--data", str(dataset), "--publish", str(models)]
    assert training.export.main([*arguments, "--cache", str(folder / "cache")]) == 0
    version = models / "lrcn/1"
    manifest = ModelManifest.from_json((version / "manifest.json").read_text())
    validation = selection.read_json("metrics.json")["validation"]
    assert "validation" not in manifest.metrics
    assert manifest.metrics["selected_by"]["validation"] == validation
    card = (version / "card.md").read_text()
    assert f"Last of {EPOCHS} epochs. The settings were selected by {validation['clips']} " in card
    assert "had been measured on the test clips" not in card
    assert "Nothing was picked by the test clips." in card
    row = f"| validation, the training that selected the settings | {validation['clips']} | "
    assert f"{row}{validation['accuracy']:.1%} | " in card


def test_it_has_a_dash_in_a_comparison_by_validation(selection, refit, capsys):
    runs = [str(selection.path), str(refit.path)]
    assert training.compare.main([*runs, "--part", "validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("| refit |")]
    assert "| group | – | – | – |" in row
    assert any("A dash: a refit, which was trained on its validation clips." in x for x in lines)
    assert training.compare.main(runs) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("| refit |")]
    assert f"| {EPOCHS} of {EPOCHS}, refit |" in row
    assert any("kept its last epoch" in line for line in lines)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--seed", "1"), "other settings: seed (0, now 1)"),
        (("--weight-decay", "0.1"), "weight_decay (0.0, now 0.1)"),
        (("--schedule", "plateau"), "--refit wants --schedule cosine"),
        (("--patience", str(EPOCHS - 1)), "--refit wants --patience as high as --epochs"),
        (("--no-test",), "nothing but test clips"),
    ],
    ids=["seed", "weight decay", "plateau", "patience", "no test"],
)
def test_what_the_selecting_run_does_not_speak_for_is_refused(
    changed, message, selection, dataset, folder, tmp_path, capsys
):
    again = ["--refit", str(selection.path), "--out", str(tmp_path / "run")]
    assert training.fit.main([*options(dataset, folder, *changed), *again]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refit_and_what_is_no_finished_run_are_refused(
    selection, refit, dataset, folder, tmp_path, capsys
):
    unfinished = shutil.copytree(selection.path, tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    for path, message in (
        (refit.path, "is a refit itself"),
        (unfinished, "not a finished run"),
        (tmp_path / "none", "not a finished run"),
    ):
        again = ["--refit", str(path), "--out", str(tmp_path / "run")]
        assert training.fit.main([*options(dataset, folder), *again]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "--refit" in error
        assert not (tmp_path / "run").exists()


def test_a_run_of_older_code_is_taken_and_one_with_an_option_of_newer_code_refused(
    selection, tmp_path
):
    config = selection.read_json("config.json")
    now = FitConfig(**{**config, "refit": True})
    run = RunDirectory.open(shutil.copytree(selection.path, tmp_path / "run"))
    (phase,) = config["phases"]
    younger = {"refit", "phases"}
    older = {name: value for name, value in config.items() if name not in younger}
    phases = [{name: value for name, value in phase.items() if name != "encoder_blocks"}]
    run.write_json("config.json", {**older, "phases": phases})
    assert open_selection(run.path, now).path == run.path
    run.write_json("config.json", {**config, "mixup": 0.2})
    with pytest.raises(OptionError, match=r"mixup \(0\.2, now null\)"):
        open_selection(run.path, now)


@pytest.mark.parametrize(
    ("column", "message"),
    [("path", "names clips that"), ("sha256", "are not those that the run had")],
)
def test_other_clips_than_the_selecting_runs_are_refused(
    column, message, selection, dataset, folder, tmp_path, capsys
):
    other = shutil.copytree(selection.path, tmp_path / "other")
    first = selection.read_split("validation", column)[0]
    table = (other / "split.tsv").read_text()
    (other / "split.tsv").write_text(table.replace(first, first[::-1], 1))
    again = ["--refit", str(other), "--out", str(tmp_path / "run")]
    assert training.fit.main([*options(dataset, folder), *again]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_card_says_what_speaks_against_the_selection(refit, dataset, folder, tmp_path):
    run = RunDirectory.open(shutil.copytree(refit.path, tmp_path / "run"))
    metrics = run.read_json("metrics.json")
    metrics["selected_by"] |= {"tested": True}
    metrics["selected_by"]["footage"]["straddling"] = 2
    run.write_json("metrics.json", metrics)
    arguments = [str(run.path), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main([*arguments, "--cache", str(folder / "cache")]) == 0
    card = (tmp_path / "models/lrcn/1/card.md").read_text()
    assert "The training that selected had been measured on the test clips too." in card
    assert "Of the training that selected: 2 groups" in card


def test_the_selecting_run_may_go_once_the_training_has_begun(
    selection, dataset, folder, tmp_path, monkeypatch
):
    gone = tmp_path / "gone"
    shutil.copytree(selection.path, gone)
    train = training.fit.train

    def train_without_it(*arguments, **options):
        shutil.rmtree(gone)
        return train(*arguments, **options)

    monkeypatch.setattr(training.fit, "train", train_without_it)
    out = tmp_path / "run"
    again = ["--refit", str(gone), "--out", str(out)]
    assert training.fit.main([*options(dataset, folder), *again]) == 0
    assert RunDirectory.open(out).read_json("metrics.json")["selected_by"]["run"] == "gone"


def test_a_study_does_not_take_it(selection, dataset, folder, tmp_path, capsys):
    arguments = ["--frames", "2", "--out", str(tmp_path / "study"), *options(dataset, folder)]
    assert training.study.main([*arguments, "--refit", str(selection.path)]) == 1
    assert "--refit: the study decides that itself" in capsys.readouterr().err


def test_begun_without_it_a_run_does_not_go_on_with_it(selection, dataset, folder, capsys):
    again = ["--refit", str(selection.path), "--out", str(selection.path), "--resume"]
    before = json.dumps(selection.read_json("metrics.json"))
    assert training.fit.main([*options(dataset, folder), *again]) == 2
    assert '"refit": true' in capsys.readouterr().err
    assert json.dumps(selection.read_json("metrics.json")) == before


def test_resumed_after_an_epoch_it_ends_as_uninterrupted(
    selection, refit, dataset, folder, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    again = [*options(dataset, folder), "--refit", str(selection.path), "--out", str(out)]
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
