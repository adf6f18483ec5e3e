"""The script for a machine with a GPU, as far as it runs without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnc.runtime.device.gpu.shim import available

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.skipif(not available(), reason="needs g++")
def test_parts_without_a_gpu_and_one_that_fails(tmp_path):
    """Every part leaves its figures or its failure in the files; one failure stops no other."""
    command = [sys.executable, str(SCRIPT), "--device", "cuda-shim", "--out", str(tmp_path),
               "--parts", "machine,copies,primitives"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == ["machine", "copies", "primitives"]
    assert "failed" in found["copies"]
    assert max(found["primitives"]["units in the last place"].values()) < 16
    assert "| mlp32 |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="needs g++")
def test_all_parts_that_need_no_gpu(tmp_path):
    command = [sys.executable, str(SCRIPT), "--device", "cuda-shim", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
