"""`nnc profile --device cuda` through the stand-in for CuPy, whose events are a millisecond apart:
every launch takes one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gpu_simulator import available
from small_programs import DIGITS, write

from nnc.compiler.passes.gpu import lower
from nnc.runtime.cli import run
from nnc.runtime.data import Search
from nnc.runtime.device.cuda import timing
from nnc.runtime.device.cuda.nvrtc import NvrtcNotFound, nvrtc
from nnc.runtime.device.cuda.program import CudaProgram
from nnc.runtime.inspect.gpu_profiling import profile
from nnc.runtime.project import planned_setup, project_of_text

from . import fake_cupy
from .whole_steps import model_step, run_steps

pytestmark = pytest.mark.skipif(not available(), reason="needs g++")


def setup_of(text: str):
    return planned_setup(project_of_text(text), Search(None, Path(), True))


RECURRENT = """
model Last(x: f32[B, 6, 3]) -> y: f32[B, 4] {
    h = x |> RNN(8)
    last[b, j] = h[b, 5, j]
    y = last |> Dense(4)
}

train Last {
    input label: i32[B]
    loss      = cross_entropy(y, label)
    optimizer = sgd(lr = 0.1)
    batch     = 5
}
"""


@pytest.mark.parametrize("piece", [200, 7])
def test_every_launch_is_timed_once(monkeypatch, piece):
    """In one piece or several; a kernel of a recurrence for all its turns; and the step is a step:
    what is learnt is what a graph learns."""
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(timing, "PIECE", piece)
    monkeypatch.setattr(lower, "persistent_kernel", lambda *_: None)  # a launch for every step
    system, start = model_step("lstm")
    program, whole = CudaProgram(system), CudaProgram(system)
    run_steps(whole, system, start, 1)
    timer = timing.Timer(program)
    for name in whole.arrays:
        program.arrays[name][...] = (start if name in start else whole.arrays)[name]
    found = timer.step()
    assert sum(found.values()) == program.launches and max(found.values()) == 12
    for tensor in system.of_kind("param"):
        np.testing.assert_array_equal(program.arrays[tensor.name], whole.arrays[tensor.name])


@pytest.mark.parametrize("text", [DIGITS, RECURRENT], ids=["digits", "recurrent"])
def test_lines_stages_and_launches_add_up_to_the_same(text, monkeypatch):
    fake_cupy.install(monkeypatch)
    found = profile("M", setup_of(text), 3, 0)
    launches = sum(timed.runs for timed in found.kernels)
    assert found.kernel_ms == pytest.approx(launches)
    assert sum(line.total for line in found.lines()) == pytest.approx(launches)
    computed = [s.equation.target for timed in found.kernels for s in timed.shares if s.mb]
    assert len(computed) == len(set(computed))  # work is counted once
    assert found.gflop == pytest.approx(sum(line.gflop for line in found.lines()))
    assert {timed.use.registers for timed in found.kernels} == {40}
    assert {timed.use.occupancy for timed in found.kernels} <= {0.5, 0.25, 0.125}
    assert found.bandwidth == pytest.approx(3352.3, abs=0.1)  # of an H100


def test_the_command(monkeypatch, tmp_path, capsys):
    fake_cupy.install(monkeypatch)
    path = str(write(tmp_path))
    assert run(["profile", path, "--device", "cuda", "--steps", "2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-4:] == ["GFLOP/s", "GB/s", "peak", "MB"]
    assert any(row.split()[1:2] == ["Dense(12)"] for row in rows)
    assert any("Fake" in row for row in rows) and any("as one graph" in row for row in rows)
    assert run(["profile", path, "--device", "cuda", "--steps", "2", "--kernels"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["regs", "shared", "fits"]
    assert any(row.split()[-1] == "50%" and row.split()[-3] == "40" for row in rows)
    assert run(["profile", path, "--device", "cuda", "--steps", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"] == "Fake" and found["kernels"][0]["registers"] == 40
    assert sum(k["ms"] for k in found["kernels"]) == pytest.approx(found["kernels_ms"])


def test_without_a_gpu(monkeypatch, tmp_path, capsys):
    fake_cupy.install(monkeypatch, driver=0)
    assert run(["profile", str(write(tmp_path)), "--device", "cuda"]) == 1
    assert "E0720" in capsys.readouterr().err


def test_the_kernel_that_waits_compiles():
    try:
        library = nvrtc()
    except NvrtcNotFound as error:
        pytest.skip(str(error))
    from nnc.compiler.codegen.cuda.module import prelude

    (used,) = library.cubin(f"{prelude()}\n{timing.WAIT}", "sm_90a").usage.values()
    assert used.registers <= 16
    assert "clock" in library.ptx(f"{prelude()}\n{timing.WAIT}", "sm_90a")
