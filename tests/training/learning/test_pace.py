import math

import keras
import numpy as np
import pytest

from training.learning.pace import Pace, Progress


class Nameless:
    """As much of a model as Keras' callbacks look at."""

    def __init__(self):
        self.stop_training = False
        self.optimizer = keras.optimizers.SGD(1.0)

    def get_weights(self):
        return []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "min"), ("val_accuracy", "max")])
def test_the_rules_are_those_of_the_keras_callbacks(seed, monitor, mode):
    rng = np.random.default_rng(seed)
    # Steps of half of what counts as progress on a plateau: both rules are put to the test.
    values = 0.5 + rng.integers(-8, 9, 80) * 5e-5
    model = Nameless()
    stopping = keras.callbacks.EarlyStopping(monitor, patience=9, mode=mode)
    plateau = keras.callbacks.ReduceLROnPlateau(monitor, factor=0.2, patience=3, mode=mode)
    for callback in (stopping, plateau):
        callback.set_model(model)
        callback.on_train_begin()
    pace, progress = Pace(peak=1.0, epochs=80, patience=9, monitor=monitor), Progress()
    for epoch, value in enumerate(values.tolist()):
        progress = pace.advance(progress, value)
        stopping.on_epoch_end(epoch, {monitor: value})
        plateau.on_epoch_end(epoch, {monitor: value})
        assert progress.stopped == model.stop_training
        assert pace.rate(epoch + 1, progress) == pytest.approx(
            float(model.optimizer.learning_rate), rel=1e-5
        )
        if model.stop_training:
            break
    assert progress.stopped
    assert progress.drops > 0


def test_a_value_that_is_no_number_is_never_the_best():
    pace = Pace(peak=1.0, epochs=9, patience=2)
    progress = pace.advance(Progress(), math.nan)
    assert progress.best is None
    assert pace.advance(progress, 3.0).best == 3.0


def test_a_warm_up_climbs_to_the_peak_and_the_cosine_falls_to_zero():
    pace = Pace(peak=0.4, epochs=10, patience=9, schedule="cosine", warmup_epochs=2)
    rates = [pace.rate(at, Progress()) for at in (0.5, 1, 2, 6, 10)]
    assert rates == pytest.approx([0.1, 0.2, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("value", [2.0, math.nan])
def test_nothing_is_waited_for_during_the_warm_up(value):
    pace = Pace(peak=0.4, epochs=40, patience=9, warmup_epochs=12)
    progress = pace.advance(Progress(), 1.0)
    for _ in range(11):
        progress = pace.advance(progress, value)
    assert (progress.drops, progress.stopped, progress.best) == (0, False, 1.0)
    assert pace.rate(12, progress) == 0.4
    for _ in range(3):
        progress = pace.advance(progress, value)
    assert progress.drops == 1
    assert not progress.stopped
    for _ in range(6):
        progress = pace.advance(progress, value)
    assert progress.stopped


def test_the_plateau_rule_waits_for_the_end_of_the_warm_up_with_its_effect():
    pace = Pace(peak=0.4, epochs=10, patience=9, warmup_epochs=2)
    dropped = Progress(drops=1)
    assert pace.rate(1, dropped) == pytest.approx(0.2)
    assert pace.rate(3, dropped) == pytest.approx(0.08)
