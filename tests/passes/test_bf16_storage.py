"""Which operands of tensor cores are stored as bf16: one copy for all products, where it pays."""

from __future__ import annotations

import re

import pytest
from backends.whole_steps import step_of_text
from support import cuda_module, gpu_plan, round_contractions, system, values

from nnc.compiler.ir.equation import System, Tensor
from nnc.compiler.passes.kernels.equal_kernels import equal_kernels
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.reference.pass_checker import PassCheck

STEP = """
model M(x: f32[B, 80]) -> y: f32[B, 64] {
    y = x |> Dense(256) |> %s |> Dense(64)
}
train M {
    input label: i32[B]
    loss      = cross_entropy(y, label)
    optimizer = sgd(lr = 0.1)
    batch     = 256
    steps     = 1
}
"""
HEAD = "model M(x: f32[256, 80], w: f32[80, 256], v: f32[256, 64], n: i32[256]) -> y "


def planned(found: System) -> Plan:
    """The plan; every pass has computed the same."""
    return gpu_plan(found, check=PassCheck(found, values(found)))


def step(activation: str = "relu") -> Plan:
    return gpu_plan(step_of_text(STEP % activation, precision="bf16")[0], verified=True)


def model(body: str) -> Plan:
    return planned(round_contractions(system(f"{HEAD} {{\n{body}\n}}", float_type="f32")))


def copies(plan: Plan) -> set[str]:
    return {t.name.removesuffix("_bf16") for t in plan.system.tensors.values() if t.storage}


def test_one_copy_for_a_product_and_its_gradients():
    """Nothing is rounded but where a copy is made."""
    plan = planned(step_of_text(STEP % "relu", precision="bf16")[0])
    found = copies(plan)
    assert {"x", "dense1_w", "relu", "dense2_w"} <= found and len(found) == 6
    rounding = {eq.target for eq in plan.system.equations if "bf16(" in repr(eq.body)}
    assert rounding == {f"{name}_bf16" for name in found}
    readers = [eq.target for eq in plan.system.equations if "relu_bf16" in eq.sources]
    assert readers == ["dense2_y_sum", "d_dense2_w"]


def test_the_kernel_that_has_it_stores_it():
    """Beside the f32 value if somebody else reads that, else alone."""
    for activation, beside in (("relu", True), ("gelu", False)):
        (kernel,) = [k for k in step(activation).kernels if f"{activation}_bf16" in k.stored]
        assert kernel.anchor.target == "dense1_y_sum"
        assert (activation in kernel.stored) == beside
        assert re.search(r"in bf16 for tiles that load an element \d+ times", kernel.reason)


def test_what_is_given_is_rounded_before_anything_else():
    plan = step()
    first = [kernel.stored for kernel, _ in zip(plan.kernels, range(3), strict=False)]
    assert set(first) == {("x_bf16",), ("dense1_w_bf16",), ("dense2_w_bf16",)}


@pytest.mark.slow
def test_views_share_the_copy_of_what_they_show():
    """A flat one, too, if no gaps are in its way."""
    for width, flat in ((16, "copied by 8"), (20, "rounded as it is loaded")):
        text = f"""
        model M(x: f32[256, 80], w: f32[80, 16, {width}], v: f32[{16 * width}, 64],
                u: f32[{width}, 96]) -> y, z {{
            h[b, p, q] = max(sum(i) x[b, i] * w[i, p, q], 0)
            f[b, k < {16 * width}] = h[b, k // {width}, k % {width}]
            y[b, o] = sum(k) f[b, k] * v[k, o]
            z[b, p, j] = sum(q) h[b, p, q] * u[q, j]
        }}"""
        plan = planned(round_contractions(system(text, float_type="f32")))
        assert copies(plan) == {"x", "w", "v", "u", "h"}
        assert not {"h", "f"} & plan.offsets.keys()
        grid = next(g for g in cuda_module(plan).grids.values() if g.name == "y")
        assert f"left {flat}, right copied by 8" in str(grid.how)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("y[i, j] = sum(k) x[i, k]*w[k, j]", {"x", "w"}),
        ("y[i, j < 128] = sum(k) x[i, k]*w[k, j]", {"x", "w"}),  # an element is read 4 times
        ("y[i, j < 64] = sum(k) x[i, k]*w[k, j]", set()),  # twice
        ("y[i, j] = sum(k) x[n[i], k]*w[k, j]", {"w"}),  # at a place that a tensor decides
        ("y[i, j < 250] = sum(k) x[i, k]*w[k, j + 3]", {"x"}),  # never aligned
        ("y[i, j] = sum(k) tanh(x[i, k])*w[k, j]", {"w"}),
        ("y[i < 256, j] = sum(k) (x[i - 1, k] else 0)*w[k, j]", {"x", "w"}),
        ("y[i < 256, j] = sum(k) (x[i - 1, k] else 1)*w[k, j]", {"w"}),
        ("y[i, j < 12] = sum(k) x[i, k]*w[k, j]", set()),  # too few for tensor cores
        ("y[j] = sum(k) x[3, k]*w[k, j]", set()),  # no tile
    ],
)
def test_where_it_pays_and_can_be_had(line: str, found: set[str]):
    assert copies(model(line)) == found


@pytest.mark.slow
def test_a_recurrence_rounds_what_it_reads():
    """It computes no tiles; what comes after it may."""
    text = """model M(u: f32[20, 64, 128], r: f32[128, 128], v: f32[128, 128]) -> y {
    h[t, b, j] = tanh(u[t, b, j] + sum(k) (h[t - 1, b, k] else 0) * r[k, j])
    y[t, b, j] = sum(k) h[t, b, k] * v[k, j]\n}"""
    plan = planned(round_contractions(system(text, float_type="f32")))
    assert copies(plan) == {"h", "v"}
    (recurrent,) = [eq for eq in plan.system.equations if "h" in eq.sources and "r" in eq.sources]
    assert repr(recurrent.body).count("bf16(") == 2


def test_f32_has_none():
    assert not copies(planned(step_of_text(STEP % "relu")[0]))


def test_rows_begin_at_multiples_of_16_bytes():
    odd = Tensor("t", (3, 5, 13), "f32", storage="bf16", aligned=True)
    assert (
        odd.strides == (80, 16, 1) and odd.bytes == 3 * 5 * 16 * 2 and odd.storage_dtype == "bf16"
    )
    even = Tensor("t", (3, 5, 16), "f32", storage="bf16", aligned=True)
    assert even.strides == (80, 16, 1) and even.bytes == even.size * 2
    assert Tensor("t", (3, 5, 13), "f32").strides == (65, 13, 1)


def test_the_memory_of_copies_is_planned():
    """Of every copy that is stored; none shares memory with what lives at the same time."""
    plan = step("gelu")
    for tensor in plan.system.tensors.values():
        if tensor.storage:
            assert plan.offsets[tensor.name] + tensor.bytes <= plan.arena_bytes
            assert plan.offsets[tensor.name] % 16 == 0
    assert "gelu" not in plan.offsets


def test_kernels_of_other_memory_are_not_alike():
    plan = step()
    kernels = equal_kernels(plan)
    assert len({kernels[k].representative for k in plan.kernels if "_bf16" in k.name}) == 3
