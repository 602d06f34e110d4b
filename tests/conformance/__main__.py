"""Run scanpy's own tests with our functions in scanpy's place: ``python -m tests.conformance CHECKOUT [FILE ...]``.

The checkout of scanpy's repository must be of the version that is installed. Each test file runs twice, in a process of
its own: with scanpy's functions (once, and kept in the work folder) and with ours. What passes with scanpy's and fails
with ours must stand in ``expected-<version>.txt``, with its reason; anything else fails the run.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Of files, the plots of scanpy's own code, its readers and its package: nothing of it is rebound.
_OTHERS = (
    "test_binary", "test_datasets", "test_package_structure", "test_performance", "test_queries", "test_read_10x",
    "test_readwrite", "test_settings", "test_utils", "test_helpers", "test_plotting_utils", "test_deprecations",
)  # fmt: skip


def main() -> int:
    """Run, compare and report; 1 if a test fails that is not an expected difference."""
    options = _options()
    files = _files(options.checkout, options.files)
    work = options.work or options.checkout / ".conformance"
    (work / "theirs").mkdir(parents=True, exist_ok=True)
    (work / "ours").mkdir(exist_ok=True)
    expected = read_expected(HERE / f"expected-{'.'.join(version('scanpy').split('.')[:2])}.txt")
    total: Counter[str] = Counter()
    unexpected: list[str] = []
    mended: list[str] = []
    for file in files:
        theirs = _outcomes(options.checkout, file, "theirs", work, options.timeout, again=False)
        ours = _outcomes(options.checkout, file, "ours", work, options.timeout, again=not options.report)
        counts, failed, passing = compared(theirs, ours, expected)
        print(f"{file}: " + ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)
        total += counts
        unexpected += failed
        mended += passing
    for title, lines in (("failed", unexpected), ("pass, but stand among the expected differences", mended)):
        if lines:
            print(f"\n{title}:")
            print("\n".join(f"  {line}" for line in lines))
    passing_theirs = total["passed"] + total["expected differences"] + total["failed"]
    print(f"\nscanpy {version('scanpy')}: {passing_theirs} tests pass with scanpy itself; with ours "
          + ", ".join(f"{total[what]} {what}" for what in ("passed", "expected differences", "failed")))  # fmt: skip
    return 1 if unexpected else 0


def compared(
    theirs: dict[str, dict[str, str]], ours: dict[str, dict[str, str]], expected: dict[str, str]
) -> tuple[Counter[str], list[str], list[str]]:
    """Count tests that pass with scanpy's functions by what they do with ours; name failures, and what was mended."""
    counts: Counter[str] = Counter()
    failed, mended = [], []
    for name, was in theirs.items():
        if was["outcome"] not in ("passed", "xfailed"):
            continue
        now = ours.get(name, {"outcome": "failed", "message": "did not run"})
        known = any(fnmatch.fnmatchcase(name, pattern) for pattern in expected)
        # a test that scanpy expects to fail and that passes with ours is a failure of a strict xfail
        better = was["outcome"] == "xfailed" and "XPASS" in now["message"]
        if better or now["outcome"] in (was["outcome"], "passed"):
            counts["passed"] += 1
            if known:
                mended.append(name)
        elif known:
            counts["expected differences"] += 1
        else:
            counts["failed"] += 1
            failed.append(f"{name}: {now['outcome']}: {now['message']}")
    return counts, failed, mended


def read_expected(path: Path) -> dict[str, str]:
    """Return the reason of each pattern of names: a line ``# reason`` stands above the patterns that it explains."""
    reasons: dict[str, str] = {}
    reason = ""
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("#"):
            reason = line.lstrip("# ").strip()
        elif line.strip():
            # of a name's [parameters] the brackets stand for themselves
            reasons[line.strip().replace("[", "[[]")] = reason
    return reasons


def _outcomes(
    checkout: Path, file: str, whose: str, work: Path, timeout: float, *, again: bool
) -> dict[str, dict[str, str]]:
    """Return what became of each test of a file; run it if it must be."""
    path = work / whose / f"{Path(file).stem}.json"
    if again or not path.exists():
        path.unlink(missing_ok=True)
        environment = os.environ | {
            "SC_DASK_CONFORMANCE": whose,
            "SC_DASK_OUTCOMES": str(path),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "tests.conformance.plugin", file]
        with (work / whose / f"{Path(file).stem}.log").open("w") as log:
            try:
                subprocess.run(
                    command, cwd=checkout, env=environment, stdout=log, stderr=log, timeout=timeout, check=False
                )
            except subprocess.TimeoutExpired:
                print(f"{file}: stopped after {timeout:g} s ({whose})")
    found: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _files(checkout: Path, names: list[str]) -> list[str]:
    found = sorted(str(p.relative_to(checkout)) for p in (checkout / "tests").rglob("test_*.py"))
    found = [f for f in found if not f.startswith(("tests/notebooks", "tests/external"))]
    if names:
        return [f for f in found if Path(f).stem in {Path(name).stem for name in names}]
    return [f for f in found if Path(f).stem not in _OTHERS]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of scanpy's repository, at the installed version")
    parser.add_argument("files", nargs="*", help="names of test files; all that test what is rebound, if none")
    parser.add_argument("--work", type=Path, help="folder of outcomes and logs (default: CHECKOUT/.conformance)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that a file may take")
    parser.add_argument("--report", action="store_true", help="compare the outcomes that are there; run what has none")
    options = parser.parse_args()
    options.checkout = options.checkout.resolve()
    if not (options.checkout / "tests" / "conftest.py").exists():
        parser.error(f"found no tests/conftest.py in {options.checkout}; expected a checkout of scanpy's repository; "
                     f"next: git clone --branch {version('scanpy')} https://github.com/scverse/scanpy")  # fmt: skip
    return options


if __name__ == "__main__":
    sys.exit(main())
