"""The second derivative of every scalar function, every reduction, every activation and every loss,
beside central differences of the first one, both along a direction.

The lists come from the table of scalar functions, from the reductions of the language and from the
files of the library, so a new entry is tested, or must be named here as one without a derivative.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from support import elaborated

from nnc.compiler.ir.derivatives import DERIVATIVES
from nnc.compiler.ir.functions import TABLE
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.library import standard_library
from nnc.dsl.syntax import ast as s

B, N = 2, 3

# How a function is written that is neither an operator nor called by its name.
WRITTEN = {
    "select": "(if {0} > {1} then {0}^3 else {0} * {1})",
    "neg": "(-{0})",
    # at u = 1 its own kink: the branch is chosen by the second argument
    "after": "after({0}, {1})",
}
# The straight-through estimator is no derivative of the values, which are a staircase.
ESTIMATED = {"bf16", "f16"}
# 0 everywhere it is defined, or of whole numbers and truth values: `grad` of them alone is refused.
FLAT = {
    "floordiv", "sign", "floor", "ceil", "round", "is_finite", "eq", "ne", "lt", "le", "gt", "ge",
    "and", "or", "not", "bool", "u8", "i8", "i32", "i64", "bf16_pair", "bf16_dot", "stop", "random",
    "int8_quad", "int8_dot",
}  # fmt: skip
DIFFERENTIABLE = sorted(set(DERIVATIVES) - ESTIMATED)

# A number y of u and v, [B, N] each, which are given or computed.
REDUCTIONS = {
    "over the last index": "r[b] = {0}(i) (u[b, i] * v[b, i])\n y = sum(b) r[b]^3",
    "over the first index": "r[i] = {0}(b) exp(u[b, i]) * v[b, i]\n y = sum(i) r[i]^2",
    "over both": "y = ({0}(b, i) (u[b, i] * v[b, i]))^3",
    "over all but one": "r[i] = {0}(...) (u[..., i] * v[..., i])\n y = sum(i) r[i]^3",
    "of a tensor": "y = {0}(u * v)^3",
    "in a recurrence": "r[t] = tanh({0}(i) (u[t, i] * (r[t - 1] else v[t, i])))\n y = sum(r^2)",
    "of a window": "r[b, i < 3] = {0}(k < 3) (u[b, i + k - 1] else v[b, i])\n y = sum(r^3)",
}


def check(body: str, given: Mapping[str, np.ndarray]) -> None:
    """Gradients of `y`, which the body computes, and of a number that is made of these."""
    all = f"f64[{B}, {N}]"
    made = elaborated(f"""model M(x: {all}, z: {all}, label: i32[{B}], c: {all})
        -> y: f64, s: f64, gx: {all}, hx: {all}, hz: {all} {{
        u = x * z
        v = z + 0.5 * x
        {body}
        gx = grad(y, x)
        gz = grad(y, z)
        s = sum(c * gx) + sum(gz * gz)
        hx = grad(s, x)
        hz = grad(s, z)
    }}""")
    arrays = {n: v for n, v in given.items() if n in made.tensors}
    found = evaluate(derive(made), arrays)
    # Along one direction, with a weight of its own for every element.
    rng, step = np.random.default_rng(4), 1e-6
    for slope, name, number in (("gx", "x", "y"), ("hx", "x", "s"), ("hz", "z", "s")):
        weights = rng.normal(size=(B, N))
        system = derive(made.replace(outputs=(number,)))
        ends = [
            evaluate(system, {**arrays, name: arrays[name] + sign * step * weights})[number]
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        allowed = 1e-6 * max(1.0, float(np.abs(found[slope]).max()))
        np.testing.assert_allclose(
            np.sum(weights * found[slope]), expected, rtol=0, atol=allowed, err_msg=slope
        )


def given(negative: bool) -> dict[str, np.ndarray]:
    """Numbers of which no two are equal, none at a kink, and u = x z as well."""
    rng = np.random.default_rng(3)
    x, z = rng.uniform(0.4, 1.4, (2, B, N))
    if negative:
        x = np.where(rng.random((B, N)) < 0.5, -x, x)
    label = rng.integers(0, N, B).astype(np.int32)
    return {"x": x, "z": z, "label": label, "c": rng.normal(size=(B, N))}


# --- scalar functions -----------------------------------------------------------------------------


def application(name: str) -> str:
    row, arguments = TABLE[name], ["u[b, i]", "v[b, i]", "1.5"][: TABLE[name].arity]
    if name in WRITTEN:
        return WRITTEN[name].format(*arguments[:2])
    if row.symbol:
        return f"({arguments[0]} {row.symbol} {arguments[1]})"
    return f"{name}({', '.join(arguments)})"


def test_every_function_is_differentiable_or_flat() -> None:
    assert set(TABLE) == {*DIFFERENTIABLE, *ESTIMATED, *FLAT}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_scalar_functions(name: str) -> None:
    arrays = given(negative=True)
    u, v = arrays["x"] * arrays["z"], arrays["z"] + 0.5 * arrays["x"]
    with np.errstate(all="ignore"):
        value = TABLE[name].numpy(*[u, v, v][: TABLE[name].arity])
    # logarithms and powers
    arrays = arrays if np.isfinite(value).all() else given(negative=False)
    check(f"y = (sum(b, i) c[b, i] * {application(name)})^2", arrays)


def test_a_power_by_its_base_and_then_by_its_exponent_of_0() -> None:
    """d/dy (y x^(y - 1)) = 1/x at y = 0, where the first derivative is 0 for every x."""
    text = "model M(x: f64[3], y: f64[]) -> m: f64 {\n p = sum(i) x[i]^y\n g = grad(p, x)\n"
    made = derive(elaborated(text + " s = sum(g)\n m = grad(s, y)\n}"))
    x = np.array([0.5, 2.0, 3.0])
    found = evaluate(made, {"x": x, "y": np.array(0.0)})["m"]
    np.testing.assert_allclose(found, np.sum(1 / x), rtol=1e-12)


# --- reductions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", REDUCTIONS)
@pytest.mark.parametrize("name", sorted(set(s.REDUCTIONS) - {"argmax", "argmin"}))
def test_reductions(name: str, form: str) -> None:
    body = REDUCTIONS[form].format(name)
    if form == "of a tensor":
        body = f"m = {name}(u * v)\n    y = m^3"
    check(body.replace("\n", "\n   "), given(negative=True))


# --- the library ----------------------------------------------------------------------------------

# The arguments for inputs of these names. What has other inputs is no activation, or no loss.
ACTIVATED = {"x": "1.5 * u", "gate": "v"}
COMPARED = {
    "logits": "u",
    "logit": "u",
    "score": "u",
    "prediction": "u",
    "log_rate": "u",
    "probability": "sigmoid(v)",
    "target": "sigmoid(z)",
    "label": "label",
}


def entries(file: str, arguments: Mapping[str, str]) -> list[str]:
    """The applications of the functions in a file of the library to such arguments alone."""
    found = standard_library()
    names = [n for n in found if found[n].span.source.name == f"stdlib/{file}.nn"]
    needed = {n: [p.name for p in found[n].inputs if p.default is None] for n in names}
    return [
        f"{n}({', '.join(arguments[p] for p in needed[n])})"
        for n in names
        if set(needed[n]) <= set(arguments)
    ]


@pytest.mark.parametrize("applied", entries("activations", ACTIVATED))
def test_activations(applied: str) -> None:
    check(f"a = {applied}\n    y = sum(c * a)^2", given(negative=True))


@pytest.mark.parametrize(
    "applied", [e for e in entries("losses", COMPARED) if "(u" in e or "v" in e]
)
def test_losses(applied: str) -> None:
    # of probabilities that are compared with those of a target
    applied = applied.replace("kl(u,", "kl(0.1 + sigmoid(u),")
    check(f"y = ({applied})^2", given(negative=True))
