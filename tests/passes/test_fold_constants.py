"""Constants of a prediction: scales in weights, shifts apart, weights in panels."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import prepared
from support import TARGET, plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import expr_text
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.cpu.lower import lower
from nnc.compiler.passes.equations.fold_constants import fold_scales, hoist_constants
from nnc.compiler.passes.equations.inline import inline
from nnc.compiler.passes.equations.pack_constants import pack_constants
from nnc.compiler.passes.kernels.kernel import Kernel, Plan
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.device.cpu.program import CpuProgram

NORM = """
    param g: [{n}] = 1
    param t: [{n}] = 0
    param m: [{n}] = 0
    param v: [{n}] = 1
"""


def norm(channel: str = "o") -> str:
    return f"g[{channel}]*({{}} - m[{channel}])/sqrt(v[{channel}]^2 + 1e-5) + t[{channel}]"


FOLDED = {
    "dense": f"""model M(x: f32[3, 6]) -> y: f32[3, 5] {{
        param w: [6, 5] = 1
        param c: [5] = 0 {NORM.format(n=5)}
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = max({norm().format("(z[b, o] + c[o])")}, 0)
    }}""",
    "transposed weight, a sign and a number": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [5, 6] = 1
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[o, i]
        y[b, o] = tanh(1 - z[b, o]*g[o]*0.5)
    }""",
    "no index": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param a: f32[] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = exp(z[b, o]/a)
    }""",
    "convolution": f"""model M(x: f32[2, 7, 6, 2]) -> y: f32[2, 5] {{
        param w: [3, 3, 2, 5] = 1 {NORM.format(n=5)}
        z[b, i < 7, j < 6, o] = sum(u, v, c) (x[b, i + u - 1, j + v - 1, c] else 0)*w[u, v, c, o]
        r[b, i, j, o] = max({norm().format("z[b, i, j, o]")}, 0)
        y[b, o] = mean(i, j) r[b, i, j, o]
    }}""",
    "a grouped convolution": f"""model M(x: f32[2, 7, 6]) -> y: f32[2, 7, 8] {{
        param w: [3, 3, 8] = 1 {NORM.format(n=8)}
        z[b, i < 7, o] = sum(u, c < 3) (x[b, i + u - 1, 3*(o // 4) + c] else 0)*w[u, c, o]
        y[b, i, o] = sin({norm().format("z[b, i, o]")})
    }}""",
    "by channel": f"""model M(x: f32[2, 7, 6]) -> y: f32[2, 7, 6] {{
        param w: [3, 6] = 1 {NORM.format(n=6)}
        z[b, i < 7, c] = sum(u) (x[b, i + u - 1, c] else 0)*w[u, c]
        y[b, i, c] = tanh({norm("c").format("z[b, i, c]")})
    }}""",
    "two sums": """model M(x: f32[3, 6], e: f32[3, 5]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param k: [6, 5] = 1
        param g: [5] = 1
        param h: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        s[b, o] = sum(i) x[b, i]*k[i, o]
        y[b, o] = max(z[b, o]*g[o] + s[b, o]/(h[o]^2 + 1) + e[b, o], 0)
    }""",
    "squared": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = (z[b, o]*g[o])^2
    }""",
    "into another sum": """model M(x: f32[3, 6]) -> y: f32[3, 4] {
        param w: [6, 5] = 1
        param k: [5, 4] = 1
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, p] = sum(o) (z[b, o]*g[o] + 1)*k[o, p]
    }""",
}

NOT_FOLDED = {
    "a scale of the row": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param g: [3] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, o]*g[b])
    }""",
    "a scale that is data": """model M(x: f32[3, 6], g: f32[5]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, o]*g[o])
    }""",
    "read twice": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, o]*g[o])*z[b, o]
    }""",
    "an output": """model M(x: f32[3, 6]) -> y: f32[3, 5], z: f32[3, 5] {
        param w: [6, 5] = 1
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, o]*g[o])
    }""",
    "at another place": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, 4 - o]*g[o])
    }""",
    "no weight": """model M(x: f32[3, 6], w: f32[6, 5]) -> y: f32[3, 5] {
        param g: [5] = 1
        z[b, o] = sum(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, o]*g[o])
    }""",
    "a maximum": """model M(x: f32[3, 6]) -> y: f32[3, 5] {
        param w: [6, 5] = 1
        param g: [5] = 1
        z[b, o] = max(i) x[b, i]*w[i, o]
        y[b, o] = tanh(z[b, o]*g[o])
    }""",
}


def same(before: System, after: System, near: float = 1e-12) -> None:
    given = values(before, integers=3)
    expected, found = evaluate(before, given), evaluate(verify(after, "fold"), given)
    for output in before.outputs:
        size = np.abs(expected[output]).max()
        np.testing.assert_allclose(found[output], expected[output], rtol=near, atol=near * size)


def scaled(found: System) -> set[str]:
    return {name.removesuffix("_scaled") for name in found.tensors if name.endswith("_scaled")}


@pytest.mark.parametrize("name", FOLDED)
def test_a_scale_becomes_part_of_the_weight(name: str) -> None:
    before = inline(system(FOLDED[name]), TARGET)
    after = fold_scales(before)
    assert scaled(after) == ({"w", "k"} if name == "two sums" else {"w"})
    same(before, after)
    # nothing is left to do
    assert scaled(fold_scales(after)) == scaled(after)


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_other_scales_stay(name: str) -> None:
    before = inline(system(NOT_FOLDED[name]), TARGET)
    assert not scaled(fold_scales(before))


def test_a_normalisation_leaves_one_addition() -> None:
    after = hoist_constants(fold_scales(inline(system(FOLDED["dense"]), TARGET)))
    assert expr_text(after.definition["y"].body) == "max(z[b, o] + y_constant[o], 0.0)"
    same(system(FOLDED["dense"]), after)


def test_a_normalisation_is_fused_into_its_product() -> None:
    found = plan(system(FOLDED["dense"], float_type="f32"))
    always = [item for item in found.items[found.prologue :] if isinstance(item, Kernel)]
    assert [k.name for k in always] == ["z"] and [e.target for e in always[0].epilogue] == ["y"]


def test_a_training_step_is_left_alone() -> None:
    step = derive(prepared().executor.system)
    for each in (fold_scales, hoist_constants):
        assert each(step) is step
    assert pack_constants(step, TARGET) is step


PACKED = """model M(x: f32[7, 40, 6], e: f32[7, 40]) -> y: f32[7, 128], s: f32[7, 6, 96] {
    param w: [40, 128] = 1
    param k: [4, 96, 40] = 1
    param c: [128] = 0
    z[b, o] = sum(i) x[b, i, 0]*w[i, o]
    y[b, o] = max(z[b, o] + c[o], 0)
    r[b, h, o] = sum(i, u < 3) x[b, i, h]*k[u, o, i]
    l[b, h, o] = sum(i, u < 4) x[b, i, h]*k[u, o, i]
    s[b, h, o] = tanh(l[b, h, o]) + r[b, h, o]
}"""


def test_weights_lie_as_they_are_read() -> None:
    before = system(PACKED)
    after = pack_constants(before, TARGET)
    # whole weights only: the first 3 of 4 taps are left as they are
    assert {n for n in after.tensors if "packed" in n} == {"w_packed", "k_packed"}
    assert after.tensors["w_packed"].shape == (2, 40, 64)
    assert after.tensors["k_packed"].shape == (2, 40, 4, 48)
    assert "w_packed[o // 64, i, o % 64]" in expr_text(after.definition["z"].body)
    same(before, after)


def test_small_and_narrow_weights_are_not_packed() -> None:
    text = """model M(x: f32[7, 400], e: f32[7, 40]) -> y: f32[7, 100], s: f32[7, 64] {
        param w: [400, 100] = 1
        param k: [40, 64] = 1
        y[b, o] = sum(i) x[b, i]*w[i, o]
        s[b, o] = sum(i) e[b, i]*k[i, o]
    }"""
    before = system(text, float_type="f32")
    assert pack_constants(before, TARGET) is before


NARROW = """model M(x: f32[{B}, 200], e: f32[{B}, 40]) -> y: f32[{B}, 10], s: f32[{B}, 7] {{
    param w: [200, 10] = 1
    param k: [40, 7] = 1
    y[b, o] = sum(i) x[b, i]*w[i, o]
    s[b, o] = sum(i) e[b, i]*k[i, o]
}}"""


@pytest.mark.parametrize("rows", [3, 900])
def test_the_terms_of_a_weight_of_few_columns_lie_side_by_side(rows: int) -> None:
    """For any number of rows, if the sum is long; vectors run along them."""
    target = CPU_TARGETS["generic-avx512"]
    before = system(NARROW.format(B=rows), float_type="f32")
    made = plan(before, target=target)
    kernels = {k.name: k for k in made.kernels}
    assert kernels.keys() == {"w_rows", "y", "s"}
    assert made.system.tensors["w_rows"].shape == (10, 200) and made.prologue == 1
    nest = lower(kernels["y"], made, target)
    assert nest.inner[-1].lanes == target.lanes and not nest.outer[-1].lanes > 1
    given = values(before)
    expected, bits = evaluate(before, given), set()
    for threads in (1, 2, 3):
        found = run(made, given, threads)
        for name in before.outputs:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
        bits.add(found["y"].tobytes() + found["s"].tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("name", [*FOLDED, "packed"])
def test_passes_keep_the_meaning(name: str) -> None:
    before = system(FOLDED.get(name, PACKED))

    def compare(title: str, _: object, after: System | Plan, __: float) -> None:
        same(before, after.system if isinstance(after, Plan) else after)

    plan(before, check=compare)


@pytest.fixture(scope="module")
def packed() -> tuple[System, dict[str, np.ndarray]]:
    found = system(PACKED, float_type="f32")
    return found, values(found)


def run(model: System | Plan, given: dict[str, np.ndarray], threads: int) -> dict[str, np.ndarray]:
    program = CpuProgram(model, threads)
    for name, array in given.items():
        program.arrays[name][...] = array
    program.run()
    return {name: program.arrays[name].copy() for name in program.system.outputs}


def test_the_machine_computes_them(packed) -> None:
    model, given = packed
    expected, found = evaluate(model, given), run(model, given, 1)
    for name in model.outputs:
        near = 1e-5 * np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], atol=near)
    two = run(model, given, 2)
    assert all(np.array_equal(found[n], two[n]) for n in found)
