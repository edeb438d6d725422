"""Convolutions of tiles against sums by NumPy in double precision, and tiles by hand."""

import jax
import numpy as np
import pytest
from jax import lax

from jaxdl.nn.winograd import Tiles, convolve_tiles, fewest_products, transforms

TAPS = (2, 3, 4, 5)


@pytest.mark.parametrize("taps", TAPS)
def test_transforms_are_a_correlation(taps):
    rng = np.random.default_rng(taps)
    for outputs in range(1, 10 - taps):
        image, filters = rng.normal(size=outputs + taps - 1), rng.normal(size=taps)
        b, g, a = transforms(outputs, taps)
        np.testing.assert_allclose(
            a @ ((g @ filters) * (b @ image)), np.correlate(image, filters), atol=1e-12
        )


def test_transforms_of_more_products_are_refused():
    with pytest.raises(ValueError, match="5 outputs of 5 taps: at most 8 products"):
        transforms(5, 5)


@pytest.mark.parametrize(
    ("outputs", "taps", "tiles"),
    [
        (24, 5, Tiles(4, 6, 5)),  # 6 x 8 products
        (14, 3, Tiles(5, 3, 3)),  # 3 x 7; by 4 it were 4 x 6, by 6 3 x 8
        (5, 3, Tiles(5, 1, 3)),
        (32, 3, Tiles(4, 8, 3)),  # 8 x 6, and 6 x 8 as few
        (1, 5, Tiles(1, 1, 5)),
        (5, 5, Tiles(4, 2, 5)),  # 2 x 8; not by 3, each of several reads into one neighbour only
        (6, 5, Tiles(4, 2, 5)),
        (8, 6, None),
    ],
)
def test_tiles_of_an_axis_by_hand(outputs, taps, tiles):
    assert fewest_products(outputs, taps) == tiles


def correlate(x, kernel, padding):
    x = np.pad(x, ((0, 0), *np.maximum(padding, 0), (0, 0)))
    (top, bottom), (left, right) = np.maximum(-np.asarray(padding), 0)
    x = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


@pytest.mark.parametrize(
    ("size", "taps", "padding"),
    [
        ((12, 12), (5, 5), ((0, 0), (0, 0))),
        ((7, 16), (3, 5), ((0, 3), (2, 1))),
        ((6, 3), (4, 2), ((0, 0), (0, 0))),
        ((5, 6), (5, 5), ((0, 0), (0, 0))),  # one tile of one output, one of two
        ((9, 7), (3, 3), ((-2, -1), (0, -1))),
        ((7, 9), (4, 2), ((-1, 3), (1, -5))),
    ],
)
def test_convolution_of_tiles_by_its_definition(size, taps, padding):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(*taps, 3, 4))
    outputs = [n + sum(p) - r + 1 for n, r, p in zip(size, taps, padding, strict=True)]
    tiles = [fewest_products(n, r) for n, r in zip(outputs, taps, strict=True)]
    g = rng.normal(size=(2, *outputs, 4))

    def plain(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=layout)

    def tiled(x, k):
        return convolve_tiles(x, k, padding, tiles)

    def gradients(convolve, x, kernel, g):
        y, back = jax.vjp(convolve, x, kernel)
        return y, *back(g)

    with jax.enable_x64(True):
        both = jax.jit(lambda *a: (gradients(tiled, *a), gradients(plain, *a)))
        (y, *ours), (_, *theirs) = both(x, kernel, g)
    np.testing.assert_allclose(y, correlate(x, kernel, padding), atol=1e-11)
    for a, b in zip(jax.device_get(ours), jax.device_get(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
