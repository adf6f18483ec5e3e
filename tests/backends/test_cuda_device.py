"""The device `cuda` without a GPU: what it says, and with a stand-in for CuPy, what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from attentions import prepared
from gpu_simulator import SimulatedProgram, available
from small_programs import trained, write
from stdlib.programs import Case

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.cli import run
from nnc.runtime.device import DEVICES
from nnc.runtime.device.cuda import discovery as found
from nnc.runtime.device.cuda import nvrtc
from nnc.runtime.device.cuda.nvrtc import NvrtcNotFound
from nnc.runtime.device.cuda.program import CudaProgram, machine_code

from . import fake_cupy
from .test_cpu import _product_system
from .whole_steps import model_step, run_steps

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")


# --- what is missing ------------------------------------------------------------------------------


def problem() -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        DEVICES["cuda"](1)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0720"
    return diagnostic.message, str(diagnostic.help)


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(found, "find_spec", lambda name: None)
    monkeypatch.setattr(found, "cupy_packages", lambda: ())
    monkeypatch.setattr(found, "driver_version", lambda: 13000)
    what, remedy = problem()
    assert "CuPy" in what and "not installed" in what
    assert "pip install cupy-cuda13x" in remedy and "nvidia-cuda-nvrtc==13.*" in remedy


def test_cupy_without_a_driver(monkeypatch):
    fake_cupy.install(monkeypatch, driver=0)
    what, remedy = problem()
    assert "no NVIDIA driver" in what and "nvidia-smi" in remedy


def test_cupy_for_another_cuda(monkeypatch):
    fake_cupy.install(monkeypatch, driver=12040, made_for=13000)
    what, remedy = problem()
    assert "CUDA 13.0" in what and "CUDA 12.4" in what
    assert "pip uninstall -y cupy-cuda12x && pip install cupy-cuda12x" in remedy


def test_two_cupys(monkeypatch):
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(found, "cupy_packages", lambda: ("cupy-cuda12x", "cupy-cuda13x"))
    what, remedy = problem()
    assert "cupy-cuda12x and cupy-cuda13x" in what
    assert remedy.startswith("pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install cupy-")


def test_a_cupy_that_cannot_be_loaded(monkeypatch):
    def broken(name: str):
        raise ImportError("libcudart.so.12: cannot open shared object file\nmore")

    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(found, "import_module", broken)
    assert "libcudart.so.12" in problem()[0]


def test_no_gpu_and_no_nvrtc(monkeypatch):
    fake_cupy.install(monkeypatch, devices=0)
    assert "no GPU" in problem()[0]
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(found, "_nvrtc", lambda: ("", "NVRTC is not installed"))
    assert "nvidia-cuda-nvrtc-cu12" in problem()[1]
    monkeypatch.setattr(found, "_nvrtc", lambda: ("13.0", ""))
    assert "NVRTC is of CUDA 13.0" in problem()[0]


def test_of_several_nvrtcs_the_newest_that_the_driver_takes():
    """PyTorch brings one, CuPy's users another."""
    twelve, thirteen = Path("cuda_nvrtc/lib/libnvrtc.so.12"), Path("cu13/lib/libnvrtc.so.13")
    for driver, wanted in (
        (13000, thirteen),
        (12090, twelve),
        (14010, thirteen),
        (0, thirteen),
        (11080, thirteen),
    ):
        assert nvrtc.fitting([thirteen, twelve], driver) == wanted, driver
    windows = [Path("bin/nvrtc64_120_0.dll"), Path("bin/nvrtc64_130_0.dll")]
    assert nvrtc.fitting(windows, 12080) == windows[0]


def test_what_the_stand_in_has_is_in_cupy():
    """Every name that the device asks for, where CuPy is installed; a GPU is not needed."""
    cupy = pytest.importorskip("cupy")
    for name in (
        "function.Module",
        "Memory",
        "malloc_managed",
        "alloc_pinned_memory",
        "Event",
        "get_elapsed_time",
        "Stream.begin_capture",
        "Stream.end_capture",
        "runtime.memcpy",
        "runtime.memcpyAsync",
        "runtime.memGetInfo",
        "runtime.deviceGetAttribute",
        "runtime.getDeviceProperties",
        "runtime.getDeviceCount",
        "runtime.runtimeGetVersion",
        "runtime.driverGetVersion",
        "runtime.CUDARuntimeError",
        "driver.funcGetAttribute",
        "driver.funcSetAttribute",
        "driver.occupancyMaxActiveBlocksPerMultiprocessor",
        "driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
    ):
        found = cupy.cuda
        for part in name.split("."):
            found = getattr(found, part)


def test_doctor(monkeypatch, capsys):
    fake_cupy.install(monkeypatch)
    assert run(["doctor"]) == 0
    assert "Fake" in (text := capsys.readouterr().out) and "is ready" in text
    fake_cupy.install(monkeypatch, driver=0)
    assert run(["doctor"]) == 0
    assert "cannot run: no NVIDIA driver" in capsys.readouterr().out


