"""Layout and commuting: other places in memory and other orders of work, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from support import gradients, plan, system, values

from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.cpu.lower import lower
from nnc.compiler.passes.cpu.time_major import time_major
from nnc.compiler.passes.cpu.transpose_operands import transpose_operands
from nnc.compiler.passes.equations.gather_matmul import gather_matmul
from nnc.compiler.passes.lowering.coalesce_indices import coalesce_indices
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram

RECURRENT = """model M(x: f32[3, 5, 2], W: f32[2, 4], U: f32[4, 4]) -> loss: f32[] {
    a[b, t, j] = sum(i) x[b, t, i]*W[i, j]
    h[b, t, j] = tanh(a[b, t, j] + sum(k) (h[b, t - 1, k] else 0)*U[k, j])
    loss = sum(h*h)
}"""
EMBEDDED = """model M(E: f32[3, 4], W: f32[4, 6], n: i32[2, 5]) -> loss: f32[] {
    x[b, t, i] = E[n[b, t], i]
    y[b, t, j] = sum(i) x[b, t, i]*W[i, j]
    loss = sum(y*y)
}"""


def same(before, after, integers: int = 3) -> None:
    given = values(before, integers=integers)
    expected, found = evaluate(before, given), evaluate(after, given)
    for output in before.outputs:
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-12, atol=1e-12)


def test_time_comes_first_in_a_recurrence() -> None:
    before, _ = gradients(system(RECURRENT), "loss", ["x", "W", "U"])
    after = verify(time_major(before), "time-major")
    assert after.tensors["h"].shape == (5, 3, 4)
    assert after.tensors["a"].shape == (5, 3, 4)
    same(before, after)


def test_the_backward_recurrence_reads_a_transposed_weight() -> None:
    before, _ = gradients(system(RECURRENT), "loss", ["W", "U"])
    after = verify(transpose_operands(before, host.target()), "transpose-operands")
    assert "U_transposed" in after.tensors and "W_transposed" not in after.tensors
    same(before, after)


def test_a_product_of_picked_rows_is_taken_once_per_row() -> None:
    before = system(EMBEDDED)
    after = verify(gather_matmul(before), "commute")
    product = next(e for e in after.equations if e.reduce == "sum" and e.target.startswith("y"))
    assert [i.size for i in product.indices] == [3, 6]
    same(before, after)
    forward, _ = gradients(after, "loss", ["E", "W"])
    expected, _ = gradients(before, "loss", ["E", "W"])
    given = values(before, integers=3)
    for name in ("d_E", "d_W"):
        np.testing.assert_allclose(
            evaluate(forward, given)[name], evaluate(expected, given)[name], rtol=1e-12
        )


def test_a_large_table_is_picked_from_first() -> None:
    before = system(EMBEDDED.replace("E: f32[3, 4]", "E: f32[30, 4]"))
    assert gather_matmul(before) is before


SHORT = """model M(x: f32[40, 3], W: f32[20, 3]) -> y: f32[40, 20], z: f32[40, 20] {
    y[b, j] = sum(i) x[b, i]*W[j, i]
    z[b, j] = sum(i) x[b, i]*x[b, i]*W[j, i]
}"""


def test_short_products_read_one_transposed_copy() -> None:
    before = system(SHORT)
    after = verify(transpose_operands(before, host.target()), "transpose-operands")
    assert len(after.equations) == len(before.equations) + 1
    assert after.tensors["W_transposed"].shape == (3, 20)
    same(before, after)


def test_a_copy_that_few_would_read_is_not_made() -> None:
    before = system(SHORT.replace("40", "1"))
    assert transpose_operands(before, host.target()) is before


FEW = """model M(x: f32[ROWS, 7, 256], W: f32[3, 256, COLUMNS]) -> y: f32[ROWS, 5, COLUMNS] {
    y[b, t, o] = sum(u, i) x[b, t + u, i]*W[u, i, o]
}"""


@pytest.mark.parametrize(
    ("name", "columns", "copied"),
    [
        ("icelake-server", 12, True),
        ("icelake-server", 5, True),
        ("icelake-server", 17, False),
        ("zen5", 16, False),
        ("zen5", 6, True),
    ],
)
def test_vectors_of_a_result_of_few_columns_run_along_the_sum(
    name: str, columns: int, copied: bool
) -> None:
    """Where that takes less time than a load for every multiply-add of a vector."""
    target = CPU_TARGETS[name]
    before = system(FEW.replace("ROWS", "40").replace("COLUMNS", str(columns)), float_type="f32")
    after = verify(transpose_operands(before, target), "transpose-operands")
    assert ("W_transposed" in after.tensors) == copied
    planned = plan(before, target=target)
    kernel = next(k for k in planned.kernels if k.name == "y")
    loops = lower(kernel, planned, target).loops
    assert any(x.kind == "reduce" and x.lanes == 16 for x in loops) == copied
    given = values(before)
    expected = evaluate(before, given, wide=True)["y"]
    program = CpuProgram(planned, threads=2)
    for tensor, value in given.items():
        program.arrays[tensor][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["y"], expected, rtol=1e-5, atol=1e-4)
    if copied:
        assert after.tensors["W_transposed"].shape == (3, columns, 256)
        same(before, after)


def test_one_row_of_few_columns_is_not_worth_a_copy() -> None:
    text = FEW.replace("ROWS", "1").replace("COLUMNS", "10").replace(" 7,", " 3,")
    before = system(text.replace(" 5,", " 1,"), float_type="f32")
    assert transpose_operands(before, CPU_TARGETS["icelake-server"]) is before


def test_rows_of_a_sum_stay_where_they_are_read_along_for_few_results() -> None:
    """The factor lies as vectors along the sum read it: for 16 columns no copy is made of it."""
    before = system(
        """model M(x: f32[200, 1024], W: f32[16, 1024]) -> y: f32[200, 16] {
            y[b, o] = sum(i) x[b, i]*W[o, i]
        }""",
        float_type="f32",
    )
    assert transpose_operands(before, CPU_TARGETS["icelake-server"]) is before
    assert "W_transposed" in transpose_operands(before, CPU_TARGETS["zen5"]).tensors


def test_a_sum_steps_through_memory_from_far_to_near() -> None:
    """A recurrence lies time first, so the batch is summed over inside the time, as one index where
    nothing stands between; in the order in which a maximum's place is counted nothing changes."""
    text = """model M(x: f32[3, 5, 2], W: f32[2, 4]) -> y: f32[2, 4], z: f32[2], at: i32[2] {
        y[i, j] = sum(b, t) x[b, t, i]*x[b, t, i]*W[i, j]
        z[i] = sum(t, b) x[b, t, i]
        at[i] = argmax(t, b) x[b, t, i]
    }"""
    made = plan(system(text))
    over = {k.name: [i.name for i in coalesce_indices(k, made).over] for k in made.kernels}
    assert over["z"] == ["b_t"] and over["at"] == ["t", "b"]
