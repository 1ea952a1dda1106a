"""A split that only seems to be one of unseen footage is said to be so wherever it is reported."""

import json
import shutil

import pytest

import training.compare
from training.export import main as export
from training.fit import main as fit
from training.report import write_report
from training.results.footage import explain_split, inspect_groups, warn_of_groups
from training.run import RunDirectory

CLAIM = "footage that the network has never seen"


def train(data, folder, *options):
    """(run, card) after an epoch."""
    arguments = ["--data", str(data), "--model", "lrcn", "--frames", "2", "--epochs", "1"]
    arguments += ["--height", "16", "--width", "16", "--no-augment", "--batch-size", "16"]
    arguments += ["--out", str(folder / "run"), "--publish", str(folder / "models"), *options]
    assert fit(arguments) == 0
    return RunDirectory.open(folder / "run"), (folder / "models/lrcn/1/card.md").read_text()


def check_told(run, card, training_warning, figure_warning):
    """The warning is in every record of a run, and the claim in none."""
    for name in ("data.json", "metrics.json"):
        assert any(training_warning in warning for warning in run.read_json(name)["warnings"]), name
    assert f"**Warning:** {training_warning[:5]}" in (run.path / "report.md").read_text()
    assert training_warning in (run.path / "report.md").read_text()
    assert figure_warning in card
    assert CLAIM not in card


def test_clips_without_groups_are_not_called_unseen_footage(dataset, tmp_path):
    data = tmp_path / "data"
    for video in sorted(dataset.glob("*/*")):
        target = data / video.parent.name / video.name.replace("_g", "_h")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, target)
    run, card = train(data, tmp_path, "--split", "group")
    check_told(
        run,
        card,
        "48 of 48 clips have no group in their names",
        "The groups of 48 of 48 clips are not known",
    )


def test_a_table_that_parts_a_group_is_told(dataset, tmp_path):
    parts = {1: "train", 2: "train", 3: "validation", 4: "train", 5: "test", 6: "test"}
    rows = []
    for video in sorted(dataset.glob("*/*")):
        part = parts[int(video.name.split("_g0")[1][0])]
        if "Dark_g05_c01" in video.name:
            part = "train"
        rows.append(f"{video.parent.name}/{video.name}\t{part}\n")
    table = tmp_path / "parts.tsv"
    table.write_text("path\tpart\n" + "".join(rows))
    run, card = train(dataset, tmp_path, "--split", "file", "--split-file", str(table))
    check_told(run, card, "1 groups are in more than one part", "1 groups of clips cut from the")
    assert "Dark_g05 is in test and train" in (run.path / "report.md").read_text()


@pytest.fixture
def ungrouped(untrained_run, tmp_path):
    """A run as an older version left it: nothing tells its groups, and nobody was warned."""
    run = RunDirectory.open(shutil.copytree(untrained_run.path, tmp_path / "ungrouped"))
    rows = [line.split("\t") for line in (run.path / "split.tsv").read_text().splitlines()]
    own = ["\t".join([path, label, path, *rest]) for path, label, _, *rest in rows[1:]]
    run.write_text("split.tsv", "\n".join(["\t".join(rows[0]), *own]) + "\n")
    return run


def test_a_run_of_an_older_version_is_looked_at_anew(ungrouped, untrained_run, dataset, tmp_path):
    counts = inspect_groups(ungrouped)
    assert counts == {"clips": 48, "ungrouped": 48, "straddling": 0}
    assert "are not known" in write_report(ungrouped, {}).read_text()
    arguments = ["--data", str(dataset), "--publish", str(tmp_path / "models")]
    assert export([str(ungrouped.path), *arguments]) == 0
    assert CLAIM not in (tmp_path / "models/lrcn/1/card.md").read_text()
    assert export([str(untrained_run.path), *arguments]) == 0
    assert CLAIM in (tmp_path / "models/lrcn/2/card.md").read_text()


def test_a_comparison_tells_which_run_not_to_trust(ungrouped, untrained_run, tmp_path):
    out = tmp_path / "table.md"
    runs = [str(run.path) for run in (untrained_run, ungrouped)]
    assert training.compare.main([*runs, "--out", str(out)]) == 0
    assert out.read_text().count("**Warning**, ungrouped: The groups of 48 of 48 clips") == 1
    assert out.read_text().count("**Warning**") == 1
    rows = json.loads(out.with_suffix(".json").read_text())
    assert [len(row["warnings"]) for row in rows] == [0, 1]


def test_whoever_names_a_table_of_groups_is_believed(ungrouped):
    config = ungrouped.read_json("config.json")
    ungrouped.write_json("config.json", {**config, "groups": "groups.tsv"})
    assert inspect_groups(ungrouped)["ungrouped"] == 0


def test_a_random_split_promises_nothing_that_could_be_doubted():
    counts = {"clips": 4, "ungrouped": 4, "straddling": 2}
    assert warn_of_groups("random", counts) == []
    assert "on both sides" in explain_split("random", counts)
    assert len(warn_of_groups("file", counts)) == 2
    assert explain_split("file", None) == "The parts are those of a given table."
