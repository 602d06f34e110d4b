"""What a call costs, as a value: passes over X and bytes of memory, from sizes that are known without reading X.

A public function declares its price beside its code::

    def _price(size: Size, *, layer: str | None = None, **_: Any) -> Price:
        return Price(passes=1, memory=size.blocks + 24 * size.n_vars * size.states)

    @priced(_price)
    def some_function(adata, *, layer=None): ...

``sd.explain``, the plan of a run and the tests of passes and memory read this declaration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

MIB = 2**20
UNKNOWN_LEVELS = 250  # of a column that is not there yet: clusters are 4 + sqrt(n_obs) / 4, and at most so many


@dataclass(frozen=True)
class Size:
    """What a call works on.

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes of X.
    n_values
        Stored values of X; all of them where X is dense.
    value_bytes, index_bytes
        Bytes of a stored value and of its column number (0: dense) in a decoded block.
    block
        Bytes of the largest decoded block.
    streams
        Blocks that are worked on at once in one process.
    states
        States of a reduction that are in memory at once.
    is_lazy
        Whether X is read block by block from storage.
    genes
        Genes that ``mask_var`` (by default the highly variable ones) chooses.
    n_comps
        Columns of the representation that graph functions work on, and of X_pca.
    rep_is_x
        Whether that representation is X itself.
    needs_pca
        Whether that representation is X_pca, and there is none.
    n_edges
        Neighbours of all cells, both directions.
    levels_of
        Number of groups of those obs columns that the call names.
    numbers
        Those of these columns that hold numbers.
    known
        What earlier passes have learnt of X: ``cell sums``, ``cell counts``, ``gene sums``, ``gene counts``,
        ``moments``, ``values``, ``gene-major``; and of a marker table, the ``shares`` of cells with each gene.
    spills
        Whether blocks can be spilled, so that X need not be read again.
    room
        Bytes that an X which is brought together may take.
    compiled
        Whether compiled kernels are in numba's cache.
    """

    n_obs: int
    n_vars: int
    n_values: int
    value_bytes: int = 4
    index_bytes: int = 4
    block: int = 48 * MIB
    streams: int = 1
    states: int = 1
    is_lazy: bool = True
    genes: int = 2000
    n_comps: int = 50
    rep_is_x: bool = False
    needs_pca: bool = False
    n_edges: int = 0
    levels_of: Mapping[str, int] = field(default_factory=dict)
    numbers: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    spills: bool = True
    room: int = 2 << 30
    compiled: bool = True

    @property
    def decoded(self) -> int:
        """Bytes of X once it is decoded."""
        return max(1, self.n_values * (self.value_bytes + self.index_bytes))

    @property
    def blocks(self) -> int:
        """Bytes of the blocks that are worked on at once."""
        return self.streams * min(self.block, self.decoded)

    @property
    def float_blocks(self) -> int:
        """Bytes of these blocks with a float32 copy of each."""
        copied = 1.2 + (self.index_bytes + 4) / (self.index_bytes + self.value_bytes)
        return int(self.blocks * copied)

    @property
    def rep(self) -> int:
        """Bytes of the representation, float32."""
        return 4 * self.n_obs * self.n_comps

    @property
    def dense(self) -> int:
        """Bytes of X as float32, all of it."""
        return 4 * self.n_obs * self.n_vars

    def levels(self, keys: str | Sequence[str] | None) -> int:
        """Return the number of groups of a column of obs, or of several together; 1 of None."""
        if keys is None:
            return 1
        out = 1
        for key in [keys] if isinstance(keys, str) else keys:
            out *= self.levels_of.get(key, min(UNKNOWN_LEVELS, 4 + round(self.n_obs**0.5) // 4))
        return max(1, out)

    def passes_unless(self, *known: str) -> int:
        """Return 0 if earlier passes have learnt all of this, else 1."""
        return 0 if self.known.issuperset(known) else 1


@dataclass(frozen=True)
class Price:
    """What a call costs.

    Parameters
    ----------
    passes
        How often each row of X is read, at most.
    memory
        Bytes at the peak, above what the process holds before the call.
    kept
        Bytes of these that stay after the call: its results.
    code
        Bytes of libraries and compiled code that the first such call of a process loads, beside ``memory``. A run
        counts them once, as what its process holds.
    """

    passes: int = 0
    memory: int = 0
    kept: int = 0
    code: int = 0


Pricing = Callable[..., Price]
F = TypeVar("F", bound=Callable[..., Any])


def priced(pricing: Pricing) -> Callable[[F], F]:
    """Declare the price of a public function: ``pricing(size, **arguments)``, without its AnnData."""

    def declare(function: F) -> F:
        function.price = pricing  # type: ignore[attr-defined]
        return function

    return declare


def price_of(function: Callable[..., Any], size: Size, **arguments: Any) -> Price:
    """Return the price of a call with these arguments, and defaults where none is given; without the AnnData."""
    pricing: Pricing = function.price  # type: ignore[attr-defined]
    defaults = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    return pricing(size, **(defaults | arguments))


def readable(n: float | None) -> str:
    """Return bytes as people read them: ``12 MiB``."""
    if n is None:
        return "?"
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
