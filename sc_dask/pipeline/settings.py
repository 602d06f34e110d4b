"""Options of a run: one section per stage, with scanpy's names; checked before anything is read."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

import numpy as np

from sc_dask.errors import InputError


@dataclass(frozen=True)
class Input:
    """Where the counts are: X, a ``layer``, or raw X."""

    layer: str | None = None
    use_raw: bool = False


@dataclass(frozen=True)
class QC:
    """Mitochondrial genes start with ``mt_prefix`` (upper or lower case), in var_names or the column ``gene_symbols``."""

    mt_prefix: str = "MT-"
    gene_symbols: str | None = None
    percent_top: tuple[int, ...] = (50, 100, 200, 500)


@dataclass(frozen=True)
class Filter:
    """Bounds, each inclusive; None: none. ``max_pct_mt`` is in per cent."""

    min_genes: int | None = 200
    min_counts: float | None = None
    max_genes: int | None = None
    max_counts: float | None = None
    max_pct_mt: float | None = None
    min_cells: int | None = 3


@dataclass(frozen=True)
class Normalize:
    """``target_sum`` None: the median of the cells' sums (one pass more)."""

    target_sum: float | None = 1e4


@dataclass(frozen=True)
class HVG:
    """As ``pp.highly_variable_genes``."""

    flavor: str = "seurat"
    n_top_genes: int | None = None
    batch_key: str | None = None
    min_mean: float = 0.0125
    max_mean: float = 3
    min_disp: float = 0.5
    max_disp: float = np.inf
    span: float = 0.3
    n_bins: int = 20


@dataclass(frozen=True)
class PCA:
    """As ``pp.pca``; ``n_comps`` None: 50 or as many as there can be."""

    n_comps: int | None = None
    svd_solver: str = "gram"
    random_state: int = 0


@dataclass(frozen=True)
class Neighbors:
    """As ``pp.neighbors``."""

    n_neighbors: int = 15
    n_pcs: int | None = None
    metric: str = "euclidean"
    random_state: int = 0
    min_recall: float = 0.95


@dataclass(frozen=True)
class Leiden:
    """As ``tl.leiden``."""

    resolution: float = 1.0
    flavor: str = "igraph"
    n_iterations: int = 2
    random_state: int = 0


@dataclass(frozen=True)
class UMAP:
    """As ``tl.umap``."""

    min_dist: float = 0.5
    spread: float = 1.0
    n_components: int = 2
    maxiter: int | None = None
    random_state: int = 0


@dataclass(frozen=True)
class Markers:
    """As ``tl.rank_genes_groups`` over the clusters; ``n_genes`` rows a cluster in ``markers.csv``."""

    method: str = "t-test"
    n_genes: int = 100
    pts: bool = True


@dataclass(frozen=True)
class Write:
    """``x``: what X of the result holds: ``normalized`` (scanpy's custom), ``counts``, or ``none`` (smallest)."""

    x: str = "normalized"


@dataclass(frozen=True)
class Settings:
    """All options of a run."""

    input: Input = field(default_factory=Input)
    qc: QC = field(default_factory=QC)
    filter: Filter = field(default_factory=Filter)
    normalize: Normalize = field(default_factory=Normalize)
    hvg: HVG = field(default_factory=HVG)
    pca: PCA = field(default_factory=PCA)
    neighbors: Neighbors = field(default_factory=Neighbors)
    leiden: Leiden = field(default_factory=Leiden)
    umap: UMAP = field(default_factory=UMAP)
    markers: Markers = field(default_factory=Markers)
    write: Write = field(default_factory=Write)

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Settings:
        """Return settings from nested mappings (a YAML file); what is not named keeps its default.

        Raises
        ------
        InputError
            An unknown section or option, or a value of the wrong type.
        """
        sections = {f.name: f for f in dataclasses.fields(cls)}
        made = {}
        for name, options in (given or {}).items():
            if name not in sections:
                raise InputError(f"unknown section {name!r}", f"one of: {', '.join(sections)}")
            if not isinstance(options, Mapping):
                raise InputError(f"section {name!r} is {options!r}", f"options, for instance {name}: {{...}}")
            made[name] = _section(name, sections[name].default_factory, options)  # type: ignore[arg-type]
        settings = cls(**made)
        if settings.write.x not in ("normalized", "counts", "none"):
            raise InputError(f"write.x is {settings.write.x!r}", "'normalized', 'counts' or 'none'")
        return settings

    def section(self, name: str) -> dict[str, Any]:
        """Return one section as a dict."""
        return dataclasses.asdict(getattr(self, name))


def _section(name: str, kind: type[Any], options: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in options.items():
        if key not in hints:
            raise InputError(f"unknown option {name}.{key}", f"one of: {', '.join(hints)}")
        values[key] = _value(f"{name}.{key}", hints[key], value)
    return kind(**values)


def _value(where: str, hint: Any, value: Any) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for kind in allowed:
        if typing.get_origin(kind) is tuple:
            if value is None:
                return ()
            if isinstance(value, list | tuple) and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
                return tuple(value)
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif kind is float and isinstance(value, str):  # YAML reads 1e4 as text
            try:
                return float(value)
            except ValueError:
                continue
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    names = " or ".join("nothing" if k is type(None) else getattr(k, "__name__", str(k)) for k in allowed)
    raise InputError(f"{where} is {value!r}", names)
