import errno
import json
import os
import shutil

import pytest

from training.compare import main
from training.graphs.convert import to_onnx
from training.run import RunDirectory


@pytest.fixture(scope="module")
def compared(untrained_run, tmp_path_factory):
    """(two runs, the Markdown, the JSON)."""
    folder = tmp_path_factory.mktemp("compare")
    other = RunDirectory.open(shutil.copytree(untrained_run.path, folder / "other"))
    config = other.read_json("config.json")
    other.write_json("config.json", {**config, "seed": 9})
    # No run has such a file: it is nothing to go by.
    (other.path / "model.onnx").write_bytes(b"not of this run")
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
    assert metrics["hardware"][0]["processor"] in text


def test_runs_that_were_never_published_have_all_five_columns_of_the_paper(compared):
    runs, text, rows = compared
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = [head.strip() for head in header.split("|")]
    for run, row, line in zip(runs, rows, lines, strict=True):
        graph = to_onnx(run.load_model()).SerializeToString()
        # The names inside count on with every export of a process.
        assert row["onnx_bytes"] == pytest.approx(len(graph), rel=1e-3)
        assert 0 < row["cpu_ms_per_clip"] < 10_000
        cells = dict(zip(heads, (cell.strip() for cell in line.split("|")), strict=True))
        test = run.read_json("metrics.json")["test"]
        assert cells["test accuracy"] == f"{test['accuracy']:.1%}"
        assert cells["precision"] == f"{test['precision']:.1%}"
        assert cells["parameters"] == f"{run.load_model().count_params():,}"
        assert cells["CPU ms a clip"] == f"{row['cpu_ms_per_clip']:.1f}"
        assert cells["ONNX MB"] == f"{row['onnx_bytes'] / 1e6:.1f}"


def test_comparing_leaves_the_runs_as_they_were(untrained_run, compared):
    assert not (untrained_run.path / "model.onnx").exists()


def test_t2_a_table_that_cannot_be_written_leaves_the_old_one(
    untrained_run, tmp_path, monkeypatch, capsys
):
    def disk_full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "table.md"
    out.write_text("old")
    monkeypatch.setattr(os, "fsync", disk_full)
    assert main([str(untrained_run.path), "--out", str(out)]) == 1
    assert f"No space left on device: '{out}'" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_the_markdown_does_not_take_the_name_of_the_json(untrained_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(untrained_run.path), "--out", str(tmp_path / "table.json")])
    assert "--out names the Markdown file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_classes_in_another_order_are_told(untrained_run, tmp_path, capsys):
    other = RunDirectory.open(shutil.copytree(untrained_run.path, tmp_path / "other"))
    config = other.read_json("config.json")
    other.write_json("config.json", {**config, "classes": config["classes"][::-1]})
    assert main([str(untrained_run.path), str(other.path)]) == 0
    assert "**Warning**, other: its classes are not those of the" in capsys.readouterr().out


def test_what_cannot_be_compared_is_an_error_in_words(untrained_run, tmp_path, capsys):
    assert main([str(untrained_run.path), str(untrained_run.path)]) == 1
    assert "named twice" in capsys.readouterr().err
    assert main([str(untrained_run.path), str(tmp_path)]) == 1
    assert f"{tmp_path} is not a finished run" in capsys.readouterr().err
    old = shutil.copytree(untrained_run.path, tmp_path / "old")
    (old / "metrics.json").write_text('{"test": {"accuracy": 0.5}, "validation": {}}')
    assert main([str(untrained_run.path), str(old)]) == 1
    assert "python -m training.report" in capsys.readouterr().err


def test_other_files_under_the_same_names_are_told(untrained_run, tmp_path, capsys):
    paths = untrained_run.read_split("train", "path")
    runs = []
    for name, digest in (("one", "ab"), ("other", "cd")):
        run = RunDirectory.open(shutil.copytree(untrained_run.path, tmp_path / name))
        table = (run.path / "split.tsv").read_text()
        (run.path / "split.tsv").write_text(
            "".join(
                line.rstrip("\n") + (digest if line.startswith(f"{paths[0]}\t") else "") + "\n"
                for line in table.splitlines()
            )
        )
        runs.append(run)
    assert runs[0].has_other_clips(runs[1], "train")
    assert not runs[0].has_other_clips(runs[1], "test")
    assert not runs[0].has_other_clips(untrained_run, "train"), "what is not known says nothing"
    assert main([str(run.path) for run in runs]) == 0
    assert "its train clips are not those of the first run" in capsys.readouterr().out
