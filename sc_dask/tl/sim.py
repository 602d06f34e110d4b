"""Simulation of gene expression from a Boolean gene-regulatory network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from dask.base import tokenize

from sc_dask.array.blocks import from_source
from sc_dask.array.chunks import cut_dense, default_block_bytes
from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.kernels.sim import trajectory
from sc_dask.price import Price, Size, priced
from sc_dask.tl import networks
from sc_dask.tl.networks import RuleFile

if TYPE_CHECKING:
    from anndata import AnnData

_MAX_RESTARTS = 1000  # beyond the realisations that are wanted, as in scanpy
_NEW_BRANCH = 0.25  # two genes at least must end so far from where they ended before
_BLOCK_ROWS = 2**16  # so that a small simulation has work for several threads


@dataclass(frozen=True)
class SimOptions:
    """How a network is simulated; the names are scanpy's."""

    tmax: int
    branching: bool
    nrRealizations: int
    noiseObs: float
    noiseDyn: float
    step: int
    seed: int

    @property
    def n_saved(self) -> int:
        """Cells of one realisation."""
        return -(-self.tmax // self.step)


def _price(size: Size, *, n_obs: int | None = None, **_: Any) -> Price:
    return Price(0, 0)


@priced(_price)
def sim(
    model: str | Path,
    *,
    params_file: bool = True,
    tmax: int | None = None,
    branching: bool | None = None,
    nrRealizations: int | None = None,
    noiseObs: float | None = None,
    noiseDyn: float | None = None,
    step: int | None = None,
    seed: int | None = None,
    writedir: str | Path | None = None,
    n_obs: int | None = None,
) -> AnnData:
    """Simulate single cells from the Boolean rules of a gene-regulatory network.

    Rules become Hill kinetics with noise (Wittmann et al. 2009, doi:10.1186/1752-0509-3-98), of which each realisation
    is one run; a cell is one saved step. The numbers are scanpy's for the same seed. With ``n_obs``, any number of
    cells: realisations are then independent of each other, each with random numbers of its own, and are made block
    by block where they are used.

    Parameters
    ----------
    model
        ``"krumsiek11"`` (myeloid differentiation), ``"toggleswitch"``, or the path of a rule file.
    params_file
        Take what is not given from ``<name>_params.txt`` beside the rule file.
    tmax
        Time steps of a realisation.
    branching
        Keep only realisations that end elsewhere than all before them.
    nrRealizations
        Realisations to keep.
    noiseObs, noiseDyn
        Standard deviations of the noise of measuring and of every time step.
    step
        Every so many time steps a cell is saved.
    seed
        Of the random numbers.
    writedir
        Folder for the result, a new zarr store ``sim_000000.zarr``, ``sim_000001.zarr``, ...; None: nothing is written.
    n_obs
        Cells of a simulation of any size, without ``branching`` and ``nrRealizations``.

    Returns
    -------
    AnnData (n_obs, n_genes), float32: cells in the order of realisations and time. X is in memory and has four
    decimals, as scanpy's; with ``n_obs`` it is lazy, obs says ``realization`` and ``time``, and names are unique.

    Writes
    ------
    uns ``tmax_write`` (saved steps of a realisation) and ``iroot`` (the first cell) of the result; the store in
    ``writedir``.

    Passes: 0. Memory: all cells; with ``n_obs`` a block per thread, and obs.

    Raises
    ------
    InputError
        No such model, a parameter is missing or out of its range, or an option does not apply.
    FormatError
        The rule file cannot be understood.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.tl.sim("toggleswitch", n_obs=500, seed=1)
    >>> adata.shape, adata.obs["realization"].nunique()
    ((500, 2), 5)
    """
    rules = networks.read(networks.find(model))
    given = {
        "tmax": tmax,
        "branching": branching,
        "nrRealizations": nrRealizations,
        "noiseObs": noiseObs,
        "noiseDyn": noiseDyn,
        "step": step,
        "seed": seed,
    }
    if n_obs is not None and (nrRealizations is not None or branching):
        raise InputError(
            "found n_obs together with nrRealizations or branching",
            "independent realisations, as many as n_obs needs",
            "leave them out",
        )
    params = networks.read_params(rules.path) if params_file else {}
    params |= {k: v for k, v in given.items() if v is not None}
    if n_obs is not None:
        params |= {"nrRealizations": 1, "branching": False}
    options = _options(params)
    target = None if writedir is None else _target(writedir)
    adata = _kept(rules, options) if n_obs is None else _lazy(rules, options, n_obs)
    if target is None:
        return adata
    from sc_dask.io.read import read
    from sc_dask.io.write import write

    target.parent.mkdir(parents=True, exist_ok=True)
    write(adata, target)
    return adata if n_obs is None else read(target)


def _options(params: dict[str, Any]) -> SimOptions:
    fields = SimOptions.__dataclass_fields__
    missing = [k for k in fields if params.get(k) is None]
    if missing:
        raise InputError(f"found no {missing[0]}", "all parameters, or a parameter file", f"sim(..., {missing[0]}=...)")
    least = {"tmax": 1, "nrRealizations": 1, "step": 1, "seed": 0}
    for k, lowest in least.items():
        value = params[k]
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
            raise InputError(f"found {k}={value!r}", f"a whole number, at least {lowest}", f"sim(..., {k}={lowest})")
    for k in ("noiseObs", "noiseDyn"):
        if isinstance(params[k], bool) or not isinstance(params[k], int | float | np.number) or not params[k] >= 0:
            raise InputError(f"found {k}={params[k]!r}", "a number, at least 0", f"sim(..., {k}=0)")
    if not isinstance(params["branching"], bool):
        raise InputError(f"found branching={params['branching']!r}", "True or False")
    return SimOptions(**{k: params[k] for k in fields})


def _target(writedir: str | Path) -> Path:
    if "://" in str(writedir):
        raise InputError(
            f"found writedir={str(writedir)!r}", "a folder of this machine", "sd.write(adata, url) with the result"
        )
    taken = [int(p.stem[4:]) for p in Path(writedir).glob("sim_*.zarr") if p.stem[4:].isdigit()]
    return Path(writedir) / f"sim_{max(taken, default=-1) + 1:06d}.zarr"


# -- where realisations begin --------------------------------------------------------------------


def _start(rules: RuleFile, normal: Callable[[int], Any], other: np.ndarray) -> np.ndarray:
    """Return the levels at the beginning: those of the two known models, slightly disturbed, or ``other``."""
    n = len(rules.genes)
    if "krumsiek11" in rules.name:
        on = [rules.genes.index(g) for g in ("Gata2", "Pu.1", "Cebpa") if g in rules.genes]
        start = np.zeros(n)
        start[on] = 0.8
        return np.asarray(start + 0.001 * normal(n))
    if "toggleswitch" in rules.name:
        return np.asarray(np.full(n, 0.8) + 0.01 * normal(n))
    return other


# -- scanpy's realisations -----------------------------------------------------------------------


def _kept(rules: RuleFile, options: SimOptions) -> AnnData:
    """Return realisations with scanpy's random numbers, drawn in scanpy's order."""
    from anndata import AnnData

    n, wanted = len(rules.genes), options.nrRealizations
    if options.branching and n < 2:
        raise InputError(f"found branching=True with {n} gene", "at least two genes", "branching=False")
    rng = np.random.RandomState(options.seed)
    krumsiek = "krumsiek11" in rules.name
    other = np.empty(0) if krumsiek else _drawn_in_vain(rng, rules)
    saved: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    for _ in range(wanted + _MAX_RESTARTS):
        if krumsiek:
            rng.rand(n)  # scanpy draws these and does not use them
        start = _start(rules, rng.randn, other)
        levels = trajectory(rules.network, start, options.noiseDyn * rng.randn(options.tmax, n))
        if options.branching and any(np.partition(np.abs(levels[-1] - e), -2)[-2] < _NEW_BRANCH for e in ends):
            continue
        cells = levels[:: options.step]
        cells += options.noiseObs * rng.randn(*cells.shape)
        ends.append(levels[-1].copy())  # with that noise, where the last step is saved: as in scanpy
        saved.append(cells.astype(np.float64))
        if len(saved) == wanted:
            break
    else:
        warnings.warn(
            ScDaskWarning(
                f"found {len(saved)} of {wanted} branches in {wanted + _MAX_RESTARTS} realisations; expected a network "
                "with as many ends; next: fewer nrRealizations, or branching=False"
            ),
            stacklevel=3,
        )
    x = np.round(np.concatenate(saved), 4).astype(np.float32)  # the decimals of scanpy's text files
    names = pd.Index([str(t) for _ in saved for t in range(options.n_saved)], dtype=object)
    return AnnData(x, pd.DataFrame(index=names), _var(rules), _uns(options))


def _drawn_in_vain(rng: np.random.RandomState, rules: RuleFile) -> np.ndarray:
    """Draw what scanpy draws for couplings that it then does not use; return its start for unknown models."""
    n = len(rules.genes)
    if "hill" not in rules.name:
        for _ in range(10):
            coupling = np.full((n, n), 0.7)
            for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
                coupling[i, j] = 0.7 if rng.rand() < 0.4 else 0.0
            if np.linalg.eigvals(coupling).real.max() < 1:
                break
        for _ in range(n):
            if rng.binomial(1, 0.4) == 0:
                rng.choice(np.arange(n), size=rng.randint(1, 3), replace=False)
    return np.asarray(rng.rand(n))


def _var(rules: RuleFile) -> pd.DataFrame:
    return pd.DataFrame(index=pd.Index(rules.genes, dtype=object))


def _uns(options: SimOptions) -> dict[str, Any]:
    return {"tmax_write": options.tmax / options.step, "iroot": 0}


# -- any number of cells -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SimSource(BlockSource):
    """Cells of independent realisations as a ``BlockSource``: the same wherever blocks are cut."""

    rules: RuleFile
    options: SimOptions
    n_obs: int
    token: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_obs, len(self.rules.genes)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def is_sparse(self) -> bool:
        return False

    def read(self, start: int, stop: int) -> Block:
        each = self.options.n_saved
        out = np.empty((stop - start, self.shape[1]), np.float32)
        for r in range(start // each, -(-stop // each) if stop > start else 0):
            lo, hi = max(start, r * each), min(stop, (r + 1) * each)
            out[lo - start : hi - start] = self._realisation(r)[lo - r * each : hi - r * each]
        METER.add(rows=stop - start)
        return out

    def _realisation(self, number: int) -> np.ndarray:
        o, n = self.options, self.shape[1]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(o.seed, spawn_key=(number,))))
        start = _start(self.rules, rng.standard_normal, rng.random(n))
        levels = trajectory(self.rules.network, start, o.noiseDyn * rng.standard_normal((o.tmax, n)))
        return np.asarray(levels[:: o.step] + o.noiseObs * rng.standard_normal((o.n_saved, n)))


def _lazy(rules: RuleFile, options: SimOptions, n_obs: int) -> AnnData:
    from anndata import AnnData

    if isinstance(n_obs, bool) or not isinstance(n_obs, int | np.integer) or n_obs < 1:
        raise InputError(f"found n_obs={n_obs!r}", "a whole number, at least 1", "sim(..., n_obs=1000)")
    arrays = list(vars(rules.network).values())
    source = SimSource(rules, options, int(n_obs), f"sim-{tokenize(rules.name, rules.genes, arrays, options, n_obs)}")
    each, cells = options.n_saved, np.arange(n_obs)
    budget = min(default_block_bytes(), _BLOCK_ROWS * 4 * len(rules.genes))
    bounds = cut_dense(n_obs, len(rules.genes), 4, budget, each)
    width = len(str(n_obs - 1))
    obs = pd.DataFrame(
        {"realization": (cells // each).astype(np.int32), "time": (cells % each * options.step).astype(np.int32)},
        index=pd.Index([f"cell_{i:0{width}d}" for i in cells], dtype=object),
    )
    return AnnData(from_source(source, bounds), obs, _var(rules), _uns(options))
