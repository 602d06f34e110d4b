"""Names of results that no store holds are warned of; writing refuses them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import anndata as ad
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.testing import lazy
from tests.laws.registry import connected, counts, logged, ranked, reduced, reference


def with_bad_column() -> ad.AnnData:
    adata = reference()
    adata.obs["a/b"] = adata.obs["group"]
    return adata


CALLS: list[tuple[Callable[[], ad.AnnData], str, dict[str, Any]]] = [
    (counts, "pp.normalize_total", {"key_added": "a/b"}),
    (counts, "pp.calculate_qc_metrics", {"inplace": True, "percent_top": None, "expr_type": "a/b"}),
    (logged, "pp.pca", {"n_comps": 3, "key_added": "a/b"}),
    (reduced, "pp.neighbors", {"key_added": "a/b"}),
    (reduced, "pp.harmony_integrate", {"key": "batch", "adjusted_basis": "a/b"}),
    (connected, "tl.leiden", {"key_added": "a/b"}),
    (connected, "tl.louvain", {"key_added": "a/b"}),
    (connected, "tl.umap", {"key_added": "a/b"}),
    (connected, "tl.draw_graph", {"layout": "fr", "key_added_ext": "a/b"}),
    (reduced, "tl.tsne", {"key_added": "a/b"}),
    (reduced, "tl.embedding_density", {"basis": "pca", "key_added": "a/b"}),
    (reduced, "tl.dendrogram", {"groupby": "group", "key_added": "a/b"}),
    (logged, "tl.dendrogram", {"groupby": "a/b", "use_rep": "X"}),
    (logged, "tl.rank_genes_groups", {"groupby": "group", "key_added": "a/b"}),
    (ranked, "tl.filter_rank_genes_groups", {"key_added": "a/b"}),
    (ranked, "tl.marker_gene_overlap", {"reference_markers": {}, "key_added": "a/b", "inplace": True}),
    (logged, "tl.score_genes", {"gene_list": ["gene1"], "score_name": "a/b", "ctrl_as_ref": False}),
    (logged, "tl.score_genes", {"gene_list": {"a/b": ["gene1"]}, "ctrl_as_ref": False}),
    (reduced, "tl.transfer_labels", {"adata_ref": reference, "obs": "group", "key_added": "a/b"}),
    (reduced, "tl.transfer_labels", {"adata_ref": with_bad_column, "obs": "a/b"}),
    (logged, "tl.ingest", {"adata_ref": with_bad_column, "obs": "a/b"}),
]


@pytest.mark.parametrize(("start", "function", "arguments"), CALLS, ids=[f"{c[1]}-{i}" for i, c in enumerate(CALLS)])
def test_names__of_results_are_warned_of(
    start: Callable[[], ad.AnnData], function: str, arguments: dict[str, Any]
) -> None:
    adata = lazy(start())
    adata.obs["a/b"] = adata.obs["group"].to_numpy()
    arguments = {k: v() if callable(v) else v for k, v in arguments.items()}
    module, name = function.split(".")
    found = r"a/b.*cannot be a name in a store: / and .*next: .*a_b.*"
    with pytest.warns(ScDaskWarning, match=found), contextlib.suppress(InputError):  # too few genes for a score
        getattr(getattr(sd, module), name)(adata, **arguments)


def test_names__a_table_that_is_returned_may_have_any() -> None:
    obs, _ = sd.pp.calculate_qc_metrics(counts(), percent_top=None, expr_type="a/b")
    assert "total_a/b" in obs
