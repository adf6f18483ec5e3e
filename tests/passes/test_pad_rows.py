"""Row padding: temps that sums run down get padding, and every value stays."""

from __future__ import annotations

import numpy as np
import pytest
from support import gradients, optimize, plan, system, values

from nnc.compiler.ir.equation import System, Tensor
from nnc.compiler.passes.kernels.printer import plan_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

# Which rows pay depends on the caches: those of one processor, whatever this one has.
ZEN5 = CPU_TARGETS["zen5"]

LAYERS = """model M(x: f32[300, 20], W: f32[20, COLUMNS], U: f32[COLUMNS, 16]) -> loss: f32[] {
    h[n, j] = tanh(sum(i) x[n, i]*W[i, j])
    y[n, o] = sum(j) h[n, j]*U[j, o]
    loss = sum(y*y)
}"""
RECURRENT = """model M(a: f32[2, 20, 1024], U: f32[1024, 1024]) -> h: f32[2, 20, 1024] {
    h[b, t, j] = tanh(a[b, t, j] + sum(k) (h[b, t - 1, k] else 0)*U[k, j])
}"""

PRODUCT = """model M(x: f32[600, 300], w: f32[300, 512]) -> y: f32[600, 512] {
    y[i, j] = sum(k) x[i, k] * w[k, j]
}"""


def step_of(columns: int) -> System:
    text = LAYERS.replace("COLUMNS", str(columns))
    return gradients(system(text, float_type="f32"), "loss", ["W", "U"])[0]


def padded(found: System) -> set[str]:
    return {t.name for t in found.tensors.values() if t.pad_after}


def test_strides_and_bytes_of_padded_rows() -> None:
    tensor = Tensor("x", (3, 5, 4, 8), "f32", pad_after=2)
    assert tensor.strides == (5 * 48, 48, 8, 1)
    assert tensor.bytes == 3 * 5 * 48 * 4
    assert Tensor("x", (3, 5), "f64").strides == (5, 1)


def test_rows_of_powers_of_two_that_sums_run_down() -> None:
    """What is given and what is wanted stays as it is; rows of other sizes do not meet."""
    found = optimize(step_of(512), verified=True, target=ZEN5)
    assert padded(found) and all(found.tensors[n].kind == "temp" for n in padded(found))
    assert not padded(found) & set(found.roots)
    assert not padded(optimize(step_of(504), target=ZEN5))
    assert "rows padded by a cache line" in plan_text(plan(step_of(512), target=ZEN5))


def test_a_gradient_takes_the_place_of_the_slope_that_it_is_computed_from() -> None:
    text = LAYERS.replace("COLUMNS", "512").replace(
        "h[n, j] = tanh(sum(i) x[n, i]*W[i, j])",
        "a[n, j] = sum(i) x[n, i]*W[i, j]\n    h = a*erf(a)",
    )
    found, names = gradients(system(text, float_type="f32"), "loss", ["W", "U"])
    made = plan(found, verified=True, target=ZEN5)
    assert made.system.tensors["d_a"].pad_after == made.system.tensors["a_slope"].pad_after == 1
    assert made.offsets["d_a"] == made.offsets["a_slope"]
    given = values(found)
    program = CpuProgram(made, 2)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(found, given)
    for name in names.values():
        off = np.abs(program.arrays[name] - expected[name]).max()
        assert off <= 1e-5 * np.abs(expected[name]).max(), name


def test_a_weight_of_every_step_is_copied() -> None:
    found = optimize(system(RECURRENT, float_type="f32"), verified=True, target=ZEN5)
    assert padded(found) == {"U_padded"}


def test_what_is_given_is_copied_if_it_is_read_often_enough() -> None:
    assert padded(optimize(system(PRODUCT, float_type="f32"), verified=True, target=ZEN5)) == {
        "w_padded"
    }
    few = PRODUCT.replace("600", "100")
    assert not padded(optimize(system(few, float_type="f32"), target=ZEN5))


@pytest.mark.slow
def test_machine_code_computes_the_same() -> None:
    for before in (step_of(512), *(system(t, float_type="f32") for t in (RECURRENT, PRODUCT))):
        given = {n: v / 30 for n, v in values(before).items()}
        expected = evaluate(before, given, wide=True)
        for threads in (1, 2):
            program = CpuProgram(before, threads)
            for name, value in given.items():
                program.arrays[name][...] = value
            program.run()
            for name in before.outputs:
                np.testing.assert_allclose(
                    program.arrays[name], expected[name], 1e-4, 1e-4 * np.abs(expected[name]).max()
                )
