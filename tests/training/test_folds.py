import json
import shutil

import numpy as np
import pytest

from tests.training.plain_clips import write_plain_dataset
from training.folds import main
from training.run import RunDirectory

NAMES = [f"fold-{fold}" for fold in range(5)]


def folds(dataset, out, *extra):
    options = ("--out", str(out), "--data", str(dataset), "--model", "lrcn", "--frames", "2")
    return main([*options, "--epochs", "2", "--batch-size", "16", "--no-augment", *extra])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two classes with groups enough for five folds beside the test clips."""
    return write_plain_dataset(tmp_path_factory.mktemp("dataset"), groups=8, clips=2)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "plain"
    assert folds(dataset, out) == 0
    return out


def answers_of(run):
    """Of each validation clip whether it was recognised, as predictions.tsv has it."""
    header, *rows = [
        line.split("\t") for line in (run / "predictions.tsv").read_text().splitlines()
    ]
    clips = [dict(zip(header, row, strict=True)) for row in rows]
    assert {clip["part"] for clip in clips} == {"validation"}
    return {clip["path"]: clip["class"] == clip["predicted"] for clip in clips}


def test_each_clip_that_is_not_for_testing_is_measured_once(finished):
    by_fold = [answers_of(finished / name) for name in NAMES]
    right = {path: value for fold in by_fold for path, value in fold.items()}
    assert len(right) == sum(map(len, by_fold))
    run = RunDirectory.open(finished / "fold-3")
    assert set(right) == {*run.read_split("train", "path"), *run.read_split("validation", "path")}
    found = json.loads((finished / "folds.json").read_text())
    assert found["all"]["clips"] == len(right)
    assert found["all"]["accuracy"] == pytest.approx(np.mean(list(right.values())))
    assert [row["clips"] for row in found["folds"]] == [len(fold) for fold in by_fold]


def test_the_last_epoch_is_measured_too(finished):
    found = json.loads((finished / "folds.json").read_text())
    right = 0
    for name, row in zip(NAMES, found["folds"], strict=True):
        header, *_, last = (finished / name / "history.csv").read_text().splitlines()
        accuracy = float(last.split(",")[header.split(",").index("val_accuracy")])
        assert row["last_epoch_accuracy"] == accuracy
        right += accuracy * row["clips"]
    assert found["all"]["last_epoch_accuracy"] == pytest.approx(right / found["all"]["clips"])


def test_the_test_clips_are_left(finished):
    for name in NAMES:
        assert "test" not in json.loads((finished / name / "metrics.json").read_text())
    text = (finished / "folds.md").read_text()
    left = len(RunDirectory.open(finished / "fold-0").read_split("test", "path"))
    assert f"{left} clips were left for testing" in text
    whole = json.loads((finished / "folds.json").read_text())["all"]
    assert f"| all | {whole['clips']} | {whole['accuracy']:.1%} |" in text


def change_answers(out, least):
    """Another cross-validation of the same clips: of `least` right answers it has wrong ones."""
    changed = 0
    for name in NAMES:
        table = out / name / "predictions.tsv"
        header, *rows = table.read_text().splitlines()
        for place, row in enumerate(rows):
            cells = row.split("\t")
            if cells[2] == cells[4] and changed < least:
                other = "Dark" if cells[2] == "Light" else "Light"
                rows[place] = "\t".join([*cells[:4], other, *reversed(cells[5:])])
                changed += 1
        table.write_text("\n".join([header, *rows, ""]))
    return changed


def test_other_settings_are_told_apart_clip_by_clip(finished, dataset, tmp_path, capsys):
    worse = shutil.copytree(finished, tmp_path / "worse")
    changed = change_answers(worse, 3)
    assert changed == 3
    stamps = [(finished / name / "model.keras").stat().st_mtime_ns for name in NAMES]
    assert folds(dataset, finished, "--against", str(worse), str(finished)) == 0
    assert capsys.readouterr().out.count("finished before") == len(NAMES)
    assert stamps == [(finished / name / "model.keras").stat().st_mtime_ns for name in NAMES]
    found = json.loads((finished / "folds.json").read_text())
    other, same = found["against"]
    assert other["difference"] == pytest.approx(3 / found["all"]["clips"])
    assert other["accuracy"] == pytest.approx(found["all"]["accuracy"] - other["difference"])
    assert (other["only_right_here"], other["only_right_there"]) == (3, 0)
    assert other["interval"]["low"] <= other["difference"] <= other["interval"]["high"]
    assert same["difference"] == same["interval"]["low"] == same["interval"]["high"] == 0
    assert f"{100 * other['difference']:+.1f}" in (finished / "folds.md").read_text()


def test_other_clips_do_not_compare(finished, dataset, tmp_path, capsys):
    other = shutil.copytree(finished, tmp_path / "other")
    table = other / "fold-2/predictions.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert folds(dataset, finished, "--against", str(other)) == 1
    assert f"{other} has other clips" in capsys.readouterr().err


def test_what_is_no_cross_validation_is_refused_before_anything_is_trained(
    dataset, tmp_path, capsys
):
    assert folds(dataset, tmp_path / "folds", "--against", str(tmp_path)) == 1
    assert f"{tmp_path} is not a finished cross-validation" in capsys.readouterr().err
    assert not (tmp_path / "folds").exists()


def test_folds_of_data_that_changed_are_not_put_together(finished, dataset, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "changed")
    split = out / "fold-4/split.tsv"
    split.write_text(split.read_text().replace("\ttest\t", "\ttrain\t", 1))
    assert folds(dataset, out) == 1
    assert "did it change?" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--fold=1", "--split=random", "--no-test", "--publish=models"])
def test_what_the_command_decides_itself_cannot_be_an_option(option, dataset, tmp_path, capsys):
    assert folds(dataset, tmp_path / "folds", option) == 1
    assert f"{option}: this command decides that itself" in capsys.readouterr().err
