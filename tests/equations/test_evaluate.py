"""What each form of the language means: small programs beside the values they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language.front import checked

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.verify import verify
from nnc.compiler.reference.evaluator import advance, evaluate

NAN = float("nan")
INF = float("inf")
X = ("f32[2, 3]", [[1, -2, 3], [4, 5, -6]])
V = ("f32[3]", [1.0, -2.0, 3.0])
K = ("i32[4]", [-7, -1, 0, 5])
BYTES = ("u8[3]", [200, 100, 7])
SIGNED = ("i8[3]", [-128, 100, 7])
TRUTH = ("bool[3]", [True, False, True])


def computed(
    body: str,
    inputs: dict[str, tuple[str, Any]],
    definitions: str = "",
    training: bool = True,
    folder: Path | None = None,
) -> Any:
    """The result `y` of a model with these lines and inputs."""
    types = ", ".join(f"{name}: {type}" for name, (type, _) in inputs.items())
    lines = "".join(f"    {line.strip()}\n" for line in body.strip().splitlines())
    text = f"{definitions}\nmodel M({types}) -> y {{\n{lines}}}\n"
    program = checked(text, folder=folder)
    system = verify(forward(program.definitions, "M", {}, training=training), "elaborate")
    return evaluate(system, {name: np.asarray(value) for name, (_, value) in inputs.items()})["y"]


def agrees(found: Any, expected: Any, dtype: str) -> None:
    assert (
        found.dtype
        == {
            "f32": np.float32,
            "f64": np.float64,
            "i32": np.int32,
            "i64": np.int64,
            "u8": np.uint8,
            "i8": np.int8,
            "bool": np.bool_,
        }[dtype]
    )
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "inputs", "dtype", "expected"),
    [
        # reductions over indices and of whole tensors
        ("y[b] = sum(i) x[b, i]", {"x": X}, "f32", [2, 3]),
        ("y[b] = mean(i) x[b, i]", {"x": X}, "f32", [2 / 3, 1]),
        ("y[b] = prod(i) x[b, i]", {"x": X}, "f32", [-6, -120]),
        ("y[i] = max(b) x[b, i]", {"x": X}, "f32", [4, 5, 3]),
        ("y[i] = min(b) x[b, i]", {"x": X}, "f32", [1, -2, -6]),
        ("y[b] = argmax(i) x[b, i]", {"x": X}, "i32", [2, 1]),
        ("y[b] = argmin(i) x[b, i]", {"x": X}, "i32", [1, 2]),
        ("y = argmax(b, i) x[b, i]", {"x": X}, "i32", 4),
        ("y = sum(x)", {"x": X}, "f32", 5),
        ("y = mean(x)", {"x": X}, "f32", 5 / 6),
        ("y = prod(x)", {"x": X}, "f32", 720),
        ("y = max(x) - min(x)", {"x": X}, "f32", 11),
        ("y = argmax(x)", {"x": X}, "i32", [2, 1]),
        ("y = argmin(x)", {"x": X}, "i32", [1, 2]),
        ("y[i] = sum(...) x[..., i]", {"x": X}, "f32", [5, 3, -3]),
        ("y[i] = sum(b) x[b, i] * x[b, 0] + 1", {"x": X}, "f32", [18, 19, -20]),
        ("y[i] = sum(b) (x[b, i] + 1)", {"x": X}, "f32", [7, 5, -1]),
        ("y = sum(i < 4) i", {}, "i32", 6),
        ("y = max(i < 3) if i == 1 then 7 else i", {}, "i32", 7),
        ("y[i < 3] = sum(j < i + 1) v[j]", {"v": V}, "f32", [1, -1, 2]),
        # whole numbers, truth, bytes
        ("y = k // 2", {"k": K}, "i32", [-4, -1, 0, 2]),
        ("y = k % 3", {"k": K}, "i32", [2, 2, 0, 2]),
        ("y = k / 2", {"k": K}, "f32", [-3.5, -0.5, 0, 2.5]),
        ("y = k * k - 1", {"k": K}, "i32", [48, 0, -1, 24]),
        ("y = k ^ 2", {"k": K}, "i32", [49, 1, 0, 25]),
        ("y = (k + 8) ^ -1", {"k": K}, "f32", [1, 1 / 7, 1 / 8, 1 / 13]),
        ("y = i64(k) * 3000000000", {"k": K}, "i64", [-21000000000, -3000000000, 0, 15000000000]),
        ("y = x // 2", {"x": X}, "f32", [[0, -1, 1], [2, 2, -3]]),
        ("y = x % 2", {"x": X}, "f32", [[1, 0, 1], [0, 1, 0]]),
        ("y = u", {"u": BYTES}, "u8", [200, 100, 7]),
        ("y = u + u", {"u": BYTES}, "i32", [400, 200, 14]),
        ("y = u8(u + u)", {"u": BYTES}, "u8", [144, 200, 14]),
        ("y = u8(300)", {}, "u8", 44),
        ("y = n", {"n": SIGNED}, "i8", [-128, 100, 7]),
        ("y = n + n", {"n": SIGNED}, "i32", [-256, 200, 14]),
        ("y = n * n", {"n": SIGNED}, "i32", [16384, 10000, 49]),
        ("y = -n", {"n": SIGNED}, "i32", [128, -100, -7]),
        ("y = sum(n)", {"n": SIGNED}, "i32", -21),
        ("y = prod(n)", {"n": SIGNED}, "i32", -89600),
        ("y = max(n)", {"n": SIGNED}, "i8", 100),
        ("y = n + u", {"n": SIGNED, "u": BYTES}, "i32", [72, 200, 14]),
        ("y = n < u", {"n": SIGNED, "u": BYTES}, "bool", [True, False, False]),
        ("y = if n > 0 then n else 0", {"n": SIGNED}, "i32", [0, 100, 7]),
        ("y = n / 2", {"n": SIGNED}, "f32", [-64, 50, 3.5]),
        ("y = i8(n + n)", {"n": SIGNED}, "i8", [0, -56, 14]),
        ("y = i8(-1)", {}, "i8", -1),
        ("y = sum(u)", {"u": BYTES}, "i32", 307),
        ("y = u / 2", {"u": BYTES}, "f32", [100, 50, 3.5]),
        ("y = sum(t)", {"t": TRUTH}, "i32", 2),
        ("y = mean(t)", {"t": TRUTH}, "f32", 2 / 3),
        ("y = not t", {"t": TRUTH}, "bool", [False, True, False]),
        ("y = t and v > 2", {"t": TRUTH, "v": V}, "bool", [False, False, True]),
        ("y = t or v < 0", {"t": TRUTH, "v": V}, "bool", [True, True, True]),
        ("y = v == 1 or v != v", {"v": V}, "bool", [True, False, False]),
        ("y = f64(v) * 2", {"v": V}, "f64", [2, -4, 6]),
        ("y = i32(v / 2)", {"v": V}, "i32", [0, -1, 1]),
        # functions of numbers
        ("y = abs(v) + sign(v)", {"v": V}, "f32", [2, 1, 4]),
        ("y = floor(v / 2) + ceil(v / 2) + round(v / 2)", {"v": V}, "f32", [1, -3, 5]),
        ("y = max(v, 0) + min(v, 2, 1)", {"v": V}, "f32", [2, -2, 4]),
        ("y = log1p(expm1(v))", {"v": V}, "f32", [1, -2, 3]),
        ("y = exp(log(abs(v))) + sqrt(v * v)", {"v": V}, "f32", [2, 4, 6]),
        ("y = sin(v)^2 + cos(v)^2", {"v": V}, "f32", [1, 1, 1]),
        ("y = is_finite(v / (v - 1))", {"v": V}, "bool", [False, True, True]),
        ("y = stop(v) + 0 * pi", {"v": V}, "f32", [1, -2, 3]),
        ("y = -v^2 + 2^v / 2^v", {"v": V}, "f32", [0, -3, -8]),
        ("y = v * inf", {"v": V}, "f32", [INF, -INF, INF]),
        ("y = rank(x) * count(x)", {"x": X}, "i32", 12),
        # places: guards, windows, gathers
        ("y[i] = (v[i - 1] else 10) - v[i]", {"v": V}, "f32", [9, 3, -5]),
        ("y[i < 5] = (v[i - 1] else v[0])", {"v": V}, "f32", [1, 1, -2, 3, 1]),
        ("y[i < 2] = max(u < 2) v[i + u]", {"v": V}, "f32", [1, 3]),
        ("y[i < 6] = v[i // 2] + i % 2", {"v": V}, "f32", [1, 2, -2, -1, 3, 4]),
        ("y[i < 3] = v[2 - i]", {"v": V}, "f32", [3, -2, 1]),
        ("y[j] = v[k[j]]", {"v": V, "k": K}, "f32", [NAN, NAN, 1, NAN]),
        ("y[j] = (v[k[j]] else -1)", {"v": V, "k": K}, "f32", [-1, -1, 1, -1]),
        ("y[j] = u[k[j]]", {"u": BYTES, "k": K}, "u8", [0, 0, 200, 0]),
        ("y[j] = t[k[j] + 7]", {"t": TRUTH, "k": K}, "bool", [True, False, False, False]),
        ("y[i, j] = x[j, i]", {"x": X}, "f32", [[1, 4], [-2, 5], [3, -6]]),
        ("y[i] = x[1, i]", {"x": X}, "f32", [4, 5, -6]),
        ("n[k[j] % 3 < 3] += sum(j < 4) k[j]\ny = n", {"k": K}, "i32", [0, 0, -3]),
        # shapes: broadcasting from the right, sizes of 1, products
        ("y = x + v", {"x": X, "v": V}, "f32", [[2, -4, 6], [5, 3, -3]]),
        ("y = x * c", {"x": X, "c": ("f32[2, 1]", [[2], [-1]])}, "f32", [[2, -4, 6], [-4, -5, 6]]),
        (
            "y = c + v",
            {"c": ("f32[2, 1]", [[10], [20]]), "v": V},
            "f32",
            [[11, 8, 13], [21, 18, 23]],
        ),
        ("y = x @ v", {"x": X, "v": V}, "f32", [14, -24]),
        ("y = v @ v", {"v": V}, "f32", 14),
        ("y = x @ transpose(x)", {"x": X}, "f32", [[14, -24], [-24, 77]]),
        (
            "y = (a @ x)",
            {"a": ("f32[2, 1, 2]", [[[1, 0]], [[0, 2]]]), "x": X},
            "f32",
            [[[1, -2, 3]], [[8, 10, -12]]],
        ),
        # choices
        ("y = if v > 0 then v else 10 * v", {"v": V}, "f32", [1, -20, 3]),
        ("y = if x > v then 1 else 0", {"x": X, "v": V}, "i32", [[0, 0, 0], [1, 1, 0]]),
        (
            "y[i < 3, j] = if i > j then 1.5 else if i == j then 2 else v[j]",
            {"v": V},
            "f32",
            [[2, -2, 3], [1.5, 2, 3], [1.5, 1.5, 2]],
        ),
        ("let n = 2\ny = if n == 2 then v else v[5]", {"v": V}, "f32", [1, -2, 3]),
        ("y = if training then v else -v", {"v": V}, "f32", [1, -2, 3]),
        # names: repeat, lets, recurrences
        # what a repeat computes anew is, each time, a recurrence over itself
        (
            "y = v\nrepeat 2 { r[i < 3] = y[i] + (r[i - 1] else 0); y = r }",
            {"v": V},
            "f32",
            [1, 0, 2],
        ),
        ("y = v\nrepeat 3 { y = 2 * y }", {"v": V}, "f32", [8, -16, 24]),
        ("let n = 3 * 2 - 1\ny = v * n", {"v": V}, "f32", [5, -10, 15]),
        ("y[i] = (y[i - 1] else 0) + v[i]", {"v": V}, "f32", [1, -1, 2]),
        ("y[i] = (y[i + 1] else 0) + v[i]", {"v": V}, "f32", [2, 1, 3]),
        (
            "f[i < 8] = (f[i - 1] else 1) + (f[i - 2] else 0)\ny = f",
            {},
            "f32",
            [1, 1, 2, 3, 5, 8, 13, 21],
        ),
        ("a[i] = (b[i - 1] else 1) + v[i]\nb[i] = 2 * a[i]\ny = b", {"v": V}, "f32", [4, 4, 14]),
        # a weight of 0 takes a term away, whatever the term is
        ("y = v + 0 * log(v - v) + 0 / (v - v)", {"v": V}, "f32", [1, -2, 3]),
        (
            "y[i, j] = (y[i - 1, j] else 1) + (y[i, j - 1] else 1) + 0 * x[i, j]",
            {"x": X},
            "f32",
            [[2, 3, 4], [3, 6, 10]],
        ),
    ],
)
def test_meaning(body: str, inputs: dict, dtype: str, expected: Any) -> None:
    agrees(computed(body, inputs), expected, dtype)


DEFINED = """
fn split(x: [..., n], at = 1) -> a: [..., at], b: [..., n - at] {
    a[..., i < at]     = x[..., i]
    b[..., i < n - at] = x[..., i + at]
}
fn half(x) = x / 2
fn total(x: [...]) -> r: [] { r = sum(x) }
layer Scale(by = 3)(x: [..., n]) -> y: [..., n] { y = by * x }
layer Twice(x: [..., n]) -> y: [..., n] { y = x |> Scale(2) }
layer Both(by)(x: [..., n]) -> y: [..., n], z: [..., n] {
    y = x |> Twice |> Scale(by)
    z = y - x
}
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = half(v)", [0.5, -1, 1.5]),
        ("y = v |> half |> half", [0.25, -0.5, 0.75]),
        ("y[i] = half(v[i]) + half(i)", [0.5, -0.5, 2.5]),
        ("a, b = split(v)\ny = b * a", [-2, 3]),
        ("_a, y = split(v, at = 2)", [3]),
        ("y = total(half(v))", 1),
        ("y = v |> Scale()", [3, -6, 9]),
        ("y = Scale(4)(v)", [4, -8, 12]),
        ("y = v |> Twice |> Twice", [4, -8, 12]),
        ("a, y = v |> Both(5)\n_b = a", [9, -18, 27]),
        ("y = v |> Scale(by = -1) |> relu", [0, 2, 0]),
    ],
)
def test_definitions(body: str, expected: Any) -> None:
    agrees(computed(body, {"v": V}, DEFINED), expected, "f32")


