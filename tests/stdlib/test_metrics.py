"""metrics: against the textbook's formulas in NumPy. That they are those of a whole set, whatever
its batches, is tested in tests/runtime/test_set_measures.py."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import check, value_of

RNG = np.random.default_rng(5)
N, CLASSES = 40, 4
LOGITS = RNG.normal(size=(N, CLASSES))
LABEL = RNG.integers(0, 3, N)  # the last class has no label
LOGITS[np.arange(N), LABEL] += 1
GUESS = LOGITS.argmax(1)
SCORE = np.round(RNG.normal(size=N), 1)  # with ties
TARGET = (SCORE + RNG.normal(size=N) > 0.3) * 1.0
MANY = np.round(RNG.normal(size=(N, CLASSES)), 1)
ONES = (MANY + RNG.normal(size=(N, CLASSES)) > 0.5) * 1.0
ONES[:, 2] = 0

INPUTS = {
    "z": f"f32[{N}, {CLASSES}]", "label": f"i32[{N}]", "s": f"f32[{N}]", "t": f"f32[{N}]",
    "many": f"f32[{N}, {CLASSES}]", "ones": f"f32[{N}, {CLASSES}]",
}  # fmt: skip
GIVEN = {"z": LOGITS, "label": LABEL, "s": SCORE, "t": TARGET, "many": MANY, "ones": ONES}


def confusion() -> np.ndarray:
    found = np.zeros((CLASSES, CLASSES), int)
    np.add.at(found, (LABEL, GUESS), 1)
    return found


def balanced_accuracy() -> float:
    return float(np.mean([(GUESS[k == LABEL] == k).mean() for k in np.unique(LABEL)]))


def macro_f1() -> float:
    c = confusion()
    return float(np.mean(2 * np.diag(c) / np.maximum(c.sum(0) + c.sum(1), 1)))


def mean_iou() -> float:
    each = []
    for k in range(CLASSES):
        a, b = k == LABEL, k == GUESS
        if (a | b).any():
            each.append((a & b).sum() / (a | b).sum())
    return float(np.mean(each))


def kappa() -> float:
    p = confusion() / N
    chance = (p.sum(0) * p.sum(1)).sum()
    return float((np.trace(p) - chance) / (1 - chance))


def calibration_error(bins: int) -> float:
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    confidence, total = p.max(1), 0.0
    for low, high in pairwise(np.linspace(0, 1, bins + 1)):
        own = (low < confidence) & (confidence <= high)
        if own.any():
            right = (GUESS == LABEL)[own].mean()
            total += own.mean() * abs(right - confidence[own].mean())
    return total


def auc(score: np.ndarray, target: np.ndarray) -> float:
    """By the trapezoids of the ROC curve, threshold by threshold."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(score)[::-1]:
        taken = score >= threshold
        points.append((taken[target < 0.5].mean(), taken[target > 0.5].mean()))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """As in scikit-learn: steps of recall times precision, threshold by threshold."""
    total = recall = 0.0
    for threshold in np.unique(score)[::-1]:
        taken = score >= threshold
        precision, following = target[taken].mean(), target[taken].sum() / target.sum()
        total += (following - recall) * precision
        recall = following
    return total


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def ranks(x: np.ndarray) -> np.ndarray:
    return np.array([(x < v).sum() + ((x == v).sum() - 1) / 2 for v in x])


VALUES = [
    ("confusion_matrix(z, label)", confusion()),
    ("confusion(z, label, 1, 2)", confusion()[1, 2]),
    ("balanced_accuracy(z, label)", balanced_accuracy()),
    ("macro_f1(z, label)", macro_f1()),
    ("mean_iou(z, label)", mean_iou()),
    ("kappa(z, label)", kappa()),
    ("calibration_error(z, label)", calibration_error(15)),
    ("calibration_error(z, label, bins = 4)", calibration_error(4)),
    ("matthews(s, t)", correlation(SCORE > 0.5, TARGET)),
    ("matthews(s, t, threshold = -0.2)", correlation(SCORE > -0.2, TARGET)),
    ("matthews(s, 0*t)", 0.0),
    ("auc(s, t)", auc(SCORE, TARGET)),
    ("auc(s, 0*t)", 0.0),
    ("auc(many, ones)", auc(MANY.ravel(), ONES.ravel())),
    ("average_precision(s, t)", average_precision(SCORE, TARGET)),
    ("average_precision(s, 0*t)", 0.0),
    ("mean_average_precision(many, ones)",
     np.mean([average_precision(MANY[:, k], ONES[:, k]) for k in (0, 1, 3)])),
    ("correlation(s, t)", correlation(SCORE, TARGET)),
    ("correlation(s, 0*t + 3)", 0.0),
    ("rank_correlation(s, t)", correlation(ranks(SCORE), ranks(TARGET))),
    ("rank_correlation(s, s^3)", 1.0),
]  # fmt: skip


@pytest.mark.parametrize("y, expected", VALUES, ids=[v[0] for v in VALUES])
def test_values(y, expected):
    check(value_of(y, INPUTS, GIVEN), np.asarray(expected), y)


# --- boxes ----------------------------------------------------------------------------------------

IMAGES, BOXES, OBJECTS = 5, 6, 3


