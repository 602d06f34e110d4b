"""Cells as points on a plane: markers for some, one raster for many, so that millions are drawn in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS_UP_TO = 200_000
_ROWS = 1_000_000  # points binned at once: 24 MB of pixel numbers and colours


def frame(ax: Axes, xy: np.ndarray, pad: float = 0.03) -> None:
    """Set the limits of linear or logarithmic axes to hold all points, with a margin of ``pad`` of their extent."""
    for axis, values, set_limits in ((ax.xaxis, xy[:, 0], ax.set_xlim), (ax.yaxis, xy[:, 1], ax.set_ylim)):
        scale = axis.get_transform()
        lo, hi = scale.transform(np.asarray([values.min(), values.max()], float))
        margin = pad * (hi - lo) or 0.5
        set_limits(*scale.inverted().transform(np.asarray([lo - margin, hi + margin])))


def draw(ax: Axes, xy: np.ndarray, codes: np.ndarray, palette: np.ndarray) -> None:
    """Draw points in the colours of their codes; call it last, when limits, labels and legends stand.

    Parameters
    ----------
    ax
        Axes with their limits set (`frame`), linear or logarithmic.
    xy
        Finite positions (n, 2); positive where the axis is logarithmic.
    codes
        Row of the palette of each point (n,).
    palette
        Colours (n_colours, 3), red, green, blue in [0, 1].

    Up to `MARKERS_UP_TO` points are markers in a fixed random order, so that no group hides another. More become one
    raster as fine as the figure's pixels: a pixel has the mean colour of its points and is paler where they are few.

    Memory: 40 bytes per pixel, 60 per point of a tile of a million.
    """
    if len(xy) <= MARKERS_UP_TO:
        order = np.random.default_rng(0).permutation(len(xy))
        size = float(np.clip(30_000 / max(1, len(xy)), 0.8, 25))  # square points
        alpha = 0.9 if len(xy) < 20_000 else 0.7
        x, y = xy[order].T
        ax.scatter(x, y, c=palette[codes[order]], s=size, alpha=alpha, linewidths=0, zorder=2)
        return
    from matplotlib.image import AxesImage

    image = AxesImage(ax, extent=(0, 1, 0, 1), origin="lower", interpolation="nearest", zorder=2)
    image.set_data(raster(ax, xy, codes, palette))
    image.set_transform(ax.transAxes)
    ax.add_image(image)


def raster(ax: Axes, xy: np.ndarray, codes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the picture of the points (n_rows, n_cols, 4) uint8 that fills the axes, lowest row first."""
    _lay_out(ax)
    box = ax.get_window_extent()
    width, height = max(1, round(box.width)), max(1, round(box.height))
    counts = np.zeros(width * height)
    colours = np.zeros((3, width * height))
    to_axes: Any = ax.transScale + ax.transLimits
    for start in range(0, len(xy), _ROWS):
        at = to_axes.transform(np.asarray(xy[start : start + _ROWS], float))
        col = np.clip((at[:, 0] * width).astype(np.int64), 0, width - 1)
        row = np.clip((at[:, 1] * height).astype(np.int64), 0, height - 1)
        pixel = row * width + col
        counts += np.bincount(pixel, minlength=width * height)
        for channel in range(3):
            weights = palette[codes[start : start + _ROWS], channel]
            colours[channel] += np.bincount(pixel, weights, minlength=width * height)
    if len(xy) < 1_500_000:  # a lone pixel is hardly seen: 2 x 2, about the smallest marker
        counts = _spread(counts.reshape(height, width)).ravel()
        colours = np.stack([_spread(c.reshape(height, width)).ravel() for c in colours])
    filled = counts > 0
    depth = np.log1p(counts[filled])
    full = np.percentile(depth, 75) if filled.any() else 1.0
    out = np.zeros((width * height, 4))
    out[filled, :3] = (colours[:, filled] / counts[filled]).T
    out[filled, 3] = 0.5 + 0.5 * np.minimum(1.0, depth / full)
    return np.rint(out * 255).astype(np.uint8).reshape(height, width, 4)


def _lay_out(ax: Axes) -> None:
    """Make the layout: from then on the axes and their texts know their size in pixels."""
    figure: Any = ax.figure
    figure.draw_without_rendering()


def _spread(plane: np.ndarray) -> np.ndarray:
    """Let each pixel reach its right, upper and upper right neighbour."""
    out = plane.copy()
    out[1:] += plane[:-1]
    out[:, 1:] += plane[:, :-1]
    out[1:, 1:] += plane[:-1, :-1]
    return out


# -- names ---------------------------------------------------------------------------------------


def name(ax: Axes, xy: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> None:
    """Write the name of each group at the median of its points, outlined in white and moved apart where they meet.

    Codes beyond the names belong to no group.
    """
    from matplotlib.patheffects import withStroke

    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(len(names) + 1))
    used = np.flatnonzero(np.diff(edges))
    if not len(used):
        return
    middles = np.asarray([np.median(xy[order[edges[i] : edges[i + 1]]], axis=0) for i in used])
    fontsize = 10 if len(used) <= 30 else 7
    style: dict[str, Any] = {"fontsize": fontsize, "fontweight": "bold", "ha": "center", "va": "center", "zorder": 4}
    outline = [withStroke(linewidth=2.5, foreground="white")]
    texts = [
        ax.text(x, y, names[int(i)], path_effects=outline, **style) for (x, y), i in zip(middles, used, strict=True)
    ]
    _lay_out(ax)
    boxes = [text.get_window_extent() for text in texts]
    sizes = np.asarray([(box.width, box.height) for box in boxes]) + 2
    moved = apart(ax.transData.transform(middles), sizes)
    for text, at in zip(texts, ax.transData.inverted().transform(moved), strict=True):
        text.set_position(tuple(at))


def apart(at: np.ndarray, sizes: np.ndarray, n_rounds: int = 300) -> np.ndarray:
    """Push boxes (centres and sizes, (n, 2) each) apart until none overlap, or the rounds are over."""
    at = np.asarray(at, float).copy()
    n = len(at)
    need = (sizes[:, None] + sizes[None]) / 2
    tie = np.where(np.arange(n)[:, None] < np.arange(n)[None], -1.0, 1.0)
    for _ in range(n_rounds):
        gap = at[:, None] - at[None]
        over = need - np.abs(gap)
        hit = (over > 0).all(axis=2) & ~np.eye(n, dtype=bool)
        if not hit.any():
            break
        easier = np.argmin(over, axis=2)  # the axis along which less has to be moved
        for axis in (0, 1):
            way = np.where(gap[..., axis] == 0, tie, np.sign(gap[..., axis]))
            push = np.where(hit & (easier == axis), way * (over[..., axis] / 2 + 0.5), 0.0)
            at[:, axis] += push.sum(axis=1) / np.maximum(1, (push != 0).sum(axis=1))
    return at
