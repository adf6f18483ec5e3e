"""graphs and experts: values and gradients beside PyTorch, by matrices and by lists of edges."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import Case, check, compare_with_cpu, compare_with_torch, ids, value_of

X = {"x": "f32[2, 5, 6]"}
DENSE = X | {"a": "f32[2, 5, 5]"}
EDGES = X | {"source": "i32[2, 8]", "target": "i32[2, 8]"}
_RNG = np.random.default_rng(0)
WEIGHTED = {"a": _RNG.random((2, 5, 5))}
LINKED = {"a": 1.0 * (_RNG.random((2, 5, 5)) > 0.5)}
LISTED = {  # some edges twice, some of a node to itself, some padding
    "source": _RNG.integers(-2, 5, (2, 8)),
    "target": _RNG.integers(0, 5, (2, 8)),
}
TWO_RESULTS = """layer both(x: [..., n]) -> r: [..., n] {
    y, balance = BalancedExperts(4, 3)(x)
    r = y + balance
}
"""


def matrix(t, v, weight=None):
    """The adjacency of a list of edges: the sum of their weights from each node to each other."""
    a = t.zeros(2, 5, 5, dtype=t.float64)
    for b in range(2):
        for e in range(8):
            if v.source[b, e] >= 0:
                i, j = int(v.target[b, e]), int(v.source[b, e])
                one = t.zeros(5, 5, dtype=t.float64)
                one[i, j] = 1.0
                a = a + t.nn.functional.one_hot(t.tensor(b), 2)[:, None, None] * one * (
                    1.0 if weight is None else weight[b, e]
                )
    return a


def gcn(adjacency):
    def reference(t, v):
        a = adjacency(t, v) + t.eye(5)
        d = a.sum(-1)
        return a / (d[..., :, None] * d[..., None, :]).sqrt() @ (v.x @ v.W) + v.b

    return reference


def gat(adjacency, average=False, of=lambda x: x):
    """Of several edges between two nodes each counts."""

    def reference(t, v):
        x = of(v.x)
        count = (adjacency(t, v) + t.eye(5))[:, None]
        h = t.einsum("bip,pko->bkio", x, v.W)
        sent, heard = (t.einsum("bkio,ko->bki", h, w) for w in (v.s, v.t))
        score = t.nn.functional.leaky_relu(heard[..., :, None] + sent[..., None, :], 0.2)
        y = t.softmax(score + count.log(), -1) @ h
        return (y.mean(1) if average else y.permute(0, 2, 1, 3).flatten(2)) + v.b

    return reference


def experts(k, balanced=False):
    def reference(t, v):
        logit = v.x @ v.Wg
        value, index = logit.topk(k, -1)
        gate = t.zeros_like(logit).scatter(-1, index, value.softmax(-1))
        y = 0
        for e in range(4):
            inner = t.nn.functional.silu(v.x @ v.W[e]) * (v.x @ v.V[e])
            y = y + gate[..., e : e + 1] * (inner @ v.O[e])
        part = t.zeros_like(logit).scatter(-1, index, 1.0).mean((0, 1)) / k
        balance = 4 * (part * logit.softmax(-1).mean((0, 1))).sum()
        return y + balance if balanced else y

    return reference


def given(t, v):
    return v.a


def linked(t, v):
    """Without what the matrix says of nodes and themselves: they have one edge in any case."""
    return v.a * (1 - t.eye(5))


CASES = [
    Case("GCN", "x |> GCN(4)(a)", DENSE, gcn(given), WEIGHTED),
    Case("EdgeGCN", "EdgeGCN(4)(x, source, target)", EDGES, gcn(matrix), LISTED),
    Case("EdgeGCN, weights", "EdgeGCN(4)(x, source, target, w)", EDGES | {"w": "f32[2, 8]"},
         gcn(lambda t, v: matrix(t, v, v.w)), LISTED | {"w": _RNG.random((2, 8))}),
    Case("GAT", "x |> GAT(4)(a)", DENSE, gat(linked), LINKED),
    Case("GAT of heads", "x |> GAT(4, heads = 3)(a)", DENSE, gat(linked), LINKED),
    Case("GAT, average", "x |> GAT(4, 3, average = true)(a)", DENSE, gat(linked, True), LINKED),
    # scores on both sides of the kink: the gradient of t is 0 where all are on one
    Case("EdgeGAT", "EdgeGAT(4, heads = 3)(9*x - 4, source, target)", EDGES,
         gat(matrix, of=lambda x: 9 * x - 4), LISTED),
    Case("EdgeGAT, average", "EdgeGAT(4, 3, average = true)(x, source, target)", EDGES,
         gat(matrix, True), LISTED),
    Case("MixtureOfExperts", "x |> MixtureOfExperts(4, 3)", X,
         lambda t, v: experts(2)(t, v)),
    Case("MixtureOfExperts, one", "x |> MixtureOfExperts(4, 3, k = 1)", X,
         lambda t, v: experts(1)(t, v)),
    Case("MixtureOfExperts, all", "x |> MixtureOfExperts(4, 3, k = 4)", X,
         lambda t, v: experts(4)(t, v)),
    Case("BalancedExperts", "both(x)", X, experts(2, True), definitions=TWO_RESULTS),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case, least=1.0)


@pytest.mark.parametrize("name", ["EdgeGAT, average", "BalancedExperts"])
def test_cpu_agrees_with_evaluator(name):
    (case,) = (case for case in CASES if case.name == name)
    compare_with_cpu(case)


def test_scores_far_apart_do_not_overflow():
    x = np.array([[[1e3], [-1e3], [0.0]]])
    types = {"x": "f32[1, 3, 1]", "source": "i32[1, 2]", "target": "i32[1, 2]"}
    edges = {"source": [[0, 1]], "target": [[2, 2]]}
    found = value_of("EdgeGAT(1)(x, source, target)", types, {"x": x, **edges})
    assert np.isfinite(found[0, 2]).all()


def test_a_graph_without_a_batch():
    types = {"x": "f32[3, 2]", "a": "f32[3, 3]", "source": "i32[2]", "target": "i32[2]"}
    edges = {"source": [0, 1], "target": [2, 1]}
    a = np.zeros((3, 3))
    a[2, 0] = a[1, 1] = 1.0
    same = {"gcn1_W": np.ones((2, 4)), "edgegcn1_W": np.ones((2, 4)), "gcn1_b": np.ones(4)}
    same["edgegcn1_b"] = same["gcn1_b"]
    y = "(x |> GCN(4)(a)) - EdgeGCN(4)(x, source, target)"
    check(value_of(y, types, {"a": a, **edges, **same}), np.zeros((3, 4)), "y")


@pytest.mark.parametrize(
    "y, code, says",
    [
        ("x |> GCN(4)", "E0205", "`GCN` needs `adjacency`"),
        ("x |> GCN(4)(x)", "E0301", "`adjacency` of `GCN` has shape [2, 5, 6]"),
        ("EdgeGCN(4)(x, r, target)", "E0307", "`source` of `EdgeGCN` takes i32, and this is f64"),
        ("x |> MixtureOfExperts(4, 3, k = 5)", "E0320", "there are not so many elements to select"),
    ],
)
def test_mistakes(y, code, says):
    with pytest.raises(UserError) as caught:
        value_of(y, EDGES | DENSE | {"r": "f32[2, 8]"}, LISTED)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == (code, says)
