"""One decoded frame -> (height, width, 3) uint8 RGB.

Y, U and V are area-averaged to the target size as they come from the decoder and only the small
result is
converted to RGB: for 1080p that is some twenty times less work than converting the full picture.
Area averaging and the conversion are both linear, so their order matters only where full-size
pixels would be clipped to 0..255 and through one more rounding: docs/decisions.md states the
measured difference.

One resize (OpenCV's INTER_AREA) and one conversion (the fixed-point matrices here) serve every
format, because two libraries' versions of "the same" operation differ by several grey levels.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, TypeAlias

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData

Image: TypeAlias = npt.NDArray[np.uint8]

_FIXED_POINT_BITS = 16
#: (Kr, Kb) by FFmpeg's AVColorSpace; what is not listed or not stated counts as BT.601, as in
#: swscale.
_BT601 = (0.299, 0.114)
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020 non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020 constant luminance, close enough at 8 bits
}
_FULL_RANGE = 2


def to_rgb(frame: av.VideoFrame, height: int, width: int) -> Image:
    """Turn a frame upright, as a player shows it, and resize it to (height, width, 3) RGB.

    Sample aspect ratio is ignored: the networks see every clip stretched to their input's shape.
    """
    transposed, flip_rows, flip_columns = _orientation(frame)
    size = (height, width) if transposed else (width, height)
    name = frame.format.name
    if name.startswith(("yuv", "gray")):
        rgb = _yuv_to_rgb(frame, size)
    else:  # RGB in some packing, from the RGB profiles of H.264, HEVC, VP9 and AV1
        rgb = _resize(np.asarray(frame.reformat(format="rgb24").to_ndarray(), np.uint8), size)
    if transposed:
        rgb = rgb.transpose(1, 0, 2)
    if flip_rows:
        rgb = rgb[::-1]
    if flip_columns:
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    """(width, height) of the picture as a player shows it, in pixels."""
    transposed, _, _ = _orientation(frame)
    return (frame.height, frame.width) if transposed else (frame.width, frame.height)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, flip rows, flip columns) of the display matrix, to the nearest quarter turn.

    The matrix sends the stored pixel (x, y) to (a x + c y, b x + d y) on the screen; see FFmpeg's
    libavutil/display.h.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _yuv_to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> Image:
    components = frame.format.components
    depth = components[0].bits
    planes = [_plane(frame, index, depth, size) for index in range(min(len(components), 3))]
    if len(planes) < 3:  # grey, or grey with alpha
        planes = [planes[0], np.full_like(planes[0], 128), np.full_like(planes[0], 128)]
    full_range = frame.format.name.startswith("yuvj") or frame.color_range == _FULL_RANGE
    matrix, offset = _conversion(int(frame.colorspace), full_range=full_range)
    yuv = np.stack(planes, axis=-1).astype(np.int32)
    rgb = (yuv @ matrix + offset) >> _FIXED_POINT_BITS
    image: Image = np.clip(rgb, 0, 255).astype(np.uint8)
    return image


def _plane(frame: av.VideoFrame, index: int, depth: int, size: tuple[int, int]) -> Image:
    """One plane of the frame, resized to `size` (width, height) and brought to 8 bits."""
    plane = frame.planes[index]
    dtype: type[np.uint8] | type[np.uint16] = np.uint8 if depth == 8 else np.uint16
    stride = plane.line_size // np.dtype(dtype).itemsize
    rows: npt.NDArray[Any] = np.frombuffer(memoryview(plane), dtype).reshape(-1, stride)
    small = _resize(rows[: plane.height, : plane.width], size)
    if depth == 8:
        return np.asarray(small, np.uint8)
    shift = depth - 8
    rounded = (small.astype(np.uint32) + (1 << (shift - 1))) >> shift
    image: Image = np.minimum(rounded, 255).astype(np.uint8)
    return image


def _resize(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Area-average to `size` (width, height).

    Pictures much larger than `size` are first halved by 2x2 means, which OpenCV does some 80 times
    faster than the general case, until they are less than 8 times as large.
    """
    width, height = image.shape[1], image.shape[0]
    while not (width | height) & 1 and width >= 8 * size[0] and height >= 8 * size[1]:
        width, height = width // 2, height // 2
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


@cache
def _conversion(
    colorspace: int, *, full_range: bool
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(matrix, offset) with RGB = (YUV @ matrix + offset) >> 16, rounding included.

    The definition is that of ITU-R BT.601-7, BT.709-6 and BT.2020-2: luma weights Kr and Kb, and
    219 and 224 steps for luma and chroma where the range is limited.
    """
    kr, kb = _LUMA_WEIGHTS.get(colorspace, _BT601)
    kg = 1.0 - kr - kb
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    exact = np.array(
        [
            [luma, luma, luma],
            [0.0, -2 * kb * (1 - kb) / kg * chroma, 2 * (1 - kb) * chroma],
            [2 * (1 - kr) * chroma, -2 * kr * (1 - kr) / kg * chroma, 0.0],
        ]
    )
    offset = -np.array([black, 128.0, 128.0]) @ exact + 0.5
    scale = 1 << _FIXED_POINT_BITS
    return np.rint(exact * scale).astype(np.int32), np.rint(offset * scale).astype(np.int32)
