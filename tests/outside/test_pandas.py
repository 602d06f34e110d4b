"""Numbers of text files are read exactly on every pandas, without a word of deprecation."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pandas as pd

from sc_dask.outside.pandas import exact_floats


def test_exact_floats__every_bit() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(20_000) * 10.0 ** rng.integers(-300, 300, 20_000)
    text = "\n".join(map(repr, values.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pd.read_csv(io.StringIO(text), header=None, **exact_floats())[0]
    np.testing.assert_array_equal(found.to_numpy(), values)
