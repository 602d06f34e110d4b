"""Groups of cells or genes: what a column of obs or var says about which row is in which group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask.errors import InputError

MAX_GROUPS = 10_000  # functions keep 24 bytes per group, gene and thread: 7 GB for 30,000 genes
_SHOWN = 8  # names in a message

Missing = Literal["refuse", "drop", "own group"]
Unused = Literal["drop", "keep", "refuse"]
Order = Literal["sorted", "natural"]


@dataclass(frozen=True)
class Name:
    """Where groups come from, as messages call it; ``axis=None``: an argument of the function."""

    key: str
    axis: str | None = "obs"
    lazy: bool = False

    def __str__(self) -> str:
        return self.key if self.axis is None else f"{self.axis}[{self.key!r}]"

    @property
    def place(self) -> str:
        """What a command assigns to."""
        return self.key if self.axis is None else f"adata.{self}"

    @property
    def series(self) -> str:
        """The column as a Series, in a command."""
        if self.lazy:
            return f"sc_dask.get.obs_df(adata, [{self.key!r}])[{self.key!r}]"
        return f"pd.Series({self.key})" if self.axis is None else self.place

    def leave_out(self, rows_to_keep: str) -> str:
        """Return the command that keeps some rows: ``rows_to_keep`` is an expression of ``{}``, the column."""
        if self.axis is None:
            return "leave them out"
        rows = rows_to_keep.format(self.place)
        return f"adata = adata[{rows}]" if self.axis == "obs" else f"adata = adata[:, {rows}]"


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a column, and the group of every row."""

    column: Name
    names: list[str]  # n_groups, all different
    values: pd.Index  # n_groups: the same as they stand in the column
    codes: NDArray[np.int32]  # group of every row; where the value is missing -1, or n_groups as a group of its own
    n_missing: int
    is_category: bool
    ordered: bool

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each named group."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self))[: len(self)]

    def categorical(self) -> pd.Categorical:
        """Return the column as pandas has it; the groups are its categories."""
        codes = np.where(self.codes < len(self), self.codes, -1)
        return pd.Categorical.from_codes(codes, self.values, ordered=self.ordered)

    def check_sizes(self, at_least: int, of: Iterable[int] | None = None) -> None:
        """Refuse groups (all, or those of these codes) of fewer rows than ``at_least``."""
        sizes = self.sizes
        small = [g for g in (range(len(self)) if of is None else of) if sizes[g] < at_least]
        if not small:
            return
        number = "two" if at_least == 2 else str(at_least)
        names = [self.names[g] for g in small]
        plain = all(isinstance(self.values[g], str) for g in small)
        column = "{}" if plain else "{}.astype(str)"
        raise InputError(
            f"groups of fewer than {number} cells: {_listed(names)}",
            f"at least {number} cells in every group of {self.column}",
            self.column.leave_out(f"~{column}.isin({names}).to_numpy()") if len(names) <= _SHOWN else "join groups",
        )


def of_column(
    column: pd.Series,
    name: Name,
    *,
    missing: Missing,
    order: Order = "sorted",
    unused: Unused = "drop",
    floats: Literal["allow", "refuse"] = "allow",
    empty_name: Literal["allow", "refuse"] = "allow",
    min_groups: int = 0,
    max_groups: int | None = MAX_GROUPS,
    min_cells: int = 0,
) -> Groups:
    """Return the groups of a column.

    ======================  ======================================================  =========================
    type                    groups                                                  their order
    ======================  ======================================================  =========================
    category                its categories; those without a row by ``unused``       that of the categories
    str, object of str      the different texts; "" and "nan" are texts as others   by ``order``
    bool, nullable boolean  False and True, if there are any                        False, True
    int, nullable Int64     the different numbers                                   by value
    float                   the different numbers; none with ``floats="refuse"``    by value
    dates                   the different times                                     by value
    object of one type      as that type: an object column of bool is one of bool   as that type
    object of many types    the different texts of the values: True is "True"       by ``order``
    ======================  ======================================================  =========================

    Missing are None, NaN, NaT and pd.NA, in every type. Every group has a name, which is the text of its value. Two
    values with the same text (1 and "1") are refused, because results name groups by their texts.

    Parameters
    ----------
    column
        Values, one for each row.
    name
        What messages call it.
    missing
        Rows without a value: ``refuse``; ``drop``: their code is -1; ``own group``: their code is that of one more
        group, which has no name.
    order
        Of texts: ``sorted`` by code points, as pandas and numpy do; ``natural``: c2 before c10, as AnnData and scanpy
        make text to categories.
    unused
        Categories without a row: ``drop``, ``keep`` or ``refuse`` them.
    floats
        ``refuse`` columns of fractions, which are measurements rather than groups (a category of fractions is not).
    empty_name
        ``refuse`` a group called "", where results have a field for each group.
    min_groups, max_groups, min_cells
        Bounds on the number of groups (``max_groups=None``: none) and on the rows of each.

    Raises
    ------
    InputError
        What is refused: names the column, the group and the next command.
    """
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    codes, values, names = _of_category(column) if is_category else _distinct(column, name, order, floats)
    n_missing = int((codes < 0).sum())
    if n_missing and missing == "refuse":
        raise missing_values(column, name)
    if is_category and unused != "keep":
        codes, values, names = _used(codes, values, names, name, refuse=unused == "refuse")
    _check_different(names, name)
    if empty_name == "refuse" and "" in names:
        rename = ".cat.rename_categories({'': 'unnamed'})" if is_category else ".replace('', 'unnamed')"
        raise InputError(f"a group of {name} has no name", "a name for every group", _assigned(name, rename))
    if len(names) < min_groups:
        raise InputError(
            f"{name} has {len(names)} group(s): {_listed(names)}", f"at least {min_groups}", "choose another column"
        )
    if max_groups is not None and len(names) > max_groups:
        raise InputError(
            f"{name} has {len(names)} groups: {_listed(names)}", f"at most {max_groups}", "choose another column"
        )
    if missing == "own group":
        codes = np.where(codes < 0, len(names), codes).astype(np.int32)
    ordered = bool(getattr(column.dtype, "ordered", False))
    groups = Groups(name, names, values, codes, n_missing, is_category, ordered)
    groups.check_sizes(min_cells)
    return groups


