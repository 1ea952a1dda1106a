"""How each network is trained: the frames it sees, and the phases it goes through.

A network that learns from nothing has one phase. One with a pretrained encoder has two: the encoder
frozen while the rest learns what to make of its features, then its last blocks tuned at a lower
rate. A phase begins with the best weights so far and with a new optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from training.efficientnet import set_trainable_blocks


def train_all(model: Any) -> None:
    """Let every layer learn."""
    # An assignment of what an attribute already is does nothing, not even to the layers below it.
    model.trainable = False
    model.trainable = True


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a training.

    Attributes:
        name: for the reader of logs and of config.json.
        prepare: called with the keras.Model, marks which of its layers are trainable.
        epochs: at most so many; None is what --epochs leaves.
        rate: the phase's share of --learning-rate.
    """

    name: str
    prepare: Callable[[Any], None] = train_all
    epochs: int | None = None
    rate: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values for config.json."""
        return {"name": self.name, "epochs": self.epochs, "rate": self.rate}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A network's frame size in pixels, where the command line names none, and its phases."""

    height: int = 64
    width: int = 64
    phases: tuple[Phase, ...] = (Phase("all"),)


def train_encoder_blocks(blocks: int) -> Callable[[Any], None]:
    """Let the last blocks of the pretrained encoder learn, beside what is on it; 0 is none."""

    def prepare(model: Any) -> None:
        train_all(model)
        set_trainable_blocks(model.get_layer("encoder").layer, blocks)

    return prepare


#: By the names of training.models.MODELS.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "convlstm": Recipe(),
        "lrcn": Recipe(),
        "lrcn-efficientnet": Recipe(
            height=128,
            width=128,
            phases=(
                Phase("encoder frozen", train_encoder_blocks(0), epochs=8),
                Phase("last blocks tuned", train_encoder_blocks(3), rate=0.1),
            ),
        ),
    }
)
