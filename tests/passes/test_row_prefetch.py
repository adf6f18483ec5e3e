"""Operands of sums whose rows lie far apart are asked for ahead."""

from __future__ import annotations

import numpy as np
import pytest
from support import plan, system, values

from nnc.compiler.passes.cpu.lower import FETCH, lower
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram

PRODUCT = """model M(d: f32[{K}, 32], x: f32[{K}, {N}]) -> w: f32[{N}, 32] {{
    w[i, o] = sum(k) d[k, o]*x[k, i]
}}"""


@pytest.mark.parametrize(
    ("terms", "width", "asked"),
    [
        (96, 512, True),
        (96, 40, False),  # rows are near each other
        (24, 512, False),  # over before it would help
    ],
)
def test_far_rows_are_asked_for(terms: int, width: int, asked: bool) -> None:
    whole = system(PRODUCT.format(K=terms, N=width), float_type="f32")
    made = plan(whole)
    (nest,) = (lower(k, made, host.target()) for k in made.kernels)
    assert [a.tensor for a in nest.operand_prefetch] == ["x"] * asked
    assert all(a.offset.constant == FETCH * width for a in nest.operand_prefetch)
    given = values(whole)
    expected, results = evaluate(whole, given)["w"], []
    for threads in (1, 2, 3):
        program = CpuProgram(made, threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        results.append(program.arrays["w"].tobytes())
        np.testing.assert_allclose(program.arrays["w"], expected, rtol=1e-4, atol=1e-4)
    assert all(r == results[0] for r in results)


STEP = """model M(d: f32[{K}, 32], x: f32[{K}, 48], m: f32[48, 32], b: f32[32]) -> w: f32[48, 32] {{
    w[i, o] = 0.9*m[i, o] + (sum(k) d[k, o]*x[k, i]) + b[o]
}}"""


@pytest.mark.parametrize(("terms", "asked"), [(64, ["m"]), (8, [])])
def test_what_comes_after_a_sum_is_asked_for_before_it(terms: int, asked: list[str]) -> None:
    """If the sum is long; what all rows have in common is in the cache already."""
    whole = system(STEP.format(K=terms), float_type="f32")
    made = plan(whole)
    (nest,) = (lower(k, made, host.target()) for k in made.kernels)
    assert [a.tensor for a in nest.epilogue_prefetch] == asked
    given = values(whole)
    program = CpuProgram(made)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["w"], evaluate(whole, given)["w"], 1e-4, 1e-4)
