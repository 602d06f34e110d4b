"""Some of the cells or genes, drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sc_dask import get, slots
from sc_dask.errors import BackedError, InputError
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

_SUMS_TO_ONE = 1e-8  # as numpy has it


def _price(size: Size, **_: Any) -> Price:
    return Price(0, 450 * size.n_obs)


@priced(_price)
def sample(
    data: AnnData | Any,
    fraction: float | None = None,
    *,
    n: int | None = None,
    rng: np.random.Generator | np.random.BitGenerator | int | None = None,
    copy: bool = False,
    replace: bool = False,
    axis: Literal["obs", 0, "var", 1] = "obs",
    p: str | np.ndarray | None = None,
) -> AnnData | tuple[Any, np.ndarray] | None:
    """Draw cells or genes at random, with or without replacement.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), in memory, lazy or backed; or the matrix alone.
    fraction
        Share of all cells (or genes) to draw; above 1 with ``replace`` only.
    n
        Number to draw instead.
    rng
        Seed or generator: the same cells as scanpy's for the same seed.
    copy
        Return a new AnnData instead.
    replace
        Draw with replacement: a cell may come several times, one beside the other.
    axis
        ``"obs"`` (0) draws cells, ``"var"`` (1) genes.
    p
        Chances (float, of sum 1) or a mask (bool) of what may be drawn, or a column that holds them.

    Returns
    -------
    None, or with ``copy`` the new AnnData (of a backed one in memory); of a matrix alone a part of it, and the
    positions that were drawn: in the order of the draw in memory, rising where it is lazy.

    Writes
    ------
    Nothing new: every slot keeps the cells (genes) drawn, in the order in which they stand in ``data``. Scanpy shuffles
    them; here blocks stay where they are in the file.

    Passes: 0. Memory: 8 bytes per cell.

    Raises
    ------
    InputError
        Not exactly one of ``fraction`` and ``n``, more than there are, nothing at all, or chances that are none.
    MissingKeyError
        No such column.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.sample(adata, 0.1, rng=0)
    >>> adata.shape
    (20, 300)
    """
    name = _axis(axis)
    n_all = data.shape[0 if name == "obs" else 1]
    chances = None if p is None else _chances(data, p, name, n_all)
    n_drawn = _number(fraction, n, n_all, replace, chances)
    drawn = np.random.default_rng(rng).choice(n_all, size=n_drawn, replace=replace, p=chances)
    return _kept(data, name, drawn, copy)


def _price_of_subsample(size: Size, **_: Any) -> Price:
    return Price(0, 450 * size.n_obs)


@priced(_price_of_subsample)
def subsample(
    data: AnnData | Any,
    fraction: float | None = None,
    *,
    n_obs: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
    copy: bool = False,
) -> AnnData | tuple[Any, np.ndarray] | None:
    """Draw cells at random, without replacement, as scanpy did before `sample`.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), in memory, lazy or backed; or the matrix alone.
    fraction
        Share of the cells to draw, up to 1.
    n_obs
        Number of cells to draw instead.
    random_state
        Seed: the same cells as scanpy's for the same seed; None: others each time.
    copy
        Return a new AnnData instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData (of a backed one in memory); of a matrix alone a part of it, and the
    positions that were drawn: in the order of the draw in memory, rising where it is lazy.

    Writes
    ------
    Nothing new: every slot keeps the cells drawn, in the order in which they stand in ``data``.

    Passes: 0. Memory: 8 bytes per cell.

    Raises
    ------
    InputError
        As `sample`.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.subsample(adata, n_obs=50)
    >>> adata.n_obs
    50
    """
    n = _number(fraction, n_obs, data.shape[0], False, None)
    rng = random_state if isinstance(random_state, np.random.RandomState) else np.random.RandomState(random_state)
    return _kept(data, "obs", rng.choice(data.shape[0], size=n, replace=False), copy)


def _axis(axis: Any) -> str:
    names = {"obs": "obs", 0: "obs", "var": "var", 1: "var"}
    if axis not in names:
        raise InputError(f"axis={axis!r}", "'obs' (0) or 'var' (1)")
    return names[axis]


def _chances(data: AnnData, p: str | np.ndarray, axis: str, n_all: int) -> np.ndarray:
    """Return the chance of each cell or gene; a mask gives all of its own the same."""
    values = get.column(data, p, axis=axis).to_numpy() if isinstance(p, str) else np.asarray(p)
    if values.shape != (n_all,) or values.dtype.kind not in "bf":
        raise InputError(f"p of type {values.dtype} and shape {values.shape}", f"bool or float of shape ({n_all},)")
    if values.dtype.kind == "b":
        values = values / max(values.sum(), 1)
    if not (values >= 0).all() or abs(values.sum() - 1) > _SUMS_TO_ONE:
        raise InputError(f"p with the sum {values.sum():g}", "chances from 0 on with the sum 1", "p / p.sum()")
    return np.asarray(values)


def _number(fraction: float | None, n: int | None, n_all: int, replace: bool, p: np.ndarray | None) -> int:
    """Return how many to draw."""
    if (fraction is None) == (n is None):
        raise InputError(f"{'neither' if n is None else 'both'} of fraction and a number", "exactly one of them")
    if fraction is not None:
        if not fraction >= 0 or (fraction > 1 and not replace):
            raise InputError(f"fraction={fraction}", "a number from 0 to 1", "replace=True draws more than there are")
        n = int(fraction * n_all)
    assert n is not None
    most = n_all if p is None else int(np.count_nonzero(p))
    if n < 1 or most < 1 or (n > most and not replace):
        raise InputError(f"{n} to draw of {most}", "at least 1, and no more than there are without replace=True")
    return n


def _kept(data: AnnData | Any, axis: str, drawn: np.ndarray, copy: bool) -> AnnData | tuple[Any, np.ndarray] | None:
    if get.is_array(data):
        # rows of a lazy matrix stay where they are: a block is read once, and never out of turn
        drawn = np.sort(drawn) if get.is_lazy(data) else drawn
        return (data[drawn] if axis == "obs" else data[:, drawn]), drawn
    drawn = np.sort(drawn)
    if copy:
        part = data[drawn] if axis == "obs" else data[:, drawn]
        return part.to_memory() if data.isbacked else part.copy()
    if data.isbacked:
        raise BackedError("a backed AnnData and copy=False", "copy=True", "or open the file with sd.read(path)")
    slots.subset(data, axis, drawn)
    return None
