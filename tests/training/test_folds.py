import json
import shutil

import numpy as np
import pytest

import training.fit
from tests.training.plain_clips import write_plain_dataset
from training import report
from training.errors import DataError
from training.folds import main
from training.results.folds import measure_folds
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


def change_answers(out, most):
    """Turn right answers of a copied cross-validation into wrong ones; how many there were."""
    changed = 0
    for name in NAMES:
        table = out / name / "predictions.tsv"
        header, *rows = table.read_text().splitlines()
        for place, row in enumerate(rows):
            cells = row.split("\t")
            if cells[2] == cells[4] and changed < most:
                other = "Dark" if cells[2] == "Light" else "Light"
                rows[place] = "\t".join([*cells[:4], other, *reversed(cells[5:])])
                changed += 1
        table.write_text("\n".join([header, *rows, ""]))
    return changed


def change_config(out, **settings):
    for name in NAMES:
        config = out / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


def test_other_settings_are_told_apart_clip_by_clip(finished, dataset, tmp_path, capsys):
    worse = shutil.copytree(finished, tmp_path / "worse")
    assert change_answers(worse, 3) == 3
    change_config(worse, weight_decay=4.0)
    stamps = [(finished / name / "model.keras").stat().st_mtime_ns for name in NAMES]
    assert folds(dataset, finished, "--against", str(worse), str(finished)) == 0
    assert capsys.readouterr().out.count("finished before") == len(NAMES)
    assert stamps == [(finished / name / "model.keras").stat().st_mtime_ns for name in NAMES]
    found = json.loads((finished / "folds.json").read_text())
    other, same = found["against"]
    assert other["difference"] == pytest.approx(3 / found["all"]["clips"])
    assert other["accuracy"] == pytest.approx(found["all"]["accuracy"] - other["difference"])
    assert (other["right_only_here"], other["right_only_there"]) == (3, 0)
    assert other["interval"]["low"] <= other["difference"] <= other["interval"]["high"]
    assert other["last_epoch_difference"] == 0
    assert same["difference"] == same["interval"]["low"] == same["interval"]["high"] == 0
    text = (finished / "folds.md").read_text()
    share = f"{other['accuracy']:.1%} | {100 * other['difference']:+.1f}"
    assert f"| worse | weight_decay (4.0, 0.0) | {share} |" in text
    assert "| plain | nothing |" in text


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_other_clips_do_not_compare_but_the_report_is_written(finished, dataset, tmp_path, capsys):
    out, other = (shutil.copytree(finished, tmp_path / name) for name in ("out", "other"))
    before = (out / "folds.md").read_text()
    (out / "folds.md").unlink()
    for name in NAMES:
        replace_in(other / name / "split.tsv", "v_Dark_g01_c01", "v_Dark_g01_c07")
        predictions = other / name / "predictions.tsv"
        predictions.write_text(predictions.read_text().replace("v_Dark_g01_c01", "v_Dark_g01_c07"))
    assert folds(dataset, out, "--against", str(other)) == 1
    error = capsys.readouterr().err
    assert f"{other} has other clips" in error
    assert "--seed" in error
    assert (out / "folds.md").read_text().splitlines()[0] == before.splitlines()[0]


def test_what_is_no_cross_validation_is_refused_before_anything_is_trained(
    dataset, tmp_path, capsys
):
    assert folds(dataset, tmp_path / "folds", "--against", str(tmp_path)) == 1
    assert f"{tmp_path} is not a finished cross-validation" in capsys.readouterr().err
    assert not (tmp_path / "folds").exists()


