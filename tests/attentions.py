"""Attention in many forms, for the tests of what becomes of it: of the library and written out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from stdlib.programs import Arrays, Case

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.gpu.attention.attention_kernel import AttentionKernel
from nnc.compiler.passes.kernels.kernel import Plan

X = {"x": "f32[2, 70, 24]"}
LENGTHS = {"length": "i32[2]"}
QKV = {"q": "f32[2, 40, 10]", "k": "f32[2, 90, 10]", "v": "f32[2, 90, 12]"}

# written out: `fit` is a score, `seen` what becomes of the weights
FORM = """
fn look(q: [b, n, e], k: [b, m, e], v: [b, m, c]%s) -> y: [b, n, c] {
    fit[b, i, j] = %s
    weight = softmax(fit)
    y = find(%s, v)
}
fn find(weight: [b, n, m], v: [b, m, c]) -> y: [b, n, c] {
    y[b, i, c] = sum(j) weight[b, i, j] * v[b, j, c]
}
"""
DOT = "(sum(a) q[b, i, a] * k[b, j, a])"


def written(
    name: str, fit: str, seen: str = "weight", more: str = "", call: str = "look(q, k, v)", **rest
) -> Case:
    return Case(
        name, call, QKV | rest.pop("inputs", {}), definitions=FORM % (more, fit, seen), **rest
    )


TURNED_ROUND = """
fn look(q: [n, h, b, e], k: [e, b, m, h], v: [m, b, h, c]) -> y: [c, n, b, h] {
    near[b, j, h, i] = (sum(a) k[a, b, j, h] * q[i, h, b, a]) * 0.3 - 0.05 * abs(f32(i) - f32(j))
    top[h, a, b] = max(i) near[b, i, h, a]
    part[i, j, b, h] = exp(near[b, j, h, i] - stop(top[h, i, b]))
    all[b, i, h] = sum(j) part[i, j, b, h]
    y[a, i, b, h] = sum(j) v[j, b, h, a] * (part[i, j, b, h] / all[b, i, h])
}
"""

CASES = (
    Case("all", "x |> Attention(3, bias = false)", X),
    Case("causal", "x |> Attention(3, causal = true, bias = false)", X),
    Case("causal with lengths", "x |> Attention(3, causal = true, bias = false)(length)",
         X | LENGTHS, given={"length": np.array([0, 33])}),
    Case("grouped", "x |> Attention(6, causal = true, kv_heads = 2, bias = false)", X),
    Case("one head of keys for all", "x |> Attention(4, kv_heads = 1, bias = false)", X),
    Case("one head", "x |> Attention(1, bias = false)", X),
    Case("turned", "x |> Attention(2, causal = true, turned = true, bias = false)", X),
    Case("cross", "CrossAttention(3, bias = false)(x, memory, length)",
         X | LENGTHS | {"memory": "f32[2, 45, 20]"}, given={"length": np.array([45, 7])}),
    Case("other orders of indices", "look(q, k, v)", {
        "q": "f32[70, 3, 2, 10]", "k": "f32[10, 2, 45, 3]", "v": "f32[45, 2, 3, 7]"},
        definitions=TURNED_ROUND),
    written("a window", f"if j > 2*i + 20 or j < 2*i - 9 then -inf else {DOT}"),
    written("a table added", f"{DOT} + f32(near[i, j])", more=", near: i32[n, m]",
            call="look(q, k, v, near)", inputs={"near": "i32[40, 90]"},
            given={"near": np.arange(3600).reshape(40, 90) % 4}),
    written("two products", f"{DOT} + sum(a) q[b, i, a] * tanh(k[b, j, a])"),
    Case("the same queries for all", "look(q, k, v)", QKV | {"q": "f32[40, 10]"},
         definitions=FORM.replace("q: [b, n, e]", "q: [n, e]")
         % ("", DOT.replace("q[b, i, a]", "q[i, a]"), "weight")),
    written("a temperature", f"{DOT} * exp(t)", more=", t: []", call="look(q, k, v, t)",
            inputs={"t": "f32[]"}),
    written("dropout of weights", DOT, "weight |> Dropout(0.3)"),
    written("rows hidden wholly", f"if j < length[b] then {DOT} else -inf", more=", length: i32[b]",
            call="look(q, k, v, length)", inputs=LENGTHS, given={"length": np.array([0, 50])}),
)  # fmt: skip


SIXTEEN = {"f32[2, 40, 10]": "f32[2, 40, 16]", "f32[2, 90, 10]": "f32[2, 90, 16]",
           "f32[2, 90, 12]": "f32[2, 90, 32]", "f32[40, 10]": "f32[40, 16]",
           "f32[70, 3, 2, 10]": "f32[70, 3, 2, 16]", "f32[10, 2, 45, 3]": "f32[16, 2, 45, 3]",
           "f32[45, 2, 3, 7]": "f32[45, 2, 3, 16]"}  # fmt: skip


def of_sixteen(case: Case) -> Case:
    """The case with a multiple of 16 numbers in every row of queries, keys and values."""
    heads = re.search(r"Attention\((\d+)", case.y)
    wide = f", {int(heads[1]) * 16}]" if heads else ""
    inputs = {
        name: re.sub(r", \d+\]$", wide, kind)
        if heads and kind[0] == "f"
        else SIXTEEN.get(kind, kind)
        for name, kind in case.inputs.items()
    }
    return replace(case, inputs=inputs)


def prepared(case: Case) -> tuple[System, Arrays]:
    """The case with all its gradients as outputs, and values that leave no weight alone."""
    system, values, gradients = case.prepared("f32")
    outputs = tuple(dict.fromkeys((*system.outputs, *gradients.values())))
    values = {
        name: value * np.float32(0.4) if value.dtype == np.float32 else value
        for name, value in values.items()
    }
    return system.replace(outputs=outputs), values


def attention_kernels(made: Plan) -> list[AttentionKernel]:
    return [kernel for kernel in made.kernels if isinstance(kernel, AttentionKernel)]


# --- whole programs -------------------------------------------------------------------------------


def gpt(
    length: int,
    width: int,
    block: str = "2, 32",
    vocabulary: int = 17,
    optimizer: str = "momentum(lr = 0.05)",
    more: str = "",
) -> str:
    """Two causal blocks and their training, with `more` in the train block."""
    return f"""
model M(token: i32[B, {length}]) -> logits: f32[B, {length}, {vocabulary}] {{
    x = token |> Embedding({vocabulary}, {width}) |> LearnedPositions({length})
    repeat 2 {{ x = x |> TransformerBlock({block}, causal = true) }}
    logits = x |> LayerNorm |> Dense({vocabulary})
}}
train M {{
    input target: i32[B, {length}]
    loss      = cross_entropy(logits, target)
    optimizer = {optimizer}
    batch     = 2
    steps     = 8
    {more}
}}
"""


def learned(width: int) -> str:
    """Queries that are a parameter, and its training."""
    return f"""
model M(x: f32[B, 40, {width}]) -> y: f32[B, 35, {width}] {{
    param q: [35, {width}] ~ normal(0, 1)
    fit[b, i, j] = sum(a) q[i, a] * x[b, j, a]
    weight = softmax(fit)
    y[b, i, a] = sum(j) weight[b, i, j] * x[b, j, a]
}}
train M {{
    loss      = mean(y * y)
    optimizer = sgd(lr = 0.1)
    batch     = 2
    steps     = 1
}}
"""
