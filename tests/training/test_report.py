import json
import shutil

import numpy as np
import pytest

from training.errors import DataError
from training.report import main, write_report
from training.results.measure import measure_run, read_metrics
from training.results.predictions import read_predictions
from training.run import RunDirectory


@pytest.fixture
def run(untrained_run, tmp_path):
    """A copy to change."""
    return RunDirectory.open(shutil.copytree(untrained_run.path, tmp_path / "run"))


def answer_rightly(run):
    """Answers as of a perfect network."""
    classes = run.read_json("config.json")["classes"]
    eye = np.eye(len(classes), dtype=np.float32) * 0.98 + 0.01
    return {
        part: eye[[classes.index(label) for label in run.read_split(part, "class")]]
        for part in ("validation", "test")
    }


def test_the_report_states_the_figures_and_shows_every_plot(untrained_run):
    text = (untrained_run.path / "report.md").read_text()
    metrics = untrained_run.read_json("metrics.json")
    test = metrics["test"]
    for phrase in (
        f"Test accuracy **{test['accuracy']:.1%}**",
        f"on {test['clips']} clips",
        "Best epoch 2 of 3, by validation loss; trained for 2 min on",
        metrics["hardware"][0]["processor"],
        "resamples of whole groups",
        f"| expected calibration error | {test['calibration']['expected_error']:.1%} |",
        f"| train | {len(untrained_run.read_split('train', 'path'))} |",
    ):
        assert phrase in text
    shown = {line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    drawn = {path.name for path in untrained_run.path.glob("*.png")}
    assert shown == drawn
    assert len(shown) == 5


def test_drops_of_the_rate_are_marked_unless_the_schedule_is_made_of_them(run):
    history = (run.path / "history.csv").read_text().splitlines()
    names = history[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in history[1:]]
    for row, rate in zip(rows, ("0.1", "0.02", "0.02"), strict=True):
        row["learning_rate"] = rate
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (run.path / "history.csv").write_text("\n".join(lines))
    config = run.read_json("config.json")
    curves = {}
    for schedule in ("plateau", "cosine"):
        run.write_json("config.json", {**config, "schedule": schedule})
        write_report(run, {})
        curves[schedule] = (run.path / "curves.png").read_bytes()
    assert curves["plateau"] != curves["cosine"]


def test_the_report_lists_the_most_confident_mistakes_first(untrained_run):
    test = read_predictions(untrained_run, ["Dark", "Light"])["test"]
    (first, *_) = test.confident_mistakes(1)
    lines = (untrained_run.path / "report.md").read_text().splitlines()
    heading = lines.index("| clip | called | probability | of its own class |")
    assert lines[heading + 2].startswith(f"| {test.paths[first]} | ")


def test_a_network_without_mistakes_has_no_picture_of_them(run):
    record = {**run.read_json("metrics.json"), **measure_run(run, answer_rightly(run))}
    run.write_json("metrics.json", record)
    write_report(run, {})
    text = (run.path / "report.md").read_text()
    assert "every test clip was recognised" in text
    assert "mistakes_test.png" not in text
    assert not (run.path / "mistakes_test.png").exists()


def test_the_command_writes_the_report_anew_without_the_data(run, capsys):
    wanted = (run.path / "report.md").read_text()
    (run.path / "report.md").unlink()
    assert main([str(run.path)]) == 0
    assert (run.path / "report.md").read_text() == wanted


def test_a_run_measured_by_older_code_is_measured_anew(run, dataset, capsys):
    now = run.read_json("metrics.json")
    old = {part: {"accuracy": now[part]["accuracy"]} for part in ("validation", "test")}
    run.write_json("metrics.json", {**now, **old})
    (run.path / "predictions.tsv").unlink()
    with pytest.raises(DataError, match="older version"):
        read_metrics(run)
    assert main([str(run.path)]) == 1
    assert "name --data" in capsys.readouterr().err
    assert main([str(run.path), "--data", str(dataset)]) == 0
    assert json.loads((run.path / "metrics.json").read_text()) == now


def test_what_is_no_finished_run_is_an_error_in_words(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "not a finished run" in capsys.readouterr().err


def test_a_cache_among_the_clips_is_refused(run, dataset, capsys):
    assert main([str(run.path), "--data", str(dataset), "--cache", str(dataset / "cache")]) == 1
    assert "--cache: choose a folder that is not in that of the clips" in capsys.readouterr().err
    assert not (dataset / "cache").exists()
