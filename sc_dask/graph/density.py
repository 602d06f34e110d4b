"""How densely points of a plane lie, by a Gaussian kernel of Scott's (1992) width: exact, or on a grid where many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError

EXACT = 10_000  # points: beyond, every point with every other takes too long
_STEP = 0.125  # of the grid, in widths of the kernel
_REACH = 6.0  # of the kernel, in widths
_CELLS = 4096  # along an axis of the grid; of points that reach farther the step is wider
_COARSEST = 0.5
_FLAT = 1e-10  # of the variances: rounding alone


def scaled(points: NDArray[np.floating], *, exact: bool | None = None) -> NDArray[np.float64]:
    """Return the densities at the points themselves, ``n``, from 0 at the least to 1 at the largest.

    Parameters
    ----------
    points
        ``n x 2``, finite.
    exact
        By every pair of points, as scipy's ``gaussian_kde``; None: up to 10,000 points. Else on a grid, within 0.0001
        (0.01 if the points reach farther than 512 widths of the kernel, gaps left out).

    Memory: 250 bytes a point; on a grid up to 400 MB more, if the points reach so far.

    Raises
    ------
    InputError
        Fewer than three points, points on a line, or one that is not finite.
    """
    if not np.isfinite(points).all():
        raise InputError("found NaN or infinity among the coordinates", "finite coordinates")
    n = len(points)
    lower = _root_of_covariance(points)
    if exact or (exact is None and n <= EXACT):
        from scipy.stats import gaussian_kde

        found = gaussian_kde(points.T)(points.T)
    else:
        from scipy.linalg import solve_triangular

        width = n ** (-1 / 6)
        found = _on_grid(solve_triangular(lower * width, points.T.astype(np.float64), lower=True))
    least, span = found.min(), np.ptp(found)
    return (found - least) / span if span > 0 else np.zeros(n)


def _root_of_covariance(points: NDArray[np.floating]) -> NDArray[np.floating]:
    covariance = np.cov(points.T.astype(np.float64)) if len(points) > 2 else np.zeros((2, 2))
    if np.linalg.det(covariance) <= _FLAT * covariance[0, 0] * covariance[1, 1]:
        raise InputError(
            f"found {len(points)} cells that lie on a line or are fewer than three",
            "cells that spread in two dimensions",
            "join small groups, or leave them out",
        )
    return np.linalg.cholesky(covariance)


def _without_gaps(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift values, from 0 on, so that none is farther from the next than the kernel reaches: few are far from all."""
    order = np.argsort(x)
    out = np.empty_like(x)
    out[order] = np.concatenate([[0.0], np.cumsum(np.minimum(np.diff(x[order]), _REACH))])
    return out


def _on_grid(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the density, but for a factor, at points given in widths of the kernel, ``2 x n``.

    A point is shared out among the nine nearest corners by quadratic splines, and reads its density from them alike.
    Each widens the kernel by a quarter of the squared step, wherever the point is, so the kernel is made narrower by
    that before.
    """
    from scipy.ndimage import convolve1d

    at = np.array([_without_gaps(x) for x in at])
    step = float(np.clip(at.max() / (_CELLS - 3), _STEP, _COARSEST))
    place = at / step + 1
    nearest = np.floor(place + 0.5).astype(np.int64)
    off = place - nearest
    shares = (0.5 * (0.5 - off) ** 2, 0.75 - off**2, 0.5 * (0.5 + off) ** 2)
    n_rows, n_columns = nearest.max(axis=1) + 2
    corners = [(i, j) for i in range(3) for j in range(3)]

    def where(i: int, j: int) -> NDArray[np.int64]:
        return (nearest[0] + i - 1) * n_columns + nearest[1] + j - 1

    grid = np.zeros(n_rows * n_columns)
    for i, j in corners:
        grid += np.bincount(where(i, j), shares[i][0] * shares[j][1], grid.size)
    reach = int(np.ceil(_REACH / step))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step) ** 2 / (1 - step**2 / 2))
    grid = grid.reshape(n_rows, n_columns)
    for axis in (0, 1):
        grid = convolve1d(grid, kernel, axis=axis, mode="constant")
    flat = grid.ravel()
    return np.sum([flat[where(i, j)] * shares[i][0] * shares[j][1] for i, j in corners], axis=0)
