"""Where rounding of an oracle decides what comes out, the oracle is given exact numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from packaging.version import Version

from tests.stack import SCANPY


def exact_batch_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scanpy's ``seurat_v3`` with batches start from exact means and variances.

    From 1.12 on they come from a running mean, off by 1e-15: genes of equal means are no longer equal, and the loess
    fit through them moves by up to 0.03 (1.11 takes sums of squares, whose rounding happens to be ours).
    """
    if Version("1.12") > SCANPY:
        return
    from scanpy.preprocessing import _highly_variable_genes as theirs

    class Groups(SimpleNamespace):
        def __getitem__(self, chosen: Any) -> Any:
            return SimpleNamespace(layers={k: v[np.asarray(chosen)] for k, v in self.layers.items()})

    def aggregate(adata: Any, by: str, func: list[str]) -> Any:
        x = adata.X.toarray().astype(np.float64)
        groups = pd.Categorical(adata.obs[by])
        parts = [x[groups.codes == i] for i in range(len(groups.categories))]
        obs = pd.DataFrame({by: groups.categories})
        moments = {"mean": [p.sum(axis=0) / len(p) for p in parts], "var": [p.var(axis=0, ddof=1) for p in parts]}
        return Groups(obs=obs, layers={k: np.stack(v) for k, v in moments.items()})

    monkeypatch.setattr(theirs, "aggregate", aggregate)
