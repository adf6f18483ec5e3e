"""activations, losses, penalties, clipping: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.compiler.reference.evaluator import evaluate

from .programs import (
    Case,
    check,
    compare_with_differences,
    compare_with_torch,
    ids,
    torch_or_skip,
    value_of,
)

X = {"x": "f32[3, 5]"}
POINTWISE = [
    Case("relu", "relu(x)", X, lambda t, v: t.relu(v.x)),
    Case("leaky_relu", "leaky_relu(x)", X, lambda t, v: t.nn.functional.leaky_relu(v.x)),
    Case("leaky_relu slope", "leaky_relu(x, slope = 0.2)", X,
         lambda t, v: t.nn.functional.leaky_relu(v.x, 0.2)),
    Case("elu", "elu(x)", X, lambda t, v: t.nn.functional.elu(v.x)),
    Case("elu alpha", "elu(x, 0.3)", X, lambda t, v: t.nn.functional.elu(v.x, 0.3)),
    Case("selu", "selu(x)", X, lambda t, v: t.selu(v.x)),
    Case("sigmoid", "sigmoid(x)", X, lambda t, v: t.sigmoid(v.x)),
    Case("hard_sigmoid", "hard_sigmoid(4*x)", X, lambda t, v: t.nn.functional.relu6(4*v.x + 3) / 6),
    Case("hard_swish", "hard_swish(4*x)", X, lambda t, v: t.nn.functional.hardswish(4*v.x)),
    Case("relu6", "relu6(4*x)", X, lambda t, v: t.nn.functional.relu6(4*v.x)),
    Case("hard_tanh", "hard_tanh(2*x)", X, lambda t, v: t.nn.functional.hardtanh(2*v.x)),
    Case("softplus", "softplus(x)", X, lambda t, v: t.nn.functional.softplus(v.x)),
    Case("silu", "silu(x)", X, lambda t, v: t.nn.functional.silu(v.x)),
    Case("mish", "mish(x)", X, lambda t, v: t.nn.functional.mish(v.x)),
    Case("gelu", "gelu(x)", X, lambda t, v: t.nn.functional.gelu(v.x)),
    Case("gelu_tanh", "gelu_tanh(x)", X,
         lambda t, v: t.nn.functional.gelu(v.x, approximate="tanh")),
]  # fmt: skip

P = {"p": "f32[4, 3]", "q": "f32[4, 3]"}
LOGITS = {"z": "f32[4, 3, 5]", "label": "i32[4, 3]"}
LABEL = {"label": np.arange(12).reshape(4, 3) % 5}
_RNG = np.random.default_rng(7)
PROBABILITY = {"p": _RNG.uniform(0.05, 0.95, (4, 3)), "q": _RNG.uniform(0.05, 0.95, (4, 3))}


def _entropy(t, v, **more):
    return t.nn.functional.cross_entropy(v.z.reshape(-1, 5), v.label.reshape(-1).long(), **more)


OTHERS = [
    Case("glu", "glu(p, q)", P, lambda t, v: t.nn.functional.glu(t.cat([v.p, v.q], -1))),
    Case("swiglu", "swiglu(p, q)", P, lambda t, v: v.p * t.nn.functional.silu(v.q)),
    Case("geglu", "geglu(p, q)", P, lambda t, v: v.p * t.nn.functional.gelu(v.q)),
    Case("reglu", "reglu(p, q)", P, lambda t, v: v.p * t.relu(v.q)),
    Case("softmax", "softmax(x)", X, lambda t, v: t.softmax(v.x, -1)),
    Case("log_softmax", "log_softmax(x)", X, lambda t, v: t.log_softmax(v.x, -1)),
    Case("softmax of a vector", "softmax(x)", {"x": "f32[5]"}, lambda t, v: t.softmax(v.x, -1)),
    Case("cross_entropy", "cross_entropy(z, label)", LOGITS, _entropy, LABEL),
    Case("cross_entropy smoothed", "cross_entropy(z, label, smoothing = 0.1)", LOGITS,
         lambda t, v: _entropy(t, v, label_smoothing=0.1), LABEL),
    Case("cross_entropy_onehot", "cross_entropy_onehot(p, softmax(q))", P,
         lambda t, v: t.nn.functional.cross_entropy(v.p, t.softmax(v.q, -1))),
    Case("binary_cross_entropy", "binary_cross_entropy(p, q)", P,
         lambda t, v: t.nn.functional.binary_cross_entropy(v.p, v.q), PROBABILITY),
    Case("binary_cross_entropy_logits", "binary_cross_entropy_logits(5*p, q)", P,
         lambda t, v: t.nn.functional.binary_cross_entropy_with_logits(5*v.p, v.q)),
    Case("kl", "kl(softmax(p), softmax(q))", P,
         lambda t, v: t.nn.functional.kl_div(t.log_softmax(v.p, -1), t.softmax(v.q, -1),
                                             reduction="batchmean")),
    Case("mse", "mse(p, q)", P, lambda t, v: t.nn.functional.mse_loss(v.p, v.q)),
    Case("mae", "mae(p, q)", P, lambda t, v: t.nn.functional.l1_loss(v.p, v.q)),
    Case("huber", "huber(p, q)", P, lambda t, v: t.nn.functional.huber_loss(v.p, v.q)),
    Case("huber delta", "huber(p, q, delta = 0.4)", P,
         lambda t, v: t.nn.functional.huber_loss(v.p, v.q, delta=0.4)),
    Case("l1", "l1(x, 0.3)", X, lambda t, v: 0.3 * v.x.abs().sum()),
    Case("l2", "l2(x, 0.3)", X, lambda t, v: 0.3 * (v.x**2).sum()),
    Case("clip_value", "clip_value(x, 0.0, 0.5)", X, lambda t, v: v.x.clip(-0.5, 0.5)),
]  # fmt: skip
CASES = POINTWISE + OTHERS


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_finite_differences(case):
    compare_with_differences(case)


EXTREMES = np.array([-1e4, -100, -30, -3, -1, 0, 1, 3, 30, 100, 1e4])


@pytest.mark.parametrize("case", POINTWISE, ids=ids(POINTWISE))
def test_activations_far_out_and_at_kinks(case):
    """Values and gradients of float32 at places where careless formulas give NaN or the wrong side
    of a kink; the reference is PyTorch in float64."""
    torch = torch_or_skip()
    far = Case(case.name, case.y, {"x": f"f32[{len(EXTREMES)}]"}, given={"x": EXTREMES})
    system, values, names = far.prepared(float_type="f32")
    found = evaluate(system, values)
    leaf = torch.tensor(EXTREMES, requires_grad=True)
    y = case.reference(torch, type("V", (), {"x": leaf}))
    ((2 * y + 0.3).sin() + y).sum().backward()
    moderate = np.abs(y.detach().numpy()) < 200  # where sin in float32 means something
    check(found["y"], y.detach().numpy(), "y", 1e-5)
    check(found[names["x"]][moderate], leaf.grad.numpy()[moderate], "gradient", 1e-4)
    assert np.isfinite(found[names["x"]]).all()


@pytest.mark.parametrize(
    "name, y, given",
    [
        ("softmax", "softmax(z)", {}),
        ("log_softmax", "log_softmax(z)", {}),
        ("cross_entropy", "cross_entropy(z, label)", {"label": [3, 0]}),
        ("binary_cross_entropy_logits", "binary_cross_entropy_logits(z, 0.5 + 0*z)", {}),
    ],
)
def test_large_logits_have_finite_gradients(name, y, given):
    logits = np.array([[1e4, -1e4, 0, 0], [-300, 300, 300, 0]])
    types = {"z": "f32[2, 4]", "label": "i32[2]"}
    case = Case(name, y, {n: t for n, t in types.items() if n in y}, given=given | {"z": logits})
    system, values, names = case.prepared(float_type="f32")
    found = evaluate(system, values)
    assert np.isfinite(found["y"]).all()
    assert np.isfinite(found[names["z"]]).all()


def test_gradient_of_softplus_at_zero():
    """A new network's logits are often exactly 0: the gradient there must be 1/2."""
    case = Case("zero", "softplus(x)", {"x": "f32[2]"}, given={"x": [0, 0]})
    system, values, names = case.prepared()
    expected = 0.5 * (2 * np.cos(2 * np.log(2) + 0.3) + 1)
    check(evaluate(system, values)[names["x"]], np.full(2, expected), "gradient")


