"""ClipSpec: how a video becomes a tensor, as data that travels with a model.

A model is only as good as the pixels it is given: training writes the ClipSpec it decoded with into
the model's manifest, and the service decodes each request by the spec of the model it is for. The
names in `sampler` and `resizer` stand for exact algorithms; changing what one of them computes
means a new name, so that an old model is refused instead of being fed other pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from clip.errors import SpecError

#: Frame i is the one on screen at the middle of the i-th of `frames` equal parts (clip.sampling).
SAMPLER = "part-middles-1"
#: Area-averaged Y, U and V planes, then fixed-point conversion to RGB (clip.tensor).
RESIZER = "area-yuv-1"

MAX_FRAMES = 512
MAX_SIDE = 1024


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What `clip.read_clip` computes: a uint8 RGB tensor of shape (frames, height, width, 3).

    Raises:
        SpecError: a size out of range, or a sampler or resizer that this code does not know.
    """

    frames: int = 20
    height: int = 64
    width: int = 64
    sampler: str = SAMPLER
    resizer: str = RESIZER

    def __post_init__(self) -> None:
        for name, value, most in (
            ("frames", self.frames, MAX_FRAMES),
            ("height", self.height, MAX_SIDE),
            ("width", self.width, MAX_SIDE),
        ):
            if type(value) is not int or not 1 <= value <= most:
                raise SpecError(
                    f"clip_spec.{name} must be a whole number from 1 to {most}, not {value!r}"
                )
        if self.sampler != SAMPLER:
            raise SpecError(f"clip_spec.sampler {self.sampler!r} is unknown: this is {SAMPLER!r}")
        if self.resizer != RESIZER:
            raise SpecError(f"clip_spec.resizer {self.resizer!r} is unknown: this is {RESIZER!r}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The tensor's shape: (frames, height, width, 3)."""
        return self.frames, self.height, self.width, 3

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return self.frames * self.height * self.width * 3

    def to_dict(self) -> dict[str, int | str]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: object) -> ClipSpec:
        """Build a spec from parsed JSON; every field must be there and none beside them.

        Raises:
            SpecError: the record is not exactly a ClipSpec that this code computes.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) != names:
            raise SpecError(f"clip_spec must be an object with exactly {', '.join(sorted(names))}")
        return cls(**record)

    def canonical_json(self) -> str:
        """The one JSON text of this spec: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON: two specs give the same tensors if these are equal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()
