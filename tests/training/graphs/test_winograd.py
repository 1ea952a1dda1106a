import numpy as np
import pytest
import tensorflow as tf

from training.graphs.winograd import (
    KERNEL_TRANSFORM,
    PIXEL_TRANSFORM,
    TILE_TRANSFORM,
    convolve_and_pool,
)


def test_the_transforms_are_a_convolution():
    rng = np.random.default_rng(0)
    row, kernel = rng.normal(size=6), rng.normal(size=3)
    pixels = PIXEL_TRANSFORM @ ((KERNEL_TRANSFORM @ kernel) * (TILE_TRANSFORM @ row))
    np.testing.assert_allclose(pixels, np.correlate(row, kernel, "valid"), atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12), (7, 10), (3, 5), (2, 2)], ids=str)
def test_every_picture_size_is_convolved_then_pooled(height, width):
    rng = np.random.default_rng(height * width)
    pictures = rng.normal(size=(2, height, width, 16))
    kernel = rng.normal(size=(3, 3, 16, 8)) / 12
    wanted = tf.nn.max_pool2d(tf.nn.conv2d(pictures, kernel, 1, "SAME"), 2, 2, "VALID")
    pooled = convolve_and_pool(tf.constant(pictures, tf.float32), kernel)
    assert pooled.shape == (2, height // 2, width // 2, 8)
    np.testing.assert_allclose(pooled, wanted, atol=1e-5)
