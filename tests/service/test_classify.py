"""python -m service.classify: what a person and a script see who run it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.classify import classify_files, main
from service.decoding import DecodePool
from service.metrics import Metrics
from service.runtime import Collaborators, build_decoders
from service.settings import Settings
from tests.open_files import expect_nothing_left_open
from tests.service.process import WAIT_S, started


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Classify = Callable[..., Ran]


@pytest.fixture
def classify(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Classify:
    """classify(*arguments): run the command in this process."""
    for name in os.environ:
        if name.startswith("HAR_"):  # the tests' own, which the command would wonder at
            monkeypatch.delenv(name)
    monkeypatch.setenv("HAR_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("HAR_DEVICE", "cpu")

    def run(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def clips(tmp_path: Path, make_clip) -> Path:
    """a.mp4 is red, b.avi green, deeper/c (no suffix) blue; beside them what is no video."""
    folder = tmp_path / "clips"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(make_clip("red"))
    (folder / "b.avi").write_bytes(make_clip("green", container="avi"))
    (folder / "deeper" / "c").write_bytes(make_clip("blue"))
    (folder / "deeper" / "notes.mp4").write_text("no video, whatever its name")
    (folder / ".hidden.mp4").write_bytes(make_clip("red"))
    return folder


def test_a_file_gets_a_line_with_its_label(classify, clips: Path) -> None:
    ran = classify(clips / "a.mp4")
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(rf"{clips}/a\.mp4  red +\d+\.\d %  (green|blue) .* %\n", ran.out)


def test_the_answer_is_the_services_own(classify, clips: Path, service) -> None:
    served = service.predict((clips / "a.mp4").read_bytes(), model="tiny").json()
    record = json.loads(classify(clips / "a.mp4", "--model", "tiny", "--json").out)
    assert record.pop("file") == str(clips / "a.mp4")
    assert set(record.pop("timings_ms")) == {"decode", "queue", "infer"}
    del served["timings_ms"]
    assert record == served


def test_when_nobody_reads_on_the_rest_is_not_classified(
    monkeypatch: pytest.MonkeyPatch, models_dir: Path, tmp_path: Path, clips: Path
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    told: list[Metrics] = []

    def build(settings: Settings, metrics: Metrics) -> DecodePool:
        told.append(metrics)
        return build_decoders(settings, metrics)

    paths = [clips / "a.mp4"] * 30
    options = Namespace(model=None, version=None, format="json", top_k=None)
    settings = Settings(models_dir=models_dir, spool_dir=tmp_path, device="cpu", decoders=1)
    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        asyncio.run(classify_files(paths, options, settings, Collaborators(build_decoders=build)))
    decoded = told[0].registry.get_sample_value("har_video_duration_seconds_count")
    assert 1 <= decoded < len(paths)


def test_a_folder_stands_for_the_videos_below_it_whatever_their_names(
    classify, clips: Path
) -> None:
    ran = classify(clips)
    assert ran.code == 0
    assert [line.split()[:2] for line in ran.lines] == [
        [f"{clips}/a.mp4", "red"],
        [f"{clips}/b.avi", "green"],
        [f"{clips}/deeper/c", "blue"],
    ]
    assert "left out of folders, because they are no videos: 1\n" in ran.err
    assert "3 of 3 files classified" in ran.err


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.mp4", ["a.mp4"]), ("**/c", ["deeper/c"]), ("[ab].*", ["a.mp4", "b.avi"])],
)
def test_a_pattern_stands_for_what_it_matches(classify, clips: Path, pattern, names) -> None:
    ran = classify(clips / pattern)
    assert ran.code == 0
    assert [line.split()[0] for line in ran.lines] == [f"{clips}/{name}" for name in names]


def test_a_file_named_like_a_pattern_is_itself(classify, clips: Path, red_clip) -> None:
    (clips / "[a].mp4").write_bytes(red_clip)
    assert classify(clips / "[a].mp4").out.startswith(f"{clips}/[a].mp4  red")


def test_a_file_that_is_named_twice_is_classified_once(classify, clips: Path) -> None:
    assert len(classify(clips / "a.mp4", clips / "*.mp4", clips / "a.mp4").lines) == 1


def test_bad_files_are_told_in_words_and_do_not_stop_the_others(classify, clips: Path) -> None:
    fifo = clips / "pipe"
    os.mkfifo(fifo)
    (clips / "cut.mp4").write_bytes((clips / "a.mp4").read_bytes()[:300])
    names = ["deeper/notes.mp4", "gone.mp4", "cut.mp4", "pipe", "no*match", "a.mp4"]
    ran = classify(*(clips / name for name in names))
    assert ran.code == 1
    told = [line.removeprefix(str(clips)).strip("/") for line in ran.lines]
    assert [line.split("  ")[0] for line in told] == names
    assert re.search(r"failed: Not a known video container\. The file is not a video", told[0])
    assert told[1].endswith("failed: File cannot be read. No such file or directory.")
    assert "failed: Video cannot be decoded. " in told[2]
    assert told[3].endswith("failed: File cannot be read. Not a regular file.")
    assert told[4].endswith("failed: File cannot be read. No such file or directory.")
    assert " red " in told[5]
    assert "1 of 6 files classified" in ran.err


def test_json_has_an_object_for_each_file_and_an_error_where_it_failed(
    classify, clips: Path
) -> None:
    ran = classify("--json", "--top-k", 2, clips / "a.mp4", clips / "gone.mp4", clips / "b.avi")
    assert ran.code == 1
    good, bad, other = map(json.loads, ran.lines)
    assert (good["label"], len(good["probabilities"]), other["label"]) == ("red", 2, "green")
    assert good["clip"]["frames_sampled"] == len(good["clip"]["timestamps_s"]) == 20
    assert bad == {
        "file": str(clips / "gone.mp4"),
        "error": {
            "code": "unreadable",
            "title": "File cannot be read",
            "detail": "No such file or directory.",
        },
    }


@pytest.mark.parametrize(("top_k", "labels"), [(1, 1), (2, 2), (99, 3)])
def test_csv_has_a_row_for_each_file(classify, clips: Path, top_k: int, labels: int) -> None:
    odd = clips / 'odd, "name".mp4'
    odd.write_bytes((clips / "a.mp4").read_bytes())
    ran = classify("--csv", "--top-k", top_k, odd, clips / "gone.mp4")
    good, bad = csv.DictReader(ran.lines)
    assert (good["file"], good["model"], good["version"]) == (str(odd), "lrcn", "1")
    assert (good["label"], good["error"], good["duration_s"]) == ("red", "", "3.0")
    assert sum(name.startswith("probability") for name in good) == labels
    assert (bad["label"], bad["error"]) == ("", "unreadable")
    assert bad["detail"] == "File cannot be read. No such file or directory."


def test_a_name_cannot_steer_the_terminal(classify, clips: Path, red_clip) -> None:
    (clips / "\x1b[2Jwiped\nout.mp4").write_bytes(red_clip)
    ran = classify(clips / "*out.mp4")
    assert "\\x1b[2Jwiped\\nout.mp4  red" in ran.out
    assert len(ran.lines) == 1


def test_order_is_the_command_lines_even_if_the_first_takes_longest(
    classify, clips: Path, make_clip
) -> None:
    long = clips / "long.mp4"
    long.write_bytes(make_clip("blue", frames=900, size=(320, 240)))
    ran = classify(long, *[clips / "a.mp4", clips / "b.avi"])
    assert [line.split()[1] for line in ran.lines] == ["blue", "red", "green"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nope"], "cannot classify: there is no model 'nope'; there is lrcn, tiny"),
        (["--model", ""], "there is no model ''"),
    ],
)
def test_an_unknown_model_is_told_with_those_that_are_there(
    classify, clips: Path, arguments, words
) -> None:
    ran = classify(*arguments, clips / "a.mp4")
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_an_older_version_can_be_asked_for(classify, clips: Path) -> None:
    tiny = ["--model", "tiny", clips / "a.mp4", "--version"]
    assert json.loads(classify("--json", *tiny, 1).out)["version"] == 1
    ran = classify(*tiny, 3)
    assert (ran.code, ran.out) == (2, "")
    assert "cannot classify: tiny has no version 3; there is 2, 1" in ran.err


def test_models_that_cannot_be_loaded_are_told(
    classify, clips: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAR_MODELS_DIR", str(tmp_path / "none"))
    ran = classify(clips / "a.mp4")
    assert ran.code == 2
    assert ran.err == f"cannot classify: {tmp_path}/none: no such folder (HAR_MODELS_DIR)\n"


def test_a_bad_setting_is_told_with_its_variable(
    classify, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAR_DECODERS", "none")
    ran = classify(clips / "a.mp4")
    assert ran.code == 2
    assert ran.err.startswith("cannot classify: HAR_DECODERS=none: ")


def test_an_address_for_all_the_world_is_no_matter_here(
    classify, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAR_HOST", "0.0.0.0")
    assert classify(clips / "a.mp4").code == 0


def test_a_folder_without_a_video_is_told(classify, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    ran = classify(tmp_path)
    assert ran.code == 2
    assert ran.err.endswith("there is no video to classify\n")


@pytest.mark.parametrize(
    "arguments", [[], ["--top-k", "0", "x"], ["--version", "0", "x"], ["--json", "--csv", "x"]]
)
def test_a_malformed_command_line_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m service.classify" in capsys.readouterr().err


def test_it_leaves_nothing_behind(classify, clips: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    with expect_nothing_left_open():
        assert classify(clips).code == 0
    assert not list((tmp_path / "temporary").iterdir())


# --- as a process ---------------------------------------------------------------------------------


def classifying(
    models_dir: Path, clips: Path, **streams: int
) -> AbstractContextManager[subprocess.Popen[str]]:
    variables = {"HAR_MODELS_DIR": models_dir}
    return started(variables, clips, module="service.classify", **streams)


def test_f68_a_gpu_that_is_lost_ends_it_with_the_reason_and_its_own_exit_code(
    models_dir: Path, clips: Path
) -> None:
    variables = {"HAR_MODELS_DIR": models_dir, "HAR_DEVICE": "cuda"}
    with started(variables, clips, module="tests.service.lost_gpu_classify") as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (3, "")
    assert err.splitlines()[-1].startswith("cannot go on: CUDA has failed: ")
    assert "illegal memory access" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.fixture
def many(tmp_path: Path, red_clip: bytes) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        os.link(folder / "0", folder / str(number)) if number else (folder / "0").write_bytes(
            red_clip
        )
    return folder


def test_ctrl_c_ends_it_in_one_word_and_leaves_no_process(models_dir: Path, many: Path) -> None:
    with classifying(models_dir, many) as process:
        assert process.stdout is not None
        assert " red " in process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_reader_that_has_enough_ends_it_quietly(models_dir: Path, many: Path) -> None:
    with classifying(models_dir, many) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(WAIT_S) == 130
    assert err == ""


def test_a_bar_shows_how_far_it_is_where_errors_go_to_a_terminal(
    models_dir: Path, clips: Path
) -> None:
    ours, theirs = pty.openpty()
    with classifying(models_dir, clips, stderr=theirs) as process:
        os.close(theirs)
        out, _ = process.communicate(timeout=WAIT_S)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # Linux's way to say that nobody has the other end open
            pass
        os.close(ours)
    assert process.returncode == 0
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out
    text = shown.decode()
    assert "░" in text
    assert " 0 of 3" in text
    assert text.endswith("files a second\r\n")
