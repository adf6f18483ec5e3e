"""Sparse gradients of windows: found where they are, left alone where not, right on the machine."""

from __future__ import annotations

import numpy as np
import pytest
from support import TARGET, gradients, plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.sparse_pooling_gradient import sparse_pooling_gradient
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

TWO = """model M(x: f32[2, {H}, {W}, 16], k: f32[3, 3, 16, 20], c: f32[20]) -> loss: f32[] {{
    a[b, i, j, q] = x[b, i, j, q]*0.5
    h[b, i < {H} - 2, j < {W} - 2, o] = sum(u, v, q) a[b, i + u, j + v, q]*k[u, v, q, o] + c[o]
    r = max(h, 0)
    p[b, i < {P}, j < {Q}, o] = max(u < {U}, v < {V}) r[b, {U}*i + u, {V}*j + v, o]
    loss = sum(p*p*p)
}}"""
ONE = """model M(x: f32[2, 14, 18], k: f32[3, 18, 5]) -> loss: f32[] {
    a[b, i, q] = tanh(x[b, i, q])
    h[b, i < 12, o] = sum(u, q) a[b, i + u, q]*k[u, q, o]
    p[b, i < 4, o] = min(u < 3) h[b, 3*i + u, o]
    loss = sum(p*p)
}"""
SAME = """model M(x: f32[2, 12, 16], k: f32[3, 16, 5]) -> loss: f32[] {
    a[b, i, q] = tanh(x[b, i, q])
    h[b, i < 12, o] = sum(u, q) (a[b, i + u - 1, q] else 0)*k[u, q, o]
    p[b, i < 4, o] = max(u < 3) h[b, 3*i + u, o]
    loss = sum(p*p)
}"""
SPARSE = {
    "windows of 2 x 2": TWO.format(H=8, W=10, P=3, Q=4, U=2, V=2),
    "rows left over": TWO.format(H=9, W=11, P=3, Q=4, U=2, V=2),
    "windows of 2 x 3": TWO.format(H=8, W=8, P=3, Q=2, U=2, V=3),
    "the least of three": ONE,
}
DENSE = {
    "places that may fall outside": SAME,
    "windows of two": ONE.replace("3*i + u", "2*i + u").replace("u < 3) h", "u < 2) h"),
    "overlapping windows": ONE.replace("3*i + u", "2*i + u"),
    "few channels": ONE.replace("18", "6"),
}


def trained(text: str, float_type: str = "f64") -> System:
    given = "x k c" if "c: f32" in text else "x k"
    return gradients(system(text, float_type=float_type), "loss", given.split())[0]


def before_pick(start: System) -> System:
    found = []

    def note(name: str, before: System, after: System, seconds: float) -> None:
        if name == "sparse-pooling-gradient":
            found.append(before)

    plan(start, check=note)
    return found[0]


@pytest.mark.parametrize("name", SPARSE)
def test_windows_are_summed_at_the_place_picked(name: str) -> None:
    dense = before_pick(trained(SPARSE[name]))
    sparse = verify(sparse_pooling_gradient(dense, TARGET), "sparse-pooling-gradient")
    assert any(n.endswith("_picked") for n in sparse.tensors)
    assert "d_h" in dense.tensors and "d_h" not in sparse.tensors
    given = values(dense)
    expected, found = evaluate(dense, given), evaluate(sparse, given)
    for output in dense.outputs:
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DENSE)
def test_nothing_is_picked_where_it_would_not_pay_or_not_be_right(name: str) -> None:
    dense = before_pick(trained(DENSE[name]))
    assert sparse_pooling_gradient(dense, TARGET) is dense


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", SPARSE)
def test_the_machine_agrees_on_any_number_of_threads(name: str, threads: int) -> None:
    dense = trained(SPARSE[name], "f32")
    given = values(dense)
    program = CpuProgram(plan(dense), threads=threads)
    for tensor, value in given.items():
        program.arrays[tensor][...] = value
    program.run()
    expected = evaluate(dense, given)
    for output in dense.outputs:
        scale = np.abs(expected[output]).max()
        np.testing.assert_allclose(
            program.arrays[output], expected[output], rtol=0, atol=1e-5 * scale, err_msg=output
        )


def test_what_no_window_reaches_is_not_computed() -> None:
    done = plan(trained(SPARSE["rows left over"]), verified=True).system
    assert done.tensors["r"].shape == (2, 6, 8, 20)
