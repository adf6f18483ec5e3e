"""What is printed parses again, prints the same, and computes the same numbers.

For every program: the model as it is elaborated, with the gradients of its loss, and the whole
training step with its next values.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from language.front import checked

from nnc.compiler.elaboration.model import forward
from nnc.compiler.elaboration.train_block import Setup
from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.printer import system_text
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate

BATCH = 2

PROGRAMS = {
    "dense": ("x: f32[B, 5]", "x |> Dense(4) |> relu |> Dense(3)", "adam(lr = 1e-2)"),
    "classes": ("x: f32[B, 5]", "x |> Dense(4) |> gelu |> log_softmax", "adamw(lr = 1e-2)"),
    "convolution": ("x: f32[B, 7, 6, 2]", 'x |> Conv(3, 3, stride = 2, pad = "same") |> MaxPool(2) '
                    "|> Flatten", "momentum(lr = 1e-2)"),
    "grouped": ("x: f32[B, 5, 5, 4]", "x |> Conv(4, 3, groups = 2, dilation = 2, pad = 1) "
                "|> GlobalAvgPool", "lion(lr = 1e-2)"),
    "transposed": ("x: f32[B, 3, 3, 2]", "x |> ConvTranspose(2, 3, stride = 2) |> AvgPool(2)",
                   "sgd(lr = 1e-2)"),
    "batch_norm": ("x: f32[B, 4, 4, 3]", "x |> BatchNorm |> tanh", "nesterov(lr = 1e-2)"),
    "group_norm": ("x: f32[B, 4, 4, 4]", "x |> GroupNorm(2) |> silu", "rmsprop(lr = 1e-2)"),
    "dropout": ("x: f32[B, 6]", "x |> Dropout(0.3) |> Dense(6) |> Dropout(0.1)", "adagrad()"),
    "embedding": ("x: i32[B, 4]", "x |> Embedding(4, 3) |> Dense(2)", "adam(lr = 1e-2)"),
    "doubles": ("x: f64[B, 5]", "x |> Dense(3) |> softplus", "sgd(lr = 1e-2)"),
    "bytes": ("x: u8[B, 5]", "f32(x) / 255 |> Dense(3) |> sigmoid", "sgd(lr = 1e-2)"),
    "halves": ("x: f16[B, 5]", "x |> Narrow(3) |> tanh", "adam(lr = 1e-2)"),
    "signed": ("x: i8[B, 5]", "f16(i8(f32(x) * x)) |> Dense(3)", "sgd(lr = 1e-2)"),
    "longs": ("x: i64[B, 5]", "(if x % 3 == 1 then 1.5 else -0.5) |> Dense(3)", "sgd(lr = 1e-2)"),
    "truth": ("x: bool[B, 5]", "(if not x then -2 else 3) * 0.5 |> Dense(3)", "sgd(lr = 1e-2)"),
    "recurrent": ("x: f32[B, 4, 3]", "x |> Cell(3)", "adam(lr = 1e-2)"),
    "numbers": ("x: f32[B, 4]", "x |> Odd |> Dense(2)", "lamb(lr = 1e-2)"),
    "repeated": ("x: f32[B, 4]", "x |> Stack(3)", "adam(lr = 1e-2)"),
    "drawn": ("x: f32[B, 4]", "x |> Drawn(3)", "sgd(lr = 1e-2)"),
    "again": ("x: f32[B, 4]", "x |> Twice(3)", "adam(lr = 1e-2)"),
}  # fmt: skip

DEFINITIONS = """
layer Cell(units)(x: [..., T, n]) -> h: [..., T, units] {
    param W: [n, units]     ~ glorot_uniform
    param U: [units, units] ~ glorot_uniform
    h[..., t, j] = tanh(sum(i) x[..., t, i]*W[i, j] + sum(k) (h[..., t-1, k] else -0.5)*U[k, j])
}
layer Narrow(units)(x: bf16[..., n]) -> y: f16[..., units] {
    param w: f16[n, units] ~ glorot_uniform
    state seen: bf16[units] = 0.1
    y[..., o] = sum(i) x[..., i] * w[i, o]
    seen'[o] = mean(...) y[..., o]
}
layer Odd(x: [..., n]) -> y: [..., n] {
    param a: [n] = -1
    param c: [] = 2.5
    state seen: i64[] = -3
    state ever: bool[] = false
    seen' = seen * 2 - 1
    ever' = ever or seen < -10
    low[..., i] = (x[..., i - 1] else -inf) - x[..., i] * (if i % 2 == 0 then -1 else i - 2)
    y = (if low > 0 and not ever then low else -x) * a - (-c)^2 * 1e-30
}
fn diagonal(a) -> y: [n, m] { y[i, j] = if i == j then a else 0 }
fn small(scale) = narrow(scale / fan_in)
fn narrow(deviation) = normal(0, deviation)
layer Drawn(units)(x: [..., n]) -> y: [..., units] {
    param W: [n, units]     ~ small(2)
    param U: [units, units] ~ diagonal(3)
    y[..., k] = sum(i, j) x[..., i] * W[i, j] * U[j, k]
}
layer Stack(times)(x: [..., n]) -> y: [..., n] {
    y = x
    repeat times { y = y + (y |> Dense(n) |> LayerNorm |> relu) }
}
layer Twice(times)(x: [..., n]) -> y: [..., n] {
    y = x
    repeat times { remat { y = y + (y |> Dense(n) |> Dropout(0.2) |> LayerNorm |> relu) } }
}
"""


def text_of(name: str) -> str:
    inputs, value, optimizer = PROGRAMS[name]
    return (
        f"{DEFINITIONS}model M({inputs}) -> y, cost {{\n    y = {value}\n"
        f"    cost = mean((y - 0.25)^2)\n}}\n"
        f"train M {{\n    loss = cost\n    metric size = mean(abs(y))\n    clip = clip_norm(1.0)\n"
        f"    penalty = l2(1e-3)\n    optimizer = {optimizer}\n}}\n"
    )


def given(system: System) -> dict[str, np.ndarray]:
    """The same values for tensors of the same name."""
    result = {}
    for tensor in system.tensors.values():
        if tensor.kind == "temp":
            continue
        random = np.random.default_rng(len(tensor.name))
        if tensor.dtype in ("f32", "f64"):
            drawn = random.uniform(0.1, 1, tensor.shape)
        else:
            drawn = random.integers(0, 2 if tensor.dtype == "bool" else 4, tensor.shape)
        result[tensor.name] = np.asarray(drawn, NUMPY[tensor.dtype])
    return result


def read_again(text: str, name: str) -> System:
    return verify(simplify(forward(checked(text).definitions, name, {})), "read again")


def same(first: System) -> None:
    text = system_text(first)
    second = read_again(text, first.name)
    assert system_text(second) == text
    assert dict(second.updates) == dict(first.updates)
    assert second.outputs == first.outputs
    assert {n: (t.shape, t.dtype, t.kind) for n, t in second.tensors.items()} == {
        n: (t.shape, t.dtype, t.kind) for n, t in first.tensors.items()
    }
    values = given(first)
    a, b = evaluate(first, values), evaluate(second, values)
    for root in first.roots:
        np.testing.assert_array_equal(a[root], b[root], err_msg=root)


@pytest.mark.parametrize("name", PROGRAMS)
def test_model(name: str) -> None:
    same(simplify(forward(checked(text_of(name)).definitions, "M", {"B": BATCH})))


@pytest.mark.parametrize("name", PROGRAMS)
def test_training_step(name: str) -> None:
    program = checked(text_of(name))
    setup = Setup(program.definitions, program.trains[0], {}, None, BATCH, 100, 10)
    step, drawn = training_step(setup)
    for system in (derive(step), simplify(drawn)):
        if system.outputs:  # a model may have nothing to draw
            same(system)


# --- random programs ------------------------------------------------------------------------------

OWN = (
    *("d_x", "d_h", "h", "h_1", "h_2", "y_sum", "y_mean", "dense1_w", "dense1_y", "t", "p", "g"),
    *("tanh", "exp", "abs", "max_2", "mul", "add", "and_2", "f32", "relu", "Dense", "i", "j", "k"),
    *("b", "o", "u", "i2", "x_again", "w_m", "w_v", "loss_mean", "cost", "softmax", "k_", "stop"),
    *("layernorm1_y", "mse1_loss", "d_y_via_h", "epochs", "training", "lr", "value", "random"),
)
STAGES = ("tanh", "relu", "gelu", "exp |> log1p", "softmax", "LayerNorm", "Dropout(0.2)", "abs")


def random_program(seed: int) -> str:
    """A model of some ten statements and its train block; names are those of `OWN`."""
    draw = random.Random(seed)
    names = iter(draw.sample(OWN, len(OWN)))
    size = {"x": 4}  # of what there is: [B, size]
    lines: list[str] = []

    def some() -> str:
        return draw.choice(list(size))

    def pipe(start: str, end: int) -> str:
        stages = draw.sample(STAGES, draw.randint(0, 2))
        return " |> ".join([start, *stages, f"Dense({end})", *draw.sample(STAGES, 1)])

    for kind in draw.choices(range(10), k=draw.randint(5, 10)):
        new, a, end = next(names), some(), draw.randint(2, 4)
        other = draw.choice([n for n in size if size[n] == size[a]])
        own = next(names)
        match kind:
            case 0:
                lines.append(f"{new} = {pipe(a, end)}")
            case 1:
                lines.append(f"{new} = {pipe(f'max({a}, 0.1)', end)}")
            case 2:
                condition = f"{a} > 0 and not {other} > 1"
                lines.append(f"{new} = {pipe(f'f32({condition})', end)}")
            case 3:
                lines += [f"param {own}: [{size[a]}, {end}] ~ normal", f"{new} = {a} @ {own}"]
            case 4:
                lines.append(f"param {own}: [{size[a]}, {end}] ~ normal")
                lines.append(f"{new}[b1, q] = sum(r) {a}[b1, r]*{own}[r, q]")
            case 5:
                lines += [f"param {own}: [] = 0.5", f"{new} = {a} * {own} - {other} / 3"]
                end = size[a]
            case 6:
                lines.append(f"param {own}: [] = 0.5")
                step = f"tanh({a}[b1, s]*{own} + 0.5*({new}[b1, s - 1] else 0.1))"
                lines.append(f"{new}[b1, s] = {step}")
                end = size[a]
            case 7:
                place = next(names)
                lines += [
                    f"param {own}: [{size[a]}, {end}] ~ normal",
                    f"{place}[b1] = argmax(r) {a}[b1, r]",
                    f"{new}[b1, q] = {own}[{place}[b1], q] + mean(r) {a}[b1, r]",
                ]
            case 8:
                lines += [f"{new} = {a}", f"repeat 2 {{ {new} = {new} + ({pipe(new, size[a])}) }}"]
                end = size[a]
            case 9:
                lines += [f"let {own} = {end}", f"remat {{ {new} = ({pipe(a, end)}) / {own} }}"]
        size[new] = end
    total = " + ".join(f"mean({n}^2)" for n in size)
    body = "".join(f"    {line}\n" for line in [*lines, f"result = {total}"])
    optimizer = draw.choice(["sgd", "adam", "lion", "momentum"])
    metric = next(names)
    return (
        f"model M(x: f32[B, 4]) -> result: f32[] {{\n{body}}}\n"
        f"train M {{\n    loss = result\n    metric {metric}_ = 2 * result\n"
        f"    clip = clip_norm(1.0)\n    optimizer = {optimizer}(lr = 1e-2)\n}}\n"
    )


@pytest.mark.parametrize("seed", range(int(os.environ.get("NNC_EXAMPLES", "10"))))
def test_random_program(seed: int) -> None:
    text = random_program(seed)
    program = checked(text)
    same(simplify(forward(program.definitions, "M", {"B": BATCH})))
    setup = Setup(program.definitions, program.trains[0], {}, None, BATCH, 100, 10)
    step, drawn = training_step(setup)
    for system in (derive(step), simplify(drawn)):
        if system.outputs:
            same(system)
