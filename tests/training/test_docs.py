"""docs/training.md: the commands that it shows have the options that it names."""

import re
from pathlib import Path

import pytest

import training.card
import training.compare
import training.data.listing
import training.download
import training.export
import training.fit
import training.folds
import training.report
import training.study

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
COMMANDS = {
    "training.card": training.card.main,
    "training.compare": training.compare.main,
    "training.data": training.data.listing.main,
    "training.download": training.download.main,
    "training.export": training.export.main,
    "training.fit": training.fit.main,
    "training.folds": training.folds.main,
    "training.report": training.report.main,
    "training.study": training.study.main,
}

#: They hand the options of their runs on to training.fit.
SERIES = {"training.folds", "training.study"}


def options_of(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command(["--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out))


def test_every_shown_command_has_the_options_it_is_shown_with(capsys):
    shown = re.findall(r"python -m (training\.\w+)((?:[^\n]*\\\n)*[^\n#]*)", PAGE)
    assert {name for name, _ in shown} == set(COMMANDS)
    for name, line in shown:
        used = set(re.findall(r"--[a-z][a-z0-9-]+", line))
        known = options_of(COMMANDS[name], capsys)
        if name in SERIES:
            known |= options_of(training.fit.main, capsys)
        assert used <= known, name


def test_every_named_option_exists(capsys):
    known = set.union(*(options_of(command, capsys) for command in COMMANDS.values()))
    assert set(re.findall(r"--[a-z][a-z0-9-]+", PAGE)) <= known


def test_every_option_for_data_and_augmentation_is_documented(capsys):
    with pytest.raises(SystemExit):
        training.fit.main(["--help"])
    text = capsys.readouterr().out
    for title in ("data", "augmentation"):
        group = re.search(rf"^{title}:\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)[1]
        named = set(re.findall(r"^  (--[a-z][a-z0-9-]+)", group, re.MULTILINE))
        assert len(named) > 5
        assert named - set(re.findall(r"--[a-z][a-z0-9-]+", PAGE)) == set()


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SERIES))
def test_an_abbreviated_option_is_refused(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        COMMANDS[name](["--hel"])
    assert capsys.readouterr().out == ""


def test_help_tells_defaults_where_there_are_some(capsys):
    for command in COMMANDS.values():
        with pytest.raises(SystemExit):
            command(["--help"])
        text = capsys.readouterr().out
        assert not re.search(r"default:\s+(None|False|True|\[\])", text)
        assert "(default" in text or command is not training.fit.main
