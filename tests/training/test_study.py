import json
import shutil

import pytest

from training.run import RunDirectory
from training.study import main

FRAMES = ("2", "3")


def study(dataset, out, *extra, frames=FRAMES):
    return main(
        [
            *("--frames", *frames, "--out", str(out), "--data", str(dataset), "--model", "lrcn"),
            *("--epochs", "1", "--batch-size", "16", "--no-augment", *extra),
        ]
    )


def refuse(run, split, digests):
    raise OSError(28, "No space left on device", str(run.path))


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A study that ended in its first point, and was then carried through by the same command."""
    out = tmp_path_factory.mktemp("study") / "frames"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "write_split", refuse)
        assert study(dataset, out) == 1
    (half_done,) = out.glob("frames-*")
    assert (half_done / "config.json").exists()
    assert study(dataset, out) == 0
    return out


def test_every_point_is_a_run_on_the_same_clips(finished):
    splits = {(finished / f"frames-0{frames}/split.tsv").read_text() for frames in FRAMES}
    assert len(splits) == 1
    for frames in FRAMES:
        point = finished / f"frames-0{frames}"
        config = json.loads((point / "config.json").read_text())
        assert config["clip_spec"]["frames"] == int(frames)
        assert (point / "report.md").exists()


def test_the_table_goes_by_frames_and_the_plot_beside_it(finished):
    rows = json.loads((finished / "study.json").read_text())
    assert [row["frames"] for row in rows] == [2, 3]
    text = (finished / "study.md").read_text()
    for row in rows:
        assert f"| {row['frames']} | {row['validation_accuracy']:.1%} |" in text
        assert f"| {row['cpu_ms_per_clip']:.1f} |" in text
    assert "![Accuracy and cost](study.png)" in text
    assert (finished / "study.png").stat().st_size > 1000


def test_finished_points_are_not_run_again(finished, dataset, capsys):
    models = [finished / f"frames-0{frames}/model.keras" for frames in FRAMES]
    before = [model.stat().st_mtime_ns for model in models]
    assert study(dataset, finished, frames=reversed(FRAMES)) == 0
    assert capsys.readouterr().out.count("finished before") == 2
    assert [model.stat().st_mtime_ns for model in models] == before


def test_other_options_do_not_go_into_the_same_study(finished, dataset, capsys):
    before = (finished / "study.md").read_text()
    assert study(dataset, finished, "--seed", "5") == 2
    assert "its config.json would be another" in capsys.readouterr().err
    assert (finished / "study.md").read_text() == before


def test_points_on_other_clips_are_not_put_beside_each_other(finished, dataset, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "frames")
    split = out / "frames-03/split.tsv"
    split.write_text(split.read_text().replace("\ttest\t", "\ttrain\t", 1))
    assert study(dataset, out) == 1
    assert "different train and test clips" in capsys.readouterr().err


def test_what_the_study_decides_itself_cannot_be_an_option(dataset, tmp_path, capsys):
    assert study(dataset, tmp_path / "frames", "--publish", "models") == 2
    assert "--publish: this command decides that itself" in capsys.readouterr().err


def test_an_abbreviation_does_not_go_past_the_study(dataset, tmp_path, capsys):
    models = tmp_path / "models"
    with pytest.raises(SystemExit, match="2"):
        study(dataset, tmp_path / "frames", "--publis", str(models))
    assert "--publis" in capsys.readouterr().err
    assert not models.exists()


def test_a_point_that_was_ended_before_its_report_gets_it(finished, dataset, tmp_path):
    out = shutil.copytree(finished, tmp_path / "frames")
    report = out / "frames-02/report.md"
    report.unlink()
    assert study(dataset, out) == 0
    assert report.exists()


def test_a_run_that_fails_ends_the_study(tmp_path, capsys):
    assert study(tmp_path / "nowhere", tmp_path / "frames") == 1
    error = capsys.readouterr().err
    assert "nowhere is not a folder" in error
    assert "frames-02 failed" in error
    assert not (tmp_path / "frames").exists()


def test_a_study_by_several_workers_is_refused(dataset, tmp_path, capsys, monkeypatch):
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert study(dataset, tmp_path / "frames") == 2
    assert "a series of runs trains alone: unset TF_CONFIG" in capsys.readouterr().err
    assert not (tmp_path / "frames").exists()
