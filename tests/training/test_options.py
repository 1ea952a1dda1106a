"""Options that cannot be are refused in one line, with status 2, before anything is decoded."""

import os
import re
import shutil

import pytest

from training.fit import main
from training.options import FitConfig, parse_arguments


def refuse(capsys, dataset, out, *options):
    """What training.fit says to options that cannot be."""
    arguments = [*("--data", str(dataset), "--model", "lrcn", "--frames", "2"), *options]
    # The last of an option counts.
    status = main([*arguments, "--out", str(out), "--cache", str(out.parent / "cache")])
    said = capsys.readouterr()
    assert status == 2
    assert re.fullmatch(r"error: [^\n]+\n", said.err), said.err
    assert "decoding" not in said.out + said.err
    assert not (out.parent / "cache").exists()
    return said.err


def test_the_phases_of_a_pretrained_encoder_can_be_chosen(tmp_path):
    line = ["--data", str(tmp_path), "--out", str(tmp_path), "--model", "lrcn-efficientnet"]
    chosen = parse_arguments([*line, "--frozen-epochs", "2", "--tuned-blocks", "5"])
    phases = FitConfig.of_arguments(chosen, ("a", "b"), "commit").phases
    assert [phase["epochs"] for phase in phases] == [2, None]
    assert [phase["encoder_blocks"] for phase in phases] == [0, 5]
    usual = FitConfig.of_arguments(parse_arguments(line), ("a", "b"), "commit").phases
    assert [phase["epochs"] for phase in usual] == [8, None]
    assert [phase["encoder_blocks"] for phase in usual] == [0, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", "0"), "--frames must be a whole number from 1"),
        (("--frames", "1"), "frames must be at least 2, not 1"),
        (("--frames", "100000"), "--frames must be a whole number from 1"),
        (("--height", "0"), "--height must be a whole number from 1"),
        (("--height", "15"), "lrcn cannot take such clips: height and width must be at least 16"),
        (("--model", "convlstm", "--width", "30"), "must be at least 31, not 64x30"),
        (("--model", "lrcn-efficientnet", "--height", "100"), "multiples of 32, not 100x192"),
        (("--epochs", "0"), "--epochs must be"),
        (("--batch-size", "0"), "--batch-size must be"),
        (("--model", "lrcn-efficientnet", "--epochs", "8"), "more than --frozen-epochs"),
        (
            # Four are left for the second phase.
            ("--model", "lrcn-efficientnet", "--epochs", "12", "--warmup-epochs", "4"),
            "less than the epochs of each phase",
        ),
        (("--frozen-epochs", "2"), "--frozen-epochs and --tuned-blocks are for a network with"),
        (("--model", "lrcn-efficientnet", "--frozen-epochs", "0"), "--frozen-epochs must be"),
        (
            ("--model", "lrcn-efficientnet", "--tuned-blocks", "17"),
            "--tuned-blocks must be 1 to 16",
        ),
        (("--learning-rate", "0"), "--learning-rate must be"),
        (("--learning-rate", "nan"), "--learning-rate must be"),
        (("--learning-rate", "inf"), "--learning-rate must be"),
        (("--patience", "0"), "--patience must be"),
        (("--epochs", "4", "--warmup-epochs", "4"), "--warmup-epochs must be"),
        (("--label-smoothing", "1"), "--label-smoothing must be"),
        (("--weight-decay=-1",), "--weight-decay must be"),
        (("--weight-decay", "inf"), "--weight-decay must be"),
        (("--ema", "1"), "--ema must be"),
        (("--ema", "0.9", "--mixed-precision"), "--ema must be left out"),
        (("--seed=-1",), "--seed must be"),
        (("--jitter", "2"), "jitter must be an odd number"),
        (("--jitter", "100001"), "are possible"),
        (("--least-crop", "0"), "least crop must be"),
        (("--no-flip-classes", "Grey"), "no class Grey"),
        (("--groups", "nowhere.tsv"), "nowhere.tsv, is not a file"),
        (("--classes", "Grey", "Light"), "no folder for the classes Grey"),
        (("--split", "file"), "--split-file"),
        (("--split-file", "parts.tsv"), "--split-file"),
        (("--split", "file", "--split-file", "nowhere.tsv"), "nowhere.tsv is not a file"),
        (("--fold", "5"), "--fold must be 0 to 4"),
        (("--split", "random", "--fold", "1"), "--fold goes with --split group"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_cannot_be_is_named(dataset, tmp_path, capsys, options, message):
    assert message in refuse(capsys, dataset, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--out", "--publish"])
def test_a_folder_that_cannot_be_one_is_named(dataset, tmp_path, capsys, option):
    (tmp_path / "file").touch()
    folders = {"--out": tmp_path / "run", option: tmp_path / "file/below"}
    out = folders.pop("--out")
    options = [text for name, folder in folders.items() for text in (name, str(folder))]
    arguments = ["--data", str(dataset), "--model", "lrcn", "--out", str(out), *options]
    assert main(arguments) == 2
    assert f"error: {option}: {tmp_path / 'file'} is not a folder\n" == capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_models_folder_whose_model_is_a_file_is_named(dataset, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/lrcn").touch()
    message = refuse(capsys, dataset, tmp_path / "run", "--publish", str(tmp_path / "models"))
    assert f"--publish: {tmp_path / 'models/lrcn'} is not a folder" in message


@pytest.mark.parametrize("option", ["--out", "--publish"])
def test_a_folder_that_may_not_be_written_is_named(dataset, tmp_path, capsys, monkeypatch, option):
    # By the answer of the system, since root may write anywhere.
    locked = tmp_path / "locked"
    locked.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    folders = {"--out": tmp_path / "run", option: locked / "a/b"}
    options = [text for name, folder in folders.items() for text in (name, str(folder))]
    assert main(["--data", str(dataset), "--model", "lrcn", *options]) == 2
    assert f"error: {option}: {locked} cannot be written\n" == capsys.readouterr().err


def test_a_directory_that_is_not_empty_is_refused(dataset, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    for options in ((), ("--resume",)):
        message = refuse(capsys, dataset, tmp_path / "mine", *options)
        assert "choose another --out" in message
        assert "--resume" not in message


def test_a_run_of_other_options_is_refused_before_the_decoding(
    untrained_run, dataset, tmp_path, capsys
):
    run = shutil.copytree(untrained_run.path, tmp_path / "run")
    assert "go on with it by --resume" in refuse(capsys, dataset, run)
    status = main(
        ["--data", str(dataset), "--model", "lrcn", "--seed", "5", "--out", str(run), "--resume"]
    )
    assert status == 2
    message = capsys.readouterr().err
    assert "cannot be resumed, its config.json would be another" in message
    assert '+  "seed": 5' in message
    assert "decoding" not in message
    assert not (tmp_path / "cache").exists()


def test_a_damaged_record_of_a_run_is_an_error_in_words(untrained_run, dataset, tmp_path, capsys):
    run = shutil.copytree(untrained_run.path, tmp_path / "run")
    (run / "config.json").write_text("{")
    arguments = ["--data", str(dataset), "--model", "lrcn", "--out", str(run), "--resume"]
    assert main(arguments) == 1
    assert f"{run / 'config.json'} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--groups", "--split-file"])
def test_a_table_that_is_no_text_is_an_error_in_words(dataset, tmp_path, capsys, option):
    (tmp_path / "table").write_bytes(b"path\tpart\tsource_group\n\xff\xfe\t\x00\n")
    split = ("--split", "file") if option == "--split-file" else ()
    arguments = ["--data", str(dataset), "--model", "lrcn", "--frames", "2", *split]
    assert main([*arguments, option, str(tmp_path / "table"), "--out", str(tmp_path / "run")]) == 1
    assert "is no table of tab-separated text" in capsys.readouterr().err


def test_too_few_test_clips_to_publish_are_known_before_the_training(dataset, tmp_path, capsys):
    index = tmp_path / "parts.tsv"
    rows = [
        f"{label}/v_{label}_g0{group}_c01.mp4\t{part}\n"
        for label in ("Dark", "Light")
        for group, part in ((1, "train"), (2, "validation"), (3, "test"))
    ]
    index.write_text("path\tpart\n" + "".join(rows))
    arguments = ["--data", str(dataset), "--model", "lrcn", "--frames", "2", "--split", "file"]
    arguments += ["--split-file", str(index), "--publish", str(tmp_path / "models")]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    assert "publishing wants 8 test clips or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_cache_within_the_run_is_refused(dataset, tmp_path, capsys):
    options = ("--cache", str(tmp_path / "run/cache"))
    line = ["--data", str(dataset), "--model", "lrcn", "--out", str(tmp_path / "run"), *options]
    assert main(line) == 2
    assert "--cache: choose a folder that is not in that of the run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_current_folder_has_its_cache_beside_it(dataset, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    options = ("--frames", "2", "--epochs", "1", "--batch-size", "16", "--no-augment")
    size = ("--height", "16", "--width", "16")
    assert main(["--data", str(dataset), "--model", "lrcn", "--out", ".", *options, *size]) == 0
    assert (tmp_path / "cache").is_dir()
    assert (tmp_path / "run/report.md").exists()


def test_a_data_folder_named_by_a_dot_gives_the_data_set_its_name(tmp_path, monkeypatch):
    (tmp_path / "Birds").mkdir()
    monkeypatch.chdir(tmp_path / "Birds")
    chosen = parse_arguments(["--data", ".", "--out", "../run", "--model", "lrcn"])
    assert FitConfig.of_arguments(chosen, ("a", "b"), "commit").dataset == "Birds"


@pytest.mark.parametrize("option", ["--out", "--cache", "--publish"])
def test_nothing_is_written_among_the_clips(dataset, tmp_path, capsys, option):
    line = ["--data", str(dataset), "--model", "lrcn", "--out", str(tmp_path / "run")]
    assert main([*line, option, str(dataset / "inside")]) == 2
    wanted = f"{option}: choose a folder that is not in that of the clips"
    assert wanted in capsys.readouterr().err
    assert not (dataset / "inside").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--out", "--data", "--dataset", "--groups", "--split-file"])
def test_a_name_that_is_not_utf_8_is_refused_before_the_training(tmp_path, capsys, option):
    line = ["--data", str(tmp_path), "--model", "lrcn", "--out", str(tmp_path / "run")]
    split = ("--split", "file") if option == "--split-file" else ()
    assert main([*line, *split, option, str(tmp_path / "caf\udce9")]) == 2
    assert f"{option}: the name is not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
