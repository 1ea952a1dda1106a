import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import CLIPS_A_GROUP, GROUPS
from training.data.listing import main


def test_the_index_is_printed_for_a_person(dataset, capsys):
    assert main([str(dataset)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["class", "clips", "groups", "seconds", "shortest", "longest"]
    assert lines[1] == ["Dark", "24", "6", "14", "0.6", "0.6"]
    assert lines[3] == ["all", "48", "12", "29"]
    assert len(lines) == 4


def test_the_index_is_printed_for_a_program(dataset, capsys):
    assert main([str(dataset), "--json", "--classes", "Light", "Dark"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in record["classes"]] == ["Light", "Dark"]
    for row in record["classes"]:
        assert row["clips"] == GROUPS * CLIPS_A_GROUP
        assert row["groups"] == GROUPS
        assert row["duration_s"] == pytest.approx(0.6 * row["clips"])
    assert record["bad"] == []
    assert record["warnings"] == []


def test_t4_bad_and_ignored_files_are_listed_and_tell_a_script(dataset, tmp_path, capsys):
    for label in ("Dark", "Light"):
        (tmp_path / label).mkdir()
        clip = min((dataset / label).iterdir())
        (tmp_path / label / "one.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "Dark/two.mp4").write_bytes((tmp_path / "Dark/one.mp4").read_bytes())
    (tmp_path / "Light/empty.mp4").touch()
    (tmp_path / "Light/notes.txt").write_text("none")
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "bad files: 2" in out
    assert "Light/empty.mp4: The file is empty." in out
    assert "Dark/two.mp4: The same bytes as Dark/one.mp4." in out
    assert "no videos, ignored: 1\n  Light/notes.txt" in out
    assert "warning: 4 of 4 clips have no group" in out


def test_a_folder_that_is_no_data_set_is_an_error_in_words(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_python_m_training_data_prints_the_index_without_tensorflow(dataset):
    code = (
        "import runpy, sys; sys.argv = ['data', sys.argv[1]];"
        "done = None\n"
        "try: runpy.run_module('training.data', run_name='__main__')\n"
        "except SystemExit as exit: done = exit.code\n"
        "assert done == 0 and 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(dataset)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "all       48" in done.stdout


def test_the_real_clips_are_all_usable(shared, capsys):
    folder = shared / "clips"
    classes = ["ApplyLipstick", "BalanceBeam"]
    arguments = ["--json", "--groups", str(folder / "MANIFEST.tsv"), "--classes", *classes]
    assert main([str(folder), *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["clips"], row["groups"]) for row in record["classes"]] == [(104, 23), (97, 20)]
