import numpy as np
import pytest

from training.data.index import Clip
from training.data.splits import Split
from training.results.predictions import Predictions, read_predictions, write_predictions
from training.run import RunDirectory

# Labels that are also the names of columns.
CLASSES = ("path", "predicted", "c")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path)
    clips = [Clip(f"{label}/{i}.avi", label, f"{label}_g{i}") for i, label in enumerate(CLASSES)]
    run.write_split(Split((), tuple(clips[:1]), tuple(clips[1:])), {})
    return run


def test_what_was_written_comes_back_to_the_bit(run):
    rng = np.random.default_rng(0)
    answers = {"validation": 1, "test": 2}
    parts = {
        part: Predictions.of_part(
            run, part, rng.dirichlet(np.ones(3), clips).astype(np.float32), CLASSES
        )
        for part, clips in answers.items()
    }
    write_predictions(run, parts, CLASSES)
    found = read_predictions(run, CLASSES)
    assert list(found) == ["validation", "test"]
    for part, written in parts.items():
        np.testing.assert_array_equal(found[part].probabilities, written.probabilities)
        np.testing.assert_array_equal(found[part].targets, written.targets)
        assert found[part].paths == written.paths
        assert found[part].groups == written.groups
    assert found["test"].groups == ("predicted_g1", "c_g2")


def test_as_many_answers_as_clips_are_wanted(run):
    with pytest.raises(ValueError, match="3 answers for the 2 test clips"):
        Predictions.of_part(run, "test", np.full((3, 3), 1 / 3, np.float32), CLASSES)


def test_the_most_confident_mistakes_come_first():
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.5, 0.4, 0.1]], np.float32
    )
    answers = Predictions(("a",) * 4, ("g",) * 4, np.array([0, 1, 2, 2]), probabilities)
    assert answers.confident_mistakes(9) == [2, 1, 3]
    assert answers.confident_mistakes(1) == [2]
