"""Runs to choose settings by: what --no-test leaves alone, and what comes after the choice."""

import json
import shutil

import pytest

import training.compare
import training.export
import training.fit
import training.report
import training.study
from training.results.measure import measured_parts
from training.run import RunDirectory


def options(dataset, folder):
    return [
        *("--data", str(dataset), "--model", "lrcn", "--epochs", "1", "--no-test"),
        *("--batch-size", "16", "--no-augment", "--height", "16", "--width", "16"),
        *("--cache", str(folder / "cache")),
    ]


@pytest.fixture(scope="module")
def chosen(dataset, tmp_path_factory):
    """A run that left its test clips; not to be changed."""
    folder = tmp_path_factory.mktemp("chosen")
    out = folder / "run"
    assert training.fit.main([*options(dataset, folder), "--frames", "2", "--out", str(out)]) == 0
    return RunDirectory.open(out)


@pytest.fixture
def run(chosen, tmp_path):
    """A copy to change."""
    return RunDirectory.open(shutil.copytree(chosen.path, tmp_path / "run"))


def test_nothing_is_said_of_the_test_clips(chosen):
    metrics = chosen.read_json("metrics.json")
    assert "test" not in metrics
    assert metrics["validation"]["clips"] == len(chosen.read_split("validation", "path"))
    predicted = (chosen.path / "predictions.tsv").read_text()
    for path in chosen.read_split("test", "path"):
        assert path not in predicted
    report = (chosen.path / "report.md").read_text()
    assert "Validation accuracy **" in report
    assert "The test clips were left (--no-test)" in report
    assert "test.png" not in report
    assert not list(chosen.path.glob("*_test.png"))
    shown = {line.split("(")[1].rstrip(")") for line in report.splitlines() if line[:2] == "!["}
    assert shown == {path.name for path in chosen.path.glob("*.png")}


def test_it_is_not_published(chosen, dataset, tmp_path, capsys):
    arguments = [str(chosen.path), "--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert training.export.main(arguments) == 1
    assert f"training.report {chosen.path} --data ... --test" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "run"), "--publish", str(tmp_path / "models")]
    assert training.fit.main([*options(dataset, tmp_path), *out]) == 2
    assert "does not go with --no-test" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_after_the_choice_the_test_clips_are_measured_and_it_can_be_published(
    run, dataset, tmp_path
):
    before = run.read_json("metrics.json")
    assert training.report.main([str(run.path), "--data", str(dataset), "--test"]) == 0
    metrics = run.read_json("metrics.json")
    assert metrics["test"]["clips"] == len(run.read_split("test", "path"))
    assert {name: metrics[name] for name in before} == before
    report = (run.path / "report.md").read_text()
    assert "Test accuracy **" in report
    assert "were left" not in report
    assert not (run.path / "reliability_validation.png").exists()
    models = tmp_path / "models"
    arguments = [str(run.path), "--data", str(dataset), "--publish", str(models)]
    assert training.export.main(arguments) == 0
    assert training.report.main([str(run.path), "--data", str(dataset)]) == 0
    assert run.read_json("metrics.json") == metrics


def test_what_was_tested_stays_so_when_the_run_is_resumed(run, dataset, chosen):
    assert training.report.main([str(run.path), "--data", str(dataset), "--test"]) == 0
    metrics = run.read_json("metrics.json")
    again = ["--frames", "2", "--out", str(run.path), "--resume"]
    assert training.fit.main([*options(dataset, chosen.path.parent), *again]) == 0
    assert run.read_json("metrics.json")["test"] == metrics["test"]
    assert "Test accuracy **" in (run.path / "report.md").read_text()


def test_the_test_clips_are_not_measured_without_the_data(run, capsys):
    assert training.report.main([str(run.path), "--test"]) == 1
    assert "--test wants --data" in capsys.readouterr().err
    assert training.report.main([str(run.path)]) == 0


def test_runs_compare_by_validation_and_have_a_dash_for_the_test(
    chosen, untrained_run, tmp_path, capsys
):
    runs = [str(chosen.path), str(untrained_run.path)]
    figures = [run.read_json("metrics.json") for run in (chosen, untrained_run)]
    for part, wanted in (
        ("validation", [f"{each['validation']['accuracy']:.1%}" for each in figures]),
        ("test", ["–", f"{figures[1]['test']['accuracy']:.1%}"]),
    ):
        out = tmp_path / f"{part}.md"
        assert training.compare.main([*runs, "--part", part, "--out", str(out)]) == 0
        header, _, *rows = [
            [cell.strip() for cell in line.split("|")]
            for line in out.read_text().splitlines()
            if line.startswith("|")
        ]
        place = header.index(f"{part} accuracy")
        assert [row[place] for row in rows] == wanted
    assert "A dash: a run that left its test clips" in (tmp_path / "test.md").read_text()
    assert "to choose by, not to report" in (tmp_path / "validation.md").read_text()
    capsys.readouterr()


def test_a_study_of_such_runs_has_no_test_column(dataset, tmp_path):
    out = tmp_path / "study"
    arguments = ["--frames", "2", "3", "--out", str(out), *options(dataset, tmp_path)]
    assert training.study.main(arguments) == 0
    text = (out / "study.md").read_text()
    assert "validation accuracy" in text
    assert "test accuracy" not in text
    assert "the test clips were left" in text
    rows = json.loads((out / "study.json").read_text())
    assert [row["test_accuracy"] for row in rows] == [None, None]


def test_a_run_begun_without_the_option_goes_on_as_one_that_tests(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json("config.json", {"seed": 0, "git_commit": "old"})
    assert measured_parts(run) == ("validation", "test")
    run.fix_config({"seed": 0, "test": True})
    with pytest.raises(ValueError, match='"test": false'):
        run.fix_config({"seed": 0, "test": False})
