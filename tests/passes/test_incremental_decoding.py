"""A causal model position by position gives what the whole sequence gives at once."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import system, values

from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.incremental_decoding import (
    POSITION,
    NotIncremental,
    incremental_decoding,
    once,
)
from nnc.compiler.reference.evaluator import advance, evaluate

LENGTH = 6
MODELS = {
    "recurrent": """model M(token: i32[1, 6]) -> y: f32[1, 6, 5] {
        param E: [5, 3] = 0
        param W: [3, 4] = 0
        param U: [4, 4] = 0
        param V: [4, 5] = 0
        x[b, t, i] = E[token[b, t], i]
        h[b, t, j] = tanh(sum(i) x[b, t, i]*W[i, j] + sum(k) (h[b, t - 1, k] else 0.5)*U[k, j])
        y[b, t, o] = sum(j) h[b, t, j]*V[j, o]
    }""",
    "two steps back": """model M(token: i32[1, 6]) -> y: f32[1, 6, 5] {
        param E: [5, 5] = 0
        x[b, t, i] = E[token[b, t], i]
        y[b, t, i] = tanh(x[b, t, i] + 0.5*(y[b, t - 2, i] else 0) - (x[b, t - 1, i] else 1))
    }""",
    "attention": """model M(token: i32[1, 6]) -> y: f32[1, 6, 5] {
        param E: [5, 4] = 0
        param P: [6, 4] = 0
        param Q, K, V: [4, 2, 3] = 0
        param O: [2, 3, 5] = 0
        x[b, t, i] = E[token[b, t], i] + P[t, i]
        q[b, h, t, a] = sum(i) x[b, t, i]*Q[i, h, a]
        k[b, h, t, a] = sum(i) x[b, t, i]*K[i, h, a]
        v[b, h, t, a] = sum(i) x[b, t, i]*V[i, h, a]
        score[b, h, t, s] = if s > t then -inf else sum(a) q[b, h, t, a]*k[b, h, s, a]
        e[b, h, t, s] = exp(score[b, h, t, s] - (max(r) score[b, h, t, r]))
        w[b, h, t, s] = e[b, h, t, s] / (sum(r) e[b, h, t, r])
        y[b, t, o] = sum(h, a, s) w[b, h, t, s]*v[b, h, s, a]*O[h, a, o]
    }""",
    "attention to a window": """model M(token: i32[1, 6]) -> y: f32[1, 6, 5] {
        param E: [5, 5] = 0
        x[b, t, i] = E[token[b, t], i]
        score[b, t, u < 3] = if u > t then -inf else sum(i) x[b, t, i]*(x[b, t - u, i] else 0)
        e[b, t, u] = exp(score[b, t, u] - (max(r) score[b, t, r]))
        y[b, t, i] = sum(u) e[b, t, u]*(x[b, t - u, i] else 0) / (sum(r) e[b, t, r])
    }""",
    "the mean of what was": """model M(token: i32[1, 6]) -> y: f32[1, 6, 5] {
        param E: [5, 5] = 0
        x[b, t, i] = E[token[b, t], i]
        total[b, t < 6, i] = sum(s) if s <= t then x[b, s, i] else 0
        y[b, t, i] = tanh(total[b, t, i] / (t + 1))
    }""",
}


# as the states of other models are called, and as the position could be
TAKEN = {"E": "position", "P": "k_kept", "U": "h_back1", "V": "v_kept", "W": "x_back1"}


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_position_by_position(name: str, taken: bool) -> None:
    text = MODELS[name]
    for own, other in TAKEN.items() if taken else ():
        text = re.sub(rf"\b{own}\b", other, text)
    whole = system(text)
    given = values(whole, seed=1, integers=5)
    expected = evaluate(whole, given)["y"]
    step = verify(incremental_decoding(whole, "token", 1, "y"), "incremental")
    now = {t.name: np.zeros(t.shape) for t in step.of_kind("state")}
    now |= {t.name: given[t.name] for t in step.of_kind("param")}
    for position in range(LENGTH):
        now |= {POSITION: np.array(position), "token": given["token"][:, position]}
        found, now = advance(step, now)
        np.testing.assert_allclose(found["y"], expected[:, position], rtol=1e-10, atol=1e-12)


def test_a_recurrence_keeps_its_last_step_alone() -> None:
    step = incremental_decoding(system(MODELS["recurrent"]), "token", 1, "y")
    assert {t.name: t.shape for t in step.of_kind("state")} == {"h_back1": (1, 4)}


def test_attention_keeps_keys_and_values() -> None:
    step = incremental_decoding(system(MODELS["attention"]), "token", 1, "y")
    assert {t.name for t in step.of_kind("state")} == {"k_kept", "v_kept"}


def test_reading_ahead_is_refused() -> None:
    text = """model M(token: i32[1, 6]) -> y: f32[1, 6, 5] {
        param E: [5, 5] = 0
        x[b, t, i] = E[token[b, t], i]
        y[b, t, i] = x[b, t, i] + (x[b, t + 1, i] else 0)
    }"""
    with pytest.raises(NotIncremental, match="may not be of the past"):
        incremental_decoding(system(text), "token", 1, "y")


READER = """model M(source: i32[1, 4], length: i32[1], token: i32[1, 6]) -> y: f32[1, 6, 5] {
    param E: [5, 3] = 0
    param W: [3, 3] = 0
    param V: [3, 5] = 0
    r[b, s, i] = tanh(E[source[b, s], i] + sum(k) (r[b, s - 1, k] else 0)*W[k, i])
    m[b, i] = sum(s) if s < length[b] then r[b, s, i] else 0
    h[b, t, i] = tanh(E[token[b, t], i] + m[b, i] + sum(k) (h[b, t - 1, k] else 0)*W[k, i])
    y[b, t, o] = sum(i) h[b, t, i]*V[i, o]
}"""


def test_an_encoder_is_computed_once() -> None:
    whole = system(READER)
    given = values(whole, seed=2, integers=5)
    expected = evaluate(whole, given)["y"]
    first, step = once(incremental_decoding(whole, "token", 1, "y"), "token")
    verify(first, "once")
    verify(step, "once")
    assert first.outputs == ("m",)
    assert not {"source", "length", "r"} & {n for eq in step.equations for n in eq.sources}
    before, _ = advance(first, {n: given[n] for n in first.tensors if n in given})
    now = {t.name: np.zeros(t.shape) for t in step.of_kind("state")} | before
    now |= {t.name: given[t.name] for t in step.of_kind("param")}
    for position in range(LENGTH):
        now |= {POSITION: np.array(position), "token": given["token"][:, position]}
        found, now = advance(step, now)
        now |= before
        np.testing.assert_allclose(found["y"], expected[:, position], rtol=1e-10, atol=1e-12)
