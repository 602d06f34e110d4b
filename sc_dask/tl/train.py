"""Linear models of labelled cells, for ``tl.annotate``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sc_dask import get
from sc_dask.array import annotate
from sc_dask.errors import InputError
from sc_dask.io.model import AnnotationModel
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

_METHODS = (None, "logreg", "sgd")


def _price(
    size: Size, *, n_batches: int, batch_size: int, epochs: int, n_top_genes: int | None, method: str | None, **_: Any
) -> Price:
    drawn = min(size.n_obs, n_batches * batch_size)
    rounds = epochs * (1 if n_top_genes is None else 2)
    values = 16 * size.n_values * drawn // max(size.n_obs, 1)  # read, and put together
    dense = 4 * size.n_vars * (size.n_obs if method == "logreg" else 2 * batch_size)
    return Price(1 if drawn == size.n_obs else 1 + rounds, int(1.2 * size.blocks) + values + dense)


@priced(_price)
def train_annotation(
    adata: AnnData,
    labels: str,
    *,
    method: Literal["logreg", "sgd"] | None = None,
    n_top_genes: int | None = None,
    balanced: bool = False,
    mask_var: np.ndarray | str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    check_expression: bool = True,
    C: float = 1.0,
    max_iter: int = 1000,
    alpha: float = 1e-4,
    epochs: int = 10,
    n_batches: int = 100,
    batch_size: int = 1000,
    description: Mapping[str, str] | None = None,
    random_state: int = 0,
) -> AnnotationModel:
    """Train logistic regression of each label against the rest on cells that need not fit in memory.

    As CellTypist trains (Dominguez Conde et al. 2022): genes are scaled by mean and standard deviation and clipped
    at 10.

    Parameters
    ----------
    adata
        Annotated matrix, counts brought to 10,000 a cell and logarithmised, in memory or lazy.
    labels
        Column of obs; cells without a value are left out.
    method
        ``logreg``: scikit-learn's ``LogisticRegression`` of all labelled cells. ``sgd``: its ``SGDClassifier``, batch
        by batch. None: ``logreg`` where the labelled cells are at most ``n_batches * batch_size`` and take at most 512
        MiB as dense float32, else ``sgd``.
    n_top_genes
        Learn again from the genes that are among so many of the largest weights of a label in a first round of ``sgd``.
    balanced
        All labels count alike, however rare: by weights (``logreg``) or by drawing (``sgd``).
    mask_var
        Genes to learn from: a boolean array or a column of var; those that no cell has are always left out.
    layer, use_raw
        Which matrix.
    check_expression
        Refuse X if the first cells that are read do not sum up to 10,000.
    C, max_iter
        Of ``logreg``: inverse strength of the penalty, and most iterations.
    alpha, epochs, n_batches, batch_size
        Of ``sgd``: strength of the penalty, and how many cells are drawn how often.
    description
        Words to keep with the model.
    random_state
        Seed; the same gives the same model on any number of threads.

    Returns
    -------
    A model for ``tl.annotate``, with ``model.write(path)``.

    Writes
    ------
    Nothing.

    Passes: 1 if the labelled cells are at most ``n_batches * batch_size`` (100,000); else 1 for the means and 1 an
    epoch over the cells that it draws, twice as many epochs with ``n_top_genes``. Memory: the chosen genes of
    so many cells as csr, a batch of dense float32 or, of ``logreg``, all of it.

    Raises
    ------
    InputError
        X is not logarithmised, there are fewer than two labels, ``logreg`` would not fit, or an option does not apply.
    MissingKeyError
        No such column or layer.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> x = np.log1p(np.array([[9e3, 1e3], [2e3, 8e3]]))
    >>> sd.tl.train_annotation(anndata.AnnData(x, {"kind": ["a", "b"]}), "kind").classes.tolist()
    ['a', 'b']
    """
    schedule = annotate.Schedule(epochs, n_batches, batch_size, balanced, random_state)
    _check(method, n_top_genes, schedule, C, max_iter, alpha)
    cells = get.groups(adata, labels, missing="drop", min_groups=2)
    x = get.matrix(adata, layer, use_raw=use_raw)
    names = get.names(adata, "var", use_raw=use_raw)
    if names.has_duplicates:
        raise InputError("names of genes occur more than once", "unique names", "adata.var_names_make_unique()")
    mask = get.var_mask(adata, mask_var)
    if mask is not None and len(mask) != len(names):
        raise InputError(f"mask_var has {len(mask)} genes, the matrix {len(names)}", "equal numbers", "use_raw=False")
    fit = annotate.train(
        x,
        cells.codes,
        len(cells),
        np.arange(len(names)) if mask is None else np.flatnonzero(mask),
        method=method,
        n_top_genes=n_top_genes,
        check=check_expression,
        schedule=schedule,
        penalty=annotate.Penalty(C, alpha, max_iter),
    )
    said = {"labels": labels, "method": fit.method, **(description or {})}
    said.setdefault("date", datetime.date.today().isoformat())
    return AnnotationModel(
        fit.coef,
        fit.intercept,
        np.asarray(cells.values.astype(str)),
        np.asarray(names[fit.genes].astype(str)),
        fit.mean,
        fit.scale,
        said,
    )


def _check(
    method: str | None,
    n_top_genes: int | None,
    schedule: annotate.Schedule,
    C: float,
    max_iter: int,
    alpha: float,
) -> None:
    if method not in _METHODS:
        raise InputError(f"found method={method!r}", "'logreg', 'sgd' or None")
    numbers: dict[str, Any] = {"C": C, "max_iter": max_iter, "alpha": alpha, "epochs": schedule.epochs}
    numbers |= {"n_batches": schedule.n_batches, "batch_size": schedule.batch_size}
    if n_top_genes is not None:
        numbers["n_top_genes"] = n_top_genes
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"found {name}={value!r}", "a positive number")
    if method == "sgd" and (C, max_iter) != (1.0, 1000):
        raise InputError("found C or max_iter with method='sgd'", "alpha and epochs", "method='logreg'")