def test_functions_work_on_single_elements():
    """Within an equation, `relu` and its kind are applied to numbers."""
    x = np.linspace(-2, 2, 7)
    each = "layer Each(x: [n]) -> y: [n] { y[i] = 2*silu(x[i]) }\n"
    found = value_of("Each(x)", {"x": "f32[7]"}, {"x": x}, definitions=each)
    check(found, 2 * x / (1 + np.exp(-x)), "y")


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_binary_cross_entropy_at_the_ends(probability):
    case = Case(
        "end",
        "binary_cross_entropy(p, q)",
        {"p": "f32[1]", "q": "f32[1]"},
        given={"p": [probability], "q": [probability]},
    )
    system, values, names = case.prepared(float_type="f32")
    found = evaluate(system, values)
    assert abs(found["y"]) < 1e-6
    assert np.isfinite(found[names["p"]]).all()


@pytest.mark.parametrize("limit, norm", [(1.0, 4.0), (10.0, 4.0)])
def test_clip_norm(limit, norm):
    g = np.array([1.0, -2.0, 3.0])
    found = value_of(
        f"clip_norm(g, norm, {limit})", {"g": "f32[3]", "norm": "f32[]"}, {"g": g, "norm": norm}
    )
    check(found, g * min(limit / (norm + 1e-6), 1), "clipped")


