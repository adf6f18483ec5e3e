"""Subnormal numbers: kernels with updates take them for 0, and no other code does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import TARGET, mostly_slow, plan, system

from nnc.compiler.ir.equation import System
from nnc.compiler.pipeline import LlvmCode
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

SMALLEST = np.float32(1.1754944e-38)  # of the normal numbers
on_x86 = pytest.mark.skipif(not TARGET.mxcsr, reason="there is no MXCSR")

# The mean of gradients and a parameter, as in an optimizer; beside them what is no update.
TEXT = """
model M(m: f32[N, 40], g: f32[N, 40], w: f32[N, 40]) -> m1, w1, y {
    m1[i, j] = 0.5*m[i, j] + g[i, j]
    w1[i, j] = w[i, j] - m1[i, j]^2
    y[i, j] = log(0.25*m[i, j] + 0.25*g[i, j])
}
"""


def stepped(rows: int) -> System:
    """The mean is a state, w a parameter."""
    whole = system(TEXT, N=rows, float_type="f32")
    kinds = {"m": "state", "w": "param"}
    tensors = {
        name: replace(tensor, kind=kinds.get(name, tensor.kind))
        for name, tensor in whole.tensors.items()
    }
    return replace(whole, tensors=tensors, outputs=("y",), updates={"m": "m1", "w": "w1"})


def given(rows: int) -> dict[str, np.ndarray]:
    """Subnormal numbers in every second place."""
    ordinary = np.random.default_rng(0).uniform(0.5, 1, (rows, 40)).astype(np.float32)
    m = np.where(np.arange(40) % 2, ordinary, ordinary * SMALLEST)
    return {"m": m, "g": m / 4, "w": ordinary / 8}


@on_x86
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", mostly_slow([1, 7, 900], [7]))
def test_updates_flush_and_nothing_else(rows, threads):
    whole, values = stepped(rows), given(rows)
    program = CpuProgram(whole, threads)
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    small = np.arange(40) % 2 == 0
    expected = evaluate(whole, values)
    assert np.all(expected["m1"][:, small] > 0)
    assert np.all(expected["m1"][:, small] < SMALLEST)
    assert not program.arrays["m"][:, small].any()
    np.testing.assert_allclose(program.arrays["m"][:, ~small], expected["m1"][:, ~small], 1e-6)
    np.testing.assert_allclose(program.arrays["w"], expected["w1"], 1e-6)
    # outside of updates: a logarithm of a subnormal number
    assert np.isfinite(expected["y"]).all()
    np.testing.assert_allclose(program.arrays["y"], expected["y"], 1e-5)
    # what the caller computes afterwards
    assert 0 < np.float32(1e-38) * np.float32(0.5) < SMALLEST


@pytest.mark.parametrize("name", ["generic-neon", "generic-neon32", "generic-scalar"])
def test_other_processors_have_no_such_register(name):
    target = CPU_TARGETS[name]
    assert "mxcsr" not in LlvmCode(plan(stepped(7), target=target), target).text


def test_equal_equations_of_which_one_is_an_update_share_no_code():
    text = """
    model M(m: f32[40], k: f32[40]) -> m1, y {
        m1[j] = 0.5*m[j]
        y[j] = 0.5*k[j]
    }
    """
    whole = system(text, float_type="f32")
    tensors = whole.tensors | {"m": replace(whole.tensors["m"], kind="state")}
    whole = replace(whole, tensors=tensors, outputs=("y",), updates={"m": "m1"})
    values = {"m": np.full(40, SMALLEST / 2), "k": np.full(40, SMALLEST / 2)}
    program = CpuProgram(whole, 1)
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    assert (program.arrays["y"] > 0).all()
    assert program.arrays["m"].any() != TARGET.mxcsr
