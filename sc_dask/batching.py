"""Several results of the same X in one pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import pandas as pd

from sc_dask.array.engine import run
from sc_dask.array.engine.batch import run_together
from sc_dask.errors import InputError

# What reads X and columns that are named in the call, and nothing that another of them writes unless it is named.
TOGETHER = (
    "get.aggregate",
    "get.obs_df",
    "pp.calculate_qc_metrics",
    "pp.highly_variable_genes",
    "tl.rank_genes_groups",
    "tl.score_genes",
    "tl.score_genes_cell_cycle",
)


class BatchResult:
    """What a call in a batch returns, once the batch has run."""

    def __init__(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.name, self._func, self._args, self._kwargs = name, func, args, dict(kwargs)
        self._done, self._value = False, None

    @property
    def value(self) -> Any:
        """What the function returned.

        Raises
        ------
        InputError
            The batch has not run yet, or failed.
        """
        if not self._done:
            raise InputError(f"{self.name} has not run", "the end of the with block", "use .value after it")
        return self._value

    def finished(self, value: Any) -> None:
        """Keep what the function returned."""
        self._done, self._value = True, value

    def __call__(self) -> Any:
        """Run the function."""
        return self._func(*self._args, **self._kwargs)

    def words(self) -> set[str]:
        """Return every text in the arguments: names of columns, genes and slots."""
        return set(_words((self._args, self._kwargs)))


def _words(given: Any) -> Iterable[str]:
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping):
        for k, v in given.items():
            yield from (*_words(k), *_words(v))
    elif isinstance(given, list | tuple | set | pd.Index | pd.Series):
        for v in given:
            yield from _words(v)


class _Room:
    """``batch.pp``, ``batch.tl``, ``batch.get``: the functions that can be batched, as in ``sc_dask.pp`` and so on."""

    def __init__(self, calls: list[BatchResult], room: str) -> None:
        self._calls, self._room = calls, room

    def __dir__(self) -> list[str]:
        return [n.split(".")[1] for n in TOGETHER if n.startswith(f"{self._room}.")]

    def __getattr__(self, name: str) -> Callable[..., BatchResult]:
        full = f"{self._room}.{name}"
        if full not in TOGETHER:
            raise InputError(
                f"{full} in a batch",
                f"one of: {', '.join(TOGETHER)}",
                f"call sc_dask.{full} before or after the with block",
            )
        func = getattr(importlib.import_module(f"sc_dask.{self._room}"), name)

        def later(*args: Any, **kwargs: Any) -> BatchResult:
            self._calls.append(BatchResult(full, func, args, kwargs))
            return self._calls[-1]

        return later


class Batch:
    """Calls that were asked for; they run together when the ``with`` block ends. Made by `batch`."""

    def __init__(self) -> None:
        self._calls: list[BatchResult] = []
        self.pp, self.tl, self.get = (_Room(self._calls, room) for room in ("pp", "tl", "get"))

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or not self._calls:
            return
        participants = run_together(self._calls, partial(run.compute_all, label="batch"), self._may_write)
        for call, participant in zip(self._calls, participants, strict=True):
            if participant.error is None:
                call.finished(participant.value)
        for call, participant in zip(self._calls, participants, strict=True):
            if participant.error is not None:
                participant.error.add_note(f"in {call.name} of a batch; the other calls were finished")
                raise participant.error

    def _may_write(self, i: int, attr: str, key: str) -> None:
        """Refuse to write what another call of this batch names: it may have read what was there before."""
        for j, other in enumerate(self._calls):
            if j != i and key in other.words():
                raise InputError(
                    f"{other.name} names {key!r}, which {self._calls[i].name} of the same batch writes to {attr}",
                    "calls that do not need each other",
                    "use two batches, one after the other",
                )


def batch() -> Batch:
    """Compute several results of the same X in one pass.

    Calls are made on the batch instead of on ``sc_dask`` (``batch.tl.score_genes`` for ``sc_dask.tl.score_genes``) and
    run together when the ``with`` block ends. Where a function needs two passes, its first is shared with the others'
    first.

    Returns
    -------
    A context manager with ``pp``, ``tl`` and ``get``: ``get.aggregate``, ``get.obs_df``, ``pp.calculate_qc_metrics``,
    ``pp.highly_variable_genes``, ``tl.rank_genes_groups``, ``tl.score_genes``, ``tl.score_genes_cell_cycle``. Every
    call returns a `BatchResult`, whose ``value`` is what the function returns.

    Passes: as many as the function that needs most. Memory: the states of all of them.

    Raises
    ------
    InputError
        A function that cannot be batched; a call that names what another one writes; or what a call itself
        raises (the others are finished).

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 50, n_groups=3, seed=0)
    >>> with sd.batch() as batch:
    ...     qc = batch.pp.calculate_qc_metrics(adata, percent_top=None)
    ...     table = batch.get.obs_df(adata, [adata.var_names[0]])
    >>> qc.value[0].shape[0], table.value.shape
    (200, (200, 1))
    """
    return Batch()
