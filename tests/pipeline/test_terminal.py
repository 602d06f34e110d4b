"""The command as a process of its own: on a terminal, interrupted, and without a network."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import pytest

from tests.pipeline.runs import BLOCK_BYTES, SETTINGS, WRITERS, Finished, counts_in_memory


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    env = os.environ | {
        "DASK_SC_DASK__BLOCK_BYTES": str(BLOCK_BYTES),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    return subprocess.Popen([sys.executable, "-m", "sc_dask.cli", *map(str, arguments)], env=env, **options)


def on_a_terminal(*arguments: object) -> tuple[int, str]:
    """Run with a pseudo-terminal as standard output; return exit code and all that was drawn."""
    ours, theirs = pty.openpty()
    drawn = b""
    with start(*arguments, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        while True:
            ready, _, _ = select.select([ours], [], [], 300)
            try:
                part = os.read(ours, 65536) if ready else b""
            except OSError:  # the other end is closed
                part = b""
            if not part:
                break
            drawn += part
    os.close(ours)
    return process.returncode, drawn.decode()


def test_terminal__bars_with_stage_pass_rate_and_time_left(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy.zarr"
    code, drawn = on_a_terminal("convert", WRITERS["10x mtx"](counts_in_memory(store), tmp_path), out)
    assert code == 0, drawn
    assert "\x1b[" in drawn
    assert re.search(r"convert: \w+ \(pass \d\)", drawn)
    assert re.search(r"\d+/\d+ blocks", drawn)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert re.search(r"convert +\d+\.\d s +\d pass(es)? +\d+ [KM]iB read +\d+ MiB memory", plain)
    assert plain.splitlines()[-1] == f"{out}: 420 cells x 300 genes"


def test_ctrl_c__ends_with_130_and_can_go_on(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(json.dumps(SETTINGS))
    out = tmp_path / "out" / "result.zarr"
    arguments = ("run", finished.source, "--out", out, "--config", tmp_path / "quick.yaml")
    # tests that run in the background of a shell have SIGINT ignored, and so would what they start
    heard = {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
    with start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **heard) as process:
        while process.poll() is None and not (tmp_path / "out" / "result.zarr.work" / "manifest.json").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = (text.decode() for text in process.communicate(timeout=120))
    assert process.returncode == 130, errors
    assert errors.splitlines() == [
        "sc-dask: interrupted",
        f"Finished stages are kept in {out}.work: the same command goes on from there.",
    ]
    assert output.startswith("qc ")
    assert "\x1b" not in output
    assert not out.exists()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"result.zarr.work"}


@pytest.mark.slow
def test_demo__without_a_network(tmp_path: Path) -> None:
    unreachable = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    env = {k: v for k, v in os.environ.items() if k != "SC_DASK_DATA"} | unreachable
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sc_dask.cli", "demo"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 180
    assert done.stdout.startswith("input: 20,000 simulated cells, because PBMC3k is not here")
    adata = ad.read_zarr(tmp_path / "demo" / "pbmc3k.zarr")
    assert adata.n_obs > 19_000
    assert (tmp_path / "demo" / "figures" / "umap_leiden.png").exists()
    again = subprocess.run(
        [sys.executable, "-m", "sc_dask.cli", "demo"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert again.returncode == 0, again.stderr