def missing_values(column: pd.Series, name: Name, expected: str = "a group for every cell") -> InputError:
    """Return the error of a column, of groups or of numbers, that lacks values."""
    missing = column.isna().to_numpy()
    return InputError(
        f"{name} has {int(missing.sum())} missing values, the first in row {column.index[int(missing.argmax())]!r}",
        expected,
        name.leave_out("{}.notnull().to_numpy()"),
    )


_Coded = tuple[NDArray[np.int32], pd.Index, list[str]]  # group of every row (-1: missing), values and names of groups


def _of_category(column: pd.Series) -> _Coded:
    values = column.cat.categories
    return column.cat.codes.to_numpy().astype(np.int32), values, [str(v) for v in values]


def _used(codes: NDArray[np.int32], values: pd.Index, names: list[str], name: Name, *, refuse: bool) -> _Coded:
    """Return the groups without those that have no row."""
    used = np.bincount(codes[codes >= 0], minlength=len(names)) > 0
    if used.all():
        return codes, values, names
    if refuse:
        raise InputError(
            f"groups of {name} without cells: {_listed(names[g] for g in np.flatnonzero(~used))}",
            "cells in every group",
            _assigned(name, ".cat.remove_unused_categories()"),
        )
    new = np.append(np.cumsum(used) - 1, -1).astype(np.int32)  # the last is for code -1
    return new[codes], values.take(np.flatnonzero(used)), [names[g] for g in np.flatnonzero(used)]


def _distinct(column: pd.Series, name: Name, order: Order, floats: str) -> _Coded:
    """Return the groups of a column that is no category."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if floats == "refuse" and kind in ("floating", "mixed-integer-float", "complex"):
        bins = Name(f"{name.key}_bins", name.axis).place
        raise InputError(
            f"{name} holds numbers of type {column.dtype}", "groups", f"{bins} = pd.cut({name.series}, 5).astype(str)"
        )
    if kind in ("mixed", "mixed-integer"):  # True and 1 are the same key of a hash table, and have no order with texts
        _check_different([str(v) for v in pd.unique(column.dropna())], name)
        column, kind = column.map(str, na_action="ignore"), "string"
    codes, values = pd.factorize(column)
    values = pd.Index(values)
    names = [str(v) for v in values]
    place = values.argsort() if kind != "string" else _order_of(names, order)
    new = np.empty(len(names) + 1, np.int32)
    new[place], new[-1] = np.arange(len(names)), -1
    return new[codes], values.take(place), [names[i] for i in place]


def _order_of(names: list[str], order: Order) -> NDArray[np.intp]:
    if order == "sorted":
        return np.asarray(sorted(range(len(names)), key=names.__getitem__), np.intp)
    from natsort import index_natsorted

    return np.asarray(index_natsorted(names), np.intp)


def _check_different(names: list[str], name: Name) -> None:
    if len(set(names)) == len(names):
        return
    counts = pd.Series(names).value_counts()
    raise InputError(
        f"two groups of {name} are called {counts.index[0]!r}: values of different types have this text",
        "different names",
        _assigned(name, ".astype(str)"),
    )


def _assigned(name: Name, change: str) -> str:
    return f"{name.place} = {name.series}{change}"


def _listed(names: Iterable[Any]) -> str:
    names = list(names)
    return (", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")) or "none"
