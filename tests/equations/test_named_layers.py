"""Layers with a name, `enc = Dense(8)`: all applications have the same parameters and states."""

from __future__ import annotations

import numpy as np
import pytest
from language.front import checked, diagnose, systems
from support import elaborated, finite_differences, gradients, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.printer import system_text
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import Report, UserError

BRANCH = """
layer Branch(x: [..., n]) -> y: [..., 3] {
    inner = Dense(3)
    y = x |> Dense(3) |> tanh |> BatchNorm |> inner |> silu |> inner
}
"""


def parameters(system: System) -> list[str]:
    return [t.name for t in system.of_kind("param")]


def test_two_branches_have_the_same_weights() -> None:
    text = """model M(a: f64[B, 3], b: f64[B, 3]) -> y: f64[B, 3] {
        enc = Dense(4)
        head = Dense(3)
        y = head(enc(a)) - (b |> enc |> head)
    }"""
    system = elaborated(text, B=2)
    assert parameters(system) == ["enc_w", "enc_b", "head_w", "head_b"]
    given = values(system, seed=1)
    encoded = [given[x] @ given["enc_w"] + given["enc_b"] for x in ("a", "b")]
    heads = [e @ given["head_w"] + given["head_b"] for e in encoded]
    np.testing.assert_allclose(evaluate(system, given)["y"], heads[0] - heads[1], rtol=1e-12)


def test_layers_inside_of_one_that_is_shared() -> None:
    text = (
        BRANCH
        + """model M(a: f64[B, 3], b: f64[B, 3]) -> loss: f64 {
        enc = Branch
        u = enc(a)
        v = enc(b)
        loss = sum(u * v)
    }"""
    )
    system = elaborated(text, B=3)
    names = ["dense1_w", "dense1_b", "batchnorm1_scale", "batchnorm1_shift", "inner_w", "inner_b"]
    assert parameters(system) == [f"enc_{n}" for n in names]
    both, found = gradients(system, "loss", parameters(system))
    given = values(system, seed=2)
    got = evaluate(both, given)
    for name in parameters(system):
        expected = finite_differences(system, given, name, "loss")
        np.testing.assert_allclose(got[found[name]], expected, atol=1e-6, err_msg=name)


def test_a_state_goes_through_all_applications() -> None:
    """As where a layer of PyTorch is called twice: the second call begins with what the first made
    of the running mean."""
    text = """model M(a: f64[B, 2], b: f64[B, 2]) -> y: f64[B, 2] {
        norm = BatchNorm(0.5)
        y = norm(a) + norm(b)
    }"""
    system = derive(elaborated(text, B=4))
    given = values(system, seed=3)
    after = system.updates["norm_running_mean"]
    found = evaluate(system.replace(outputs=(*system.outputs, after)), given)
    mean = given["norm_running_mean"]
    for x in ("a", "b"):
        mean = 0.5 * mean + 0.5 * given[x].mean(0)
    np.testing.assert_allclose(found[after], mean, rtol=1e-12)


def test_a_block_that_is_repeated_with_the_same_weights() -> None:
    text = """model M(x: f64[B, 3]) -> y: f64[B, 3] {
        block = Dense(3)
        y = x
        repeat 3 { y = y |> block |> tanh }
    }"""
    system = elaborated(text, B=2)
    assert parameters(system) == ["block_w", "block_b"]
    given = values(system, seed=4)
    y = given["x"]
    for _ in range(3):
        y = np.tanh(y @ given["block_w"] + given["block_b"])
    np.testing.assert_allclose(evaluate(system, given)["y"], y, rtol=1e-12)


def test_every_use_of_a_layer_with_named_layers_has_its_own() -> None:
    """Recordings of equal layers are not confused by what is shared inside of them."""
    model = """model M(x: f64[B, 3]) -> y: f64[B, 3] {
        y = x |> Branch |> Branch
        repeat 2 {
            enc = Dense(3)
            y = y |> enc |> enc
        }
    }"""
    system = elaborated(BRANCH + model, B=2)
    weights = [n for n in parameters(system) if n.endswith("_w")]
    branches = [f"branch{n}_{part}_w" for n in (1, 2) for part in ("dense1", "inner")]
    assert weights == [*branches, "enc_w", "enc_3_w"]
    again = elaborated(system_text(system))
    given = values(system, seed=5)
    np.testing.assert_allclose(evaluate(again, given)["y"], evaluate(system, given)["y"])


