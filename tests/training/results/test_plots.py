import cv2
import numpy as np
import pytest

from training.results import plots
from training.results.evaluate import measure_calibration
from training.results.plots import (
    Mistake,
    plot_confusion,
    plot_curves,
    plot_mistakes,
    plot_reliability,
    plot_study,
)

HISTORY = {
    "loss": [2.0, 1.0, 0.5],
    "val_loss": [2.1, 1.2, 1.4],
    "accuracy": [0.2, 0.5, 0.8],
    "val_accuracy": [0.2, 0.5, 0.4],
}


def count_red_pixels(path):
    blue, green, red = np.moveaxis(cv2.imread(str(path)).astype(int), -1, 0)
    # Nothing else in the plot is: the orange curve has much more green than blue.
    return int(((red > 180) & (green < 120) & (abs(green - blue) < 10)).sum())


@pytest.fixture
def figures(monkeypatch):
    """What is drawn, as matplotlib has it before it is written."""
    drawn = []
    save = plots._save

    def note(figure, path):
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", note)
    return drawn


def test_the_curves_are_drawn_and_the_best_epoch_is_marked(figures, tmp_path):
    plot_curves(HISTORY, tmp_path / "curves.png", best_epoch=2, title="title")
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 10
    for axes, name in zip(figures[0].axes, ("loss", "accuracy"), strict=True):
        lines = [line.get_xydata().tolist() for line in axes.lines]
        for key in (name, f"val_{name}"):
            assert [[epoch, value] for epoch, value in enumerate(HISTORY[key], start=1)] in lines
        assert [[2, HISTORY[f"val_{name}"][1]]] in lines


def test_a_training_loss_of_another_kind_is_labelled_so(tmp_path):
    for name, targets in (("plain", ""), ("smoothed", "smoothed")):
        plot_curves(HISTORY, tmp_path / name, best_epoch=2, title="title", targets=targets)
    plain, smoothed = (cv2.imread(str(tmp_path / name)) for name in ("plain", "smoothed"))
    differing = (plain != smoothed).any(axis=(0, 2))
    half = len(differing) // 2
    assert differing[:half].any()
    assert not differing[half:].any(), "accuracies are of one kind"


@pytest.mark.parametrize(
    ("rates", "marked"),
    [([1e-3, 1e-3, 2e-4], True), ([1e-3, 9e-4, 8e-4], False)],
    ids=["a drop", "a schedule"],
)
def test_drops_of_the_learning_rate_are_marked(rates, marked, tmp_path):
    history = {**HISTORY, "learning_rate": rates}
    plot_curves(history, tmp_path / "curves.png", best_epoch=2, title="title")
    assert (count_red_pixels(tmp_path / "curves.png") > 100) == marked


def test_the_heat_map_has_the_truth_in_rows_and_shares_of_it(figures, tmp_path):
    path = tmp_path / "confusion.png"
    plot_confusion([[9, 1], [0, 4]], ["a", "b"], "title", path)
    assert cv2.imread(str(path)).min() < 120
    axes = figures[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[0.9, 0.1], [0, 1]]
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "9", (1, 0): "1", (1, 1): "4"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (10)", "b (4)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true (clips)")


def test_the_reliability_diagram_is_drawn_where_most_bins_are_empty(tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    calibration = measure_calibration(probabilities, np.array([0, 1]))
    plot_reliability(calibration, "title", tmp_path / "reliability.png")
    assert cv2.imread(str(tmp_path / "reliability.png")).std() > 10


def test_a_name_with_dollar_signs_is_a_name(tmp_path):
    label = "from_$5_to_$9_3"
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    plot_mistakes(
        [Mistake(f"{label}/a_$1_$2.mp4", label, "$x^", 0.9, 0.1, frames)], label, tmp_path / "m.png"
    )
    plot_confusion([[1, 0], [0, 1]], [label, "$x^"], label, tmp_path / "c.png")
    assert (tmp_path / "m.png").stat().st_size > 0
    assert (tmp_path / "c.png").stat().st_size > 0


@pytest.mark.parametrize("frames", [2, 10, 20, 33])
def test_a_contact_sheet_shows_every_frame(frames, tmp_path):
    # Each frame of another level: all of them must be found in the picture.
    levels = np.linspace(10, 240, frames).astype(np.uint8)
    clip = np.broadcast_to(levels[:, None, None, None], (frames, 64, 64, 3))
    mistake = Mistake("A/clip.avi", "A", "B", 0.9, 0.05, clip)
    plot_mistakes([mistake, mistake], "title", tmp_path / "mistakes.png")
    picture = cv2.imread(str(tmp_path / "mistakes.png"))[:, :, 0].astype(int)
    for level in levels:
        assert (np.abs(picture - int(level)) <= 1).sum() > 2 * 40 * 40


def test_the_study_is_drawn_though_an_interval_leaves_its_value_out(tmp_path):
    bounds = {"low": 0.55, "high": 0.6}
    points = [
        {
            "frames": frames,
            "cpu_ms_per_clip": 1.5 * frames,
            "test_accuracy": 0.5,
            "test_interval": bounds,
            "validation_accuracy": 0.58,
            "validation_interval": bounds,
        }
        for frames in (5, 20)
    ]
    plot_study(points, "title", tmp_path / "study.png")
    assert cv2.imread(str(tmp_path / "study.png")).std() > 10
