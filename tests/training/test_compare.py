import json
import shutil

import onnx
import pytest

from training.compare import main
from training.graphs import to_onnx
from training.run import RunDirectory


@pytest.fixture(scope="module")
def compared(untrained_run, tmp_path_factory):
    """(two runs, the Markdown, the JSON): the second run holds its own ONNX graph."""
    folder = tmp_path_factory.mktemp("compare")
    other = RunDirectory.open(shutil.copytree(untrained_run.path, folder / "other"))
    config = other.read_json("config.json")
    other.write_json("config.json", {**config, "seed": 9})
    graph = to_onnx(other.load_model())
    graph.doc_string = "of this very file" * 1000
    onnx.save(graph, other.path / "model.onnx")
    out = folder / "reports/table.md"
    assert main([str(untrained_run.path), str(other.path), "--out", str(out)]) == 0
    return (
        (untrained_run, other),
        out.read_text(),
        json.loads(out.with_suffix(".json").read_text()),
    )


def test_every_run_has_its_row_in_the_order_named(compared):
    runs, text, rows = compared
    assert [row["run"] for row in rows] == [str(run.path) for run in runs]
    assert [row["seed"] for row in rows] == [0, 9]
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table] == ["| run", "| run", "| other"]


def test_the_figures_are_those_of_the_runs(compared):
    (run, _), text, (row, _) = compared
    metrics = run.read_json("metrics.json")
    assert row["test_accuracy"] == metrics["test"]["accuracy"]
    assert row["test_precision"] == metrics["test"]["precision"]
    assert row["test_interval"] == metrics["test"]["accuracy_interval"]
    assert row["parameters"] == run.load_model().count_params()
    assert row["counts"] == {
        part: len(run.read_split(part, "path")) for part in ("train", "validation", "test")
    }
    for phrase in (f"{metrics['test']['accuracy']:.1%}", f"{row['parameters']:,}", "2 of 3"):
        assert phrase in text
    assert metrics["hardware"]["processor"] in text


def test_the_cost_is_measured_and_a_graph_that_is_there_is_taken(compared):
    _, _, rows = compared
    assert all(0 < row["cpu_ms_per_clip"] < 10_000 for row in rows)
    assert rows[1]["onnx_bytes"] > rows[0]["onnx_bytes"] + 17_000 - 1_000


def test_comparing_leaves_the_runs_as_they_were(untrained_run, compared):
    assert not (untrained_run.path / "model.onnx").exists()


def test_what_cannot_be_compared_is_an_error_in_words(untrained_run, tmp_path, capsys):
    assert main([str(untrained_run.path), str(untrained_run.path)]) == 1
    assert "named twice" in capsys.readouterr().err
    assert main([str(untrained_run.path), str(tmp_path)]) == 1
    assert f"{tmp_path} is not a finished run" in capsys.readouterr().err
    old = shutil.copytree(untrained_run.path, tmp_path / "old")
    (old / "metrics.json").write_text('{"test": {"accuracy": 0.5}, "validation": {}}')
    assert main([str(untrained_run.path), str(old)]) == 1
    assert "python -m training.report" in capsys.readouterr().err
