"""pandas: numbers of text files, read as exactly as they are written."""

from __future__ import annotations

from typing import Any

import pandas as pd
from packaging.version import Version


def exact_floats() -> dict[str, Any]:
    """Return what ``read_csv`` needs to give the nearest float64: from 3.1 on it does so by default."""
    return {} if Version(pd.__version__) >= Version("3.1") else {"float_precision": "round_trip"}
