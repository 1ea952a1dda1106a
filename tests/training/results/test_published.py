"""A folder of published models, made of a shipped manifest."""

import json
import shutil
from pathlib import Path

import pytest

from training.errors import DataError
from training.results.published import find_published, newest_of_others, next_version
from training.run import RunDirectory

SHIPPED = next((Path(__file__).parents[3] / "models/lrcn").glob("*/manifest.json"))


def publish(models, name, version, **training):
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    record = json.loads(SHIPPED.read_text())
    record |= {"name": name, "version": version, "training": {**record["training"], **training}}
    (folder / "manifest.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def run(tmp_path):
    """The run of the shipped manifest."""
    training = json.loads(SHIPPED.read_text())["training"]
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("config.json", training["config"])
    metrics = {name: training[name] for name in ("best_epoch", "epochs_run")}
    run.write_json("metrics.json", {**metrics, "training_seconds": training["seconds"]})
    return run


def test_a_version_is_never_given_twice_though_older_ones_were_removed(tmp_path):
    assert next_version(tmp_path, "lrcn") == 1
    publish(tmp_path, "lrcn", 3)
    publish(tmp_path, "lrcn", 10)
    publish(tmp_path, "convlstm", 20)
    (tmp_path / "lrcn/.11-staging").mkdir()
    assert next_version(tmp_path, "lrcn") == 11


def test_the_newest_of_each_other_name_and_none_of_ones_own(tmp_path):
    for name, version in (("lrcn", 1), ("convlstm", 9), ("convlstm", 10), ("another", 2)):
        publish(tmp_path, name, version)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README").touch()
    found = newest_of_others(tmp_path, "lrcn")
    assert [(one.manifest.name, one.manifest.version) for one in found] == [
        ("another", 2),
        ("convlstm", 10),
    ]
    shutil.copy(tmp_path / "README", tmp_path / "another/2/manifest.json")
    with pytest.raises(DataError, match=r"another/2 is not a published model"):
        newest_of_others(tmp_path, "lrcn")


def test_the_newest_version_of_this_very_training_is_found_past_those_of_others(run, tmp_path):
    models = tmp_path / "models"
    assert find_published(run, models) is None
    for change in ({"best_epoch": 1}, {"epochs_run": 99}, {"seconds": 1}, {"config": {}}):
        publish(models, "lrcn", next_version(models, "lrcn"), **change)
        assert find_published(run, models) is None
    publish(models, "lrcn", 9)
    wanted = publish(models, "lrcn", 10)
    publish(models, "lrcn", 11, seconds=1)
    (publish(models, "lrcn", 12) / "manifest.json").write_text("{")
    assert find_published(run, models) == wanted
