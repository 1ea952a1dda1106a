import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from clip.tensor import to_rgb
from tests.drawing import area_average, draw_picture

# Kr, Kb of the standards, and FFmpeg's number for each.
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def yuv_frame(planes, pix_fmt, *, colorspace=None, full_range=None):
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pix_fmt)
    for target, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((target.height, target.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        target.update(rows.tobytes())
    if colorspace is not None:
        frame.colorspace = colorspace
    if full_range is not None:
        frame.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    return frame


def full_conversion(planes, *, weights=BT601, full_range=False, depth=8):
    """Every pixel to RGB in floating point, chroma repeated: the yardstick."""
    height, width = planes[0].shape
    y, u, v = (
        np.repeat(np.repeat(p, height // p.shape[0], 0), width // p.shape[1], 1) / 2 ** (depth - 8)
        for p in planes
    )
    kr, kb = weights
    luma, chroma, black = (1, 1, 0) if full_range else (255 / 219, 255 / 224, 16)
    y, u, v = (y - black) * luma, (u - 128) * chroma, (v - 128) * chroma
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], -1), 0, 255)


def natural_planes(rng, height, width, subsampling=(2, 2), depth=8):
    """Smooth structure with grain; the colours stay inside the RGB cube."""
    y, x = np.mgrid[:height, :width]
    luma = 126 + 50 * np.sin(x / 17) * np.cos(y / 23) + rng.normal(0, 8, (height, width))
    rows, columns = height // subsampling[0], width // subsampling[1]
    y, x = np.mgrid[:rows, :columns]
    chroma = [
        128 + 25 * np.sin(x / a + y / b) + rng.normal(0, 2, (rows, columns))
        for a, b in ((13, 29), (31, 11))
    ]
    dtype = np.uint8 if depth == 8 else np.uint16
    return [
        np.clip(plane * 2 ** (depth - 8), 0, 2**depth - 1).astype(dtype)
        for plane in (luma, *chroma)
    ]


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (720, 1280), (1080, 1920), (128, 128)])
def test_planes_first_is_within_three_levels_of_the_full_conversion(size):
    planes = natural_planes(np.random.default_rng(3), *size)
    got = to_rgb(yuv_frame(planes, "yuv420p"), 64, 64).astype(float)
    wanted = area_average(full_conversion(planes), 64, 64)
    assert np.abs(got - wanted).max() <= 3
    assert np.abs(got - wanted).mean() <= 0.7


@pytest.mark.parametrize(
    ("pix_fmt", "subsampling", "depth"),
    [
        ("yuv422p", (1, 2), 8),
        ("yuv444p", (1, 1), 8),
        ("yuv420p10le", (2, 2), 10),
        ("yuv444p12le", (1, 1), 12),
    ],
)
def test_other_subsamplings_and_depths_agree_with_the_full_conversion(pix_fmt, subsampling, depth):
    planes = natural_planes(np.random.default_rng(4), 240, 320, subsampling, depth)
    got = to_rgb(yuv_frame(planes, pix_fmt), 64, 64).astype(float)
    wanted = area_average(full_conversion(planes, depth=depth), 64, 64)
    assert np.abs(got - wanted).max() <= 3


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("colorspace", "weights"),
    [(None, BT601), (Colorspace.ITU601, BT601), (Colorspace.ITU709, BT709)],
)
def test_the_streams_colour_matrix_and_range_are_used(colorspace, weights, full_range):
    planes = natural_planes(np.random.default_rng(5), 240, 320)
    frame = yuv_frame(planes, "yuv420p", colorspace=colorspace, full_range=full_range)
    wanted = area_average(full_conversion(planes, weights=weights, full_range=full_range), 64, 64)
    assert np.abs(to_rgb(frame, 64, 64) - wanted).max() <= 3


def test_saturated_colours_stay_close():
    picture = draw_picture(0b101100111010, 240, 320)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    wanted = area_average(picture, 64, 64)
    assert np.abs(to_rgb(frame, 64, 64) - wanted).mean() <= 1.5


@pytest.mark.parametrize("pix_fmt", ["rgb24", "gbrp", "bgra"])
def test_rgb_streams_are_only_resized(pix_fmt):
    picture = draw_picture(77, 240, 320)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
    assert np.abs(to_rgb(frame, 64, 64) - area_average(picture, 64, 64)).max() <= 1


def test_grey_streams_have_equal_channels():
    frame = yuv_frame([natural_planes(np.random.default_rng(6), 240, 320)[0]], "gray")
    rgb = to_rgb(frame, 64, 64)
    assert (rgb == rgb[..., :1]).all()


@pytest.mark.parametrize("size", [(2, 2), (17, 33), (63, 65), (2000, 30)])
def test_f41_odd_and_tiny_pictures_give_a_full_tensor(size):
    height, width = size
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 99, np.uint8), format="rgb24")
    rgb = to_rgb(frame.reformat(format="yuv420p"), 64, 64)
    assert rgb.shape == (64, 64, 3)
    assert np.abs(rgb.astype(int) - 99).max() <= 3


def test_a_large_picture_is_averaged_like_a_small_one():
    picture = draw_picture(0b10110, 1536, 2048)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    assert np.abs(to_rgb(frame, 64, 64) - area_average(picture, 64, 64)).max() <= 3
