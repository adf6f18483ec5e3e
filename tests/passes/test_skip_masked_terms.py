"""Sums end where masks hide the rest: bounds that stand in loops, and values that stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from support import gradients, mostly_slow, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.sparsity_analysis import SystemSparsity
from nnc.compiler.passes.kernels.printer import plan_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CpuTarget
from nnc.runtime.device.cpu.program import CpuProgram

ATTENTION = """
model M(q: f32[2, 3, {rows}, 8], k: f32[2, 3, {columns}, 8], v: f32[2, 3, {columns}, 20],
        n: i32[2]) -> loss: f32 {{
    fit[b, h, t, s] = (sum(a) q[b, h, t, a] * k[b, h, s, a]) / 3.0
    score[b, h, t, s] = if {hidden} then -inf else fit[b, h, t, s]
    m[b, h, t] = max(s) score[b, h, t, s]
    e[b, h, t, s] = exp(score[b, h, t, s] - stop(m[b, h, t]))
    w[b, h, t] = sum(s) e[b, h, t, s]
    y[b, h, t, s] = e[b, h, t, s] / w[b, h, t]
    z[b, h, t, a] = sum(s) y[b, h, t, s] * v[b, h, s, a]
    loss = sum(b, h, t, a) z[b, h, t, a] ^ 2 * (1.0 + a)
}}
"""

# what a mask hides, of how many rows and columns; where y is 0
MASKS = {
    "s > t": (21, 21, {"s - t - 1"}),
    "t < s and true": (64, 64, {"s - t - 1"}),
    "not (s <= t)": (9, 30, {"s - t - 1"}),
    "s > t + 11": (19, 30, {"s - t - 12"}),
    "s > t or s < t - 8": (50, 50, {"s - t - 1", "t - s - 9"}),
    "s - 3 > t or t > s + 2": (37, 33, set()),  # of row 36, nothing is left
    "s < t": (33, 47, {"t - s - 1"}),
    "s != t": (18, 18, {"s - t - 1", "t - s - 1"}),
    "2*s > t": (24, 24, set()),  # not in steps of one
    "s >= t": (17, 17, set()),  # nothing is left of row 0
    "s > t and h > 0": (17, 17, set()),
    "s > t or s >= n[b] + 1": (17, 17, set()),  # n may be -1
    "(s < n[b] and h > 1) or s > t": (17, 17, set()),
}


def attention(hidden: str) -> System:
    rows, columns, _ = MASKS[hidden]
    return system(ATTENTION.format(hidden=hidden, rows=rows, columns=columns), float_type="f32")


def run(whole: System, threads: int = 1, target: CpuTarget | None = None) -> CpuProgram:
    program = CpuProgram(whole, threads=threads, target=target)
    for name, value in values(whole).items():
        program.arrays[name][...] = value
    program.run()
    return program


def check(whole: System, target: CpuTarget | None = None) -> CpuProgram:
    """The program, after all outputs were compared with the evaluator's, NaN and all, and with
    those of other numbers of threads, to the bit."""
    expected = evaluate(whole, values(whole))
    programs = [run(whole, threads, target) for threads in (1, 2, 3, 4)]
    for name in whole.outputs:
        found = programs[0].arrays[name]
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)
        assert {p.arrays[name].tobytes() for p in programs} == {found.tobytes()}
    return programs[0]


@pytest.mark.parametrize("hidden", MASKS)
def test_what_a_mask_hides_is_known_if_something_of_each_row_is_left(hidden: str) -> None:
    assert set(map(str, SystemSparsity(attention(hidden))["y"].zero)) == MASKS[hidden][2]


@pytest.mark.parametrize("hidden", mostly_slow(MASKS, [*MASKS][::4]))
@pytest.mark.parametrize("target", [None, CpuTarget(lanes=4, registers=16)], ids=["host", "narrow"])
def test_attention_and_its_gradients_are_the_same(hidden: str, target: CpuTarget | None) -> None:
    whole, _ = gradients(attention(hidden), "loss", ["q", "k", "v"])
    check(whole, target)


def test_all_products_of_causal_attention_end() -> None:
    whole, _ = gradients(attention("t < s and true"), "loss", ["q", "k", "v"])
    loops = run(whole).loops
    assert loops.count("reduce for s < 64 until t + ") == 2  # z, d_q
    assert loops.count("reduce for t < 64 from s") == 2  # d_v, d_k
    windows, _ = gradients(attention("s > t or s < t - 8"), "loss", ["q", "k", "v"])
    assert loops.count("    nest") == run(windows).loops.count("    nest")
    assert run(windows).loops.count("reduce for s < 50 from t - 8 until t + ") == 2
    assert run(windows).loops.count("reduce for t < 50 from s until s + ") == 2


TRIANGLES = {  # a product, whether its loop has an end, and of which extents
    "sum(s) (if s > t then 0 else l[t, s]) * x[s, a]": ("until t", (50, 33)),
    "sum(s) (if s >= t then 0 else l[t, s]) * x[s, a]": ("until t", (33, 50)),  # no term in row 0
    "sum(s) (if s < t then 0 else l[t, s]) * x[s, a]": ("from t", (40, 33)),
    "sum(s) (if s < 7 or s > t + 3 then 0 else l[t, s]) * x[s, a]": ("from 7 until t", (50, 50)),
    "sum(s) (if s + t > 30 then 0 else l[t, s]) * x[s, a]": ("until -t + 31", (50, 50)),
    "sum(s) (if s > a then 0 else l[t, s]) * x[s, a]": ("until a", (20, 50)),  # along vectors
    "sum(s) (if t > 3 then l[t, s] * x[s, a] else 0) / 3": ("", (20, 50)),
    "sum(s) ((if s > t then 0 else l[t, s]) + x[s, a])": ("", (20, 50)),
    "sum(s) (if s > 2*t then 0 else l[t, s]) * x[s, a]": ("until t * 2", (20, 50)),
    "sum(s) (if 2*s > t then 0 else l[t, s]) * x[s, a]": ("", (20, 50)),
}


@pytest.mark.parametrize("product", TRIANGLES)
@pytest.mark.parametrize("width", [1, 5, 16, 37])
def test_products_with_triangles(product: str, width: int) -> None:
    end, (rows, columns) = TRIANGLES[product]
    text = f"""
