"""The commands around the tests: make, .ci/run, and the promise that no test is skipped where the data is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_run(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one test that needs data, with our conftest."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_fixture(pbmc3k_dir): ...\n"
        "def test_own_skip():\n    pytest.skip('real data needed: set SC_DASK_DATA')\n"
        "def test_other_skip():\n    pytest.skip('needs a terminal')\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SC_DASK_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean | env,
        timeout=300,
    )


def test_data__missing_is_one_plain_skip(tmp_path: Path) -> None:
    done = pytest_run(tmp_path)
    assert done.returncode == 0 and "3 skipped" in done.stdout
    assert "real data needed: set SC_DASK_DATA to its folder" in done.stdout


@pytest.mark.parametrize("data", ["", "here"])
def test_data__promised_and_missing_fails(tmp_path: Path, data: str) -> None:
    folder = {"SC_DASK_DATA": str(tmp_path)} if data else {}
    done = pytest_run(tmp_path, SC_DASK_REQUIRE_DATA="1", **folder)
    assert done.returncode == 1
    # the fixture, a test's own skip, and a skip for another reason
    assert re.search(r"1 failed, 1 skipped, 1 error", done.stdout)


@pytest.mark.parametrize("has_data", [True, False])
def test_ci__tests_the_oldest_and_the_newest_python_with_the_data_beside(tmp_path: Path, has_data: bool) -> None:
    checkout, tools = tmp_path / "checkout", tmp_path / "bin"
    (checkout / ".ci").mkdir(parents=True)
    tools.mkdir()
    shutil.copy2(ROOT / ".ci" / "run", checkout / ".ci" / "run")
    shutil.copytree(ROOT / "tools", checkout / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tools / "make").write_text(
        '#!/bin/sh\necho "$PWD|$*|${SC_DASK_DATA:-none}|${SC_DASK_REQUIRE_DATA:-none}"\nexit 5\n'
    )
    (tools / "make").chmod(0o755)
    if has_data:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    env = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    env |= {name: os.environ[name] for name in ("PYENV_VERSION",) if name in os.environ}  # as `interpreters` has it
    done = subprocess.run([checkout / ".ci" / "run"], capture_output=True, text=True, env=env, cwd="/", timeout=120)
    data = f"{tmp_path.resolve()}/shared/data|1" if has_data else "none|none"
    found = [line.split()[1] for line in interpreters("--ends")]
    called = [line for line in done.stdout.splitlines() if line.startswith("/")]
    assert called == [f"{checkout.resolve()}|PYTHON={path} lint test|{data}" for path in found]
    assert done.stdout.count("failed (5)") == len(found) in (1, 2)
    assert ("one interpreter only" in done.stdout) == (len(found) == 1)
    assert done.returncode == 5


def interpreters(*options: str) -> list[str]:
    command = [sys.executable, str(ROOT / "tools" / "interpreters.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


def test_interpreters__one_of_each_version_that_can_make_environments(tmp_path: Path) -> None:
    every, ends = interpreters(), interpreters("--ends")
    versions = [tuple(int(n) for n in line.split()[0].split(".")) for line in every]
    assert versions == sorted(set(versions)) and sys.version_info[:2] in versions
    assert ends == ([every[0], every[-1]] if len(every) > 1 else every)
    broken = tmp_path / "bin" / "python3.12"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    env = {"PATH": str(broken.parent), "PYENV_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "interpreters.py"], capture_output=True, text=True, env=env, timeout=120
    )
    (line,) = done.stdout.splitlines()
    assert line.split()[0] == "{}.{}".format(*sys.version_info[:2])


def make_run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as a newcomer does: these tests may run under another make, with other variables."""
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("MAKE") and k not in ("MFLAGS", "PYTHON", "VENV", "LOCK")
    }
    return subprocess.run(["make", *words], capture_output=True, text=True, cwd=cwd, timeout=60, env=clean)


