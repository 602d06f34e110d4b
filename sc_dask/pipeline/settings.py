"""Options of a run: one section per stage, with scanpy's names; checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any

import numpy as np

from sc_dask.errors import InputError
from sc_dask.graph.knn.neighbors import METRICS


@dataclass(frozen=True)
class Input:
    """Where the counts are: X, a ``layer``, or raw X with the genes of raw."""

    layer: str | None = None
    use_raw: bool = False


@dataclass(frozen=True)
class QC:
    """Mitochondrial genes start with ``mt_prefix`` (in any case), in var_names or the column ``gene_symbols``."""

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
    svd_solver: str = "auto"
    random_state: int = 0


@dataclass(frozen=True)
class Neighbors:
    """As ``pp.neighbors``."""

    n_neighbors: int = 15
    n_pcs: int | None = None
    metric: str = "euclidean"
    random_state: int = 0
    min_recall: float = 0.95
    compact: bool | str = "auto"


@dataclass(frozen=True)
class Leiden:
    """As ``tl.leiden``."""

    resolution: float = 1.0
    flavor: str = "sc_dask"
    n_iterations: int = 2
    random_state: int = 0


@dataclass(frozen=True)
class UMAP:
    """As ``tl.umap``."""

    min_dist: float = 0.5
    spread: float = 1.0
    n_components: int = 2
    maxiter: int | None = None
    init_pos: str = "multilevel"
    method: str = "umap"
    random_state: int = 0


@dataclass(frozen=True)
class Markers:
    """As ``tl.rank_genes_groups`` over the clusters; ``n_genes`` rows a cluster in ``markers.csv``."""

    method: str = "t-test"
    n_genes: int = 100
    pts: bool = True


@dataclass(frozen=True)
class Write:
    """``x``: what X of the result holds: ``normalized`` (scanpy's custom), ``counts``, or ``none`` (smallest).

    ``counts``: beside a normalised X, the raw counts in ``layers["counts"]``.
    """

    x: str = "normalized"
    counts: bool = True


@dataclass(frozen=True)
class Settings:
    """All options of a run.

    Raises
    ------
    InputError
        A value out of its range, or options that exclude each other.
    """

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

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_together(self)

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Settings:
        """Return settings from nested mappings (a YAML file); what is not named keeps its default.

        Raises
        ------
        InputError
            An unknown section or option, or a value of the wrong type or out of its range.
        """
        sections = {f.name: f for f in dataclasses.fields(cls)}
        made = {}
        for name, options in (given or {}).items():
            if name not in sections:
                raise InputError(
                    f"unknown section {name!r}", f"one of: {', '.join(sections)}", _instead(name, sections)
                )
            if options is not None and not isinstance(options, Mapping):
                raise InputError(f"section {name!r} is {options!r}", f"options, for instance {name}: {{...}}")
            made[name] = _section(name, sections[name].default_factory, options or {})  # type: ignore[arg-type]
        return cls(**made)

    def section(self, name: str) -> dict[str, Any]:
        """Return one section as a dict."""
        return dataclasses.asdict(getattr(self, name))

    def sections(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the options of several sections as one dict as JSON holds it: lists, and infinity as text."""
        options = {k: v for name in names for k, v in self.section(name).items()}
        as_text = {k: str(v) for k, v in options.items() if isinstance(v, float) and math.isinf(v)}
        return options | as_text | {k: list(v) for k, v in options.items() if isinstance(v, tuple)}


# -- types ---------------------------------------------------------------------------------------


def _section(name: str, kind: type[Any], options: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in options.items():
        if key not in hints:
            raise InputError(f"unknown option {name}.{key}", f"one of: {', '.join(hints)}", _instead(key, hints))
        values[key] = _value(f"{name}.{key}", hints[key], value)
    return kind(**values)


def _instead(name: Any, known: Iterable[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else None


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
    tuple: "a list of whole numbers",
}


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
    names = " or ".join(_TYPE_NAMES[typing.get_origin(k) or k] for k in allowed)
    raise InputError(f"{where} is {value!r}", names)


# -- ranges --------------------------------------------------------------------------------------

_SEED_LIMIT = 2**32
Test = tuple[str, Callable[[Any], bool]]


def _one_of(*names: str) -> Test:
    return "one of: " + ", ".join(names), lambda v: v in names


def _least(n: float) -> Test:
    return f"{n:g} or more", lambda v: v >= n


_ABOVE_0: Test = ("a number above 0", lambda v: 0 < v < math.inf)
_SEED: Test = (f"a whole number from 0 to {_SEED_LIMIT - 1}", lambda v: 0 <= v < _SEED_LIMIT)
_RANGES: dict[str, Test] = {
    "qc.mt_prefix": ("the first letters of mitochondrial genes", bool),
    "qc.percent_top": ("numbers of genes, each 1 or more", lambda v: all(n >= 1 for n in v)),
    **{f"filter.{f.name}": _least(0) for f in dataclasses.fields(Filter)},
    "normalize.target_sum": _ABOVE_0,
    "hvg.flavor": _one_of("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"),
    "hvg.n_top_genes": _least(1),
    "hvg.span": ("a number above 0, at most 1", lambda v: 0 < v <= 1),
    "hvg.n_bins": _least(2),
    "pca.n_comps": _least(1),
    "pca.svd_solver": _one_of("auto", "gram", "randomized", "incremental", "arpack", "covariance_eigh", "full"),
    "neighbors.n_neighbors": _least(2),
    "neighbors.n_pcs": _least(1),
    "neighbors.metric": _one_of(*METRICS),
    "neighbors.min_recall": ("a number from 0 to 1", lambda v: 0 <= v <= 1),
    "leiden.resolution": _ABOVE_0,
    "leiden.flavor": _one_of("sc_dask", "igraph", "leidenalg"),
    "leiden.n_iterations": ("1 or more, or -1 (until nothing improves)", lambda v: v >= 1 or v == -1),
    "umap.min_dist": _least(0),
    "umap.spread": _ABOVE_0,
    "umap.n_components": _least(1),
    "umap.maxiter": _least(1),
    "umap.init_pos": _one_of("multilevel", "spectral", "random", "pca"),
    "umap.method": _one_of("umap", "umap-learn"),
    "markers.method": _one_of("t-test", "t-test_overestim_var"),
    "markers.n_genes": _least(1),
    "write.x": _one_of("normalized", "counts", "none"),
    **{f"{s}.random_state": _SEED for s in ("pca", "neighbors", "leiden", "umap")},
}


def _check_ranges(s: Settings) -> None:
    for f in dataclasses.fields(s):
        for name, value in s.section(f.name).items():
            where = f"{f.name}.{name}"
            if isinstance(value, float) and math.isnan(value):
                raise InputError(f"{where} is not a number", "a number")
            if where in _RANGES and value is not None:
                expected, holds = _RANGES[where]
                if not holds(value):
                    raise InputError(f"{where} is {value!r}", expected)


def _check_together(s: Settings) -> None:
    """Refuse options that would be of no effect, and numbers that cannot be met."""
    if s.input.layer is not None and s.input.use_raw:
        raise InputError("both input.layer and input.use_raw are given", "one of them")
    curve = s.hvg.flavor.startswith("seurat_v3")
    cutoffs = [k for k in ("min_mean", "max_mean", "min_disp", "max_disp") if getattr(s.hvg, k) != getattr(HVG, k)]
    if cutoffs and (curve or s.hvg.n_top_genes is not None):
        reason = f"hvg.flavor: {s.hvg.flavor}" if curve else "hvg.n_top_genes"
        raise InputError(f"hvg.{cutoffs[0]} together with {reason}", "either a number of genes or cut-offs")
    if curve and s.hvg.n_bins != HVG.n_bins:
        raise InputError(f"hvg.n_bins with hvg.flavor: {s.hvg.flavor}", "no bins: it fits a curve")
    if not curve and s.hvg.span != HVG.span:
        raise InputError(f"hvg.span with hvg.flavor: {s.hvg.flavor}", "a span only with seurat_v3")
    if s.pca.random_state != 0 and s.pca.svd_solver not in ("auto", "arpack", "randomized"):
        raise InputError(f"pca.random_state with pca.svd_solver: {s.pca.svd_solver}", "0: this solver draws nothing")
    n_comps, most = s.pca.n_comps or 50, s.hvg.n_top_genes
    if s.pca.n_comps and most is not None and s.pca.n_comps > most:
        raise InputError(f"pca.n_comps is {s.pca.n_comps} and hvg.n_top_genes {most}", f"at most {most} components")
    if s.neighbors.n_pcs is not None and s.neighbors.n_pcs > n_comps:
        raise InputError(
            f"neighbors.n_pcs is {s.neighbors.n_pcs} and pca.n_comps {n_comps}", f"at most {n_comps}",
            f"pca: {{n_comps: {s.neighbors.n_pcs}}}",
        )  # fmt: skip
    if s.umap.method == "umap-learn" and s.umap.init_pos == "multilevel":
        raise InputError(
            "umap.method is umap-learn and umap.init_pos multilevel",
            "a start that it has",
            "umap: {init_pos: spectral}",
        )
    if s.umap.min_dist > s.umap.spread:
        raise InputError(
            f"umap.min_dist is {s.umap.min_dist:g} and umap.spread {s.umap.spread:g}", "at most the spread"
        )
