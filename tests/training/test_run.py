import errno
import json
import os
import shutil
import subprocess

import keras
import numpy as np
import pytest

import training.run
from training.data.index import Clip
from training.data.splits import Split
from training.errors import DataError
from training.networks.models import build_lrcn
from training.run import RunDirectory, current_commit


def test_a_run_never_goes_over_another(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_text("config.json", "{}")
    with pytest.raises(DataError, match="already holds a run"):
        RunDirectory.create(tmp_path / "run")


def test_what_a_killed_writer_left_is_no_run_and_goes(tmp_path):
    for path in (tmp_path / ".part.config.json", tmp_path / "lock"):
        path.write_text("x")
    RunDirectory.create(tmp_path)
    run = RunDirectory.resume(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    run.write_text("config.json", "{}")
    (tmp_path / ".part.metrics.json").write_text("x")
    RunDirectory.resume(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "config.json"}


def test_an_unfinished_run_cannot_be_exported(tmp_path):
    RunDirectory.create(tmp_path / "run")
    with pytest.raises(DataError, match="not a finished run"):
        RunDirectory.open(tmp_path / "run")


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    run = RunDirectory.create(tmp_path)
    run.write_json("metrics.json", {"accuracy": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("metrics.json", {"accuracy": float("nan")})
    assert run.read_json("metrics.json") == {"accuracy": 0.5}
    assert json.loads((tmp_path / "metrics.json").read_text())


def test_a_record_that_is_damaged_is_named(tmp_path):
    run = RunDirectory.create(tmp_path)
    run.write_text("metrics.json", "{")
    with pytest.raises(DataError, match=r"metrics\.json is damaged"):
        run.read_json("metrics.json")
    run.write_json("config.json", {"clip_spec": {"frames": 2}})
    with pytest.raises(DataError, match=r"config\.json: clip_spec must be"):
        run.read_clip_spec()


def test_a_part_with_more_or_fewer_clips_is_another(tmp_path):
    clips = tuple(Clip(f"A/{i}.avi", "A", f"A_g{i}") for i in range(3))
    runs = []
    for name, train in (("all", clips), ("fewer", clips[:2])):
        run = RunDirectory.create(tmp_path / name)
        run.write_split(Split(train, (), ()), dict.fromkeys(train, "0f"))
        runs.append(run)
    assert runs[0].has_other_clips(runs[1], "train")
    assert runs[1].has_other_clips(runs[0], "train")
    assert not runs[0].has_other_clips(runs[0], "train")


def test_the_split_comes_back(tmp_path):
    run = RunDirectory.create(tmp_path)
    clips = [Clip(f"A/{i}.avi", "A", f"A_g{i}") for i in range(4)]
    run.write_split(Split(tuple(clips[:2]), (clips[2],), (clips[3],)), {})
    assert run.read_split("train", "path") == ["A/0.avi", "A/1.avi"]
    assert run.read_split("test", "group") == ["A_g3"]


def test_names_in_the_split_come_back_whatever_they_hold(tmp_path):
    run = RunDirectory.create(tmp_path)
    clip = Clip('"A" é/"1.avi', '"A" é', '"g"')
    run.write_split(Split((), (), (clip,)), {clip: "0f"})
    assert run.read_split("test", "path") == [clip.path]
    assert run.read_split("test", "group") == [clip.group]
    assert run.read_split("test", "sha256") == ["0f"]


def test_a_saved_model_answers_as_before(tmp_path):
    keras.utils.set_random_seed(1)
    model = build_lrcn(3, 2)
    run = RunDirectory.create(tmp_path)
    run.save_model(model)
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        RunDirectory.open(tmp_path).load_model()(clips).numpy(), model(clips).numpy()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_model_that_lost_its_bytes_is_named(tmp_path, share):
    run = RunDirectory.create(tmp_path)
    run.save_model(build_lrcn(3, 2))
    content = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"model\.keras is damaged"):
        RunDirectory.open(tmp_path).load_model()


def test_t2_a_model_that_does_not_reach_the_disk_is_not_there(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    run = RunDirectory.create(tmp_path)
    model = build_lrcn(3, 2)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        run.save_model(model)
    assert caught.value.filename == str(tmp_path / "model.keras")
    assert list(tmp_path.iterdir()) == []


PHASE = {"name": "all", "epochs": None, "rate": 1.0}


def test_a_run_that_older_code_began_goes_on_without_the_records_it_lacked(tmp_path):
    run = RunDirectory(tmp_path)
    run.fix_config({"seed": 0, "phases": [PHASE], "git_commit": "old"})
    begun = (tmp_path / "config.json").read_text()
    run.fix_config({"seed": 0, "phases": [{**PHASE, "encoder_blocks": None}], "git_commit": "new"})
    with pytest.raises(DataError, match=r'\+ +"rate": 0\.1'):
        run.fix_config({"seed": 0, "phases": [{**PHASE, "rate": 0.1}], "git_commit": "new"})
    with pytest.raises(DataError, match="cannot be resumed"):
        run.fix_config({"seed": 0, "phases": [PHASE, PHASE], "git_commit": "new"})
    assert (tmp_path / "config.json").read_text() == begun


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder that git knows, as the place of the running code; it has no commit yet."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setattr(training.run, "__file__", str(tmp_path / "run.py"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "TRAINING_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "--quiet")
    return tmp_path


def git(folder, *words):
    who = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_code_and_dirty_with_what_is_not_in_it(repository):
    (repository / "run.py").touch()
    git(repository, "add", "run.py")
    git(repository, "commit", "--quiet", "--no-verify", "-m", "x")
    commit = git(repository, "rev-parse", "HEAD")
    assert current_commit() == commit
    (repository / "new.py").touch()
    assert current_commit() == f"{commit}-dirty"


def test_code_without_a_commit_has_the_one_that_the_image_says(repository, monkeypatch):
    assert current_commit() == "unknown"
    monkeypatch.setenv("TRAINING_COMMIT", "0123abc")
    assert current_commit() == "0123abc"


def test_the_commit_is_a_hash_or_unknown():
    commit = current_commit().removesuffix("-dirty")
    assert commit == "unknown" or len(commit) == 40


def test_without_git_the_commit_is_what_the_image_says(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert current_commit() == "unknown"
    monkeypatch.setenv("TRAINING_COMMIT", "0123abc")
    assert current_commit() == "0123abc"
