"""Several sequences in one: attention within the parts that `parts` numbers, and losses with
smoothing, as PyTorch has them."""

from __future__ import annotations

import numpy as np
import pytest

from .programs import Case, check, compare_with_torch, ids, value_of, within

OWN = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
OTHER = np.array([[0, 0, 0, 1], [0, 1, 2, 2]])
PART = {"part": "i32[2, 5]"}
QUERIES = {"x": "f32[2, 3, 5, 6]", "z": "f32[2, 3, 4, 6]", "own": "i32[2, 5]", "other": "i32[2, 4]"}
LENGTHS = np.array([2, 4])
LABELS = np.array([[0, 3, 5, 1, 1], [2, 2, 4, 0, 5]])


def attended(t, v, allowed):
    return t.nn.functional.scaled_dot_product_attention(v.x, v.z, v.z, attn_mask=allowed[:, None])


def same(v):
    return v.own[:, :, None] == v.other[:, None, :]


def until_length(t, v):
    """Of the first row, whose length is 2, nothing is left for the second part."""
    allowed = same(v) & (t.arange(4) < v.length[:, None, None])
    return attended(t, v, allowed).nan_to_num(0.0)


def self_attention(t, v):
    """A layer of one head, later steps masked."""
    q, k, value = (t.einsum("bti,iha->bhta", v.x, getattr(v, f"heads{n}_W")) for n in (1, 2, 3))
    allowed = (v.part[:, :, None] == v.part[:, None, :]) & t.ones(5, 5).tril().bool()
    found = t.nn.functional.scaled_dot_product_attention(q, k, value, attn_mask=allowed[:, None])
    return t.einsum("bhta,hai->bti", found, v.join1_W)


def smoothed(t, v):
    loss = t.nn.functional.cross_entropy(
        v.x.flatten(0, 1), v.label.flatten().long(), reduction="none", label_smoothing=0.1
    )
    there = (t.arange(5) < v.length[:, None]).flatten()
    return loss[there].mean()


CASES = [
    Case("attend", "attend(x, z, z, false, inf, inf, false, own, other)", QUERIES,
         lambda t, v: attended(t, v, same(v)), {"own": OWN, "other": OTHER}),
    Case("attend until a length", "attend(x, z, z, false, length, inf, false, own, other)",
         QUERIES | {"length": "i32[2]"}, until_length,
         {"own": OWN, "other": OTHER, "length": LENGTHS}),
    Case("Attention", "x |> Attention(2, true, false)(inf, part)", {"x": "f32[2, 5, 6]"} | PART,
         self_attention, {"part": OWN}),
    Case("masked_cross_entropy", "masked_cross_entropy(x, label, length, 0.1)",
         {"x": "f32[2, 5, 6]", "label": "i32[2, 5]", "length": "i32[2]"}, smoothed,
         {"label": LABELS, "length": LENGTHS}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case, within, least=1.0)


def test_parts():
    token = np.array([[2, 7, 9, 2, 5, 2], [4, 4, 2, 2, 0, 0]])
    found = value_of("parts(token)", {"token": "i32[2, 6]"}, {"token": token})
    check(found, [[1, 1, 1, 2, 2, 3], [0, 0, 1, 2, 2, 2]], "parts")
    found = value_of("parts(token, 4)", {"token": "i32[2, 6]"}, {"token": token})
    check(found, [[0] * 6, [1, 2, 2, 2, 2, 2]], "parts")


def test_a_row_of_nothing_is_zero():
    x = np.array([[-np.inf, -np.inf], [0, -np.inf], [1.0, 1.0]])
    found = value_of("softmax_or_zero(x)", {"x": "f32[3, 2]"}, {"x": x})
    check(found, [[0, 0], [1, 0], [0.5, 0.5]], "softmax_or_zero")
