"""selection: order, selection and running totals beside PyTorch and NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import Case, compare_with_differences, compare_with_torch, ids, value_of

X = {"x": "f32[2, 7]"}
TIES = {"x": np.array([[3, 1, 2, 2, 5, -1, 2], [0, 0, 0, 1, 1, 1, 0.0]])}
LABEL = {"label": np.array([[0, 1, 3], [2, 2, 0]])}
CASES = [
    Case("sort", "sort(x)", X, lambda t, v: v.x.sort().values),
    Case("sort, descending", "sort(x, descending = true)", X,
         lambda t, v: v.x.sort(descending=True).values),
    Case("sort of ties", "sort(x)", X, lambda t, v: v.x.sort(stable=True).values, TIES),
    Case("sort of higher rank", "sort(x)", {"x": "f32[2, 3, 4]"}, lambda t, v: v.x.sort().values),
    Case("top_k", "x |> top_k(3) |> relu", X, lambda t, v: v.x.topk(3).values.relu()),
    Case("top_k of all", "x |> top_k(7) |> relu", X, lambda t, v: v.x.topk(7).values.relu()),
    Case("one_hot", "z * one_hot(label, 4)", {"z": "f32[2, 3, 4]", "label": "i32[2, 3]"},
         lambda t, v: v.z * t.nn.functional.one_hot(v.label.long(), 4), LABEL),
    Case("cumsum", "cumsum(x)", X, lambda t, v: v.x.cumsum(-1)),
    Case("cumprod", "cumprod(x)", X, lambda t, v: v.x.cumprod(-1)),
    Case("cumprod of zeros", "cumprod(x)", X, lambda t, v: v.x.cumprod(-1), TIES),
    Case("cummax", "cummax(x)", X, lambda t, v: v.x.cummax(-1).values),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("name", ["sort", "top_k", "cumprod"])
def test_agrees_with_finite_differences(name):
    (case,) = (case for case in CASES if case.name == name)
    compare_with_differences(case)


PLACES = "layer places(x: [..., n]) -> y: [..., 3] { _, y = top_k(x, 3) }\n"


@pytest.mark.parametrize("type", ["f32", "i32"])
@pytest.mark.parametrize("descending", [False, True])
def test_order(type, descending):
    """Equal elements keep their order, both ways."""
    x, word = TIES["x"], str(descending).lower()
    order = np.argsort(-x if descending else x, -1, kind="stable")
    types = {"x": f"{type}[2, 7]"}
    np.testing.assert_array_equal(value_of(f"argsort(x, {word})", types, TIES), order)
    np.testing.assert_array_equal(value_of(f"ranks(x, {word})", types, TIES), np.argsort(order, -1))
    np.testing.assert_array_equal(
        value_of(f"sort(x, {word})", types, TIES), np.take_along_axis(x, order, -1)
    )
    if descending:
        found = value_of("places(x)", types, TIES, PLACES)
        np.testing.assert_array_equal(found, order[:, :3])


def test_the_largest_of_infinite_numbers():
    """Infinite numbers are in order, too, and equal ones keep theirs."""
    inf = np.inf
    x = np.array(
        [[-inf] * 7, [1, inf, -inf, inf, 2, inf, inf], [-inf, 0, -inf, -inf, -inf, -inf, -inf]]
    )
    order = np.argsort(-x, -1, kind="stable")[:, :3]
    found = value_of("places(x)", {"x": "f64[3, 7]"}, {"x": x}, PLACES)
    np.testing.assert_array_equal(found, order)


def test_classes_outside_are_none():
    found = value_of("one_hot(label, 2)", {"label": "i32[3]"}, {"label": [-1, 1, 2]})
    np.testing.assert_array_equal(found, [[0, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    "y, code, says",
    [
        ("x |> top_k(8) |> relu", "E0320", "there are not so many elements to select"),
        ("x |> top_k(0) |> relu", "E0320", "there are not so many elements to select"),
        ("top_k(x, 3) + 1", "E0317", "this gives 2 results where one is needed"),
        ("one_hot(x, 3)", "E0307", "`label` of `one_hot` takes i32, and this is f64"),
    ],
)
def test_mistakes(y, code, says):
    with pytest.raises(UserError) as caught:
        value_of(y, X, {})
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == (code, says)