def test_training_is_false_at_other_times() -> None:
    agrees(computed("y = if training then v else -v", {"v": V}, training=False), [-1, 2, -3], "f32")


def test_use(tmp_path: Path) -> None:
    (tmp_path / "parts.nn").write_text(DEFINED)
    found = computed("y = v |> Twice", {"v": V}, 'use "parts.nn"', folder=tmp_path)
    agrees(found, [2, -4, 6], "f32")


def test_state_moves_on() -> None:
    program = checked(
        "model M(x: f32[3]) -> y: f32[3] {\n    state last: [3] = 0\n    state n: i32[] = 0\n"
        "    y = x - last\n    last' = x\n    n' = n + 1\n}\n"
    )
    system = verify(forward(program.definitions, "M", {}), "elaborate")
    assert dict(system.updates) == {"last": "last'", "n": "n'"}
    values = {"x": np.ones(3), "last": np.zeros(3), "n": np.int32(0)}
    first, values = advance(system, values)
    second, values = advance(system, values)
    assert list(first["y"]) == [1, 1, 1] and list(second["y"]) == [0, 0, 0] and values["n"] == 2


def test_random_numbers_have_a_seed_and_a_step() -> None:
    program = checked("model M(x: f32[50]) -> y: f32[50] { y = x * random() + random() }")
    system = verify(forward(program.definitions, "M", {}), "elaborate")
    values = {"x": np.ones(50), "seed": np.int32(1), "step": np.int32(1)}
    once, again = evaluate(system, values)["y"], evaluate(system, values)["y"]
    later = evaluate(system, values | {"step": np.int32(2)})["y"]
    assert (once == again).all() and (once != later).all()
    assert once.min() >= 0 and once.max() < 2 and len(set(once)) > 45


