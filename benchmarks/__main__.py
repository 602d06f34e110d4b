"""``python -m benchmarks``: the comparison to X_pca."""

from benchmarks.bench_pca import main

main()
