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
from training.data.cache import UsableClips
from training.data.index import index_clips
from training.data.splits import Split
from training.errors import OptionError
from training.learning.checkpoints import read_last
from training.learning.loop import CHECKPOINTS
from training.options import FitConfig
from training.refit import Selection
from training.results.predictions import read_predictions
from training.results.tables import explain_selection
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
    model = refit.load_model()
    for trained, weights in (("optimizer", model.trainable_weights), ("model", model.weights)):
        last = {array.tobytes() for array in arrays[trained]}
        kept = {weight.numpy().tobytes() for weight in weights}
        # With --ema the averages, which the optimizer has; the moving statistics are the model's.
        assert kept <= last if trained == "optimizer" else kept & last


def test_it_has_test_figures_and_those_of_the_run_that_selected(selection, refit):
    metrics, before = refit.read_json("metrics.json"), selection.read_json("metrics.json")
    assert "validation" not in metrics
    assert metrics["test"]["clips"] == len(paths(selection, "test"))
    assert set(read_predictions(refit, ["Dark", "Light"])) == {"test"}
    assert metrics["selected_by"] == {
        "run": "selection",
        "git_commit": selection.read_json("config.json")["git_commit"],
        "counts": {part: len(paths(selection, part)) for part in ("train", "validation", "test")},
        "footage": {"clips": 48, "ungrouped": 0, "straddling": 0},
        "monitor": "val_loss",
        "best_epoch": before["best_epoch"],
        "epochs_run": EPOCHS,
        "validation": before["validation"],
        "last_epoch": {name: values[-1] for name, values in selection.read_history().items()},
        "tested": False,
    }


def test_the_report_says_how_it_came_about(selection, refit):
    report = (refit.path / "report.md").read_text()
    assert f"The weights are those of the last of {EPOCHS} epochs; trained for" in report
    accuracy = selection.read_json("metrics.json")["validation"]["accuracy"]
    clips = f"{len(paths(selection, 'validation'))} validation clips: {accuracy:.1%} ("
    assert f"on {len(paths(selection, 'train'))} clips by its accuracy on {clips}" in report
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


