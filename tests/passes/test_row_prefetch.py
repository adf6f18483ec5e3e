"""Operands of sums whose rows lie far apart are prefetched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Idx
from nnc.compiler.passes.cpu.lower import lower
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS, Cache, CpuTarget
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram

TARGET = host.target()

PRODUCT = """model M(d: f32[{K}, 32], x: f32[{K}, {N}]) -> w: f32[{N}, 32] {{
    w[i, o] = sum(k) d[k, o]*x[k, i]
}}"""


def agrees(whole: System, made: Plan, target: CpuTarget, name: str) -> None:
    """The values of the reference evaluator, and the same bits on one to three threads."""
    given = values(whole)
    expected, results = evaluate(whole, given)[name], []
    for threads in (1, 2, 3):
        program = CpuProgram(made, threads, target)
        for key, value in given.items():
            program.arrays[key][...] = value
        program.run()
        results.append(program.arrays[name].tobytes())
        np.testing.assert_allclose(program.arrays[name], expected, rtol=1e-4, atol=1e-4)
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize(
    ("terms", "width", "prefetched"),
    [
        (96, 512, True),
        (96, 40, False),  # rows are near each other
        (24, 512, False),  # over before it would help
    ],
)
def test_far_rows_are_prefetched(terms: int, width: int, prefetched: bool) -> None:
    whole = system(PRODUCT.format(K=terms, N=width), float_type="f32")
    made = plan(whole)
    (nest,) = (lower(k, made, TARGET) for k in made.kernels)
    assert [a.tensor for a in nest.operand_prefetch] == ["x"] * prefetched
    assert all(a.offset.constant == TARGET.prefetch.distance * width for a in nest.operand_prefetch)
    agrees(whole, made, TARGET, "w")


STEP = """model M(d: f32[{K}, 32], x: f32[{K}, 48], m: f32[48, 32], b: f32[32]) -> w: f32[48, 32] {{
    w[i, o] = 0.9*m[i, o] + (sum(k) d[k, o]*x[k, i]) + b[o]
}}"""


@pytest.mark.parametrize(("terms", "prefetched"), [(64, ["m"]), (8, [])])
def test_epilogue_operands_are_prefetched_before_the_sum(terms: int, prefetched: list[str]) -> None:
    """If the sum is long; what all rows have in common is in the cache already."""
    whole = system(STEP.format(K=terms), float_type="f32")
    made = plan(whole)
    (nest,) = (lower(k, made, TARGET) for k in made.kernels)
    assert [a.tensor for a in nest.epilogue_prefetch] == prefetched
    given = values(whole)
    program = CpuProgram(made)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["w"], evaluate(whole, given)["w"], 1e-4, 1e-4)


DENSE = """model M(x: f32[{B}, 200]) -> y: f32[{B}, 1024] {{
    param w: [200, 1024] = 1
    y[b, o] = sum(i) x[b, i]*w[i, o]
}}"""


@pytest.mark.parametrize(("rows", "tiles"), [(1, 1), (16, 4), (64, 0)])
def test_panels_of_weights_are_prefetched_while_few_rows_pass(rows: int, tiles: int) -> None:
    """For one row the next lines; for some, as many parts of the next panel as there are tiles."""
    target = CPU_TARGETS["icelake-server"]
    whole = derive(system(DENSE.format(B=rows), float_type="f32")).replace(updates={}, batch=rows)
    made = plan(whole, target=target)
    nest = next(lower(k, made, target) for k in made.kernels if k.name == "y")
    found = [a for a in nest.operand_prefetch if a.tensor == "w_packed"]
    panel = {repr(e): step for a in found[:1] for e, step in a.offset.coefficients.items()}
    if rows == 1:
        width = sum(1 for a in found) * 16
        ahead = target.prefetch.distance * width
        assert [a.offset.constant for a in found] == [ahead + n for n in range(0, width, 16)]
    elif tiles:
        (one,) = found
        assert one.offset.constant == 200 * 64 and set(panel.values()) == {200 * 64, 200 * 4, 16}
    else:
        assert not found
    agrees(whole, made, target, "y")


CONVOLUTION = """model M(x: f32[1, 4, 4, 24]) -> y: f32[1, 4, 4, 256] {
    param k: [3, 3, 24, 256] = 1
    y[b, i < 4, j < 4, o] = sum(u, v, q) (x[b, i + u - 1, j + v - 1, q] else 0)*k[u, v, q, o]
}"""


def test_panels_of_a_window_are_prefetched_in_the_order_of_memory() -> None:
    """The innermost loop is that over the window, which slides over the tile's rows."""
    target = replace(CPU_TARGETS["icelake-server"], l2=Cache(64 << 10, 16))
    whole = derive(system(CONVOLUTION, float_type="f32")).replace(updates={}, batch=1)
    made = plan(whole, target=target)
    nest = next(lower(k, made, target) for k in made.kernels if k.name == "y")
    assert nest.sliding is not None and nest.inner[-1].index.name == nest.sliding.window
    (one,) = (a for a in nest.operand_prefetch if a.tensor == "k_packed")
    terms = {e.name: step for e, step in one.offset.coefficients.items() if isinstance(e, Idx)}
    # each of four tiles a quarter of the next panel: a line for every term
    assert terms == {"o_": 9 * 24 * 64, "j": 9 * 24 * 16, "u": 3 * 24 * 16, "v": 24 * 16, "q": 16}
    assert one.offset.constant == 9 * 24 * 64
    given = values(whole)
    program = CpuProgram(made, 2, target)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["y"], evaluate(whole, given)["y"], 1e-4, 1e-4)
