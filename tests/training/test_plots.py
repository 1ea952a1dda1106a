import cv2

from training.plots import plot_confusion, plot_curves


def test_the_curves_are_drawn(tmp_path):
    history = {
        "loss": [2.0, 1.0, 0.5],
        "val_loss": [2.1, 1.2, 1.4],
        "accuracy": [0.2, 0.5, 0.8],
        "val_accuracy": [0.2, 0.5, 0.4],
    }
    plot_curves(history, tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 10


def test_the_heat_map_is_darkest_where_a_class_is_recognised(tmp_path):
    path = tmp_path / "confusion.png"
    plot_confusion([[9, 1], [0, 4]], ["a", "b"], "title", path)
    assert cv2.imread(str(path)).min() < 120
