"""Write the versions that ``make demo`` and ``make test`` install: one file of constraints a Python version.

Each file holds for every platform the newest versions that fit together and have wheels there; a line that does not
hold on all of them has a marker. ``lowest.txt`` holds the lowest versions that ``pyproject.toml`` allows, on the oldest
Python.
Needs uv (``pip install uv``), which knows wheels of other platforms.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "sc_dask" / "locks"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {  # of uv, and the marker of pip
    "x86_64-manylinux_2_28": 'sys_platform == "linux" and platform_machine == "x86_64"',
    "aarch64-manylinux_2_28": 'sys_platform == "linux" and platform_machine == "aarch64"',
    "aarch64-apple-darwin": 'sys_platform == "darwin" and platform_machine == "arm64"',
    "x86_64-apple-darwin": 'sys_platform == "darwin" and platform_machine == "x86_64"',
}
NOWHERE = {("3.14", "x86_64-apple-darwin")}  # numba has no release for it
WITHOUT_WHEELS = ("loompy", "numpy-groupies")  # pure Python, published as source; needed by tests alone


def resolved(python: str, platform: str, *options: str) -> dict[str, str]:
    """Return the version of every package for one Python on one platform."""
    sources = [word for name in WITHOUT_WHEELS for word in ("--no-binary", name)]
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--no-config"),
        *("--prerelease", "disallow"),
        *("--python-version", python, "--python-platform", platform, "--only-binary", ":all:", *sources, *options),
        "pyproject.toml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"no versions for Python {python} on {platform}:\n{done.stderr}")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", done.stdout, re.M))


def lines(found: dict[str, dict[str, str]]) -> list[str]:
    """Return constraints that hold on every platform: ``found`` is the packages of each."""
    versions: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for platform, packages in found.items():
        for name, version in packages.items():
            versions[name][version].append(platform)
    out = []
    for name in sorted(versions):
        for version, platforms in sorted(versions[name].items()):
            marker = " or ".join(f"({PLATFORMS[p]})" for p in platforms)
            out.append(f"{name}=={version}" + ("" if len(platforms) == len(found) else f" ; {marker}"))
    return out


def write(name: str, what: str, content: list[str]) -> None:
    """Write one file of constraints."""
    LOCKS.mkdir(exist_ok=True)
    (LOCKS / f"{name}.txt").write_text("\n".join([f"# {what}; made by `make lock`.", *content, ""]))
    print(f"{LOCKS / name}.txt: {len(content)} lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*PYTHONS, "lowest"], help="which files, for instance 3.13 lowest")
    names = parser.parse_args().names
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    every = [word for name in extras for word in ("--extra", name)]
    for python in [p for p in PYTHONS if p in names]:
        platforms = [p for p in PLATFORMS if (python, p) not in NOWHERE]
        found = {platform: resolved(python, platform, *every) for platform in platforms}
        write(python, f"The versions that sc_dask is developed with on Python {python}", lines(found))
    if "lowest" in names:
        lowest = ("--resolution", "lowest-direct", "--extra", "test")
        found = {platform: resolved(PYTHONS[0], platform, *lowest) for platform in PLATFORMS}
        write("lowest", f"The lowest versions that sc_dask allows, on Python {PYTHONS[0]}", lines(found))


if __name__ == "__main__":
    main()
