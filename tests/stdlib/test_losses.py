"""losses: values and gradients against PyTorch, against the papers' formulas written with PyTorch,
and against finite differences; wrong uses."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import (
    Case,
    check,
    compare_with_differences,
    compare_with_torch,
    ids,
    value_of,
)

_RNG = np.random.default_rng(11)
PAIR = {"p": "f32[4, 3]", "q": "f32[4, 3]"}
LOGITS = {"z": "f32[4, 3, 5]", "label": "i32[4, 3]"}
LABEL = {"label": np.arange(12).reshape(4, 3) % 5}
WEIGHED = {**LOGITS, "w": "f32[5]"}
WEIGHTS = {**LABEL, "w": np.array([0.5, 1.0, 2.0, 0.1, 3.0])}
BINARY = {"q": (_RNG.random((4, 3)) < 0.4) * 1.0}
SIGNS = {"q": np.sign(_RNG.normal(size=(4, 3)))}
MASK = {"p": "f32[2, 3, 4, 1]", "q": "f32[2, 3, 4, 1]"}
MASKS = {
    "p": _RNG.uniform(0.05, 0.95, (2, 3, 4, 1)),
    "q": (_RNG.random((2, 3, 4, 1)) < 0.5) * 1.0,
}
BOX = {"p": "f32[6, 4]", "q": "f32[6, 4]"}
BOXES = {
    # apart, touching nothing; within each other; crossing; equal centres; thin; far
    "p": np.array([[0, 0, 1, 1], [0, 0, 4, 4], [0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 0.1, 5],
                   [-9, -8, -7, -7.5]]),
    "q": np.array([[2, 3, 3, 5], [1, 1, 2, 3], [1, 0.5, 3, 3], [0.5, 0.5, 3.5, 3.6],
                   [-1, 2, 3, 2.5], [7, 8, 9, 9.5]]),
}  # fmt: skip
VECTORS = {"a": "f32[4, 5]", "p": "f32[4, 5]", "q": "f32[4, 5]"}


def _flat(v):
    return v.z.reshape(-1, 5), v.label.reshape(-1).long()


def _weighted(t, v):
    """As PyTorch's cross_entropy, which gives no gradient of the weights."""
    each = v.w[v.label.long()]
    z = t.log_softmax(v.z, -1).gather(-1, v.label[..., None].long())[..., 0]
    loss = -(each * z).sum() / each.sum()
    same = t.nn.functional.cross_entropy(*_flat(v), weight=v.w.detach())
    assert abs(float((loss - same).detach())) < 1e-12
    return loss


def _focal(t, v, gamma):
    z = t.log_softmax(v.z, -1)
    p = z.exp().gather(-1, v.label[..., None].long())[..., 0]
    return -((1 - p) ** gamma * p.log()).mean()


def _binary_focal(t, v, gamma, alpha):
    """As in torchvision's sigmoid_focal_loss."""
    p = t.sigmoid(v.p)
    entropy = t.nn.functional.binary_cross_entropy_with_logits(v.p, v.q, reduction="none")
    hit = p * v.q + (1 - p) * (1 - v.q)
    return ((alpha * v.q + (1 - alpha) * (1 - v.q)) * entropy * (1 - hit) ** gamma).mean()


def _dice(t, v, s):
    p, q = v.p.flatten(1), v.q.flatten(1)
    return (1 - (2 * (p * q).sum(1) + s) / (p.sum(1) + q.sum(1) + s)).mean()


def _tversky(t, v, a, b, s):
    p, q = v.p.flatten(1), v.q.flatten(1)
    hits, extra, missed = (p * q).sum(1), (p * (1 - q)).sum(1), ((1 - p) * q).sum(1)
    return (1 - (hits + s) / (hits + a * extra + b * missed + s)).mean()


def _boxes(t, v):
    """IoU and GIoU as in torchvision's generalized_box_iou_loss."""
    low, high = t.maximum(v.p[:, :2], v.q[:, :2]), t.minimum(v.p[:, 2:], v.q[:, 2:])
    shared = (high - low).clip(0).prod(1)
    union = (v.p[:, 2:] - v.p[:, :2]).prod(1) + (v.q[:, 2:] - v.q[:, :2]).prod(1) - shared
    low, high = t.minimum(v.p[:, :2], v.q[:, :2]), t.maximum(v.p[:, 2:], v.q[:, 2:])
    hull = (high - low).prod(1)
    return shared / union, shared / union - (hull - union) / hull


def _info_nce(t, a, b, temperature):
    a, b = t.nn.functional.normalize(a, dim=-1), t.nn.functional.normalize(b, dim=-1)
    return t.nn.functional.cross_entropy(a @ b.T / temperature, t.arange(len(a)))


