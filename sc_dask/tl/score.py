"""Scores of gene sets."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array.score import gene_means, scores
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.kernels.score import control_genes
from sc_dask.log import begin, logger
from sc_dask.names import check_new, safe, warn_name
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

Genes = Sequence[str] | pd.Index


@dataclass(frozen=True)
class _Options:
    """What `score_genes` takes beside genes and names."""

    ctrl_as_ref: bool = True
    ctrl_size: int = 50
    gene_pool: Genes | None = None
    n_bins: int = 25
    random_state: int | np.random.RandomState | None = 0
    use_raw: bool | None = None
    layer: str | None = None


def _price(size: Size, *, gene_list: Any, **_: Any) -> Price:
    n_sets = len(gene_list) if isinstance(gene_list, Mapping) else 1
    passes = 1 + size.passes_unless("gene sums")
    memory = int(2.1 * size.blocks) + 24 * n_sets * size.n_obs + 8 * size.n_vars * size.states
    return Price(passes, memory, 8 * n_sets * size.n_obs)


@priced(_price)
def score_genes(
    adata: AnnData,
    gene_list: Genes | Mapping[str, Genes],
    *,
    ctrl_as_ref: bool = True,
    ctrl_size: int = 50,
    gene_pool: Genes | None = None,
    n_bins: int = 25,
    score_name: str = "score",
    random_state: int | np.random.RandomState | None = 0,
    copy: bool = False,
    use_raw: bool | None = None,
    layer: str | None = None,
) -> AnnData | None:
    """Score sets of genes: their mean less that of control genes of a like expression (Satija 2015).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy.
    gene_list
        Names of genes; or a dictionary of several sets, which are scored in the same passes as one. Genes that are not
        there are warned of and left out.
    ctrl_as_ref
        Draw controls from all genes of a bin and leave those of the set away afterwards; False: draw from the others.
    ctrl_size
        Control genes to draw from each bin that holds a gene of the set.
    gene_pool
        Genes to draw from; None: all. It must hold the set.
    n_bins
        Genes are cut into about so many bins by the rank of their mean; at least 2.
    score_name
        Name of the column of obs; of a dictionary's sets ``{key}_{score_name}``.
    random_state
        Seed: the same controls as scanpy's for the same seed, for each set anew; None: different ones each time.
    copy
        Return a changed copy instead.
    use_raw
        Use ``adata.raw``; None: if it is there and no layer is given.
    layer
        Layer to use instead of X.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obs ``score_name``, or one column for each set (float64).

    Passes: 2 for any number of sets: the genes' means (none where a pass over this lazy X has taught the genes' sums,
    as the first call does) and the scores. Memory: 8 bytes per cell and set, and per gene and thread. NaN are left
    out of the means of genes and cells, as scanpy has it (1 pass more).

    Raises
    ------
    InputError
        No gene of a set or of the pool is there, no control gene is left, or an option is out of range.
    MissingKeyError
        No such layer; genes of a set that the pool does not have.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.tl.score_genes(adata, {"a": adata.var_names[:9], "b": adata.var_names[9:20]}, ctrl_size=10)
    >>> adata.obs[["a_score", "b_score"]].shape
    (200, 2)
    """
    start = begin("computing scores of genes")
    if isinstance(gene_list, Mapping):
        sets = {f"{key}_{score_name}": genes for key, genes in gene_list.items()}
    else:
        sets = {score_name: gene_list}
    check_new(score_name=score_name)
    for name in gene_list if isinstance(gene_list, Mapping) else ():
        warn_name(name, f"the key {name!r} of gene_list", f"gene_list[{safe(str(name))!r}] = gene_list.pop({name!r})")
    options = _Options(ctrl_as_ref, ctrl_size, gene_pool, n_bins, random_state, use_raw, layer)
    adata = adata.copy() if copy else adata
    found = _scores(adata, sets, options)
    slots.write(adata, {("obs", name): values for name, values in found.items()}, writer="tl.score_genes", since=start)
    return adata if copy else None


def _price_of_cell_cycle(size: Size, **_: Any) -> Price:
    return _price(size, gene_list={"S_score": (), "G2M_score": ()})


@priced(_price_of_cell_cycle)
def score_genes_cell_cycle(
    adata: AnnData, *, s_genes: Genes, g2m_genes: Genes, copy: bool = False, **kwargs: Any
) -> AnnData | None:
    """Score genes of the S and G2M phases of the cell cycle and tell each cell's phase (Satija 2015).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy.
    s_genes, g2m_genes
        Genes of the two phases.
    copy
        Return a changed copy instead.
    kwargs
        ``ctrl_as_ref``, ``gene_pool``, ``n_bins``, ``random_state``, ``use_raw`` and ``layer`` of `score_genes`; as
        many controls are drawn from a bin as the shorter list has genes.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obs ``S_score`` and ``G2M_score`` (float64); ``phase``: ``S``, ``G2M``, or ``G1`` where both scores are negative.

    Passes: 2, as of `score_genes` for both lists together. Memory: 16 bytes per cell.

    Raises
    ------
    InputError
        As `score_genes`; an option that it does not have.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.tl.score_genes_cell_cycle(adata, s_genes=adata.var_names[:9], g2m_genes=adata.var_names[9:20])
    >>> sorted(set(adata.obs["phase"]) | {"G1"})[0]
    'G1'
    """
    known = sorted(set(_Options.__dataclass_fields__) - {"ctrl_size"})
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise InputError(f"options {', '.join(unknown)}", f"some of: {', '.join(known)}")
    options = _Options(ctrl_size=min(len(s_genes), len(g2m_genes)), **kwargs)
    adata = adata.copy() if copy else adata
    found = _scores(adata, {"S_score": s_genes, "G2M_score": g2m_genes}, options)
    s, g2m = found["S_score"], found["G2M_score"]
    phase = np.where(g2m > s, "G2M", "S").astype(object)
    phase[(s < 0) & (g2m < 0)] = "G1"
    writes = {("obs", name): values for name, values in {**found, "phase": phase}.items()}
    slots.write(adata, writes, writer="tl.score_genes_cell_cycle")
    return adata if copy else None


def _scores(adata: AnnData, sets: Mapping[str, Genes], o: _Options) -> dict[str, np.ndarray]:
    """Return the scores (n_obs,) of each set, in two passes at most."""
    use_raw = (adata.raw is not None and o.layer is None) if o.use_raw is None else o.use_raw
    if not sets:
        raise InputError("no set of genes", "at least one")
    if o.n_bins < 2 or o.ctrl_size < 1:
        raise InputError(f"n_bins={o.n_bins} and ctrl_size={o.ctrl_size}", "at least 2 bins and 1 control gene a bin")
    x = get.matrix(adata, o.layer, use_raw=use_raw)
    names = get.names(adata, "var", use_raw=use_raw)
    if names.has_duplicates:
        raise InputError("names of genes occur more than once", "unique names", "adata.var_names_make_unique()")
    pool = _pool(names, o.gene_pool)
    listed = {name: _listed(name, genes, names, pool) for name, genes in sets.items()}
    of_genes, has_nan = gene_means(x)
    means = of_genes[pool]
    place = np.full(len(names), -1)
    place[pool] = np.arange(len(pool))
    controls = {name: pool[_controls(name, means, place[own], names[own], o)] for name, own in listed.items()}
    scored = scores(x, list(listed.values()), list(controls.values()), has_nan)
    return {name: np.ascontiguousarray(scored[:, i]) for i, name in enumerate(sets)}


def _pool(names: pd.Index, gene_pool: Genes | None) -> np.ndarray:
    """Return the positions of the genes to draw from, in the order that scanpy draws in."""
    if gene_pool is None:
        return np.arange(len(names))
    pool = pd.Index(list(gene_pool), dtype="string").intersection(names)
    if not len(pool):
        raise InputError("no gene of gene_pool is there", "names of genes", "look at adata.var_names")
    return names.get_indexer(pool)


def _listed(name: str, genes: Genes, names: pd.Index, pool: np.ndarray) -> np.ndarray:
    """Return the positions of a set's genes; missing ones are warned of."""
    wanted = pd.Index([genes] if isinstance(genes, str) else genes).unique()
    found = names.get_indexer(wanted)
    missing = [str(g) for g in wanted[found < 0]]
    if len(missing) == len(wanted):
        raise InputError(
            f"none of the {len(wanted)} genes of {name!r} is there ({', '.join(missing[:8]) or 'no names'})",
            "names of genes",
            "look at adata.var_names",
        )
    if missing:
        warnings.warn(f"genes of {name!r} that are not there: {', '.join(missing)}", ScDaskWarning, stacklevel=5)
    found = found[found >= 0]
    outside = names[np.setdiff1d(found, pool)]
    if len(outside):
        raise MissingKeyError(
            f"genes of {name!r} that gene_pool does not have: {', '.join(map(str, outside[:8]))}",
            "a pool with all of them",
        )
    return found


def _controls(name: str, means: np.ndarray, listed: np.ndarray, genes: pd.Index, o: _Options) -> np.ndarray:
    """Return the places of a set's control genes in the pool."""
    unknown = genes[~np.isfinite(means[listed])]
    if len(unknown):
        raise InputError(
            f"genes of {name!r} without a finite mean: {', '.join(map(str, unknown[:8]))}", "values that are finite"
        )
    seed = o.random_state
    rng = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed)
    drawn, empty = control_genes(
        means, listed, rng, ctrl_size=o.ctrl_size, n_bins=o.n_bins, ctrl_as_ref=o.ctrl_as_ref
    )  # fmt: skip
    for cut in empty:
        warnings.warn(f"no control genes for {name!r} in bin {cut:g}: a larger gene_pool has some", ScDaskWarning, 5)
    if not len(drawn):
        raise InputError(
            f"no control gene is left for {name!r}",
            "genes of a like mean outside the set",
            "pass ctrl_as_ref=False, a larger ctrl_size or fewer n_bins",
        )
    logger.info("%s: %d genes, %d control genes", name, len(listed), len(drawn))
    return drawn
