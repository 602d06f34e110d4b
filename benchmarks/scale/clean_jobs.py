"""One way from chosen genes to X_pca, in a process of its own: ``python -m benchmarks.scale.clean_jobs WAY STORE``."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.to_pca import N_COMPS, N_TOP_GENES, Stages

KEYS = ("total_counts", "pct_counts_mt")
MAX_VALUE = 10.0
_WARM_ROWS = 500


def prepared(path: str, n_rows: int | None = None) -> Any:
    """Return logarithmised values of the chosen genes, lazy; what all ways have in common."""
    from sc_dask import pp, read

    adata = read(path)
    adata = adata if n_rows is None else adata[:n_rows].copy()
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    if adata.obs[KEYS[1]].nunique() < 2:  # a store without such genes: any other number does
        adata.obs[KEYS[1]] = adata.obs["n_genes_by_counts"].astype(float)
    pp.normalize_total(adata, target_sum=1e4)
    pp.log1p(adata)
    pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES)
    return adata[:, adata.var["highly_variable"]].copy()


def corrected(way: str, adata: Any) -> None:
    """Describe what a way does to X, reading it where it must."""
    from sc_dask import pp

    if "regress_out" in way:
        pp.regress_out(adata, list(KEYS))
    if "scale" in way:
        pp.scale(adata, max_value=MAX_VALUE if "cut" in way else None)


def measured(way: str, path: str) -> dict[str, Any]:
    """Run one way, its code compiled and loaded before."""
    from sc_dask import pp

    warm = prepared(path, _WARM_ROWS)
    corrected(way, warm)
    pp.pca(warm, n_comps=N_COMPS)
    adata, stage = prepared(path), Stages()
    with stage("correct"):
        corrected(way, adata)
    with stage("pca"):
        pp.pca(adata, n_comps=N_COMPS)
    report = stage.report()
    for figure in ("seconds", "cpu_s"):
        report[figure] = sum(s[figure] for s in stage.found.values())
    return report | {"shape": list(adata.shape)}


def main() -> None:
    """Run one way on one store."""
    way, path = sys.argv[1:]
    print(json.dumps(measured(way, path)))


if __name__ == "__main__":
    main()
