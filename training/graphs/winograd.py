"""A 3x3 convolution and the 2x2 max pool after it with a quarter of the multiplications.

The picture is cut into 6x6 tiles that overlap by two; tile and kernel are transformed, multiplied
point by point (and summed over the channels: 36 matrix products) and transformed back into 4x4
pixels: 36 multiplications instead of 144. Those 4x4 pixels are four whole windows of the pool, so
pooling needs no neighbouring tile. All of it is matrix products of channels-last tensors. It pays
where there are many channels: the transforms do not grow with their product, the products do.

    pixels = A (G g G^T * B d B^T) A^T    for d, a 6x6 tile, and g, a 3x3 kernel

Source: Lavin and Gray, 2016, Fast Algorithms for Convolutional Neural Networks, F(4x4, 3x3). With
their points of interpolation (0, +-1, +-2) the rounding error is seven times that of a plain
convolution, with the ones here four times. On the points: Barabasz et al., 2020, Error Analysis and
Improving the Accuracy of Winograd Convolution for Deep Neural Networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[np.float64]
Tensor = Any  # tensorflow ships no types

#: Besides the point at infinity. Found by trying: the error grows with their spread.
POINTS = (0.0, 5 / 8, -5 / 8, 5 / 4, -5 / 4)
KERNEL, PIXELS, TILE = 3, 4, 6


def _evaluate(terms: int) -> Array:
    """The values of 1, x, x^2, ... at all points, (TILE, terms); at infinity the leading term's."""
    finite = np.vander(POINTS, terms, increasing=True)
    return np.vstack([finite, np.eye(terms)[-1]])


#: G, (6, 3); B, (6, 6); A, (4, 6), by Toom and Cook: a product of polynomials from its values.
KERNEL_TRANSFORM = _evaluate(KERNEL)
TILE_TRANSFORM = np.linalg.inv(_evaluate(TILE)).T
PIXEL_TRANSFORM = _evaluate(PIXELS).T


def _transform_side(length: int) -> Array:
    """The matrix that cuts a padded side of `length` pixels into transformed tiles.

    (6 * tiles, length), the six points outermost. The zeros of the padding, and those that complete
    the last tile, are left out of it rather than added to the picture.
    """
    tiles = -(-length // PIXELS)
    matrix = np.zeros((TILE, tiles, length))
    for tile in range(tiles):
        first = tile * PIXELS - 1
        for offset in range(TILE):
            if 0 <= first + offset < length:
                matrix[:, tile, first + offset] = TILE_TRANSFORM[:, offset]
    return matrix.reshape(TILE * tiles, length)


def convolve_and_pool(pictures: Tensor, kernel: Array) -> Tensor:
    """Convolve at stride 1 with zeros around ("same"), then take the maximum of each 2x2 window.

    Args:
        pictures: (N, H, W, C), float32; all but N known.
        kernel: (3, 3, C, D), as Keras holds it.

    Returns:
        (N, H // 2, W // 2, D), float32.
    """
    _, height, width, channels = pictures.shape
    depth = kernel.shape[-1]
    down, across = -(-height // PIXELS), -(-width // PIXELS)

    x = _constant(_transform_side(height)) @ tf.reshape(pictures, (-1, height, width * channels))
    x = _constant(_transform_side(width)) @ tf.reshape(x, (-1, width, channels))
    x = tf.reshape(x, (-1, TILE, down, TILE, across * channels))
    x = tf.transpose(x, (1, 3, 0, 2, 4))

    transformed = np.einsum("ya,xb,abcd->yxcd", KERNEL_TRANSFORM, KERNEL_TRANSFORM, kernel)
    products = tf.reshape(x, (TILE * TILE, -1, channels)) @ _constant(
        transformed.reshape(TILE * TILE, channels, depth)
    )

    # Rows: place in the window (2, 2), outermost, so that the maximum is one of whole tensors; then
    # which window of the tile (2, 2).
    inverse = np.einsum("ya,xb->yxab", PIXEL_TRANSFORM, PIXEL_TRANSFORM).reshape(2, 2, 2, 2, -1)
    inverse = inverse.transpose(1, 3, 0, 2, 4).reshape(PIXELS * PIXELS, -1)
    pixels = _constant(inverse) @ tf.reshape(products, (TILE * TILE, -1))
    first, second, third, fourth = tf.split(pixels, 4)
    pooled = tf.maximum(tf.maximum(first, second), tf.maximum(third, fourth))

    pooled = tf.reshape(pooled, (2, 2, -1, down, across, depth))
    pooled = tf.reshape(tf.transpose(pooled, (2, 3, 0, 4, 1, 5)), (-1, 2 * down, 2 * across, depth))
    if (2 * down, 2 * across) == (height // 2, width // 2):
        return pooled
    return pooled[:, : height // 2, : width // 2]


def _constant(matrix: Array) -> Tensor:
    return tf.constant(matrix, tf.float32)
