"""The benchmark's harness runs: tiny sizes, nnc alone, no figure is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_kernels_one_by_one(tmp_path: Path) -> None:
    program = tmp_path / "tiny.nn"
    program.write_text((FOLDER / "mlp.nn").read_text().replace("512", "16"))
    printed = run("kernels.py", str(program), "--threads", "1", "--seconds", "0", "--batch", "4")
    assert "d_dense1_w" in printed
    assert "GFLOP/s" in printed