def scene() -> dict[str, np.ndarray]:
    """Objects, and boxes near some of them; ties of scores, doubles, missed and wrong classes."""
    rng = np.random.default_rng(8)
    truth = rng.uniform(0, 8, (IMAGES, OBJECTS, 4))
    truth[..., 2:] = truth[..., :2] + rng.uniform(1, 4, (IMAGES, OBJECTS, 2))
    of = rng.integers(0, 2, (IMAGES, OBJECTS))
    near = rng.integers(0, OBJECTS, (IMAGES, BOXES))
    box = np.take_along_axis(truth, near[..., None], 1) + rng.normal(0, 0.3, (IMAGES, BOXES, 4))
    guess = np.take_along_axis(of, near, 1)
    guess = np.where(rng.random((IMAGES, BOXES)) < 0.2, 1 - guess, guess)
    score = np.round(rng.uniform(0, 1, (IMAGES, BOXES)), 1)
    return {"box": box, "score": score, "class": guess, "truth": truth, "truth_class": of,
            "truth_count": rng.integers(0, OBJECTS + 1, IMAGES)}  # fmt: skip


def iou(a: np.ndarray, b: np.ndarray) -> float:
    wide = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(wide / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - wide))


def voc(v: dict[str, np.ndarray], classes: int, least: float) -> float:
    """The algorithm of Pascal VOC's development kit, with the area under the whole curve."""
    each = []
    for c in range(classes):
        actual = sum((v["truth_class"][i, : v["truth_count"][i]] == c).sum() for i in range(IMAGES))
        if not actual:
            continue
        found = [(-v["score"][i, k], i, k) for i in range(IMAGES) for k in range(BOXES)
                 if v["class"][i, k] == c and v["score"][i, k] > 0]  # fmt: skip
        used, scores, right = set(), [], []
        for score, i, k in sorted(found):
            own = [(iou(v["box"][i, k], v["truth"][i, j]), -j) for j in range(v["truth_count"][i])
                   if v["truth_class"][i, j] == c]  # fmt: skip
            best, j = max(own, default=(0.0, 0))
            hit = best >= least and (i, j) not in used
            used |= {(i, j)} if hit else set()
            scores.append(-score)
            right.append(hit)
        scores, right = np.array(scores), np.array(right)
        precision = [right[scores >= s].mean() for s in scores]
        highest = [max(p for p, o in zip(precision, scores, strict=True) if o <= s) for s in scores]
        each.append(float((right * highest).sum() / actual))
    return float(np.mean(each))


@pytest.mark.parametrize("classes, least", [(2, 0.5), (3, 0.6), (1, 0.3)])
def test_average_precision_of_boxes(classes, least):
    inputs = {
        "box": f"f32[{IMAGES}, {BOXES}, 4]", "score": f"f32[{IMAGES}, {BOXES}]",
        "class": f"i32[{IMAGES}, {BOXES}]", "truth": f"f32[{IMAGES}, {OBJECTS}, 4]",
        "truth_class": f"i32[{IMAGES}, {OBJECTS}]", "truth_count": f"i32[{IMAGES}]",
    }  # fmt: skip
    y = f"box_average_precision({', '.join(inputs)}, classes = {classes}, least = {least})"
    expected = voc(scene(), classes, least)
    assert 0.1 < expected < 0.9
    check(value_of(y, inputs, scene()), np.asarray(expected), y)


# --- texts ----------------------------------------------------------------------------------------


def bleu(x: list[list[int]], y: list[list[int]], longest: int) -> float:
    """Of a corpus, as in the paper."""
    logs = 0.0
    for size in range(1, longest + 1):
        right = total = 0
        for a, b in zip(x, y, strict=True):
            mine, theirs = (
                Counter(tuple(s[i : i + size]) for i in range(len(s) - size + 1)) for s in (a, b)
            )
            right += sum((mine & theirs).values())
            total += sum(mine.values())
        if not right:
            return 0.0
        logs += math.log(right / total) / longest
    said, wanted = sum(map(len, x)), sum(map(len, y))
    return math.exp(logs + min(0, 1 - wanted / said))


TEXTS = [
    ([[1, 1, 1, 1, 1]], [[1, 1, 2, 3, 1]]),  # clipped counts
    ([[1, 2, 3, 4, 5, 6], [2, 3]], [[1, 2, 3, 4, 6, 5], [2, 3, 3, 4]]),
    ([[1, 2, 3, 4], []], [[1, 2, 3, 4], [5]]),
    ([[1, 2]], [[3, 4]]),
    ([[1, 2, 1, 2, 1, 2, 0, 0]], [[2, 1, 2, 1, 2, 0, 0]]),
]


@pytest.mark.parametrize("x, y", TEXTS)
@pytest.mark.parametrize("longest", [2, 4])
def test_bleu(x, y, longest):
    def padded(texts: list[list[int]], filler: int) -> np.ndarray:
        width = max(map(len, texts)) + 1
        return np.array([t + [filler] * (width - len(t)) for t in texts])

    given = {"said": padded(x, 0), "text": padded(y, 0)}
    given |= {"i": np.array([*map(len, x)]), "j": np.array([*map(len, y)])}
    inputs = {n: f"i32{list(v.shape)}" for n, v in given.items()}
    found = value_of(f"bleu(said, text, i, j, longest = {longest})", inputs, given)
    check(found, np.asarray(bleu(x, y, longest)), "bleu")


WRONG = [
    ("confusion_matrix(z, s)", "`label` of `confusion_matrix` takes i32"),
    ("auc(s, ones)", "the leading dimensions of `target` of `auc` do not fit"),
    ("auc(s)", "`auc` needs `target`"),
    ("box_average_precision(s, s, label, s, label, label)", "`box` of `box_average_precision`"),
]


@pytest.mark.parametrize("y, message", WRONG)
def test_wrong_uses(y, message):
    with pytest.raises(UserError) as caught:
        value_of(y, INPUTS, GIVEN)
    assert any(message in d.message for d in caught.value.diagnostics), caught.value.diagnostics
