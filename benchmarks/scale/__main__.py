"""``python -m benchmarks.scale``: counts to X_pca at a real size, beside peers and beside the floor."""

from benchmarks.scale.compare import main

main()
