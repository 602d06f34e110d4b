"""t-SNE (van der Maaten 2014) by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError


def tsne(x: NDArray[Any], *, perplexity: float, **options: Any) -> NDArray[Any]:
    """Return coordinates, ``n_obs x n_components``; the options are those of ``sklearn.manifold.TSNE``.

    Memory: 100 bytes for each of ``3 * perplexity`` neighbours of a cell.

    Raises
    ------
    InputError
        There are no more cells than ``perplexity``, or coordinates that are not finite.
    """
    from sklearn.manifold import TSNE

    if not 0 < perplexity < x.shape[0]:
        raise InputError(
            f"found perplexity={perplexity} for {x.shape[0]} cells",
            f"more than 0 and less than {x.shape[0]}",
            "use a smaller perplexity",
        )
    if not np.isfinite(x).all():
        raise InputError("found NaN or infinity in the representation", "finite numbers", "run pp.pca again")
    return np.asarray(TSNE(perplexity=perplexity, **options).fit_transform(x))
