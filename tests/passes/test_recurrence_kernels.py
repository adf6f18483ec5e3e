"""What is not on the cycle of a recurrence leaves its loop: products with the inputs stand before
it, heads and the gradients of weights after it, each as one contraction over all steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import plan

from nnc.compiler.passes.kernels.kernel import Kernel, Plan, Scan
from nnc.compiler.programs import training_step
from nnc.runtime.project import project_of_text, setup_of

STEPS = 7

# one step of decoding looks at all of a source: Luong et al. 2015
DECODER = """
layer Decoder(units)(x: [..., T, n], source: [..., S, m]) -> h: [..., T, units] {
    param W: [n, units]     ~ glorot_uniform
    param U: [units, units] ~ orthogonal
    param K: [m, units]     ~ glorot_uniform
    param C: [m, units]     ~ glorot_uniform
    key[..., s, j] = sum(i) source[..., s, i] * K[i, j]
    a[..., t, j]   = sum(i) x[..., t, i] * W[i, j]
    fit[..., t < T, s]  = sum(j) (h[..., t - 1, j] else 0) * key[..., s, j]
    top[..., t < T]     = max(s) fit[..., t, s]
    e[..., t < T, s]    = exp(fit[..., t, s] - stop(top[..., t]))
    all[..., t < T]     = sum(s) e[..., t, s]
    seen[..., t < T, i] = sum(s) e[..., t, s] / all[..., t] * source[..., s, i]
    h[..., t < T, j < units] = tanh(a[..., t, j] + sum(i) seen[..., t, i] * C[i, j]
                                    + sum(k) (h[..., t - 1, k] else 0) * U[k, j])
}
"""

# a cell; the products of a step that need the step before, forward and backward
CELLS = {
    "RNN": ("RNN(6)(x)", 1, 1),
    "LSTM": ("x |> LSTM(6) |> Dense(6)", 1, 1),
    "GRU": ("x |> GRU(6) |> Dense(6)", 1, 1),
    "decoder": ("Decoder(6)(x, source |> Dense(4))", 4, 5),
}


def planned(cell: str) -> Plan:
    text = f"""{DECODER}
model M(x: f32[B, {STEPS}, 3], source: f32[B, 5, 4]) -> y: f32[B, {STEPS}, 2] {{
    y = {cell} |> Dense(2)
}}
train M {{
    input target: f32[B, {STEPS}, 2]
    loss      = mse(y, target)
    optimizer = sgd()
    batch     = 4
}}
"""
    step, _ = training_step(setup_of(project_of_text(text), None))
    return plan(step, verified=True)


def inside(items) -> Iterator[Kernel]:
    for item in items:
        if isinstance(item, Scan):
            yield from inside(item.kernels)
        else:
            yield item


def is_product(kernel: Kernel) -> bool:
    return kernel.anchor.reduce == "sum" and len(kernel.anchor.reads) > 1


@pytest.mark.parametrize("cell", CELLS)
def test_loops_hold_the_cycle_alone(cell: str) -> None:
    text, forward, backward = CELLS[cell]
    loops = [item for item in planned(text).items if isinstance(item, Scan)]
    assert [(loop.index.size, loop.reverse) for loop in loops] == [(STEPS, False), (STEPS, True)]
    counts = [sum(map(is_product, inside(loop.kernels))) for loop in loops]
    assert counts == [forward, backward]


@pytest.mark.parametrize("cell", CELLS)
def test_every_weight_has_its_gradient_in_one_product(cell: str) -> None:
    """One kernel, outside of the loops, that sums over all examples and steps."""
    made = planned(CELLS[cell][0])
    alone = {k.anchor.target: k.anchor for k in made.items if isinstance(k, Kernel)}
    weights = [t for t in made.system.of_kind("param") if len(t.shape) > 1]
    assert len(weights) >= 3
    for weight in weights:
        gradient = alone[f"d_{weight.name}"]
        steps = 5 if weight.name in ("decoder1_K", "dense1_w") and cell == "decoder" else STEPS
        # Of a recurrent weight, over the steps that have one before them.
        steps -= weight.name.endswith("_U")
        assert gradient.reduce == "sum" and {i.size for i in gradient.over} >= {4, steps}


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_and_heads_are_products_over_all_steps(cell: str) -> None:
    made = planned(CELLS[cell][0])
    alone = [k for k in made.items if isinstance(k, Kernel) and is_product(k)]
    place = {id(item): n for n, item in enumerate(made.items)}
    first, _ = (place[id(item)] for item in made.items if isinstance(item, Scan))
    entering = [k for k in alone if "x" in k.anchor.sources and place[id(k)] < first]
    assert len(entering) == 1 and STEPS in [i.size for i in entering[0].anchor.indices]
    head = [
        k
        for k in alone
        if "y" in [e.target for e in k.equations]
        or k.anchor.target == f"dense{2 if cell != 'RNN' else 1}_y_sum"
    ]
    assert head and all(place[id(k)] > first for k in head)
    assert all(STEPS in [i.size for i in k.anchor.indices] for k in head)
