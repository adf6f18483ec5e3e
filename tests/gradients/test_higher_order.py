"""Gradients of gradients: placeholders are expanded innermost first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import definitions, finite_differences, values

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.build import call
from nnc.compiler.ir.derivatives import DERIVATIVES
from nnc.compiler.ir.equation import Equation, Gradient, Index, System, Tensor
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.printer import system_text
from nnc.compiler.ir.verify import InternalError, verify
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck

N = 4
FUNCTIONS = {
    # name: (y, its gradient, the diagonal of its Hessian); none mixes elements of x
    "cubic": ("sum(i) x[i]^3", lambda x: 3 * x**2, lambda x: 6 * x),
    "exp": ("sum(i) exp(2.0 * x[i])", lambda x: 2 * np.exp(2 * x), lambda x: 4 * np.exp(2 * x)),
    "tanh": (
        "sum(i) tanh(x[i])",
        lambda x: 1 - np.tanh(x) ** 2,
        lambda x: -2 * np.tanh(x) * (1 - np.tanh(x) ** 2),
    ),
    "linear": ("sum(i) 3.0 * x[i]", lambda x: 3 + 0 * x, lambda x: 0 * x),
    "sine": ("sum(i) sin(x[i]) * x[i]", None, lambda x: 2 * np.cos(x) - x * np.sin(x)),
}
MIXED = {
    "quadratic form": "y = sum(i, j) x[i] * (x[j] * f64(i + 2 * j))",
    "log of a sum": "s = sum(i) exp(x[i])\n y = log(s)",
    "softmax": "s = sum(i) exp(x[i])\n p[i] = exp(x[i]) / s\n y = sum(i) p[i] * p[i] * f64(i + 1)",
    "window": "d[i < 4] = sum(u < 2) (x[i + u - 1] else 0.0)^3\n y = sum(i) d[i] * d[i]",
    "maximum": "m = max(i) x[i]^2\n y = m * m * sum(j) x[j]",
    "product": "y = prod(i) x[i]",
    "recurrence": "h[t] = tanh((h[t - 1] else 0.0) + x[t])\n y = sum(t) h[t]^2",
    "relu": "r[i] = max(x[i], 0.0)\n y = sum(i) r[i]^3",
}


def of_equations(body: str) -> System:
    """A number y of x[4], not simplified."""
    text = f"model M(x: f64[{N}]) -> y: f64 {{\n {body}\n}}"
    return forward(definitions(text), "M", {}, float_type="f64")


def with_second(first: System) -> System:
    """z = sum(i) c[i] * grad(y, x)[i] and hx = grad(z, x) as placeholders: H·c, for a given c."""
    placed, names = add_gradients(first, "y", ["x"])
    d_x = names["x"]
    tensors = {
        **placed.tensors,
        "c": Tensor("c", (N,), "f64", "input"),
        "z": Tensor("z", (), "f64"),
        "hx": Tensor("hx", (N,), "f64"),
    }
    reads = [Read(name, (Idx("i"),), None, "f64") for name in ("c", d_x)]
    z = Equation("z", (), call("mul", *reads), "sum", (Index("i", N),))
    return placed.replace(
        tensors=tensors,
        equations=(*placed.equations, z),
        outputs=(*placed.outputs, d_x, "z", "hx"),
        gradients=(Gradient("hx", "z", "x"), *placed.gradients),  # the outer one stands first
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_closed_forms(name: str) -> None:
    text, gradient, hessian = FUNCTIONS[name]
    twice = verify(with_second(of_equations(f"y = {text}")), "elaboration")
    given = values(twice, seed=1)
    for made in (differentiate(twice), derive(twice)):
        found = evaluate(verify(made, "differentiate"), given)
        if gradient is not None:
            np.testing.assert_allclose(found["d_x"], gradient(given["x"]), rtol=1e-12)
        expected = hessian(given["x"]) * given["c"]
        np.testing.assert_allclose(found["hx"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MIXED)
def test_central_differences(name: str) -> None:
    """The gradient of z against differences of z, which is made of a gradient itself."""
    twice = derive(verify(with_second(of_equations(MIXED[name])), "elaboration"))
    given = values(verify(twice, "derive"), seed=2)
    found = evaluate(twice, given)["hx"]
    expected = finite_differences(twice, given, "x", "z")
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1.0, np.abs(expected).max()))


def test_a_third_derivative() -> None:
    third = with_second(of_equations("y = sum(i) x[i]^5"))
    tensors = {**third.tensors, "w": Tensor("w", (), "f64"), "tx": Tensor("tx", (N,), "f64")}
    w = Equation("w", (), Read("hx", (Idx("i"),), None, "f64"), "sum", (Index("i", N),))
    third = third.replace(
        tensors=tensors,
        equations=(*third.equations, w),
        outputs=("tx",),
        gradients=(*third.gradients, Gradient("tx", "w", "x")),
    )
    given = values(verify(third, "elaboration"), seed=3)
    found = evaluate(verify(derive(third), "derive"), given)
    np.testing.assert_allclose(found["tx"], 60 * given["x"] ** 2 * given["c"], rtol=1e-12)


def test_gradients_with_respect_to_what_is_computed() -> None:
    """A copy has a gradient of its own: simplification may not take it for what it copies."""
    text = "a[i] = x[i]\n b[i] = x[i]\n y = sum(i) (a[i] * b[i] * b[i] + x[i])"
    placed, names = add_gradients(of_equations(text), "y", ["a", "b", "x", "y"])
    placed = placed.replace(outputs=("y", *names.values()))
    given = values(verify(placed, "elaboration"), seed=4)
    found, x = evaluate(derive(placed), given), given["x"]
    expected = {"a": x * x, "b": 2 * x * x, "x": 3 * x * x + 1, "y": 1.0}
    for name, value in expected.items():
        np.testing.assert_allclose(found[names[name]], value, rtol=1e-12, err_msg=name)


def test_a_gradient_that_nothing_contributes_to_is_zero() -> None:
    """Where elaboration cannot know that simplification removes the last dependence."""
    first = of_equations("y = sum(i) x[i]^2")
    unrelated = Tensor("u", (2, 3), "f64", "input")
    tensors = {**first.tensors, "u": unrelated, "d_u": replace(unrelated, name="d_u", kind="temp")}
    placed = first.replace(
        tensors=tensors, outputs=("y", "d_u"), gradients=(Gradient("d_u", "y", "u"),)
    )
    found = evaluate(derive(verify(placed, "elaboration")), values(placed))
    np.testing.assert_array_equal(found["d_u"], np.zeros((2, 3)))


def test_a_gradient_asked_for_twice_is_computed_once() -> None:
    placed, _ = add_gradients(of_equations("y = sum(i) x[i]^2"), "y", ["x"])
    placed, again = add_gradients(placed, "y", ["x"])
    assert again == {"x": "d_x_2"}
    placed = placed.replace(outputs=("d_x", "d_x_2"))
    found = evaluate(derive(placed), given := values(placed))
    np.testing.assert_array_equal(found["d_x"], found["d_x_2"])
    np.testing.assert_allclose(found["d_x"], 2 * given["x"])


def test_names_of_adjoints_avoid_those_of_the_program() -> None:
    text = """d_h = 2.0
        h[i] = exp(x[i])
        m_at[i] = d_h * x[i]
        m = max(i) h[i] * m_at[i]
        y = m * m"""
    first = of_equations(text)
    made, names = add_gradients(first, "y", ["x"])
    made = differentiate(made.replace(outputs=("y", *names.values())))
    given = values(verify(made, "differentiate"), seed=5)
    expected = finite_differences(made, given, "x", "y")
    np.testing.assert_allclose(evaluate(made, given)[names["x"]], expected, rtol=1e-5, atol=1e-5)


def test_placeholders_are_printed_before_what_reads_them() -> None:
    text = system_text(with_second(of_equations("y = sum(i) x[i]^2")))
    lines = [line.strip() for line in text.splitlines()]
    assert lines.index("d_x = grad(y, x)") < next(
        n for n, line in enumerate(lines) if line.startswith("z =")
    )
    assert lines.index("hx = grad(z, x)") == len(lines) - 2


def test_a_gradient_of_itself_is_refused() -> None:
    placed = with_second(of_equations("y = sum(i) x[i]^2"))
    placed = placed.replace(gradients=(Gradient("d_x", "z", "x"), Gradient("hx", "z", "x")))
    with pytest.raises(InternalError, match="not computed from itself"):
        verify(placed, "elaboration")
    with pytest.raises(ValueError, match="its own gradient"):
        differentiate(placed)


@pytest.mark.parametrize("wrong", [False, True])
def test_the_pass_checker_compares_gradients_with_differences(wrong: bool, monkeypatch) -> None:
    if wrong:
        monkeypatch.setitem(DERIVATIVES, "tanh", lambda f, x: (1.0 - f,))
    placed = with_second(of_equations("y = sum(i) tanh(x[i]) * x[i]"))
    check = PassCheck(placed, values(placed, seed=6), differences=True)
    if not wrong:
        derive(placed, observers=[check])
        return
    with pytest.raises(InternalError, match="slope") as caught:
        derive(placed, observers=[check])
    assert caught.value.after == "differentiate"
