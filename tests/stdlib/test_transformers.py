"""Positions, windows and blocks of attention: values and gradients beside PyTorch, the machine code
beside the evaluator, and decoding position by position."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from nnc.compiler.passes.equations.incremental_decoding import POSITION, incremental_decoding
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.reference.evaluator import advance, evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import (
    Case,
    check,
    compare_with_cpu,
    compare_with_torch,
    ids,
    model,
    random_values,
    value_of,
    within,
)
from .test_sequences import turned

X = {"x": "f32[2, 7, 12]"}
LENGTH, GIVEN = {"length": "i32[2]"}, {"length": np.array([4, 7])}


def slopes(heads):
    """As the code that belongs to the paper computes them."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return slopes(power) + slopes(2 * power)[0::2][: heads - power]


def turned_pairs(t, x, base=1e4):
    half = x.shape[-1] // 2
    angle = t.outer(t.arange(x.shape[-2]), base ** (-t.arange(half, dtype=t.float64) / half))
    z = t.view_as_complex(x.unflatten(-1, (half, 2)).contiguous())
    return t.view_as_real(z * t.polar(t.ones_like(angle), angle)).flatten(-2)


def attention(kv_heads=3, causal=False, window=None, alibi=False, turn=None, length=False):
    """`turn` is a function of torch and a tensor. Biases are those that there are."""

    def reference(t, v, x=None):
        x = v.x if x is None else x
        steps = x.shape[1]
        q, k, v_ = (
            t.einsum("bti,iha->bhta", x, getattr(v, f"heads{n}_W"))
            + (getattr(v, f"heads{n}_b")[:, None] if hasattr(v, f"heads{n}_b") else 0)
            for n in (1, 2, 3)
        )
        if turn is not None:
            q, k = turn(t, q), turn(t, k)
        distance = t.arange(steps)[:, None] - t.arange(steps)
        allowed = distance >= 0 if causal else distance == distance
        if window is not None:
            allowed = allowed & (distance.abs() < window)
        if length:
            allowed = allowed & (t.arange(steps) < v.length[:, None])[:, None, None]
        bias = t.zeros(q.shape[1], steps, steps, dtype=t.float64)
        if alibi:
            bias = -t.tensor(slopes(q.shape[1]))[:, None, None] * distance.abs()
        y = t.nn.functional.scaled_dot_product_attention(
            q, k, v_, enable_gqa=True, attn_mask=bias.masked_fill(~allowed, -math.inf)
        )
        y = t.einsum("bhta,hai->bti", y, v.join1_W)
        return y + v.join1_b if hasattr(v, "join1_b") else y

    return reference


def inside(v, prefix):
    """The parameters of a layer within the layer."""
    own = {n.removeprefix(prefix): x for n, x in vars(v).items() if n.startswith(prefix)}
    return SimpleNamespace(**own, length=getattr(v, "length", None))


def gated(kind):
    def reference(t, v, x=None):
        x = v.x if x is None else x
        return (x @ v.V * getattr(t.nn.functional, kind)(x @ v.W)) @ v.O

    return reference


def llama(**settings):
    def reference(t, v):
        def norm(x, n):
            return t.nn.functional.rms_norm(x, (12,), getattr(v, f"rmsnorm{n}_scale"), 1e-6)

        attend = attention(causal=True, **settings)
        y = v.x + attend(t, inside(v, "attention1_"), norm(v.x, 1))
        return y + gated("silu")(t, inside(v, "swiglu1_"), norm(y, 2))

    return reference