A, B = np.array([[0.1, 0.9], [0.6, 0.4], [0.3, 0.8]]), np.array([[0, 1], [0, 1], [1, 1]])
Z = np.array([[3, 2, 1, 0], [0, 1, 5, 2], [1, 1, 0, 0], [4, 3, 2, 1.0]])
HOT = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
STARS = np.array([[0, 3, 2, 0], *3 * [[0, 0, 0, 0]]])  # the best order has 3 before 2
DCG = [7 / np.log2(3) + 3 / np.log2(4), 7 / np.log2(2) + 3 / np.log2(3)]
METRICS = [
    ("accuracy(z, label)", 0.5),  # the first and, as the first of two largest, the third
    ("top_k_accuracy(z, label, 3)", 0.75),
    ("top_k_accuracy(z, label, k = 4)", 1.0),
    ("precision(p, q)", 2 / 3),
    ("precision(p, q, threshold = 2)", 0.0),
    ("recall(p, q)", 0.5),
    ("recall(p, 0*q)", 0.0),
    ("f1(p, q)", 2 * 2 / (3 + 4)),
    ("recall_at(z, hot, 1)", (1 + 0 + 1 / 2) / 3),  # the last row wants nothing
    ("recall_at(z, hot, k = 2)", (1 + 1 + 1) / 3),
    ("recall_at(z, 0*hot)", 0.0),
    ("recall_at(z, hot, 9)", (1 + 1 + 1) / 3),  # of four
    ("ndcg_at(z, 3*hot, 9)", (1 + np.log(2) / np.log(3) + 1) / 3),
    ("ndcg_at(z, hot, 1)", (1 + 0 + 1) / 3),
    ("ndcg_at(z, 3*hot, k = 4)", (1 + np.log(2) / np.log(3) + 1) / 3),
    ("ndcg_at(z, stars)", DCG[0] / DCG[1]),
    ("ndcg_at(z, 0*hot)", 0.0),
    ("r2(p, q)", 1 - ((A - B) ** 2).sum() / ((B - B.mean()) ** 2).sum()),
]


@pytest.mark.parametrize("y, expected", METRICS, ids=[m[0] for m in METRICS])
def test_metrics(y, expected):
    inputs = {
        "z": "f32[4, 4]",
        "label": "i32[4]",
        "p": "f32[3, 2]",
        "q": "f32[3, 2]",
        "hot": "f32[4, 4]",
        "stars": "f32[4, 4]",
    }
    given = {"z": Z, "label": [0, 1, 0, 3], "p": A, "q": B, "hot": HOT, "stars": STARS}
    check(value_of(y, inputs, given), expected, y)