def _kl(t, v):
    normal = t.distributions.Normal(v.p, (v.q / 2).exp())
    standard = t.distributions.Normal(t.zeros_like(v.p), t.ones_like(v.p))
    return t.distributions.kl_divergence(normal, standard).sum(-1).mean()


CASES = [
    Case("weighted_cross_entropy", "weighted_cross_entropy(z, label, w)", WEIGHED,
         _weighted, WEIGHTS),
    Case("focal", "focal(z, label)", LOGITS, lambda t, v: _focal(t, v, 2), LABEL),
    Case("focal gamma", "focal(z, label, gamma = 0.7)", LOGITS,
         lambda t, v: _focal(t, v, 0.7), LABEL),
    Case("multiclass_hinge", "multiclass_hinge(z, label)", LOGITS,
         lambda t, v: t.nn.functional.multi_margin_loss(*_flat(v)), LABEL),
    Case("multiclass_hinge margin", "multiclass_hinge(z, label, margin = 0.3)", LOGITS,
         lambda t, v: t.nn.functional.multi_margin_loss(*_flat(v), margin=0.3), LABEL),
    Case("binary_focal", "binary_focal(p, q)", PAIR,
         lambda t, v: _binary_focal(t, v, 2, 0.25), BINARY),
    Case("binary_focal settings", "binary_focal(3*p, q, gamma = 1.5, alpha = 0.6)", PAIR,
         lambda t, v: _binary_focal(t, type("V", (), {"p": 3 * v.p, "q": v.q}), 1.5, 0.6), BINARY),
    Case("hinge", "hinge(p, q)", PAIR, lambda t, v: (1 - v.p * v.q).clip(0).mean(), SIGNS),
    Case("hinge margin", "hinge(p, q, margin = 0.2)", PAIR,
         lambda t, v: (0.2 - v.p * v.q).clip(0).mean(), SIGNS),
    Case("rmse", "rmse(p, q)", PAIR, lambda t, v: t.nn.functional.mse_loss(v.p, v.q).sqrt()),
    Case("smooth_l1", "smooth_l1(p, q)", PAIR,
         lambda t, v: t.nn.functional.smooth_l1_loss(v.p, v.q)),
    Case("smooth_l1 beta", "smooth_l1(p, q, beta = 0.3)", PAIR,
         lambda t, v: t.nn.functional.smooth_l1_loss(v.p, v.q, beta=0.3)),
    Case("log_cosh", "log_cosh(p, q)", PAIR, lambda t, v: (v.p - v.q).cosh().log().mean()),
    Case("quantile", "quantile(p, q)", PAIR, lambda t, v: (v.p - v.q).abs().mean() / 2),
    Case("quantile q", "quantile(p, q, q = 0.9)", PAIR,
         lambda t, v: t.maximum(0.9 * (v.q - v.p), -0.1 * (v.q - v.p)).mean()),
    Case("poisson", "poisson(p, q)", PAIR,
         lambda t, v: t.nn.functional.poisson_nll_loss(v.p, v.q)),
    Case("gaussian_nll", "gaussian_nll(p, 0.5 + q^2, r)", {**PAIR, "r": "f32[4, 3]"},
         lambda t, v: t.nn.functional.gaussian_nll_loss(v.p, v.r, 0.5 + v.q**2)),
    Case("gaussian_kl", "gaussian_kl(p, q)", PAIR, _kl),
    Case("dice", "dice(p, q)", MASK, lambda t, v: _dice(t, v, 1), MASKS),
    Case("dice smooth", "dice(p, q, smooth = 1e-3)", MASK, lambda t, v: _dice(t, v, 1e-3), MASKS),
    Case("tversky", "tversky(p, q)", MASK, lambda t, v: _tversky(t, v, 0.3, 0.7, 1), MASKS),
    Case("tversky settings", "tversky(p, q, alpha = 0.9, beta = 0.2, smooth = 0.1)", MASK,
         lambda t, v: _tversky(t, v, 0.9, 0.2, 0.1), MASKS),
    Case("iou", "iou(p, q)", BOX, lambda t, v: _boxes(t, v)[0], BOXES),
    Case("giou", "giou(p, q)", BOX, lambda t, v: _boxes(t, v)[1], BOXES),
    Case("iou_loss", "iou_loss(p, q)", BOX, lambda t, v: (1 - _boxes(t, v)[0]).mean(), BOXES),
    Case("giou_loss", "giou_loss(p, q)", BOX, lambda t, v: (1 - _boxes(t, v)[1]).mean(), BOXES),
    Case("distance", "distance(p, q)", PAIR, lambda t, v: (v.p - v.q).norm(dim=-1)),
    Case("cosine_similarity", "cosine_similarity(p, q)", PAIR,
         lambda t, v: t.nn.functional.cosine_similarity(v.p, v.q, dim=-1)),
    Case("triplet", "triplet(a, p, q)", VECTORS,
         lambda t, v: t.nn.functional.triplet_margin_loss(v.a, v.p, v.q, eps=0)),
    Case("triplet margin", "triplet(a, p, q, margin = 0.2)", VECTORS,
         lambda t, v: t.nn.functional.triplet_margin_loss(v.a, v.p, v.q, margin=0.2, eps=0)),
    Case("contrastive", "contrastive(distance(a, p), same)",
         {"a": "f32[4, 5]", "p": "f32[4, 5]", "same": "f32[4]"},
         lambda t, v: (v.same * (v.a - v.p).norm(dim=-1) ** 2 + (1 - v.same)
                       * (1 - (v.a - v.p).norm(dim=-1)).clip(0) ** 2).mean() / 2,
         {"a": _RNG.normal(size=(4, 5)) / 4, "p": _RNG.normal(size=(4, 5)) / 4,
          "same": [1.0, 0.0, 0.0, 1.0]}),
    Case("info_nce", "info_nce(p, q)", PAIR, lambda t, v: _info_nce(t, v.p, v.q, 0.07)),
    Case("info_nce temperature", "info_nce(p, q, temperature = 1.5)", PAIR,
         lambda t, v: _info_nce(t, v.p, v.q, 1.5)),
    Case("info_nce of a learned temperature", "info_nce(p, q, exp(s))", {**PAIR, "s": "f32[]"},
         lambda t, v: _info_nce(t, v.p, v.q, v.s.exp())),
    Case("symmetric_info_nce", "symmetric_info_nce(p, q, 0.5)", PAIR,
         lambda t, v: (_info_nce(t, v.p, v.q, 0.5) + _info_nce(t, v.q, v.p, 0.5)) / 2),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_finite_differences(case):
    compare_with_differences(case)


EDGES = [
    ("iou(p, q)", [[1, 1, 1, 1]], [[1, 1, 1, 1]], [0]),  # both are points
    ("iou(p, q)", [[0, 0, 1, 1]], [[1, 0, 2, 1]], [0]),  # they share a side
    ("iou(p, q)", [[0, 0, 2, 2]], [[0, 0, 2, 2]], [1]),
    ("giou(p, q)", [[0, 0, 2, 2]], [[0, 0, 2, 2]], [1]),
    ("giou(p, q)", [[0, 0, 1, 1]], [[2, 0, 3, 1]], [-1 / 3]),
    ("triplet(p, p, q)", [[0.0, 0]], [[0.0, 0.3]], 0.7),
    ("dice(p, q)", [[0.0, 0]], [[0.0, 0]], 0),
    ("dice(p, q, smooth = 0)", [[1.0, 0]], [[1.0, 0]], 0),
    ("log_cosh(p, q)", [1000.0], [0.0], 1000 - np.log(2)),
    ("focal(p, i32(q))", [[1000.0, 0.0]], [0.0], 0),
    ("binary_focal(p, q)", [1000.0, -1000.0], [1.0, 0.0], 0),
    ("gaussian_nll(p, q, p)", [1.0], [0.0], np.log(1e-6) / 2),
    ("cosine_similarity(p, q)", [[0.0, 0]], [[1.0, 2]], [0]),
]


@pytest.mark.parametrize("y, p, q, expected", EDGES)
def test_at_the_edges(y, p, q, expected):
    """Values, and gradients that are numbers, where formulas divide 0 by 0 or overflow."""
    types = {n: f"f32{list(np.shape(v))}" for n, v in (("p", p), ("q", q))}
    check(value_of(y, types, {"p": p, "q": q}), np.array(expected), y)
    case = Case(y, y, types, given={"p": p, "q": q})
    system, values, names = case.prepared()
    found = evaluate(system, values)
    assert all(np.isfinite(found[gradient]).all() for gradient in names.values())


WRONG = [
    ("quantile(p, q, q = 1.5)", "a quantile must be above 0 and below 1"),
    ("quantile(p, q, q = 0)", "a quantile must be above 0 and below 1"),
    ("smooth_l1(p, q, beta = 0)", "smooth_l1 needs a beta above 0; without one it is mae"),
    ("iou(p, q)", "`a` of `iou` has shape [4, 3]"),
    ("cross_entropy(p, argmax(q), smoothing = 1)", "at least 0 and less than 1"),
    ("dice(p, transpose(q))", "the leading dimensions of `target` of `dice` do not fit"),
    ("info_nce(p, transpose(q))", "`b` of `info_nce` has shape [3, 4]"),
    ("triplet(p, q)", "`triplet` needs `negative`"),
]


@pytest.mark.parametrize("y, message", WRONG)
def test_wrong_uses(y, message):
    with pytest.raises(UserError) as caught:
        value_of(y, PAIR, {})
    assert message in caught.value.diagnostics[0].message, caught.value.diagnostics[0]
