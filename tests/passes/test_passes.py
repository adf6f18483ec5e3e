"""Each pass leaves the meaning alone: every output before and after, on programs of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from support import TARGET, gradients, plan, system, values

from nnc.compiler.ir.build import call
from nnc.compiler.ir.equation import Equation, System, Tensor
from nnc.compiler.ir.expr import Read, walk
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.common_subexpressions import common_subexpressions
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

DENSE = "h[b, o] = sum(i) x[b, i]*w[i, o]\ny = max(h + c, 0)\nloss = mean(y*y)"
PROGRAMS = {
    "dense": ("x w c", f"""model M(x: f32[3, 4], w: f32[4, 5], c: f32[5]) -> loss: f32[] {{
        {DENSE}
    }}"""),
    "convolution": ("x k", """model M(x: f32[2, 7, 6, 2], k: f32[3, 3, 2, 3]) -> loss: f32[] {
        h[b, i < 7, j < 6, o] = sum(u, v, c) (x[b, i + u - 1, j + v - 1, c] else 0)*k[u, v, c, o]
        r = max(h, 0)
        p[b, i < 3, j < 3, o] = max(u < 2, v < 2) r[b, 2*i + u, 2*j + v, o]
        loss = sum(p^2)
    }"""),
    "strided": ("x k", """model M(x: f32[2, 9, 2], k: f32[3, 2, 3]) -> loss: f32[] {
        h[b, i < 5, o] = sum(u, c) (x[b, i*2 + u - 1, c] else 0)*k[u, c, o]
        g = tanh(h)
        z[b, i < 3, q] = sum(u < 3, o) (g[b, i*2 + u - 1, o] else 0)*k[u, q, o]
        loss = sum(z^2)
    }"""),
    "softmax": ("x w", """model M(x: f32[3, 4], w: f32[4, 6], n: i32[3])
        -> loss: f32[], hits: f32[] {
        a[b, o] = sum(i) x[b, i]*w[i, o]
        z[b, o] = a[b, o] - stop(max(q) a[b, q])
        loss = mean(b) (log(sum(o) exp(z[b, o])) - z[b, n[b]])
        hits = mean(argmax(a) == n)
    }"""),
    "gather": ("e w", """model M(e: f32[5, 3], w: f32[6, 3], n: i32[2, 4]) -> loss: f32[] {
        x[b, t, j] = e[n[b, t], j]
        f[b, p < 12] = x[b, p // 3, p % 3]
        y[b, t, o] = sum(p < 6) f[b, 6*(t // 2) + p]*w[p, o]*x[b, t, o]
        loss = sum(y*y)
    }"""),
    "recurrent": ("x W U", """model M(x: f32[2, 4, 3], W: f32[3, 2], U: f32[2, 2]) -> loss: f32[] {
        h[b, t, j] = tanh(sum(i) x[b, t, i]*W[i, j] + sum(k) (h[b, t - 1, k] else 0)*U[k, j])
        loss = sum(h*h)
    }"""),
    "views": ("x", """model M(x: f32[2, 3, 4]) -> loss: f32[], y: f32[2, 12] {
        a = x*2
        y[b, p] = a[b, p // 4, p % 4]
        z[b, i < 3, j < 4] = y[b, i*4 + j]
        loss = sum(b, i < 3, j < 4) z[b, i, j]*x[b, i, j]
    }"""),
}  # fmt: skip


def trained(name: str) -> System:
    wrt, text = PROGRAMS[name]
    return gradients(system(text), "loss", wrt.split())[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_passes_keep_the_meaning(name: str) -> None:
    before = trained(name)
    given = values(before, integers=3)
    expected = evaluate(before, given)

    def compare(title: str, _: object, after: System | Plan, __: float) -> None:
        made = after.system if isinstance(after, Plan) else after
        found = evaluate(verify(made, title), given)
        for output in before.outputs:
            np.testing.assert_allclose(
                found[output],
                expected[output],
                rtol=1e-12,
                atol=1e-12,
                err_msg=f"{title}: {output}",
            )

    plan(before, check=compare)


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_run_in_order_and_share_no_live_memory(name: str) -> None:
    """Everything that a kernel reads was stored before and has not been overwritten since."""
    made = plan(trained(name))
    optimised = made.system
    owner: dict[int, str] = {}

    def occupy(tensor: str) -> None:
        start = made.offsets[tensor]
        for byte in range(start, start + max(optimised.tensors[tensor].bytes, 1)):
            owner[byte] = tensor

    aliases = dict(made.views)
    for tensor in optimised.tensors.values():
        if tensor.kind != "temp":
            occupy(tensor.name)
    for kernel in made.kernels:
        inside = {eq.target for eq in kernel.equations}
        for source in {s for eq in kernel.equations for s in eq.sources} - inside:
            home = source
            while home in aliases:
                home = aliases[home]
            here = owner.get(made.offsets[source])
            assert here == home or kernel.fixed, f"{kernel.name} reads {source}, finds {here}"
        for target in kernel.stored:
            occupy(target)


def test_an_activation_rides_on_its_product() -> None:
    from support import plan

    kernels = {k.name: k for k in plan(trained("dense")).kernels}
    assert "y" in [e.target for e in kernels["h"].epilogue]
    assert "h" in kernels["h"].local


def test_a_view_costs_no_kernel() -> None:
    from support import plan

    made = plan(trained("views"))
    assert "z" not in {k.name for k in made.kernels}
    assert made.offsets["z"] == made.offsets["y"]


def test_what_does_not_change_is_divided_by_once() -> None:
    from nnc.compiler.ir.expr import expr_text
    from nnc.compiler.passes.equations.reciprocal import reciprocal

    text = """model M(x: f32[3, 4], s: f32[3]) -> y: f32[3, 4], z: f32[3, 4] {
        y[i, j] = x[i, j]/s[i]
        z[i, j] = s[i]/x[i, j] + 1/s[i] + x[i, j]/3
    }"""
    bodies = {e.target: expr_text(e.body) for e in reciprocal(system(text)).equations}
    assert bodies["y"] == "x[i, j] * (1.0 / s[i])"
    assert bodies["z"] == expr_text(system(text).definition["z"].body)


@pytest.mark.parametrize(
    ("offset", "factor", "read"), [(0.5, 0.5, True), (-1.0, 3.0, True), (2.0, 0.5, False)]
)
def test_a_long_function_is_not_computed_again_where_little_stands_around_it(
    offset: float, factor: float, read: bool
) -> None:
    """The gradient of a + b*tanh(x) needs tanh(x): it is found from the stored value, unless a is
    so much the larger that its rounding would have taken tanh(x)'s digits."""
    model = f"""model M(x: f32[9, 5]) -> y: f32[9, 5], loss: f32[] {{
        y[i, j] = {offset} + {factor}*tanh(x[i, j])
        loss = sum(y*y)
    }}"""
    before, _ = gradients(system(model), "loss", ["x"])
    after = verify(common_subexpressions(before, TARGET), "common-subexpressions")
    tanhs = [e for eq in after.equations for e in walk(eq.body) if getattr(e, "fn", "") == "tanh"]
    assert len(tanhs) == (1 if read else 2)
    given = values(before)
    for name, expected in evaluate(before, given).items():
        np.testing.assert_allclose(evaluate(after, given)[name], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reduction, expected", [("sum", 3.0), ("max", 3.0), ("argmax", 0)])
def test_a_reduction_over_nothing_is_its_body(reduction: str, expected: float) -> None:
    """`sum(...)` of a number: there is no index to sum over."""
    body = call("mul", Read("x", (), None, "f32"), 1.5)
    dtype = "i32" if reduction == "argmax" else "f32"
    tensors = {"x": Tensor("x", (), "f32", "input"), "y": Tensor("y", (), dtype)}
    one = System("one", tensors, (Equation("y", (), body, reduction),), ("y",))
    (eq,) = simplify(one).equations
    assert eq.reduce is None
    program = CpuProgram(plan(one, verified=True))
    program.arrays["x"][...] = 2
    program.run()
    assert program.arrays["y"] == expected == evaluate(simplify(one), {"x": 2.0})["y"]
