"""The script for a machine with a GPU, as far as it runs without one: its parts on the stand-in
for the GPU, those that speak to CuPy on the stand-in for CuPy. No figure is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gpu_simulator import available

FOLDER = Path(__file__).parents[2] / "benchmarks"
BACKENDS = Path(__file__).parents[1] / "backends"

pytestmark = pytest.mark.skipif(not available(), reason="needs g++")


def script(out: Path, *more: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "simulator", "--out", str(out)]
    return subprocess.run(
        [*command, *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_parts_and_what_they_leave(tmp_path):
    done = script(tmp_path, "--parts", "machine,primitives,kernels,products")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == ["machine", "primitives", "kernels", "products"]
    assert max(found["primitives"]["units in the last place"].values()) < 16
    models = found["kernels"]["models"]
    assert models["gpt2 bf16"]["results"] > 100 and not found["kernels"]["wrong"]
    with np.load(tmp_path / "primitives.npz") as kept:
        assert (
            sum(not name.startswith("y_") for name in kept.files) == found["primitives"]["recorded"]
        )
    assert "| mlp32 | 0.06 | - |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_one_that_fails_leaves_the_others(tmp_path):
    """Without g++ nothing can be computed, and PyTorch's and JAX's parts go on."""
    done = script(tmp_path, "--parts", "machine,repeat,jax", PATH=str(tmp_path))
    assert done.returncode == 1, done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "needs g++" in found["repeat"]["failed"]
    assert "failed" not in found["jax"] and "failed" not in found["machine"]
    assert "repeat: failed" in (tmp_path / "gpu.md").read_text()


@pytest.fixture
def parts(monkeypatch):
    """The script's modules."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu
    import gpu_checks
    import gpu_report
    import gpu_side
    import gpu_speed

    yield {
        "gpu": gpu,
        "checks": gpu_checks,
        "report": gpu_report,
        "side": gpu_side,
        "speed": gpu_speed,
    }


@pytest.mark.slow
def test_one_that_hangs_is_ended_with_what_it_had(parts, tmp_path, monkeypatch):
    gpu = parts["gpu"]
    (tmp_path / "parts").mkdir()
    monkeypatch.setattr(gpu, "LIMITS", {"kernels": 4})
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "hang.py"))
    (tmp_path / "hang.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        f"out = pathlib.Path({str(tmp_path)!r})\n"
        "(out / 'parts/kernels.json').write_text('{\"so far\": 1}')\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(out / 'child').write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    given = gpu.argparse.Namespace(out=tmp_path, device="simulator", data=None)
    found = gpu.in_process("kernels", given, dict(os.environ))
    assert found["failed"] == "not done in 4 s" and found["so far"] == 1
    child = Path("/proc", (tmp_path / "child").read_text(), "stat")
    end = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_all_limits_are_under_25_minutes(parts):
    assert sum(parts["gpu"].LIMITS.values()) < 25 * 60
    assert all(parts["gpu"].part_named(name) for name in parts["gpu"].LIMITS)


def test_met_and_missed(parts):
    report = parts["report"]
    text = report.report(
        {
            "machine": {"device": "H100", "driver": "12.9"},
            "steps": {"steps": {"mlp128": {"median_ms": 0.03}, "cnn128": {"median_ms": 0.6}}},
            "torch": {"steps": {"mlp128 compiled": {"ms": 0.12}, "mlp128 eager": {"ms": 0.4}}},
            "products": {"bf16 4096 TFLOP/s": 360.0},
            "cublas": {"bf16 4096 TFLOP/s": 720.0},
            "bandwidth": {"copy GB/s": 3000.0, "Adam of copy": 0.84},
        }
    )
    rows = {line.split(" | ")[0]: line for line in reversed(text.splitlines())}
    assert rows["| MLP, batch 128, ms"].endswith("| 0.03 | ≤ 0.04 | met |")
    assert rows["| CNN, batch 128, ms"].endswith("| 0.6 | ≤ 0.5 | missed |")
    assert rows["| MLP, batch 128, times as fast as PyTorch compiled"].endswith("| 4 | ≥ 3 | met |")
    assert rows["| bf16 product of 4096, of cuBLAS"].endswith("| 0.5 | ≥ 0.45 | met |")
    assert rows["| Adam, of a copy"].endswith("| 0.84 | ≥ 0.85 | missed |")
    assert rows["| softmax, of a copy"].endswith("| - | ≥ 0.85 | not measured |")
    assert rows["| mlp128"] == "| mlp128 | 0.08 | 0.03 | - | 0.4 | 0.12 | - | 4 |"
    assert text.startswith("# H100, CUDA 12.9")
    assert "no figure means anything" in report.report({})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "primitives",
        "kernels",
        "repeat",
        "examples",
        "bandwidth",
        "products",
        "steps",
        "gpt2",
        "profiles",
    ],
)
def test_the_way_through_cupy(name, parts, tmp_path, monkeypatch):
    """What only the device `cuda` does: events, copies, plans, many steps in a launch."""
    monkeypatch.syspath_prepend(str(BACKENDS))
    import fake_cupy

    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(parts["side"], "FULL_SIZE", [])
    found: dict = {}
    parts["gpu"].part_named(name)("cuda", tmp_path, None, found.update)
    checked = {
        "primitives": lambda: found["recorded"] and not found["the stand-in differs"],
        "kernels": lambda: len(found["models"]) == 5 and not found["wrong"],
        "repeat": lambda: found["the same bits"] == ["mlp32", "gpt"],
        "examples": lambda: len(found["relative difference of losses"]) == 3,
        "bandwidth": lambda: {"Adam of copy", "softmax of copy", "map GB/s"} <= found.keys(),
        "products": lambda: found["bf16 4096 TFLOP/s"] > 0,
        "steps": lambda: found["steps"]["mlp32"]["together"] > 1,
        "gpt2": lambda: found["batch 16"]["launches"] > 10,
        "profiles": lambda: found["gpt2"]["slowest"][0]["registers"] == 40,
    }
    assert checked[name]()


@pytest.mark.slow
def test_a_wrong_kernel_is_named(parts, tmp_path, monkeypatch):
    checks = parts["checks"]

    def off(program, values):
        arrays = run_stored(program, values)
        arrays["loss"][...] += 0.01
        return arrays

    run_stored = checks.run_stored
    monkeypatch.setattr(checks, "run_stored", off)
    monkeypatch.setattr(checks, "FEW_EXAMPLES", ())
    found: dict = {}
    with pytest.raises(AssertionError, match="mlp32: loss"):
        checks.kernels("simulator", tmp_path, None, found.update)
    assert "mlp32: loss[]" in found["wrong"] and len(found["models"]) == 2


@pytest.mark.night
def test_all_parts(tmp_path):
    done = script(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "gpu.md").read_text()
    assert "failed" not in text and text.count("done") == 13
