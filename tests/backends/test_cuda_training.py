"""Whole training steps through the CUDA source: beside the CPU's machine code, and by NVRTC."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available
from support import cuda_module, gpu_plan

from nnc.runtime.device.cpu.program import CpuProgram

from .gates import check_usage, nvrtc_or_skip
from .simulated import SMALL
from .whole_steps import EXAMPLES, MODELS, example_step, model_step, run_steps

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")


def agree(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal to a part in 10^5 of the largest, or to the rounding of sums of order 1: what is only
    rounding (a bias before a normalisation has no gradient) agrees no better."""
    allowed = max(1e-5 * float(np.abs(expected).max(initial=0)), 2.0**-23)
    assert np.abs(found - expected).max(initial=0) <= allowed, name


@needs_gpp
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "target",
    [pytest.param(None, id="H100", marks=pytest.mark.slow), pytest.param(SMALL, id="small")],
)
def test_twenty_steps_give_the_weights_of_the_cpu(name: str, target):
    system, start = model_step(name)
    here, there = CpuProgram(system), SimulatedProgram(system, (0,), target)
    losses = [run_steps(p, system, start, 20) for p in (here, there)]
    assert losses[0][-1] != losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for tensor in (*system.of_kind("param"), *system.of_kind("state")):
        agree(there.arrays[tensor.name], here.arrays[tensor.name], tensor.name)


@pytest.mark.slow
@needs_gpp
@pytest.mark.parametrize("name", ["cnn", "lstm", "gpt"])
def test_steps_in_bf16_lose_what_those_of_the_cpu_lose(name: str):
    """With tensor cores where the sizes are large enough; numbers at ties are rounded otherwise."""
    system, start = model_step(name, precision="bf16")
    here, there = CpuProgram(system), SimulatedProgram(system, (0,))
    assert name == "cnn" or "MMA(sum" in there.module.kernels
    losses = [run_steps(p, system, start, 5) for p in (here, there)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@needs_gpp
@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_takes_the_steps_of_the_cpu(path):
    system, start = example_step(path)
    here, there = CpuProgram(system), SimulatedProgram(system, (0, 1))
    losses = [run_steps(p, system, start, 2) for p in (here, there)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    for tensor in system.of_kind("param"):
        agree(there.arrays[tensor.name], here.arrays[tensor.name], tensor.name)


# --- NVRTC: every kernel of every example ---------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_kernels_compile_without_spills(name: str):
    nvrtc_or_skip()
    made = cuda_module(gpu_plan(model_step(name)[0]))
    check_usage(made, "sm_80")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_kernels_of_examples_compile_without_spills(path):
    """At the size of the example itself."""
    nvrtc_or_skip()
    made = cuda_module(gpu_plan(example_step(path, 64)[0]))
    check_usage(made)