def test_leading_dimensions_that_do_not_lead() -> None:
    """`...` has the sizes of the dimensions for which it stands, wherever it stands."""
    x = np.arange(60.0).reshape(5, 4, 3)
    body = "part[i < 3, ...] = x[i, ...]\ny[...] = sum(i) part[i, ...] * (1 + i)"
    found = computed(body, {"x": ("f32[5, 4, 3]", x)})
    np.testing.assert_allclose(found, x[0] + 2 * x[1] + 3 * x[2])
    found = computed("y[i] = sum(...) x[i, ...]", {"x": ("f32[5, 4, 3]", x)})
    np.testing.assert_allclose(found, x.sum((1, 2)))
    found = computed("y[i, j] = sum(...) x[i, ..., j]", {"x": ("f32[5, 4, 3]", x)})
    np.testing.assert_allclose(found, x.sum(1))


def test_a_state_without_a_shape_is_a_number() -> None:
    """Also in a layer that has a tensor `p`; only an optimizer's are like the parameter."""
    own = (
        "layer Count(p: [n]) -> y: [n] {\n    state seen = 1\n    seen' = seen + 1\n"
        "    y = p * seen\n}\n"
    )
    text = own + "model M(x: f32[3]) -> y: f32[3] {\n    y = x |> Count\n}\n"
    system = forward(checked(text).definitions, "M", {})
    (state,) = system.of_kind("state")
    assert state.shape == ()


def test_a_rule_for_names_of_numbers_and_indices() -> None:
    """A number may have the name of an index of another tensor."""
    found = computed(
        "let two = 2\ni[a, b] = x[a, b] * two\nj = mean(x)\ny = i * j",
        {"x": ("f32[2, 3]", [[1, 2, 3], [4, 5, 6]])},
    )
    np.testing.assert_allclose(found, 2 * 3.5 * np.array([[1, 2, 3], [4, 5, 6]]))
