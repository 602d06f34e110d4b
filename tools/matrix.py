"""Run ``make test`` with every Python interpreter of this machine, one after the other, and say how each ended."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from interpreters import found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", default="make")
    parser.add_argument("--ends", action="store_true", help="the oldest and the newest only")
    parser.add_argument("targets", nargs="*", default=["test"])
    given = parser.parse_args()
    every = found()
    if not every:
        raise SystemExit("found no Python >= 3.11 that can make environments")
    if given.ends:
        every = every[:1] + every[1:][-1:]
    if len(every) == 1:
        print(f"one interpreter only, Python {every[0][0]}: it alone is tested", flush=True)
    ended: list[tuple[str, int, float]] = []
    for version, path in every:
        print(f"== Python {version}: {path}", flush=True)
        begun = time.monotonic()
        code = subprocess.run([given.make, f"PYTHON={path}", *given.targets], check=False).returncode
        ended.append((version, code, time.monotonic() - begun))
    for version, code, seconds in ended:
        print(f"Python {version}: {'ok' if code == 0 else f'failed ({code})'}, {seconds / 60:.1f} min", flush=True)
    code = max(code for _, code, _ in ended)
    if code == 0 and len(every) > 1 and "test" in given.targets:
        pythons = [f".venv-{version}/bin/python" for version, _ in every]
        code = subprocess.run([sys.executable, "tools/exchange.py", *pythons], check=False).returncode
    raise SystemExit(code)


if __name__ == "__main__":
    main()