CASES = [
    Case("rotary_pairs", "rotary_pairs(x)", {"x": "f32[2, 3, 5, 6]"},
         lambda t, v: turned_pairs(t, v.x)),
    Case("rotary_pairs, base", "rotary_pairs(x, 50)", X, lambda t, v: turned_pairs(t, v.x, 50)),
    Case("Attention, turned by pairs", 'x |> Attention(3, turned = "pairs")', X,
         attention(turn=turned_pairs)),
    Case("Attention, turned by halves, base",
         'x |> Attention(3, causal = true, turned = "halves", base = 100)', X,
         attention(causal=True, turn=lambda t, x: turned(t, x, 100))),
    Case("Attention to a window", "x |> Attention(3, window = 3)", X, attention(window=3)),
    Case("Attention to a window, causal", "x |> Attention(3, causal = true, window = 2)", X,
         attention(causal=True, window=2)),
    Case("Attention to itself", "x |> Attention(3, window = 1)", X, attention(window=1)),
    Case("Attention to a long window", "x |> Attention(3, window = 99)", X, attention()),
    Case("Attention to a window, lengths", "x |> Attention(3, window = 4)(length)", X | LENGTH,
         attention(window=4, length=True), GIVEN),
    Case("Attention, alibi", "x |> Attention(4, causal = true, alibi = true)", X,
         attention(causal=True, alibi=True)),
    Case("Attention, alibi of six heads", "x |> Attention(6, alibi = true)", X,
         attention(alibi=True)),
    Case("Attention, alibi, window, grouped",
         "x |> Attention(6, true, true, 3, window = 3, alibi = true)", X,
         attention(causal=True, window=3, alibi=True)),
    Case("SwiGLU", "x |> SwiGLU(5)", X, gated("silu")),
    Case("GeGLU", "x |> GeGLU(5)", X, gated("gelu")),
    Case("LlamaBlock", "x |> LlamaBlock(3, 8)", X, llama(turn=turned)),
    Case("LlamaBlock, grouped, pairs, window, lengths",
         'x |> LlamaBlock(6, 8, kv_heads = 2, turned = "pairs", window = 3)(length)', X | LENGTH,
         llama(turn=turned_pairs, window=3, length=True), GIVEN),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    # the gradients of the keys' biases are 0 but for rounding
    compare_with_torch(case, within, least=1.0)


@pytest.mark.parametrize(
    "name", ["LlamaBlock, grouped, pairs, window, lengths", "Attention, alibi"]
)
def test_cpu_agrees_with_evaluator(name):
    (case,) = (case for case in CASES if case.name == name)
    compare_with_cpu(case)


@pytest.mark.parametrize(
    "block",
    ["LlamaBlock(2, 8, window = 3)", "Attention(2, causal = true, alibi = true)"],
)
def test_position_by_position(block):
    """Decoding keeps keys and values, and gives what the whole sequence gives at once."""
    text = f"model M(x: i32[1, 6]) -> y {{ y = x |> Embedding(5, 8) |> {block} }}"
    whole = simplify(model(text, training=False))
    values = random_values(whole, {"x": [[0, 3, 1, 4, 4, 2]]}, block)
    expected = evaluate(whole, values)["y"]
    step = incremental_decoding(whole, "x", 1, "y")
    now = {t.name: np.zeros(t.shape) for t in step.of_kind("state")}
    now |= {t.name: values[t.name] for t in step.of_kind("param")}
    for position in range(6):
        now |= {POSITION: np.array(position), "x": values["x"][:, position]}
        found, now = advance(step, now)
        check(found["y"], expected[:, position], f"y[{position}]")


@pytest.mark.parametrize(
    "y, says",
    [
        ("x |> Attention(3, window = 0)", "a window has at least 1 step"),
        ('x |> Attention(3, turned = "quarters")', 'turned is true, false, "halves" or "pairs"'),
        ("x |> Attention(4, turned = true)", "rotary positions need an even width"),
        ("x |> Attention(5)", "groups or heads must divide the channels equally"),
        ("x |> LlamaBlock(12, 8)", "rotary positions need an even width"),
        ("x |> LlamaBlock(6, 8, kv_heads = 4)", "groups or heads must divide the channels equally"),
    ],
)
def test_mistakes(y, says):
    with pytest.raises(UserError) as caught:
        value_of(y, X, {})
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("E0320", says)