def test_the_command_line_says_it_before_anything_else(tmp_path, capsys, monkeypatch):
    fake_cupy.install(monkeypatch, driver=0)
    assert run(["train", str(write(tmp_path)), "--device", "cuda"]) == 1
    assert "E0720" in capsys.readouterr().err


def test_nothing_of_a_gpu_is_imported_on_the_cpu():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from small_programs import trained\n"
        "trained(epochs='1')\n"
        "from nnc.runtime.cli import run\n"
        "from small_programs import write; from pathlib import Path; import tempfile\n"
        "file = str(write(Path(tempfile.mkdtemp())))\n"
        "assert not any(run([c, file, '--steps', '1']) for c in ('bench', 'profile'))\n"
        "bad = [m for m in sys.modules if m.split('.')[0] == 'cupy' or "
        "m.startswith(('nnc.runtime.device.cuda', 'nnc.compiler.codegen.cuda'))]\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_emit(tmp_path, capsys, monkeypatch):
    path = str(write(tmp_path))
    assert run(["compile", path, "--emit", "cuda"]) == 0
    assert "KERNEL(256, 2) k0_" in capsys.readouterr().out
    try:
        nvrtc.nvrtc()
    except NvrtcNotFound:
        pass
    else:
        assert run(["compile", path, "--emit", "ptx"]) == 0
        assert ".entry k0_" in capsys.readouterr().out

    def missing():
        raise NvrtcNotFound("NVRTC is not installed")

    monkeypatch.setattr(nvrtc, "nvrtc", missing)
    assert run(["compile", path, "--emit", "ptx"]) == 1
    assert nvrtc.INSTALL in capsys.readouterr().err


# --- what it does ---------------------------------------------------------------------------------


@needs_gpp
@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_steps_by_graph_are_those_of_the_simulator(name: str, monkeypatch):
    """Inputs go in, kernels run in order with their arguments, outputs come out, values stay."""
    fake_cupy.install(monkeypatch)
    system, start = model_step(name)
    here, there = CudaProgram(system), SimulatedProgram(system, (0,))
    losses = [run_steps(p, system, start, 3) for p in (here, there)]
    assert losses[0] == losses[1]
    for tensor in system.of_kind("param"):
        np.testing.assert_array_equal(here.arrays[tensor.name], there.arrays[tensor.name])


@pytest.mark.slow
@needs_gpp
def test_shared_memory_is_asked_for(monkeypatch):
    """Tiles of heads of 96 take more than a block has unasked."""
    fake_cupy.install(monkeypatch)
    layer = Case("wide", "x |> Attention(1, bias = false)", {"x": "f32[1, 40, 96]"})
    system, given = prepared(layer)
    here, there = CudaProgram(system), SimulatedProgram(system, (0,))
    assert max(launch.shared for launch in here.module.launches) > 48 << 10
    for program in (here, there):
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
    for name in system.outputs:
        np.testing.assert_array_equal(here.arrays[name], there.arrays[name])


@needs_gpp
def test_a_whole_training_run(monkeypatch):
    """Training, evaluation and the copies between programs, as on the CPU."""
    fake_cupy.install(monkeypatch)
    here, there = (trained(device=d, epochs="1") for d in ("cuda", "cpu"))
    assert here.records[-1].plain()["loss"] == pytest.approx(
        there.records[-1].plain()["loss"], rel=1e-4
    )


def test_cubins_are_kept_by_content(monkeypatch, tmp_path):
    from support import cuda_module

    from .unfused import schedule

    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    compiled = []

    class Library:
        version = (12, 9)

        def cubin(self, source: str, architecture: str):
            compiled.append(architecture)
            return nvrtc.Compiled(b"code for " + architecture.encode(), "")

    monkeypatch.setattr(nvrtc, "nvrtc", Library)
    made = cuda_module(schedule(_product_system(40)))
    for architecture in ("sm_80", "sm_90", "sm_80"):
        assert machine_code(made, architecture) == f"code for {architecture}".encode()
    assert compiled == ["sm_80", "sm_90"]
    machine_code(cuda_module(schedule(_product_system(41))), "sm_80")
    assert compiled == ["sm_80", "sm_90", "sm_80"]


@pytest.mark.gpu
def test_on_a_gpu():
    """The same steps on a device, if there is one."""
    if found.look().problem:
        pytest.skip(found.look().problem)
    from nnc.runtime.device.cpu.program import CpuProgram

    for name in ("mlp", "cnn", "lstm", "gpt"):
        system, start = model_step(name)
        here, there = CudaProgram(system), CpuProgram(system)
        losses = [run_steps(p, system, start, 20) for p in (here, there)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
