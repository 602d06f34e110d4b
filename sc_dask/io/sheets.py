"""Small tables that are read into memory: Excel sheets, arrays of HDF5 files, GEO's SOFT."""

from __future__ import annotations

import gzip
import os
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData


def read_excel(filename: str | os.PathLike[str], sheet: str | int, dtype: Any = "float32") -> AnnData:
    """Read a sheet of an Excel file into memory (``anndata.io.read_excel``; needs openpyxl)."""
    return anndata.io.read_excel(filename, sheet, dtype=dtype)


def read_hdf(filename: str | os.PathLike[str], key: str) -> AnnData:
    """Read an array of an HDF5 file into memory (``anndata.io.read_hdf``)."""
    return anndata.io.read_hdf(filename, key)


def read_soft(filename: str | os.PathLike[str]) -> AnnData:
    """Read a GEO data set in SOFT format (``.soft.gz``) into memory; obs ``groups`` says what a sample is."""
    group_of: dict[str, str] = {}
    description = ""
    with gzip.open(filename, mode="rt") as f:
        for line in f:
            if line.startswith("!dataset_table_begin"):
                break
            if line.startswith("!subset_description"):
                description = line.split("=")[1].strip()
            elif line.startswith("!subset_sample_id"):
                group_of |= {name.strip(): description for name in line.split("=")[1].split(",")}
        table = pd.read_csv(f, sep="\t", comment="!", index_col="IDENTIFIER", low_memory=False, na_filter=False)
    samples = [c for c in table.columns if c.startswith("GSM")]
    values = table[samples].to_numpy(np.float64).T
    obs = pd.DataFrame({"groups": [group_of[s] for s in samples]}, index=samples)
    return AnnData(values, obs=obs, var=pd.DataFrame(index=table.index.astype(str).rename(None)))
