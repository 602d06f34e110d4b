"""What fsspec's versions cannot do is told before anything is read."""

from __future__ import annotations

import pytest

from sc_dask.errors import StoreError
from sc_dask.io.blobs import store


def test_zip_behind_url__older_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "reads_zip_behind_url", lambda: False)
    with pytest.raises(StoreError, match=r"zip behind a URL.*expected fsspec 2026.9 or later.*next: pip install"):
        store.zarr_store(store.Location.parse("memory://bucket/a.zarr.zip"))
