"""How each network is trained: the frames it sees, and the phases it goes through.

A network that learns from nothing has one phase. One with a pretrained encoder has two: the encoder
frozen while the rest learns what to make of its features, then its last blocks tuned at a lower
rate. A phase begins with the best weights so far (of a refit the last) and with a new optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from training.errors import OptionError
from training.networks.efficientnet import BLOCKS, set_trainable_blocks


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a training.

    Attributes:
        name: for the reader of logs and of config.json.
        epochs: at most so many; None is what --epochs leaves.
        rate: the phase's share of --learning-rate.
        encoder_blocks: so many of the last blocks of a pretrained encoder are trained beside what
            is on it, 0 is none of them; None trains all layers of the network.
    """

    name: str
    epochs: int | None = None
    rate: float = 1.0
    encoder_blocks: int | None = None

    def prepare(self, model: Any) -> None:
        """Mark which layers of a keras.Model the phase trains."""
        # An assignment of what an attribute already is does nothing, not even to the layers below.
        model.trainable = False
        model.trainable = True
        if self.encoder_blocks is not None:
            set_trainable_blocks(model.get_layer("encoder").layer, self.encoder_blocks)

    def to_dict(self) -> dict[str, Any]:
        """JSON values for config.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A network's frame size in pixels, where the command line names none, and its phases."""

    height: int = 64
    width: int = 64
    phases: tuple[Phase, ...] = (Phase("all"),)

    def phases_with(
        self, *, frozen_epochs: int | None = None, tuned_blocks: int | None = None
    ) -> tuple[Phase, ...]:
        """The phases, with other values than the recipe's where some are named.

        Args:
            frozen_epochs: of the phase that trains no block of the pretrained encoder, 1 or more.
            tuned_blocks: the last blocks that the phase after it trains, 1 to BLOCKS.

        Raises:
            OptionError: the network has no such phases, or a value cannot be.
        """
        if frozen_epochs is None and tuned_blocks is None:
            return self.phases
        if len(self.phases) == 1:
            raise OptionError(
                "--frozen-epochs and --tuned-blocks are for a network with a pretrained encoder"
            )
        if frozen_epochs is not None and frozen_epochs < 1:
            raise OptionError("--frozen-epochs must be at least 1")
        if tuned_blocks is not None and not 1 <= tuned_blocks <= BLOCKS:
            raise OptionError(f"--tuned-blocks must be 1 to {BLOCKS}")
        frozen, tuned = self.phases
        return (
            replace(frozen, epochs=frozen_epochs or frozen.epochs),
            replace(tuned, encoder_blocks=tuned_blocks or tuned.encoder_blocks),
        )


#: By the names of training.networks.models.MODELS.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "convlstm": Recipe(),
        "lrcn": Recipe(),
        "lrcn-efficientnet": Recipe(
            height=192,
            width=192,
            phases=(
                Phase("encoder frozen", epochs=8, encoder_blocks=0),
                Phase("last blocks tuned", rate=0.1, encoder_blocks=3),
            ),
        ),
    }
)
