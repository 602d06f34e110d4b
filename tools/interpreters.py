"""Print the Python interpreters of this machine that sc_dask supports, one of each version, oldest first.

Looks on the PATH and, where pyenv is installed, among its versions. ``--ends`` prints the oldest and the newest only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST, NEWEST = 11, 14  # 3.x
ASK = "import sys, venv, ensurepip; print(*sys.version_info[:3]); print(sys.executable)"


def candidates() -> Iterator[str]:
    """Yield what may be an interpreter, first come first served."""
    for minor in range(OLDEST, NEWEST + 1):
        yield f"python3.{minor}"
    yield "python3"
    root = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    yield from sorted(str(p) for p in Path(root).glob("versions/*/bin/python3"))
    yield sys.executable


def asked(python: str) -> tuple[tuple[int, ...], str] | None:
    """Return version and path of an interpreter; None where it does not run, or cannot make environments."""
    path = shutil.which(python)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:  # pyenv's shims of versions that are not chosen, a Debian without python3-venv
        return None
    version, executable = done.stdout.splitlines()[:2]
    return tuple(int(n) for n in version.split()), executable


def found() -> list[tuple[str, str]]:
    """Return (version such as 3.12, path), one of each version, oldest first."""
    out: dict[tuple[int, ...], str] = {}
    for python in candidates():
        answer = asked(python)
        if answer and answer[0][0] == 3 and OLDEST <= answer[0][1] <= NEWEST:
            out.setdefault(answer[0][:2], answer[1])
    return [(".".join(map(str, version)), out[version]) for version in sorted(out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ends", action="store_true", help="the oldest and the newest only")
    every = found()
    if not every:
        raise SystemExit(f"found no Python 3.{OLDEST} to 3.{NEWEST} that can make environments")
    if parser.parse_args().ends:
        every = every[:1] + every[1:][-1:]
    for version, path in every:
        print(version, path)


if __name__ == "__main__":
    main()
