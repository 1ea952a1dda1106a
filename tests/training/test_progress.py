import io

import pytest

from training.progress import LINES, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("total", [1, 7, 10, 1228, 10**9])
def test_a_log_file_gets_a_few_lines_however_much_there_is(total):
    log = io.StringIO()
    with Progress(total=total, title="decoding", unit="clips", stream=log) as progress:
        for _ in range(min(total, 5000)):
            progress.advance(max(total // 5000, 1))
    lines = log.getvalue().splitlines()
    assert 1 <= len(lines) <= LINES
    assert lines[-1] == f"decoding: {total} of {total} clips (100 %)"
    assert "\r" not in log.getvalue()


def test_what_was_done_before_counts():
    log = io.StringIO()
    with Progress(total=100, title="x", unit="B", done=95, stream=log) as progress:
        progress.advance(2)
        assert log.getvalue() == ""
        progress.advance(3)
    assert log.getvalue() == "x: 100 of 100 B (100 %)\n"


def test_an_unknown_total_is_told_once():
    log = io.StringIO()
    with Progress(total=None, title="fetching", unit="B", stream=log) as progress:
        for _ in range(100):
            progress.advance(10)
    assert log.getvalue() == "fetching ...\n"


def test_a_person_at_a_terminal_gets_a_bar():
    terminal = Terminal()
    with Progress(total=3, title="decoding", unit="clips", stream=terminal) as progress:
        progress.advance(3)
    assert "decoding: 100%" in terminal.getvalue()
