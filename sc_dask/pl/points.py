"""Many points drawn as one image: scatter's own artist, with another way to its pixels.

matplotlib is imported at the top: this module is imported when such a plot is drawn, and a figure that is pickled names
its class.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import allow_rasterization
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.path import Path

from sc_dask.kernels.points import blend

_PATCHING = threading.RLock()  # matplotlib's class is one for the process
_CIRCLE = len(np.asarray(Path.unit_circle().vertices))
_AXES: Any = Axes


@contextlib.contextmanager
def as_image(n_points: int) -> Iterator[None]:
    """Let what ``Axes.scatter`` makes inside of so many points, or more, be drawn as an image."""
    with _PATCHING:
        original = _AXES.scatter

        @functools.wraps(original)
        def scatter(self: Axes, *args: Any, **kwargs: Any) -> Any:
            drawn = original(self, *args, **kwargs)
            if len(drawn.get_offsets()) >= n_points and _is_plain(drawn):
                drawn.__class__ = PointsAsImage
                drawn.set_rasterized(True)
            return drawn

        _AXES.scatter = scatter
        try:
            yield
        finally:
            _AXES.scatter = original


def _is_plain(drawn: Any) -> bool:
    """Tell whether the points are filled circles without edges or effects."""
    if type(drawn) is not PathCollection or len(drawn.get_paths()) != 1:
        return False
    no_edges = not len(drawn.get_edgecolor()) or not np.any(drawn.get_linewidth())
    effects = drawn.get_path_effects() or drawn.get_agg_filter() or drawn.get_hatch()
    return bool(no_edges and not effects and len(np.asarray(drawn.get_paths()[0].vertices)) == _CIRCLE)


class PointsAsImage(PathCollection):
    """The points of a scatter plot, with its data, colours, order and sizes, blended into one image when drawn.

    A vector file holds the image; everything around it stays text and lines.
    """

    @allow_rasterization  # in vector files at the figure's resolution, not at 72 dots per inch
    def draw(self, renderer: Any) -> None:
        """Blend all points in their order, and hand the image to the renderer."""
        if not self.get_visible():
            return
        self.update_scalarmappable()
        ax: Any = self.axes
        at: np.ndarray = np.ma.filled(np.ma.asarray(self.get_offsets(), float), np.nan)
        at = self.get_offset_transform().transform(at)
        pixels = renderer.points_to_pixels(1.0) * float(np.max(np.asarray(self.get_paths()[0].vertices)))
        radii = np.sqrt(np.atleast_1d(self.get_sizes()).astype(float)) * pixels
        box = ax.bbox if self.get_clip_on() else ax.figure.bbox
        left, bottom = int(np.floor(box.x0)), int(np.floor(box.y0))
        image = np.zeros((int(np.ceil(box.y1)) - bottom, int(np.ceil(box.x1)) - left, 4), np.float32)
        colours = np.asarray(self.get_facecolor(), np.float32)
        if min(image.shape) and len(at) and len(radii) and len(colours):
            blend(at - [left, bottom], radii, colours, image)
        gc = renderer.new_gc()
        if self.get_clip_on():
            gc.set_clip_rectangle(self.get_clip_box())
            gc.set_clip_path(self.get_clip_path())
        renderer.draw_image(gc, left, bottom, _straight(image))
        gc.restore()
        self.stale = False


def _straight(image: np.ndarray) -> np.ndarray:
    """Return an image as bytes, its colours no longer multiplied by how much they cover."""
    cover = image[..., 3:]
    colours = np.divide(image[..., :3], cover, out=np.zeros_like(image[..., :3]), where=cover > 0)
    return np.rint(np.concatenate([colours, cover], axis=2) * 255).clip(0, 255).astype(np.uint8)
