"""Measures of graphs, clusterings, layouts and genes: scanpy's and ours."""

from __future__ import annotations

from sc_dask.metrics.genes import gearys_c, morans_i
from sc_dask.metrics.labels import confusion_matrix, modularity
from sc_dask.metrics.quality import ari, neighborhood_preservation, nmi, recall, trustworthiness

__all__ = [
    "ari",
    "confusion_matrix",
    "gearys_c",
    "modularity",
    "morans_i",
    "neighborhood_preservation",
    "nmi",
    "recall",
    "trustworthiness",
]
