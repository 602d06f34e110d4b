"""The run of scanpy's own tests (`make conformance`) counts right: a run takes too long to be one of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.__main__ import compared, read_expected


def outcome(what: str, message: str = "") -> dict[str, str]:
    return {"outcome": what, "message": message}


def test_compared__counts_what_passes_with_scanpy_alone() -> None:
    theirs = {
        "t::same": outcome("passed"),
        "t::other[a-b]": outcome("passed"),
        "t::wrong": outcome("passed"),
        "t::lost": outcome("passed"),
        "t::better": outcome("xfailed"),
        "t::never": outcome("failed", "no network"),
        "t::left_out": outcome("skipped"),
    }
    ours = {
        "t::same": outcome("passed"),
        "t::other[a-b]": outcome("failed", "other words"),
        "t::wrong": outcome("failed", "wrong number"),
        "t::better": outcome("failed", "[XPASS(strict)] not yet in scanpy"),
        "t::never": outcome("passed"),
    }
    counts, failed, mended = compared(theirs, ours, {"t::other[[]*": "other words", "t::same": "no longer so"})
    assert counts == {"passed": 2, "expected differences": 1, "failed": 2}
    assert failed == ["t::wrong: failed: wrong number", "t::lost: failed: did not run"]
    assert mended == ["t::same"]


def test_read_expected__each_pattern_has_the_reason_above_it(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("# one reason\nt::a\nt::b[x-*]\n\n# another\nt::c\n")
    assert read_expected(tmp_path / "e.txt") == {"t::a": "one reason", "t::b[[]x-*]": "one reason", "t::c": "another"}
    assert read_expected(tmp_path / "none.txt") == {}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "conformance").glob("expected-*.txt")), ids=lambda p: p.name
)
def test_read_expected__every_difference_has_a_reason(path: Path) -> None:
    expected = read_expected(path)
    assert expected and all(expected.values())


def test_rebind__puts_ours_in_scanpys_place() -> None:
    import scanpy as sc
    import scanpy.experimental

    from tests.conformance import plugin

    modules = [plugin.module("scanpy", name) for name in plugin.MODULES]
    kept = [(module, dict(vars(module))) for module in modules if module is not None]
    try:
        replaced = plugin.rebind()
        assert {"pp.pca", "tl.leiden", "get.obs_df"} <= set(replaced)
        assert sc.pp.pca.__module__.startswith("sc_dask")
        assert sc.preprocessing.pca is sc.pp.pca  # the module that tests import names from
    finally:
        for module, names in kept:
            vars(module).update(names)
