"""Where tensors live: what dies where another is computed leaves it its place."""

from __future__ import annotations

import numpy as np
import pytest
from support import NO_ATTENTION, gpu_plan, plan, system, values

from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

SOFTMAX = """model M(x: f32[50, 20], m: f32[20, 70], w: f32[70, 33]) -> z: f32[50, 70] {
    s[b, i] = sum(k) x[b, k]*m[k, i]
    e[b, i] = exp(s[b, i] - max(j) s[b, j])
    y[b, i] = e[b, i] / sum(j) e[b, j]
    k[b, o] = sum(i) y[b, i]*w[i, o]
    z[b, i] = sum(o) k[b, o]*w[i, o]
}"""
KEPT = {
    "another place": ("e[b, i < 40] = exp(a[b, 39 - i])", "z[b, i] = e[b, i] + sum(j) e[b, j]"),
    "read later": ("e[b, i] = exp(a[b, i])", "z[b, i] = e[b, i]*(sum(j) e[b, j]) + a[b, i]"),
    "another form": ("e[i, b] = exp(a[b, i])", "z[b, i] = e[i, b] + sum(j) e[j, b]"),
}
LINES = """model M(x: f32[20, 30], m: f32[30, 40]) -> z: f32[20, 40] {{
    a[b, i] = sum(k) x[b, k]*m[k, i]
    {}
    {}
}}"""


def right(text: str, threads: int) -> Plan:
    """The plan of a program, which gives what the evaluator gives."""
    found = system(text, float_type="f32")
    made = plan(found)
    given = values(found)
    program = CpuProgram(made, threads)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    np.testing.assert_allclose(
        program.arrays["z"], evaluate(found, given)["z"], rtol=1e-4, atol=1e-5
    )
    return made


@pytest.mark.parametrize("threads", [1, 3])
def test_a_softmax_has_one_place(threads: int) -> None:
    made = right(SOFTMAX, threads)
    assert made.offsets["s"] == made.offsets["e"] == made.offsets["y"]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_read_elsewhere_or_later_keeps_its_place(name: str) -> None:
    made = right(LINES.format(*KEPT[name]), 2)
    assert made.offsets["a"] != made.offsets["e"]


def test_on_a_gpu_nothing_is_written_where_it_is_read() -> None:
    made = gpu_plan(system(SOFTMAX, float_type="f32"), without=NO_ATTENTION)
    assert made.offsets["e"] != made.offsets["y"]
