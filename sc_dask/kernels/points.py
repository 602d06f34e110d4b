"""Circles blended into an image, in their order."""

from __future__ import annotations

import math

import numba
import numpy as np

from sc_dask.kernels.csr import Array

_SMALL = 1.0  # pixels: below, a square of the same area covers them as a circle does


def blend(at: Array, radii: Array, colours: Array, image: Array) -> None:
    """Paint circles over an image, the first one first.

    Parameters
    ----------
    at
        Middles (n, 2) in pixels from the image's lower left corner; one that is not finite is left out.
    radii
        In pixels, of each circle, or one for all.
    colours
        Red, green, blue, alpha in [0, 1], of each circle, or one for all.
    image
        float32 (n_rows, n_cols, 4), lowest row first; colours multiplied by how much they cover. Changed in place.
    """
    _blend(np.ascontiguousarray(at, np.float64), np.ascontiguousarray(radii, np.float64), colours, image)


@numba.njit(nogil=True, cache=True)
def _blend(at: Array, radii: Array, colours: Array, image: Array) -> None:
    height, width = image.shape[0], image.shape[1]
    for i in range(len(at)):
        x, y, r = at[i, 0], at[i, 1], radii[i % len(radii)]
        if not (math.isfinite(x) and math.isfinite(y)) or r <= 0:
            continue
        if x + r < 0 or y + r < 0 or x - r > width or y - r > height:
            continue
        colour = colours[i % len(colours)]
        reach = r + 0.5 if r >= _SMALL else r
        for row in range(max(0, int(math.floor(y - reach))), min(height, int(math.floor(y + reach)) + 1)):
            for col in range(max(0, int(math.floor(x - reach))), min(width, int(math.floor(x + reach)) + 1)):
                cover = _cover(col - x, row - y, r) * colour[3]
                if cover > 0:
                    for c in range(3):
                        image[row, col, c] = colour[c] * cover + image[row, col, c] * (1 - cover)
                    image[row, col, 3] = cover + image[row, col, 3] * (1 - cover)


@numba.njit(nogil=True, cache=True)
def _cover(left: float, low: float, r: float) -> float:
    """Return how much of the pixel whose corner is (left, low) a circle around (0, 0) covers."""
    if r < _SMALL:
        half = r * math.sqrt(math.pi) / 2
        across = min(left + 1, half) - max(left, -half)
        up = min(low + 1, half) - max(low, -half)
        return max(across, 0.0) * max(up, 0.0)
    return min(1.0, max(0.0, r + 0.5 - math.hypot(left + 0.5, low + 0.5)))
