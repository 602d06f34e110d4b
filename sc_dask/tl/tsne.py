"""A picture of the cells by t-SNE."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.graph import tsne as embedding
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

_SLOW = 100_000  # cells


def _price(size: Size, *, perplexity: float, **_: Any) -> Price:
    return Price(int(size.rep_is_x), 2 * size.rep + int(300 * perplexity) * size.n_obs, 8 * size.n_obs)


@priced(_price)
def tsne(
    adata: AnnData,
    n_pcs: int | None = None,
    *,
    n_components: int = 2,
    use_rep: str | None = None,
    perplexity: float = 30,
    metric: str = "euclidean",
    early_exaggeration: float = 12,
    learning_rate: float = 1000,
    random_state: int = 0,
    use_fast_tsne: bool = False,
    n_jobs: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Draw the cells by t-SNE (van der Maaten 2014) of scikit-learn: scanpy's coordinates for the same arguments.

    Time grows a little faster than the number of cells (3,000 took 27 s of one core): beyond 100,000 cells a warning
    names what is faster.

    Parameters
    ----------
    adata
        Annotated matrix.
    n_pcs, use_rep
        Columns of ``X_pca`` to use, or another key of obsm; ``"X"`` (or at most 50 genes) is X itself.
    n_components
        Dimensions of the layout.
    perplexity
        Neighbours that a cell heeds, more or less; less than the number of cells.
    metric
        Distance of neighbours.
    early_exaggeration, learning_rate
        How strongly groups attract at first, and how far cells move.
    random_state
        Seed.
    use_fast_tsne
        False: the package MulticoreTSNE is no longer kept.
    n_jobs
        Threads of the search for neighbours; None: those of ``sc_dask.config``.
    key_added
        Key of obsm and uns; None: ``X_tsne`` and ``tsne``.
    copy
        Return a changed copy.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsm ``X_tsne`` (n_obs, n_components) float32; uns ``tsne``: ``params``. With ``key_added``: obsm ``<key>`` and
    uns ``<key>``.

    Passes: 0 (1 if X is the representation). Memory: about ``300 * perplexity`` bytes a cell.

    Raises
    ------
    MissingKeyError
        The representation is not there.
    InputError
        ``perplexity`` does not fit the number of cells, ``n_components`` is not 1, 2 or 3, or ``use_fast_tsne`` is
        True.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> sd.tl.tsne(adata, perplexity=10)
    >>> adata.obsm["X_tsne"].shape
    (60, 2)
    """
    start = begin("computing tSNE")
    check_new(key_added=key_added)
    if n_components not in (1, 2, 3):
        raise InputError(f"found n_components={n_components}", "1, 2 or 3 dimensions", "use n_components=2")
    if use_fast_tsne:
        raise InputError("found use_fast_tsne=True", "False: MulticoreTSNE is no longer kept", "use n_jobs")
    if adata.n_obs > _SLOW:
        warnings.warn(
            f"scikit-learn's t-SNE of {adata.n_obs:,} cells takes hours; next: tl.umap(adata), or pp.sample before",
            ScDaskWarning,
            stacklevel=2,
        )
    threads = config.n_threads() if n_jobs is None else n_jobs
    options: dict[str, Any] = {
        "perplexity": perplexity, "early_exaggeration": early_exaggeration, "learning_rate": learning_rate,
        "n_jobs": threads, "metric": metric, "n_components": n_components,
    }  # fmt: skip
    x = get.embedding(adata, use_rep, n_pcs)
    coords = run.call(embedding.tsne, x, random_state=random_state, **options)
    params = options if use_rep is None else {**options, "use_rep": use_rep}
    adata = adata.copy() if copy else adata
    written = {("obsm", key_added or "X_tsne"): coords, ("uns", key_added or "tsne"): {"params": params}}
    slots.write(adata, written, writer="tl.tsne", since=start)
    return adata if copy else None
