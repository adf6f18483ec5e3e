"""Conditions on indices: `if t > 0 then x[t - 1] …` reads nothing outside, and `sum(t < length[b])`
counts some terms only."""

from __future__ import annotations

import numpy as np
import pytest
from backends_agree import agree_everywhere

from nnc.dsl.diagnostics.diagnostic import UserError

from .test_evaluate import agrees, computed

V = ("f32[5]", [1.0, 2.0, 3.0, 4.0, 5.0])
M = ("f32[2, 4]", [[1, 2, 3, 4], [5, 6, 7, 8]])
L = ("i32[2]", [1, 3])
NONE = ("i32[2]", [0, 9])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y[t < 7] = if t < 5 then x[t] else -1", [1, 2, 3, 4, 5, -1, -1]),
        ("y[t < 5] = if t > 0 then x[t - 1] else 0", [0, 1, 2, 3, 4]),
        ("y[t < 5] = if t == 0 or t == 4 then 0 else x[t - 1] + x[t + 1]", [0, 4, 6, 8, 0]),
        ("y[t < 5] = if not (t < 1) and t != 4 then x[t - 1] + x[t + 1] else 0", [0, 4, 6, 8, 0]),
        ("y[t < 5] = if t > 0 and x[t - 1] > 2 then 1.0 else 0", [0, 0, 0, 1, 1]),
        ("y[t < 5] = if 2*t < 5 then x[2*t] else 0", [1, 3, 5, 0, 0]),
        ("y[t < 6] = if t // 2 < 2 then x[2*(t // 2) + 1] else 0", [2, 2, 4, 4, 0, 0]),
        ("y[t < 4] = if t > 1 then x[t - 2] else if t > 0 then x[t - 1] else 7", [7, 1, 1, 2]),
        ("y[t] = if t == 0 then x[t] else y[t - 1] + x[t]", [1, 3, 6, 10, 15]),
        ("y[t < 3] = sum(s < 5) (if s <= t then x[t - s] * x[s] else 0)", [1, 4, 10]),
        ("z[t < 7] = 1.0\ny[t] = z[t] + (if t < 5 then x[t] else 0)", [2, 3, 4, 5, 6, 1, 1]),
        ("z[t < 7] = 1.0\ny[t] = z[t] + (x[t] else 0)", [2, 3, 4, 5, 6, 1, 1]),
    ],
)  # fmt: skip
def test_a_condition_is_a_guard(body: str, expected: list[float]) -> None:
    agrees(computed(body, {"x": V}), expected, "f32")


def test_a_condition_guards_what_a_fn_reads() -> None:
    found = computed(
        "y[t < 5] = if t > 0 then before(x, t) else 7", {"x": V}, "fn before(x, t) = x[t - 1]"
    )
    agrees(found, [7, 1, 2, 3, 4], "f32")


@pytest.mark.parametrize(
    "body",
    [
        "y[t < 5] = if t < 2 then x[t + 4] else 7",
        "y[t < 5] = if t > 0 then 0 else x[t - 1]",
        "y[t < 5] = if t > 0 or x[t] > 0 then x[t - 1] else 0",
        "y[t < 6] = if x[t] > 0 then 1 else 0",
    ],
)
def test_a_condition_that_does_not_hold_everything_inside(body: str) -> None:
    with pytest.raises(UserError) as raised:
        computed(body, {"x": V})
    assert [d.code for d in raised.value.diagnostics] == ["E0306"]


@pytest.mark.parametrize(
    ("reduction", "some", "none"),
    [
        ("sum", [1, 18], [0, 26]),
        ("prod", [1, 210], [1, 1680]),
        ("mean", [1, 6], [0, 6.5]),
        ("max", [1, 7], [-np.inf, 8]),
        ("min", [1, 5], [np.inf, 5]),
        ("argmax", [0, 2], [0, 3]),
        ("argmin", [0, 0], [0, 0]),
    ],
)
def test_a_bound_from_data_counts_the_terms_before_it(
    reduction: str, some: list[float], none: list[float]
) -> None:
    dtype = "i32" if reduction.startswith("arg") else "f32"
    body = f"y[b] = {reduction}(t < length[b]) x[b, t]"
    for length, expected in ((L, some), (NONE, none)):
        agrees(computed(body, {"x": M, "length": length}), expected, dtype)


@pytest.mark.parametrize(
    ("body", "expected", "dtype"),
    [
        ("y = sum(b, t < length[b]) x[b, t]", 19.0, "f32"),
        ("y = sum(b, t < min(length[b], 2)) x[b, t]", 12.0, "f32"),
        ("y = mean(b) (mean(t < length[b]) x[b, t])", 3.5, "f32"),
        ("y[t < 4] = sum(s < t + 1) x[0, s]", [1.0, 3.0, 6.0, 10.0], "f32"),
        ("y[t < 4] = sum(s < t) x[0, t - s]", [0.0, 2.0, 5.0, 9.0], "f32"),
        ("n[t < 4] += sum(b, t < length[b]) x[b, t]\ny = n", [6.0, 6.0, 7.0, 0.0], "f32"),
        ("n[length[b] < 4] += sum(b) 1\ny = n", [0, 1, 0, 1], "i32"),
    ],
)
def test_bounds_that_depend_on_other_indices(body: str, expected, dtype: str) -> None:
    agrees(computed(body, {"x": M, "length": L}), expected, dtype)


def test_how_far_a_result_goes_is_one_number() -> None:
    with pytest.raises(UserError) as raised:
        computed("y[b, t < length[b]] = x[b, t]", {"x": M, "length": L})
    (found,) = raised.value.diagnostics
    assert found.code == "E0308" and "if t < length[b] then" in found.help


ALL = """model M(x: f64[3, 5], length: i32[3]) -> loss: f64 {
    param w: [5] = 1
    u[b, t < 7] = if t > 1 and t <= 6 then x[b, t - 2] * w[t - 2] else 0.5
    m[b] = max(t < length[b] + 1) u[b, t]
    a[b] = mean(t < length[b] + 1) u[b, t]^2
    c[b, t < 5] = sum(s < t + 1) x[b, t - s] * w[s]
    loss = sum(a) + sum(m) + sum(b, t < length[b]) sin(c[b, t])
}"""


def test_gradients_on_every_backend() -> None:
    agree_everywhere(ALL, ["w", "x"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y[i] = sum(_ < 2, _ < 3) x[i, 0]", [6, 30]),
        ("y[i] = sum(j, _ < 3) x[i, j]", [30, 78]),
        ("y[_ < 2, _ < 1, j < 2] = x[j, 0]", [[[1, 5]], [[1, 5]]]),
        ("let _ = 1\nlet _ = 2\n_ = x\n_[i, j] = x[i, j]\ny[i] = x[i, 0]", [1, 5]),
        ("y = first(x, x)", [1, 5]),
    ],
)  # fmt: skip
def test_what_is_not_read_needs_no_name(body: str, expected) -> None:
    first = "fn first(x: [n, _], z: [_, _]) -> y: [n] { y[i] = z[i, 0] + 0*x[i, 0] }"
    agrees(computed(body, {"x": M}, first), expected, "f32")


@pytest.mark.parametrize("body", ["y = _ + 1", "y[i] = sum(_ < 2, _ < 4) x[i, _]"])
def test_what_has_no_name_is_not_read(body: str) -> None:
    with pytest.raises(UserError) as raised:
        computed(body, {"x": M})
    assert [d.code for d in raised.value.diagnostics] == ["E0202"]