model M(l: f32[{rows}, {columns}], x: f32[{columns}, {width}]) -> z: f32[{rows}, {width}] {{
    z[t, a] = {product}
}}
"""
    program = check(system(text, float_type="f32"))
    if width == 37:
        assert f"reduce for s < {columns}{' ' + end if end else ''}" in program.loops
        assert (" from " in program.loops or " until " in program.loops) == bool(end)


def test_a_row_that_is_hidden_is_no_number() -> None:
    """The sum of row 0 is 0, and what is divided by it is nowhere known to be 0."""
    text = """
model M(l: f32[40, 40], x: f32[40, 33]) -> z: f32[40, 33] {
    m[t, s] = if s < t then abs(l[t, s]) else 0
    n[t] = sum(s) m[t, s]
    z[t, a] = sum(s) m[t, s] / n[t] * x[s, a]
}
"""
    program = check(system(text, float_type="f32"))
    assert np.isnan(program.arrays["z"][0]).all()
    whole = system(text.replace("s < t", "s <= t"), float_type="f32")
    assert SystemSparsity(whole)["m"].zero and not SystemSparsity(whole)["n"].maybe_zero


def test_kernels_say_which_terms_are_left_out() -> None:
    text = plan_text(run(attention("s > t or s < t - 8")).plan)
    assert "# no term where s > t or t > s + 8" in text


def test_equal_products_of_which_one_has_a_mask_have_loops_of_their_own() -> None:
    text = """
model M(l: f32[40, 40], x: f32[40, 33]) -> y: f32[40, 33], z: f32[40, 33] {
    m[t, s] = if s > t then 0 else l[t, s] ^ 2
    n[t, s] = if s < 2 then 0 else l[s, t] ^ 2
    y[t, a] = sum(s) m[t, s] * x[s, a]
    z[t, a] = sum(s) n[t, s] * x[s, a]
}
"""
    program = check(system(text, float_type="f32"))
    assert "until t" in program.loops and "from 2" in program.loops
