from __future__ import annotations

import numpy as np
import pytest

from sc_dask.errors import InputError
from sc_dask.graph import density


def points(n: int) -> np.ndarray:
    """Groups of very different widths, one narrower than the kernel, on slanted axes."""
    rng = np.random.default_rng(0)
    group = rng.integers(5, size=n)
    spread = np.array([0.3, 1, 0.5, 2, 0.05])[group][:, None]
    x = rng.normal(size=(5, 2))[group] * 6 + rng.normal(size=(n, 2)) * spread
    return (x @ [[1, 0.5], [0, 1]]).astype(np.float32)


def test_scaled__exact_is_scipys() -> None:
    from scipy.stats import gaussian_kde

    x = points(300)
    found = gaussian_kde(x.T)(x.T)
    np.testing.assert_array_equal(density.scaled(x), (found - found.min()) / (found.max() - found.min()))


@pytest.mark.parametrize("far", [0, 100, 1e6])
def test_scaled__a_grid_is_within_a_ten_thousandth(far: float) -> None:
    x = points(2000)
    x[:3] += [[far, 0], [0, far], [-far, far]]
    assert np.abs(density.scaled(x, exact=False) - density.scaled(x, exact=True)).max() < 1e-4


def test_scaled__a_coarser_grid_is_within_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "_CELLS", 10)  # the coarsest step that there is
    x = points(2000)
    assert 1e-4 < np.abs(density.scaled(x, exact=False) - density.scaled(x, exact=True)).max() < 1e-2


def test_scaled__the_number_of_points_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(500)
    exact = density.scaled(x)
    monkeypatch.setattr(density, "EXACT", 499)
    np.testing.assert_array_equal(density.scaled(x), density.scaled(x, exact=False))
    assert not np.array_equal(density.scaled(x), exact)


def test_scaled__points_without_a_plane_are_refused() -> None:
    line = np.column_stack([np.arange(10.0), 2 * np.arange(10.0)])
    for x in (line, points(2), np.zeros((5, 2))):
        with pytest.raises(InputError, match="on a line or are fewer than three"):
            density.scaled(x)
    with pytest.raises(InputError, match="NaN or infinity"):
        density.scaled(np.vstack([points(5), [[np.nan, 0]]]))