def test_it_is_published_with_the_figures_of_the_selection(
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
    assert f"The weights are those of the last of {EPOCHS} epochs. The settings were sel" in card
    assert "That training had been measured on the test clips" not in card
    assert "Nothing was picked by the test clips." in card
    row = f"| validation, the training that selected the settings | {validation['clips']} | "
    assert f"{row}{validation['accuracy']:.1%} | " in card


def test_it_has_a_dash_in_a_comparison_by_validation(selection, refit, capsys):
    runs = [str(selection.path), str(refit.path)]
    assert training.compare.main([*runs, "--part", "validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("| refit |")]
    assert "| group | – | – | – |" in row
    assert any("A dash: a refit, which had its validation clips to train on." in x for x in lines)
    assert training.compare.main(runs) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("| refit |")]
    assert f"| {EPOCHS} of {EPOCHS}, refit |" in row
    assert any("kept its last epoch" in line for line in lines)
    assert not any("are not those of the first run" in line for line in lines)


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


def test_it_may_differ_in_names_bad_files_and_whether_it_was_tested(selection, tmp_path):
    run = RunDirectory.open(shutil.copytree(selection.path, tmp_path / "run"))
    config, metrics = (run.read_json(name) for name in ("config.json", "metrics.json"))
    own = {"data": "moved", "dataset": "UCF101", "skip_bad": True, "git_commit": "newer"}
    now = FitConfig(**{**config, **own, "test": True, "refit": True})
    assert Selection.of_run(run.path, now).record["tested"] is False
    run.write_json("metrics.json", {**metrics, "test": metrics["validation"]})
    assert Selection.of_run(run.path, now).record["tested"] is True


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
    assert Selection.of_run(run.path, now).parts.path == run.path
    run.write_json("config.json", {**config, "mixup": 0.2})
    with pytest.raises(OptionError, match=r"mixup \(0\.2, now null\)"):
        Selection.of_run(run.path, now)


@pytest.mark.parametrize(
    ("column", "status", "message"),
    [
        ("path", 1, "names clips that"),
        ("sha256", 1, "are not those that the run had"),
        ("group", 2, "had its validation clips in other groups: name the same --groups"),
    ],
)
def test_other_clips_than_the_selecting_runs_are_refused(
    column, status, message, selection, dataset, folder, tmp_path, capsys
):
    other = shutil.copytree(selection.path, tmp_path / "other")
    first = selection.read_split("validation", column)[0]
    table = (other / "split.tsv").read_text()
    (other / "split.tsv").write_text(
        table.replace(f"\t{first}\t", "\tX\t")
        .replace(f"\n{first}\t", "\nX\t")
        .replace(f"\t{first}\n", "\tX\n")
    )
    again = ["--refit", str(other), "--out", str(tmp_path / "run")]
    assert training.fit.main([*options(dataset, folder), *again]) == status
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
    assert "That training had been measured on the test clips too, before this one" in card
    assert "Nothing was picked by the test clips" not in card
    assert "Of the training that selected: 2 groups" in card


def test_the_card_of_a_fold_that_was_refit_tells_of_all_folds(refit, dataset, folder, tmp_path):
    run = RunDirectory.open(shutil.copytree(refit.path, tmp_path / "run"))
    metrics = run.read_json("metrics.json")
    whole = {**metrics["selected_by"]["validation"], "clips": 36, "accuracy": 0.75}
    metrics["selected_by"]["folds"] = {**whole, "last_epoch_accuracy": 0.625}
    metrics["selected_by"]["tested"] = True
    run.write_json("metrics.json", metrics)
    arguments = [str(run.path), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main([*arguments, "--cache", str(folder / "cache")]) == 0
    card = (tmp_path / "models/lrcn/1/card.md").read_text()
    assert "| validation, the cross-validation that selected the settings | 36 | 75.0% |" in card
    assert "36 clips were for validation once each, in one of several trainings: 75.0%" in card
    assert "and 62.5% at the last" in card
    assert "One of these trainings had been measured on the test clips too" in card


def test_the_selecting_run_may_go_once_the_training_has_begun(
    selection, refit, dataset, folder, tmp_path, monkeypatch, capsys
):
    gone = shutil.copytree(selection.path, tmp_path / "selection")
    again = [*options(dataset, folder), "--out", str(tmp_path / "run"), "--refit"]
    write = training.learning.loop.write_checkpoint

    def write_and_stop(folder, checkpoint):
        write(folder, checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.learning.loop, "write_checkpoint", write_and_stop)
        assert training.fit.main([*again, str(gone)]) == 130
    shutil.rmtree(gone)
    assert training.fit.main([*again, str(tmp_path / "other"), "--resume"]) == 2
    assert "was begun with --refit selection" in capsys.readouterr().err
    assert training.fit.main([*again, str(gone), "--resume"]) == 0
    ours = RunDirectory.open(tmp_path / "run")
    selected_by = [run.read_json("metrics.json")["selected_by"] for run in (ours, refit)]
    assert selected_by[0] == selected_by[1]
    for name in ("history.csv", "split.tsv"):
        assert (ours.path / name).read_bytes() == (refit.path / name).read_bytes()
    weights = [run.load_model().get_weights() for run in (ours, refit)]
    for mine, wanted in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_a_study_does_not_take_it(selection, dataset, folder, tmp_path, capsys):
    arguments = ["--frames", "2", "--out", str(tmp_path / "study"), *options(dataset, folder)]
    assert training.study.main([*arguments, "--refit", str(selection.path)]) == 2
    assert "--refit: this command decides that itself" in capsys.readouterr().err


def test_begun_without_it_a_run_does_not_go_on_with_it(selection, dataset, folder, capsys):
    again = ["--refit", str(selection.path), "--out", str(selection.path), "--resume"]
    before = json.dumps(selection.read_json("metrics.json"))
    assert training.fit.main([*options(dataset, folder), *again]) == 2
    assert '"refit": true' in capsys.readouterr().err
    assert json.dumps(selection.read_json("metrics.json")) == before


def test_a_refit_that_ended_before_it_had_its_split_begins_anew(selection, tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("selected_by.json", {"run": "selection"})
    assert Selection.of_refit(run, selection.path) is None
    run.write_split(Split((), (), ()), {})
    assert Selection.of_refit(run, selection.path).parts == run


@pytest.mark.parametrize(
    ("protocol", "warnings"),
    [("random", 0), ("file", 1), ("group", 0)],
)
def test_a_group_in_training_and_validation_is_no_fault_of_a_refit(
    protocol, warnings, dataset, tmp_path
):
    index = index_clips(dataset)
    train, validation, test = index.clips[::4], index.clips[1::4], index.clips[2::4]
    run = RunDirectory.create(tmp_path / "run")
    run.write_split(Split(train, validation, test), {})
    usable = UsableClips(index, {}, ())
    split = Selection({}, run).split(usable, protocol)
    assert split.train == (*train, *validation)
    assert split.validation == ()
    assert split.test == test
    left, *found = split.warnings
    assert "does not name 12 of 48 clips" in left
    assert len(found) == warnings
    assert all("12 groups are in more than one part" in warning for warning in found)
    # Once the test clips are of other groups, nothing is wrong any more.
    run = RunDirectory.create(tmp_path / "clean")
    tested = [clip for clip in index.clips if clip.group.endswith("g01")]
    rest = [clip for clip in index.clips if clip not in tested]
    run.write_split(Split(tuple(rest[::2]), tuple(rest[1::2]), tuple(tested)), {})
    assert Selection({}, run).split(usable, protocol).warnings == ()


def test_the_explanation_tells_the_best_epoch_from_the_last():
    bounds = {"low": 0.85, "high": 0.95}
    record = {
        "counts": {"train": 840, "validation": 212, "test": 260},
        "validation": {"accuracy": 0.901, "accuracy_interval": bounds},
        "monitor": "val_loss",
        "best_epoch": 31,
        "epochs_run": 40,
        "last_epoch": {"val_accuracy": 0.925},
        "tested": False,
    }
    text = explain_selection(record)
    assert "in a training on 840 clips by its accuracy on 212 validation clips: 90.1% (85" in text
    assert "at epoch 31 of 40, the best by validation loss, and 92.5% at the last." in text
    assert "trained anew on all 1052." in text
    text = explain_selection({**record, "best_epoch": 40})
    assert "at epoch 40 of 40, the best by validation loss. Figures" in text
