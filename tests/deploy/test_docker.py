"""The image's recipe, as far as it can be followed without an engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines)]


def values(name: str) -> list[str]:
    return [rest for n, rest in instructions() if n == name]


def copies() -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY."""
    words = [[w for w in shlex.split(rest) if not w.startswith("--")] for rest in values("COPY")]
    return [(w[:-1], w[-1]) for w in words]


def build_context(to: Path) -> Path:
    """Copy what .dockerignore lets through."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in allowed:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, target)
    return to


def test_docker__instructions_are_dockers() -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    names = [name for name, _ in instructions()]
    assert set(names) <= known
    assert names[0] == "FROM" and names.count("ENTRYPOINT") == names.count("CMD") == 1


def test_docker__base_image_has_a_python_we_support() -> None:
    (base,) = values("FROM")
    match = re.fullmatch(r"python:(\d+\.\d+)-slim", base)
    assert match and match[1] in SpecifierSet(PROJECT["requires-python"])


def test_docker__copied_files_are_in_the_build_context(tmp_path: Path) -> None:
    context = build_context(tmp_path)
    sources = [source for group, _ in copies() for source in group]
    assert sources
    assert not [source for source in sources if not (context / source).exists()]


def test_docker__installs_the_whole_package_with_extras_that_exist(tmp_path: Path) -> None:
    context, image = build_context(tmp_path / "context"), tmp_path / "image"
    (install,) = (rest for rest in values("RUN") if rest.startswith("pip install"))
    requirement = Requirement("sc-dask" + shlex.split(install)[-1].removeprefix("."))
    assert requirement.extras == {"cloud", "cluster"} <= set(PROJECT["optional-dependencies"])
    image.mkdir()
    for group, to in copies():
        for source in group:
            if to.startswith("."):  # into the build's folder; a folder's content goes where COPY says
                target = image / to / ("" if (context / source).is_dir() else source)
                (shutil.copytree if (context / source).is_dir() else shutil.copy2)(context / source, target)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")],
        cwd=image,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("sc_dask-*.whl")
    built = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("sc_dask/")}
    ours = {p.relative_to(ROOT).as_posix() for p in (ROOT / "sc_dask").rglob("*.py")}
    assert ours | {"sc_dask/py.typed"} <= built


def test_docker__runs_as_an_ordinary_user() -> None:
    steps = instructions()
    users = [i for i, (name, _) in enumerate(steps) if name == "USER"]
    installs = [i for i, (name, rest) in enumerate(steps) if name == "RUN"]
    assert steps[users[-1]][1] not in {"root", "0"}
    assert max(installs) < users[-1]  # what needs root comes before
    assert any(rest.split()[:1] == ["useradd"] and rest.endswith(steps[users[-1]][1]) for rest in values("RUN"))


def test_docker__entrypoint_is_a_copied_script_and_cmd_a_script_of_ours() -> None:
    (entrypoint,), (command,) = values("ENTRYPOINT"), values("CMD")
    (path,) = json.loads(entrypoint)
    source = {to: group for group, to in copies()}[path]
    assert source == ["deploy/docker/entrypoint.sh"] and os.access(ROOT / source[0], os.X_OK)
    assert json.loads(command)[0] in PROJECT["scripts"]


def entrypoint(*args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.pathsep.join(filter(None, [path, os.environ["PATH"]]))}
    return subprocess.run(
        ["sh", str(DOCKER / "entrypoint.sh"), *args], capture_output=True, text=True, env=env, timeout=60
    )


def test_entrypoint__runs_the_command_as_it_was_given() -> None:
    done = entrypoint("printf", "%s|", "a b", "", "$HOME")
    assert (done.returncode, done.stdout) == (0, "a b||$HOME|")
    assert entrypoint("sh", "-c", "exit 7").returncode == 7


def test_entrypoint__gives_its_process_to_the_command() -> None:
    with subprocess.Popen(
        ["sh", str(DOCKER / "entrypoint.sh"), "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True
    ) as process:
        out, _ = process.communicate(timeout=60)
        assert int(out) == process.pid


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_entrypoint__an_option_alone_is_ours(tmp_path: Path, args: tuple[str, ...]) -> None:
    fake = tmp_path / "sc-dask"
    fake.write_text('#!/bin/sh\necho "ours:$*"\n')
    fake.chmod(0o755)
    assert entrypoint(*args, path=str(tmp_path)).stdout.strip() == "ours:" + " ".join(args)


def test_docker__commands_of_the_comments_exist() -> None:
    """``docker run ... sc-dask <command>``: its program and options are there."""
    lines = re.findall(r"^#\s+docker run .*? sc-dask (.+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    commands = [shlex.split(line) for line in lines]
    assert [c[:2] for c in commands] == [["dask", "scheduler"], ["dask", "worker"], ["sc-dask", "run"]]
    start = {"dask": "from dask.__main__ import main", "sc-dask": "from sc_dask.cli import main"}
    for program, verb, *options in commands:
        done = subprocess.run(
            [sys.executable, "-c", f"{start[program]}; main()", verb, "--help"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        flags = [option for option in options if option.startswith("--")]
        assert flags and not [flag for flag in flags if flag not in done.stdout]