def test_an_answer_that_is_missing_is_told(finished, dataset, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    table = out / "fold-2/predictions.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert folds(dataset, out) == 1
    assert "does not have one answer for each clip" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_folds_of_files_that_changed_are_not_put_together(
    part, finished, dataset, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "changed")
    split = out / "fold-4/split.tsv"
    line = next(row for row in split.read_text().splitlines() if f"\t{part}\t" in row)
    replace_in(split, line, f"{line[:-64]}{'0' * 64}")
    assert folds(dataset, out) == 1
    assert f"{out / 'fold-4'} is of other clips" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--epochs", "3"), ("--weight-decay", "4"), ("--seed", "1")])
def test_finished_folds_are_held_to_their_options(option, finished, dataset, capsys):
    before = (finished / "folds.md").read_text()
    assert folds(dataset, finished, *option) == 2
    assert "its config.json would be another" in capsys.readouterr().err
    assert (finished / "folds.md").read_text() == before


def test_other_options_are_refused_before_a_fold_is_trained_with_them(
    finished, dataset, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "half")
    for name in NAMES[3:]:
        shutil.rmtree(out / name)
    assert folds(dataset, out, "--seed", "5") == 2
    assert "fold-2 cannot be resumed, its config.json would be another" in capsys.readouterr().err
    assert not (out / "fold-4").exists()


def test_folds_with_other_settings_are_not_put_together(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "other")
    replace_in(out / "fold-3/config.json", '"batch_size": 16', '"batch_size": 8')
    with pytest.raises(DataError, match=r"fold-3 has other settings than .*: batch_size"):
        measure_folds(out)


def test_what_a_fold_was_warned_of_the_report_tells(finished, dataset, tmp_path):
    out = shutil.copytree(finished, tmp_path / "warned")
    for name in NAMES[:2]:
        replace_in(out / name / "metrics.json", '"warnings": []', '"warnings": ["of its groups"]')
    assert folds(dataset, out) == 0
    assert (out / "folds.md").read_text().count("**Warning:** of its groups") == 1


def test_a_data_set_with_too_few_groups_is_refused_before_a_fold_is_trained(
    dataset, tmp_path, capsys
):
    few = shutil.copytree(dataset, tmp_path / "few")
    for clip in few.glob("*/*_g0[78]_*"):
        clip.unlink()
    out = tmp_path / "folds"
    assert folds(few, out) == 1
    assert "each class needs more groups" in capsys.readouterr().err
    assert not list(out.glob("fold-*/model.keras"))


REFIT = (
    *("--model", "lrcn", "--frames", "2", "--epochs", "2", "--batch-size", "16", "--no-augment"),
    *("--schedule", "cosine"),
)


@pytest.fixture
def chosen(finished, tmp_path):
    """A cross-validation whose settings a refit can have."""
    out = shutil.copytree(finished, tmp_path / "chosen")
    change_config(out, schedule="cosine", patience=15)
    return out


def refit(dataset, chosen, out):
    options = ("--data", str(dataset), "--refit", str(chosen / "fold-0"), "--out", str(out))
    return training.fit.main([*options, *REFIT])


def test_a_refit_tells_of_all_folds(chosen, dataset, tmp_path):
    whole = json.loads((chosen / "folds.json").read_text())["all"]
    assert refit(dataset, chosen, tmp_path / "refit") == 0
    record = json.loads((tmp_path / "refit/metrics.json").read_text())["selected_by"]
    assert record["folds"] == whole
    assert not record["tested"]
    text = (tmp_path / "refit/report.md").read_text()
    assert f"{whole['clips']} clips were for validation once each" in text
    assert f"{whole['accuracy']:.1%} of them were right" in text


def test_a_refit_tells_that_another_fold_was_tested(chosen, dataset, tmp_path):
    tested = chosen / "fold-3"
    assert report.main([str(tested), "--data", str(dataset), "--test"]) == 0
    assert refit(dataset, chosen, tmp_path / "refit") == 0
    record = json.loads((tmp_path / "refit/metrics.json").read_text())["selected_by"]
    assert record["tested"]


def test_a_refit_of_folds_of_which_one_is_gone_is_refused(chosen, dataset, tmp_path, capsys):
    shutil.rmtree(chosen / "fold-2")
    assert refit(dataset, chosen, tmp_path / "refit") == 2
    assert "--refit: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["--fold=1", "--split=random", "--split-file=parts.tsv", "--no-test", "--publish=models"],
)
def test_what_the_command_decides_itself_cannot_be_an_option(option, dataset, tmp_path, capsys):
    assert folds(dataset, tmp_path / "folds", option) == 2
    assert f"{option}: this command decides that itself" in capsys.readouterr().err


def test_an_abbreviation_does_not_go_past_the_command(dataset, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        folds(dataset, tmp_path / "folds", "--publis", str(tmp_path / "models"))
    assert "--publis" in capsys.readouterr().err
