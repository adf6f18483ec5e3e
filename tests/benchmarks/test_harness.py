"""The benchmark's harness runs: tiny sizes, nnc alone, no figure is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    """What a script prints."""
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_table_of_tiny_workloads(tmp_path: Path) -> None:
    options = ("--only", "tiny", "--systems", "nnc", "--rounds", "1", "--steps", "2")
    printed = run("run.py", *options, "--threads", "1", "--out", str(tmp_path))
    assert (tmp_path / "table.md").read_text() == printed
    entries = json.loads((tmp_path / "figures.json").read_text())
    assert [e["name"] for e in entries] == ["mlp_tiny", "rnn_tiny", "mlp1_tiny"]
    for entry in entries:
        (outcome,) = entry["outcomes"]
        assert outcome["failure"] == ""
        assert outcome["gflop"] > 0
        assert len(outcome["losses"]) == 3


needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch")


def outcomes(out: Path, only: str, systems: str) -> dict[str, dict[str, str]]:
    """Why each system is left out of each workload, or nothing."""
    options = ("--only", only, "--systems", systems, "--rounds", "1", "--steps", "1")
    run("run.py", *options, "--threads", "1", "--out", str(out))
    entries = json.loads((out / "figures.json").read_text())
    return {e["name"]: {o["system"]: o["failure"] for o in e["outcomes"]} for e in entries}


@pytest.mark.slow
@needs_torch
def test_a_network_of_both(tmp_path: Path) -> None:
    """PyTorch has the same loss in the first three steps, with the dropout of both left out."""
    found = outcomes(tmp_path, "recsys,bnmlp", "torch")
    assert found == {name: {"nnc": "", "torch": ""} for name in ("recsys", "bnmlp")}


@needs_torch
@pytest.mark.night
def test_the_wide_networks_of_both(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "wide", "torch")
    assert len(found) == 10
    assert all(failures == {"nnc": "", "torch": ""} for failures in found.values())


def test_floors_are_under_what_is_measured(tmp_path: Path) -> None:
    """Products at the peak, or bytes at the bandwidth, whichever takes longer."""
    sys.path.insert(0, str(FOLDER))
    try:
        from contest import Outcome
        from table import Entry
    finally:
        sys.path.remove(str(FOLDER))
    own = Outcome("nnc", gflop=0.5, gbyte=0.01)
    assert Entry("a", "train", 1, [own], 100.0, 10.0).floor(100.0) == 5.0
    assert Entry("b", "train", 1, [own], 100.0, 1.0).floor(100.0) == 10.0


@pytest.mark.slow
def test_kernels_one_by_one(tmp_path: Path) -> None:
    program = tmp_path / "tiny.nn"
    program.write_text((FOLDER / "mlp.nn").read_text().replace("512", "16"))
    printed = run("kernels.py", str(program), "--threads", "1", "--seconds", "0", "--batch", "4")
    assert "d_dense1_w" in printed
    assert "GFLOP/s" in printed
