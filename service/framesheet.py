"""The frame sheet: the frames that a model was given, as one PNG, for whoever wants to see them.

The frames lie one below another, the first on top: the picture's rows of pixels are the tensor's,
in its order, without loss. `pixels.reshape(count, height, width, 3)` is what the network saw.
"""

from __future__ import annotations

from typing import Final

import cv2

from clip import ClipSpec
from service.batching import Frames

#: Pixels' bytes before compression: 20 frames of 224 by 224 take 3 MB. An answer stays an answer,
#: not a download.
MAX_SHEET_BYTES: Final = 4 * 1024 * 1024

#: zlib's level: higher ones take several times as long for a few per cent.
_COMPRESSION = 3


def fits_sheet(spec: ClipSpec) -> bool:
    """Whether the frames of this spec are few and small enough for a sheet."""
    return spec.nbytes <= MAX_SHEET_BYTES


def encode_sheet(frames: Frames) -> bytes:
    """The PNG of a clip's frames; takes milliseconds of a CPU, so call it in a thread.

    Args:
        frames: uint8 (frames, height, width, 3), RGB.

    Returns:
        A PNG of frames x height rows and width columns.
    """
    count, height, width, channels = frames.shape
    rows = frames.reshape(count * height, width, channels)
    # OpenCV's pictures are BGR.
    written, data = cv2.imencode(
        ".png", rows[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION]
    )
    if not written:
        raise ValueError(f"no PNG of {count * height} by {width} pixels can be written")
    return data.tobytes()
