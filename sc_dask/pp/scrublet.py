"""Doublets: two cells that were taken for one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from sc_dask import config, get, slots
from sc_dask.array import qc
from sc_dask.array import scrublet as passes
from sc_dask.array.engine import run
from sc_dask.errors import CountsWarning, InputError, ScDaskWarning
from sc_dask.graph import scrublet as engine
from sc_dask.log import begin, logger
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(
    size: Size,
    *,
    adata_sim: AnnData | None,
    batch_key: str | None,
    sim_doublet_ratio: float,
    n_prin_comps: int,
    **_: Any,
) -> Price:
    n_batches = size.levels(batch_key)
    cells = -(-size.n_obs // n_batches)
    all_cells = cells * (1 + sim_doublet_ratio)  # and doublets, of a batch
    neighbours = cells**0.5 / 2 * (1 + sim_doublet_ratio)
    values = 32 * size.n_values // n_batches
    graph = int(all_cells * (8 * n_prin_comps + 16 * neighbours))
    return Price(1 if adata_sim is not None else 4, int(1.5 * size.blocks) + values + graph, 17 * size.n_obs)


@priced(_price)
def scrublet(
    adata: AnnData,
    adata_sim: AnnData | None = None,
    *,
    batch_key: str | None = None,
    sim_doublet_ratio: float = 2.0,
    expected_doublet_rate: float = 0.05,
    stdev_doublet_rate: float = 0.02,
    synthetic_doublet_umi_subsampling: float = 1.0,
    knn_dist_metric: str = "euclidean",
    normalize_variance: bool = True,
    log_transform: bool = False,
    mean_center: bool = True,
    n_prin_comps: int = 30,
    use_approx_neighbors: bool | None = None,
    get_doublet_neighbor_parents: bool = False,
    n_neighbors: int | None = None,
    threshold: float | None = None,
    verbose: bool = True,
    copy: bool = False,
    random_state: int | None = 0,
) -> AnnData | None:
    """Score how much each cell looks like two cells taken for one (Wolock, Lopez & Klein 2019).

    Doublets are simulated by adding counts of random pairs of cells; a cell with many of them among its neighbours is
    likely to be one. Pairs are drawn as scanpy draws them, so scores are scanpy's but for ties and approximate
    neighbours; those of ``synthetic_doublet_umi_subsampling`` below 1 are drawn otherwise.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy; with ``adata_sim`` prepared as that one.
    adata_sim
        Doublets that are there already: same genes, their parents in ``obsm["doublet_parents"]``.
    batch_key
        Column of obs: each batch (a sample, as it was sequenced) is scored on its own.
    sim_doublet_ratio
        Doublets for each cell.
    expected_doublet_rate, stdev_doublet_rate
        Share of doublets, and how uncertain it is; the latter changes none of what is written.
    synthetic_doublet_umi_subsampling
        Share of its counts that a doublet keeps.
    knn_dist_metric
        Distance (``sc_dask.graph.knn.neighbors.METRICS``).
    normalize_variance, mean_center
        Bring genes to variance 1, and to mean 0, before the components.
    log_transform
        Take log(1 + x) before.
    n_prin_comps
        Number of principal components. A batch with as many cells or variable genes, or fewer, is not scored: its
        cells get NaN, with a warning; it is an error if no batch is left.
    use_approx_neighbors
        True: approximate search; False: exact; None: chosen by size.
    get_doublet_neighbor_parents
        Keep the parents of the doublets among each cell's neighbours.
    n_neighbors
        Neighbours of a cell among cells; None: half the root of their number.
    threshold
        Score above which a cell is called a doublet; None: the valley of the simulated doublets' scores.
    verbose
        Log threshold and rates.
    copy
        Return a changed copy instead.
    random_state
        Seed of the pairs and of the search.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obs ``doublet_score`` (float64; NaN for cells with fewer than 3 genes) and ``predicted_doublet`` (bool); uns
    ``scrublet``: ``doublet_scores_sim``, ``doublet_parents``, ``threshold`` (if there is one) and ``parameters``, and
    if asked for ``doublet_neighbor_parents``. With ``batch_key``: the same for each batch that is scored under
    ``batches``, and ``batched_by``.

    Passes: 4 for any number of batches (with ``adata_sim`` 1 over each). Memory: of one batch at a time, 32 bytes per
    cell and non-zero variable gene (some 10 kB a cell), 8 per component of each cell and doublet, and 30 per neighbour
    of each (75 for 2,700 cells, 470 for 100,000).

    Raises
    ------
    MissingKeyError
        No such column.
    InputError
        X holds NaN or negative values, every batch is too small for the components (told before a pass where its
        cells are too few), or an option is out of range.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(300, 400, seed=1)
    >>> sd.pp.scrublet(adata, threshold=0.3, n_prin_comps=10)
    >>> adata.obs["doublet_score"].between(0, 1).all(), len(adata.uns["scrublet"]["doublet_scores_sim"])
    (np.True_, 600)
    """
    start = begin("Running Scrublet")
    _check(locals())
    options = engine.ScrubletOptions(
        expected_doublet_rate, knn_dist_metric, normalize_variance, mean_center, n_prin_comps, use_approx_neighbors,
        get_doublet_neighbor_parents, n_neighbors, threshold, random_state,
    )  # fmt: skip
    adata = adata.copy() if copy else adata
    codes, names = get.batches(adata, batch_key)
    ratio: float | None = sim_doublet_ratio
    found: list[engine.Scores | None]
    if adata_sim is None:
        how = engine.Simulation(sim_doublet_ratio, synthetic_doublet_umi_subsampling, log_transform)
        kept, found = _from_counts(adata, codes, names, how, options)
    else:
        kept = np.zeros(adata.n_obs, np.int32)
        found = [_from_simulated(adata, adata_sim, options)]
        ratio = adata_sim.uns.get("scrublet", {}).get("parameters", {}).get("sim_doublet_ratio")
    scores, called = np.full(adata.n_obs, np.nan), np.zeros(adata.n_obs, bool)
    of_batches = {}
    for b, (name, s) in enumerate(zip(names, found, strict=True)):
        if s is None:
            continue
        scores[kept == b] = s.cells
        if s.threshold is not None:
            called[kept == b] = s.cells > s.threshold
        of_batches[str(name)] = _described(s, ratio, options)
        _tell(name, s, verbose)
    uns = of_batches["None"] if batch_key is None else {"batches": of_batches, "batched_by": batch_key}
    writes = {("obs", "doublet_score"): scores, ("obs", "predicted_doublet"): called, ("uns", "scrublet"): uns}
    slots.write(adata, writes, writer="pp.scrublet", since=start)
    return adata if copy else None


def _price_of_simulation(size: Size, *, sim_doublet_ratio: float, **_: Any) -> Price:
    made = int(2 * sim_doublet_ratio * size.decoded)
    return Price(1, size.decoded + size.blocks + made, made)


@priced(_price_of_simulation)
def scrublet_simulate_doublets(
    adata: AnnData,
    *,
    layer: str | None = None,
    sim_doublet_ratio: float = 2.0,
    synthetic_doublet_umi_subsampling: float = 1.0,
    random_seed: int | None = 0,
) -> AnnData:
    """Simulate doublets by adding the counts of random pairs of cells (Wolock, Lopez & Klein 2019).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts of chosen cells and genes, in memory or lazy.
    layer
        Layer of the counts; None: X.
    sim_doublet_ratio
        Doublets for each cell.
    synthetic_doublet_umi_subsampling
        Share of its counts that a doublet keeps; below 1 drawn otherwise than scanpy draws.
    random_seed
        Seed of the pairs, which are scanpy's for the same seed.

    Returns
    -------
    AnnData of doublets in memory, in the genes of ``adata``: X csr, obs ``n_counts``, obsm ``doublet_parents`` (n, 2),
    uns ``scrublet``; normalised as ``adata`` is, `scrublet` takes it as ``adata_sim``.

    Writes
    ------
    Nothing.

    Passes: 1. Memory: the counts, and twice of them for each doublet.

    Raises
    ------
    InputError
        A ratio or a share that is out of range.
    MissingKeyError
        No such layer.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.scrublet_simulate_doublets(adata).shape
    (400, 300)
    """
    from anndata import AnnData

    rate = synthetic_doublet_umi_subsampling
    if not sim_doublet_ratio > 0 or not 0 < rate <= 1:
        raise InputError(f"found sim_doublet_ratio={sim_doublet_ratio}, share {rate}", "above 0, and a share up to 1")
    counts = sp.csr_matrix(run.materialise(get.matrix(adata, layer), label="counts"))
    how = engine.Simulation(sim_doublet_ratio, rate, False)
    doublets, parents = engine.doublets(counts, how, random_seed)
    made = AnnData(doublets)
    slots.write(
        made,
        {
            ("obs", "n_counts"): np.asarray(doublets.sum(axis=1)).ravel(),
            ("obsm", "doublet_parents"): parents,
            ("uns", "scrublet"): {"parameters": {"sim_doublet_ratio": sim_doublet_ratio}},
        },
        writer="pp.scrublet_simulate_doublets",
    )
    made.var_names = get.names(adata, "var")
    return made


def _check(o: dict[str, Any]) -> None:
    if o["adata_sim"] is not None and o["batch_key"] is not None:
        raise InputError("both adata_sim and batch_key were given", "one of them", "score each batch with its own")
    rate = o["synthetic_doublet_umi_subsampling"]
    if not 0 < o["expected_doublet_rate"] < 1 or not 0 < rate <= 1 or not o["sim_doublet_ratio"] > 0:
        raise InputError(
            f"found expected_doublet_rate={o['expected_doublet_rate']}, synthetic_doublet_umi_subsampling={rate}, "
            f"sim_doublet_ratio={o['sim_doublet_ratio']}",
            "shares between 0 and 1 and a ratio above 0",
        )
    if o["n_prin_comps"] < 1:
        raise InputError(f"found n_prin_comps={o['n_prin_comps']}", "at least 1")
    if not o["stdev_doublet_rate"] > 0 or (o["n_neighbors"] is not None and o["n_neighbors"] < 1):
        raise InputError(
            f"found stdev_doublet_rate={o['stdev_doublet_rate']}, n_neighbors={o['n_neighbors']}",
            "a deviation above 0 and at least one neighbour",
        )


def _from_counts(
    adata: AnnData, codes: np.ndarray | None, names: list[Any], how: engine.Simulation, options: engine.ScrubletOptions
) -> tuple[np.ndarray, list[engine.Scores | None]]:
    """Return the batch of each cell that is scored (-1: none) and the scores of each batch, None of small ones."""
    x = get.matrix(adata)
    n_batches, k = len(names), options.n_prin_comps
    codes = np.zeros(adata.n_obs, np.int32) if codes is None else codes
    n_cells = np.bincount(codes, minlength=n_batches)
    large = n_cells > k
    if not large.any():
        raise _too_small(k, names, n_cells)
    chosen = passes.chosen(x, np.where(large[codes], codes, -1).astype(np.int32), n_batches)
    if qc.not_counts(x):
        warnings.warn("scrublet expects counts, but found fractions", CountsWarning, stacklevel=3)
    n_kept = np.bincount(chosen.codes[chosen.codes >= 0], minlength=n_batches)
    n_genes = np.array([len(genes) for genes in chosen.genes])
    fits = large & (n_kept > k) & (n_genes > k)
    if not fits.any():
        raise _too_small(k, names, n_kept, n_genes)
    if not fits.all():
        small = [f"{names[b]!r} ({n_cells[b]} cells)" for b in np.flatnonzero(~fits)]
        warnings.warn(
            f"no doublet scores (NaN) for {len(small)} of {n_batches} batches, which have too few cells or variable "
            f"genes for n_prin_comps={k}: {get.listed(small)}; next: choose fewer components, or larger batches",
            ScDaskWarning,
            stacklevel=3,
        )
    found: list[engine.Scores | None] = [None] * n_batches
    for b in np.flatnonzero(fits).tolist():
        factors = chosen.factors[chosen.codes == b]
        found[b] = run.call(engine.of_counts, chosen.read(b), factors, how, options, n_jobs=config.n_threads())
    return chosen.codes, found


def _too_small(k: int, names: list[Any], n_cells: np.ndarray, n_genes: np.ndarray | None = None) -> InputError:
    """Return the error of data of which no batch is large enough, which names the largest."""
    b = int(np.argmax(n_cells if n_genes is None else np.minimum(n_cells, n_genes)))
    where = "" if names[b] is None else f" in the largest batch, {names[b]!r}"
    genes = "" if n_genes is None else f" and {n_genes[b]} variable genes"
    return InputError(
        f"found n_prin_comps={k} for {n_cells[b]} cells{genes}{where}",
        "at least 1 and fewer than cells and variable genes",
        "choose fewer components, or larger batches",
    )


def _from_simulated(adata: AnnData, adata_sim: AnnData, options: engine.ScrubletOptions) -> engine.Scores:
    if adata_sim.n_vars != adata.n_vars or "doublet_parents" not in adata_sim.obsm:
        raise InputError(
            f"adata_sim has {adata_sim.n_vars} genes and obsm {list(adata_sim.obsm)}",
            f"the {adata.n_vars} genes of adata and obsm['doublet_parents']",
        )
    observed, simulated = (sp.csr_matrix(run.materialise(get.matrix(a))) for a in (adata, adata_sim))
    parents = np.asarray(adata_sim.obsm["doublet_parents"])
    return run.call(engine.of_matrices, observed, simulated, parents, options, n_jobs=config.n_threads())


def _described(s: engine.Scores, ratio: float | None, options: engine.ScrubletOptions) -> dict[str, Any]:
    out: dict[str, Any] = {
        "doublet_scores_sim": s.simulated,
        "doublet_parents": s.parents,
        "parameters": {
            "expected_doublet_rate": options.expected_doublet_rate,
            "sim_doublet_ratio": ratio,
            "n_neighbors": s.n_neighbors,
            "random_state": options.random_state,
        },
    }
    if s.threshold is not None:
        out["threshold"] = s.threshold
    if s.neighbor_parents is not None:
        out["doublet_neighbor_parents"] = s.neighbor_parents
    return out


def _tell(name: Any, s: engine.Scores, verbose: bool) -> None:
    where = "" if name is None else f" in batch {name}"
    if s.threshold is None:
        warnings.warn(
            f"the scores of simulated doublets{where} have no two peaks: no cell is called a doublet; "
            "next: look at uns['scrublet'] and pass threshold",
            ScDaskWarning,
            stacklevel=3,
        )
    elif verbose:
        rate, seen = (s.cells > s.threshold).mean(), (s.simulated > s.threshold).mean()
        logger.info("doublets%s: threshold %.3f, %.1f %% of cells", where, s.threshold, 100 * rate)
        logger.info("detectable: %.1f %%; overall: %.1f %%", 100 * seen, 100 * rate / max(seen, 1e-12))