def test_a_name_of_the_users_is_not_taken() -> None:
    text = """model M(x: f64[B, 3]) -> y: f64[B, 3] {
        enc = Dense(3)
        enc_w = 2 * x
        y = enc(enc_w)
    }"""
    assert parameters(elaborated(text, B=2)) == ["enc_w_2", "enc_b"]


def test_a_parameter_of_a_named_layer() -> None:
    """Tied embeddings: the table maps tokens to vectors, and states to logits."""
    text = """model M(token: i32[B]) -> y: f64[B, 4], z: f64[3] {
        emb = Embedding(4, 3)
        h = emb(token)
        enc = Branch
        code = enc(h)
        y[b, v] = sum(i) code[b, i] * emb.table[v, i]
        z = 2 * enc.dense1.b + enc.inner_b
    }"""
    system = elaborated(BRANCH + text, B=2)
    reads = {read.tensor for read in system.definition["y"].reads}
    assert "emb_table" in reads
    assert set(system.definition["z"].sources) == {"enc_dense1_b", "enc_inner_b"}


@pytest.mark.parametrize(
    ("body", "code", "marked"),
    [
        ("enc = Dense(4)\n y = x |> enc |> enc", "E0301", "enc"),
        ("enc = Dense(3)\n y = enc + x", "E0312", "enc"),
        ("enc = Dense(3)\n y[b, i] = enc[b, i]", "E0312", "enc"),
        ("enc = Dense(3)\n y = enc(3)(x)", "E0204", "enc(3)(x)"),
        ("enc = Dense(3)\n y = enc(x, x)", "E0204", "x"),
        ("enc = Dense(3, 4)\n y = enc(x)", "E0204", "4"),
        ("enc = Dense()\n y = enc(x)", "E0205", "Dense()"),
        ("enc = Dense(3)\n enc = Dense(3)\n y = enc(x)", "E0206", "enc"),
        ("y = enc(x)\n enc = Dense(3)", "E0218", "enc"),
        ("enc = Dense(3)\n y[b < 2, i < 3] = enc(x)", "E0210", "enc"),
        ("enc = Dense(3)\n y = enc(x) + enc.v", "E0202", "enc.v"),
        ("enc = Dense(3)\n y = x @ enc.w\n z = enc(x)", "E0218", "enc.w"),
        ("enc = Dense(3)\n y = enc(x)\n enc.w = 2", "E0206", "enc.w"),
        ("y = x + h.w", "E0202", "h.w"),
    ],
)
def test_mistakes(body: str, code: str, marked: str) -> None:
    with pytest.raises(UserError) as caught:
        elaborated(f"model M(x: f64[B, 3]) -> y: f64[B, 3] {{\n {body}\n}}", B=2)
    found = caught.value.diagnostics[0]
    assert (found.code, found.span.text) == (code, marked)


SETTINGLESS = """
layer Scaled()(x: [..., n]) -> y: [..., n] {
    param w: [n] = 1
    y = w * x
}
"""


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("y = Scaled()(x)", ["scaled1_w"]),
        ("y = Scaled(x)", ["scaled1_w"]),
        ("y = x |> Scaled() |> Scaled", ["scaled1_w", "scaled2_w"]),
        ("s = Scaled()\n y = s(x) |> s", ["s_w"]),
        ("s = Scaled\n y = s(x) |> s", ["s_w"]),
        ("y = Flatten()(x)", []),
    ],
)
def test_a_layer_without_settings_may_have_empty_parentheses(body: str, names: list[str]) -> None:
    text = f"{SETTINGLESS}model M(x: f64[2, 3]) -> y: f64[2, 3] {{\n{body}\n}}"
    assert parameters(elaborated(text)) == names


TRAINED = """
model Pair(x: f32[B, 4]) -> y: f32[B, 2] {
    enc = Dense(2)
    y = x |> enc |> tanh
}
train Pair {
    input other: f32[B, 4]
    loss      = mse(y, enc(other)) + 0.1 * mean(enc.w^2)
    metric m  = mean(other |> enc)
    optimizer = sgd(lr = 0.1)
}
"""


def test_a_train_block_applies_the_layers_of_its_model() -> None:
    program = checked(TRAINED)
    step = systems(program, Report())[0]
    assert parameters(step) == ["enc_w", "enc_b"]


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        ("enc(other)", "enc(3)(other)", "E0204"),
        ("enc(other)", "enc", "E0312"),
        ("enc(other)", "dec(other)", "E0203"),
        ("enc.w", "enc.v", "E0202"),
    ],
)
def test_layers_in_a_train_block_that_are_none(right: str, wrong: str, code: str) -> None:
    assert [d.code for d in diagnose(TRAINED.replace(right, wrong, 1))] == [code]