def dry_run(*targets: str) -> str:
    done = make_run("-n", "VENV=no-such-venv", *targets)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make__a_fresh_clone_installs_first() -> None:
    demo = dry_run("demo")
    assert demo.index("-m venv") < demo.index("pip") < demo.index("sc-dask demo")
    assert "--editable ." in demo and "[test" not in demo
    test, lint = dry_run("test"), dry_run("lint")
    assert test.index("-m venv") < test.index("--editable") < test.index("-m pytest") and "mypy" not in test
    places = [lint.index(step) for step in ("--editable", "ruff check", "ruff format --check", "mypy", "lint-imports")]
    assert places == sorted(places)
    version = "{}.{}".format(*sys.version_info[:2])
    other = dry_run("demo", f"PYTHON={sys.executable}")
    assert f"--constraint sc_dask/locks/{version}.txt" in other
    assert "-m slow" in dry_run("test-slow") and "benchmarks" in dry_run("bench")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make__says_what_is_missing(tmp_path: Path) -> None:
    venv = f"VENV={tmp_path / 'venv'}"
    done = make_run("PYTHON=", venv, "install")
    assert done.returncode != 0 and "found no Python >= 3.11" in done.stdout
    done = make_run(f"PYTHON={shutil.which('false')}", venv, "install")
    assert done.returncode != 0 and "python3-venv" in done.stdout and not (tmp_path / "venv").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make__another_python_has_an_environment_of_its_own_and_clean_removes_ours_alone(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    said = make_run("-n", f"PYTHON={sys.executable}", "demo", cwd=tmp_path).stdout
    version = "{}.{}".format(*sys.version_info[:2])
    assert f".venv-{version}/bin/sc-dask demo" in said and "found no lock of Python" in said
    for name in (".venv", ".venv-mine", ".venv-3.12"):
        (tmp_path / name).mkdir()
    for name in (".venv", ".venv-3.12"):
        (tmp_path / name / ".venv-made").touch()
    assert make_run("clean", cwd=tmp_path).returncode == 0
    assert {p.name for p in tmp_path.glob(".venv*")} == {".venv-mine"}


def test_locks__are_what_the_project_asks_for() -> None:
    """Every dependency has a version of every Python in its lock, and the lowest are the floors."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    said = "Programming Language :: Python :: 3."
    pythons = [f"3.{c.removeprefix(said)}" for c in project["classifiers"] if c.startswith(said)]
    assert sorted(p.stem for p in (ROOT / "sc_dask" / "locks").glob("*.txt")) == [*pythons, "lowest"]
    for python in [*pythons, "lowest"]:
        lines = (ROOT / "sc_dask" / "locks" / f"{python}.txt").read_text().splitlines()[1:]
        pinned: dict[str, list[str]] = {}
        for line in lines:
            name, _, version = line.split(" ;")[0].partition("==")
            pinned.setdefault(name, []).append(version)
        wanted = project["dependencies"] + extras["test"]
        if python != "lowest":
            wanted += [need for extra in extras.values() for need in extra]
        for need in map(Requirement, wanted):
            found = pinned[need.name.lower()]
            assert all(need.specifier.contains(version, prereleases=False) for version in found), (python, need)
            if python == "lowest":
                floor = Version(str(need.specifier).removeprefix(">="))
                assert all(Version(v).release[: len(floor.release)] == floor.release for v in found), need


def test_project__version_is_said_once_more() -> None:
    import sc_dask

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == sc_dask.__version__
    assert f"## {sc_dask.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_project__every_import_of_ours_is_declared() -> None:
    """A module that sc_dask imports is of Python, sc_dask, or a declared dependency (test kit, plots: extras)."""
    import ast

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        "google-crc32c": "google_crc32c",
        "scikit-learn": "sklearn",
        "scikit-misc": "skmisc",
        "umap-learn": "umap",
        "pyyaml": "yaml",
    }

    def modules(dependencies: list[str]) -> set[str]:
        return {named.get(n, n) for n in (Requirement(d).name for d in dependencies)}

    extras = project["optional-dependencies"]
    core, extra = modules(project["dependencies"] + extras["fast"]), modules(extras["test"])
    for path in (ROOT / "sc_dask").rglob("*.py"):
        used: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
        declared = core | extra if path.name == "testing.py" else core
        if path.parent.name == "pl":
            declared = core | modules(extras["plot"])
        assert used - declared - set(sys.stdlib_module_names) - {"sc_dask"} == set(), path
