"""Operands of sums whose rows lie far apart are prefetched."""

from __future__ import annotations

import numpy as np
import pytest
from support import plan, system, values

from nnc.compiler.passes.cpu.lower import lower
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram

TARGET = host.target()

PRODUCT = """model M(d: f32[{K}, 32], x: f32[{K}, {N}]) -> w: f32[{N}, 32] {{
    w[i, o] = sum(k) d[k, o]*x[k, i]
}}"""


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
