"""Long sums of few results in parts."""

from __future__ import annotations

import numpy as np
import pytest
from support import TARGET, plan, system, values

from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.split_reductions import split_reductions
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

LONG = """model M(x: f32[{B}, 700, 16], y: f32[{B}, 700, 3]) -> k: f32[16, 3], b: f32[16] {{
    k[i, o] = sum(n, t) x[n, t, i]*y[n, t, o]
    b[i] = sum(n, t) x[n, t, i]
}}"""


@pytest.mark.parametrize(("batch", "parts"), [(24, 8), (35, 7), (26, 13), (23, 0)])
def test_a_long_sum_is_done_in_equal_parts(batch: int, parts: int) -> None:
    whole = system(LONG.format(B=batch))
    done = verify(split_reductions(whole, TARGET), "split-reductions")
    if not parts:  # a prime number of rows
        assert done is whole
        return
    assert done.tensors["k_parts"].shape == (parts, 16, 3)
    given = values(whole)
    expected, found = evaluate(whole, given), evaluate(done, given)
    for name in whole.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-11, atol=1e-9)


def test_short_sums_and_those_of_many_results_stay_whole() -> None:
    text = """model M(x: f32[64, 8], w: f32[64, 4096]) -> a: f32[8], b: f32[8, 4096] {
        a[i] = sum(n) x[n, i]
        b[i, j] = sum(n) x[n, i]*w[n, j]
    }"""
    whole = system(text)
    assert split_reductions(whole, TARGET) is whole


def test_parts_give_the_same_bits_on_any_number_of_threads() -> None:
    whole = system(LONG.format(B=24), float_type="f32")
    given, results = values(whole), []
    for threads in (1, 2, 3, 4):
        program = CpuProgram(plan(whole), threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        results.append([program.arrays[name].tobytes() for name in whole.outputs])
    assert all(r == results[0] for r in results)
