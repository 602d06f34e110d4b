"""Cell types for new cells: markers, a trained model with a majority vote, and labels carried over from a reference.

    python examples/annotation.py                                           # 6,000 simulated cells of four donors
    python examples/annotation.py donor1.h5ad donor2.zarr --query new.h5ad --labels cell_type   # your own counts

Reference files are put together without copying them: their blocks stay where they are. The new cells are labelled
twice, by a logistic model of the reference and by their nearest reference cells, and each label says how sure it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import sc_dask as sd


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "reference", nargs="*", type=Path, help="labelled counts, AnnData zarr or h5ad; none: simulated"
    )
    parser.add_argument("--query", type=Path, help="counts to label")
    parser.add_argument("--labels", default="true_label", help="column of the reference's obs (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("annotation"), help="for what is made (%(default)s)")
    args = parser.parse_args()
    if bool(args.reference) != bool(args.query):
        parser.error("give reference files and --query, or neither")
    return args


def simulated(folder: Path) -> tuple[list[Path], Path]:
    """Write four donors, one file each: three to learn from, one to label."""
    atlas = sd.datasets.simulate(6_000, 2_000, n_groups=6, n_batches=4, seed=0)
    paths = []
    for donor in atlas.obs["batch"].cat.categories:
        paths.append(folder / f"{donor}.zarr")
        if not paths[-1].exists():
            sd.write(atlas[(atlas.obs["batch"] == donor).to_numpy()].copy(), paths[-1])
    return paths[:-1], paths[-1]


def logged(adata: Any) -> Any:
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    return adata


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    references, query = (args.reference, args.query) if args.query else simulated(args.folder)

    # many files, one matrix
    keys = [p.stem for p in references]
    reference = logged(sd.concat([sd.read(p) for p in references], label="donor", keys=keys, index_unique="-"))
    new = logged(sd.read(query))
    print(f"{reference.n_obs:,} cells of {len(keys)} files to learn from, {new.n_obs:,} to label")
    sd.pp.highly_variable_genes(reference, n_top_genes=500, batch_key="donor")
    sd.pp.pca(reference, n_comps=30)
    sd.pp.neighbors(reference)

    # what sets the types apart: Wilcoxon's test and pseudobulk sums in few passes
    sd.tl.rank_genes_groups(reference, args.labels, method="wilcoxon", pts=True)
    sd.tl.filter_rank_genes_groups(reference, min_fold_change=1, min_in_group_fraction=0.2)
    table = sd.get.rank_genes_groups_df(reference, key="rank_genes_groups_filtered")
    markers = {name: list(t["names"][:5]) for name, t in table.groupby("group", observed=True) if len(t)}
    for name, genes in markers.items():
        print(f"  {name:<20}{', '.join(genes)}")

    # labels from a model, smoothed by a vote in small clusters; and from the nearest cells of the reference
    model = sd.tl.train_annotation(reference, args.labels)
    known = new.obs[args.labels].astype(str).to_numpy() if args.labels in new.obs else None
    sd.tl.ingest(new, reference, obs=args.labels, embedding_method="pca")
    sd.pp.neighbors(new)
    sd.tl.annotate(new, model, majority_voting=True)
    sd.tl.transfer_labels(new, reference, args.labels, threshold=0.5, key_added="transferred")
    sure = (new.obs["transferred"] != "unknown").to_numpy()
    print(f"{sure.sum():,} of {new.n_obs:,} cells have a label that their neighbours agree on")
    for name in ("predicted_labels", "majority_voting", "transferred"):
        if known is not None:
            print(
                f"  {name:<18}{np.mean(new.obs[name].astype(str).to_numpy()[sure] == known[sure]):.3f} of them as known"
            )

    # means and shares of the markers by new label: what a dotplot shows; and a score for each list, in one go
    genes = list(dict.fromkeys(g for group in markers.values() for g in group))
    with sd.batch() as batch:
        seen = batch.get.aggregate(new, "majority_voting", ["mean", "count_nonzero"])
        batch.tl.score_genes(new, markers)
    dots = seen.value[:, genes]
    share = np.asarray(dots.layers["count_nonzero"]) / dots.obs["n_obs_aggregated"].to_numpy()[:, None]
    mean = pd.DataFrame(np.asarray(dots.layers["mean"]), dots.obs["majority_voting"], genes)
    pd.concat({"mean": mean, "share": pd.DataFrame(share, mean.index, genes)}, axis=1).to_csv(
        args.folder / "dotplot.csv"
    )
    sd.write(new, args.folder / "labelled.zarr", overwrite=True)
    print(f"results: {args.folder / 'labelled.zarr'} and dotplot.csv beside it")


if __name__ == "__main__":
    main()
