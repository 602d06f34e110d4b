"""Lazy columns in xarray."""

from __future__ import annotations

import numpy as np
import pandas as pd
from xarray import Variable

from sc_dask.outside import xarray as outside
from sc_dask.tables import HeldColumn, lazy_variable


def test_data_of__reads_nothing_and_rows_of_follow_picks() -> None:
    column = HeldColumn(pd.Categorical(["b", "a", "b"]))
    variable = lazy_variable("cell", column)
    held = outside.data_of(variable)
    assert isinstance(held, outside.LazilyIndexedArray) and held.array is column
    assert outside.rows_of(held) == slice(None)
    picked = outside.data_of(variable[np.array([2, 0])])
    np.testing.assert_array_equal(outside.rows_of(picked), [2, 0])
    assert outside.data_of(Variable("x", np.arange(3))) is not None
