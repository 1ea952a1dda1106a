import pytest

from training.results.tables import (
    class_table,
    confusions,
    duration,
    hardware,
    interval,
    percent,
    table,
)


def test_confusions_are_of_the_true_class_with_the_predicted_most_frequent_first():
    matrix = [[5, 2, 0], [0, 9, 1], [3, 0, 7]]
    assert confusions(matrix, "abc", 9) == [
        ("c", "a", 3, 10),
        ("a", "b", 2, 7),
        ("b", "c", 1, 10),
    ]
    assert confusions(matrix, "abc", 1) == [("c", "a", 3, 10)]


def test_a_class_has_its_figures_under_their_heads():
    figures = {"clips": 4, "precision": 0.5, "recall": 0.25, "f1": 1 / 3}
    assert class_table({"a": figures}, "test clips") == [
        "| class | test clips | precision | recall | F1 |",
        "|---|---|---|---|---|",
        "| a | 4 | 50.0% | 25.0% | 33.3% |",
    ]


def test_what_was_not_measured_is_a_dash():
    assert (percent(0.1234), percent(None)) == ("12.3%", "–")
    assert interval({"low": 0.5, "high": 0.75}) == "50.0% to 75.0%"
    assert interval(None) == "–"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(89.4, "89 s"), (90, "2 min"), (89.4 * 60, "89 min"), (90 * 60, "1 h 30 min")],
)
def test_a_duration_has_the_unit_that_suits_it(seconds, words):
    assert duration(seconds) == words


def test_a_run_on_several_machines_names_each():
    one = {"processor": "P", "cores": 1, "gpus": []}
    other = {"processor": "Q", "cores": 8, "gpus": ["G"]}
    assert hardware([one, other]) == "P (1 core), then Q (8 cores) and G"
    assert hardware(one) == "P (1 core)"
    assert hardware(None) == "a machine that was not recorded"


def test_a_bar_in_a_name_adds_no_column():
    assert table(("class", "clips"), [("a|b", 4)])[-1] == r"| a\|b | 4 |"
