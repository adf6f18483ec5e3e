"""detection, and the average precision of COCO: against the algorithms as their authors wrote them,
one box after the other, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import Case, check, compare_with_differences, ids, value_of

RNG = np.random.default_rng(12)
IMAGES, BOXES, OBJECTS, H, W, CLASSES = 3, 7, 4, 3, 5, 3
GRID = {
    "z": f"f32[{IMAGES}, {H}, {W}, 4]", "logits": f"f32[{IMAGES}, {H}, {W}, {CLASSES}]",
    "truth": f"f32[{IMAGES}, {OBJECTS}, 4]", "label": f"i32[{IMAGES}, {OBJECTS}]",
    "count": f"i32[{IMAGES}]",
}  # fmt: skip
FOUND = {
    "box": f"f32[{IMAGES}, {BOXES}, 4]", "score": f"f32[{IMAGES}, {BOXES}]",
    "class": f"i32[{IMAGES}, {BOXES}]",
}  # fmt: skip


def boxes(*shape: int, far: float = 20.0) -> np.ndarray:
    corner = RNG.uniform(0, far, (*shape, 2))
    return np.concatenate([corner, corner + RNG.uniform(4, 12, (*shape, 2))], axis=-1)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def scene() -> dict[str, np.ndarray]:
    """Objects of a grid of cells of 4 pixels, and boxes near some of them; there are ties."""
    truth = boxes(IMAGES, OBJECTS, far=14)
    near = RNG.integers(0, OBJECTS, (IMAGES, BOXES))
    label = RNG.integers(0, 2, (IMAGES, OBJECTS))
    box = np.take_along_axis(truth, near[..., None], 1) + RNG.normal(0, 0.7, (IMAGES, BOXES, 4))
    return {
        "z": RNG.normal(0, 0.5, (IMAGES, H, W, 4)),
        "logits": RNG.normal(-1, 2, (IMAGES, H, W, CLASSES)),
        "truth": truth, "label": label, "count": np.array([OBJECTS, 0, 2]),
        "box": box, "score": np.round(RNG.uniform(-0.1, 1, (IMAGES, BOXES)), 1),
        "class": np.where(RNG.random((IMAGES, BOXES)) < 0.8, np.take_along_axis(label, near, 1), 2),
    }  # fmt: skip


SCENE = scene()


# --- cells ----------------------------------------------------------------------------------------


def decoded(z: np.ndarray, stride: float) -> np.ndarray:
    found = np.zeros(z.shape)
    for i, j in np.ndindex(z.shape[1:3]):
        x, y, wide, high = z[:, i, j].T
        middle = np.stack([(j + 0.5 + x) * stride, (i + 0.5 + y) * stride], -1)
        half = np.stack([np.exp(wide), np.exp(high)], -1) * stride / 2
        found[:, i, j] = np.concatenate([middle - half, middle + half], -1)
    return found


def owners(radius: float, stride: float = 4) -> np.ndarray:
    found = np.full((IMAGES, H, W), -1)
    for b, i, j in np.ndindex(found.shape):
        near = []
        for n in range(SCENE["count"][b]):
            left, top, right, bottom = SCENE["truth"][b, n] / stride
            across, down = (left + right) / 2 - j - 0.5, (top + bottom) / 2 - i - 0.5
            if max(abs(across), abs(down)) <= radius:
                near.append((across**2 + down**2, n))
        found[b, i, j] = min(near, default=(0, -1))[1]
    return found


def test_boxes_of_cells():
    check(value_of("cell_boxes(z, 4)", GRID, SCENE), decoded(SCENE["z"], 4), "boxes")


@pytest.mark.parametrize("radius", [1.0, 0.5, 2.5])
def test_objects_of_cells(radius):
    y = f"cell_objects(truth, count, {H}, {W}, 4, radius = {radius})"
    expected = owners(radius)
    assert (expected < 0).any() and len(np.unique(expected)) > 2
    np.testing.assert_array_equal(value_of(y, GRID, SCENE), expected)


def loss(weight: float, gamma: float, alpha: float) -> float:
    """One cell after the other."""
    owner, total = owners(1.0), 0.0
    for b, i, j in np.ndindex(owner.shape):
        n = owner[b, i, j]
        for c in range(CLASSES):
            p = 1 / (1 + np.exp(-SCENE["logits"][b, i, j, c]))
            if n >= 0 and SCENE["label"][b, n] == c:
                total -= alpha * (1 - p) ** gamma * np.log(p)
            else:
                total -= (1 - alpha) * p**gamma * np.log(1 - p)
        if n >= 0:
            a, o = decoded(SCENE["z"], 4)[b, i, j], SCENE["truth"][b, n]
            hull = (np.maximum(a[2:], o[2:]) - np.minimum(a[:2], o[:2])).prod()
            areas = (a[2:] - a[:2]).prod() + (o[2:] - o[:2]).prod()
            near = iou(a, o)
            total += weight * (1 - near + (hull - areas / (1 + near)) / hull)
    return total / (owner >= 0).sum()


LOSS = "detection_loss(logits, cell_boxes(z, 4), cell_objects(truth, count, 3, 5, 4), truth, label"


@pytest.mark.parametrize("more, settings", [
    ("", (2.0, 2.0, 0.25)), (", weight = 0.5, gamma = 1.0, alpha = 0.5", (0.5, 1.0, 0.5)),
])  # fmt: skip
def test_loss(more, settings):
    check(value_of(f"{LOSS}{more})", GRID, SCENE), np.asarray(loss(*settings)), "loss", 1e-8)


CASES = [
    Case("cell_boxes", "cell_boxes(z, 8)", {"z": GRID["z"]}),
    Case("detection_loss", f"{LOSS})", GRID, given={k: SCENE[k] for k in GRID if k != "z"}),
]


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_gradients(case):
    compare_with_differences(case)


def test_without_objects_boxes_have_no_gradient():
    none = {**SCENE, "count": np.zeros(IMAGES, int)}
    case = Case("no objects", f"{LOSS})", GRID, given={k: none[k] for k in GRID})
    system, values, names = case.prepared()
    found = evaluate(system, values)
    assert found["y"] > 0 and not found[names["z"]].any()
    assert np.abs(found[names["logits"]]).min() > 0


# --- suppression ----------------------------------------------------------------------------------


def greedy(box: np.ndarray, score: np.ndarray, of: np.ndarray, overlap: float) -> np.ndarray:
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        if all(of[k] != of[i] or iou(box[k], box[i]) <= overlap for k in kept):
            kept.append(int(i))
    return np.isin(np.arange(len(box)), kept)


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("by_class", [True, False])
def test_suppression(overlap, by_class):
    of = SCENE["class"] if by_class else np.zeros((IMAGES, BOXES), int)
    parts = zip(SCENE["box"], SCENE["score"], of, strict=True)
    expected = np.stack([greedy(*part, overlap) for part in parts])
    assert expected.any() and not expected.all()
    more = "class, " if by_class else ""
    y = f"nms(box, score, {more}overlap = {overlap})"
    np.testing.assert_array_equal(value_of(y, FOUND, SCENE), expected)


def test_a_box_that_is_suppressed_suppresses_none():
    row = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10.0]])
    types = {"box": "f32[3, 4]", "score": "f32[3]"}
    given = {"box": row, "score": [0.7, 0.9, 0.8]}
    found = value_of("nms(box, score, overlap = 0.3)", types, given)
    np.testing.assert_array_equal(found, [False, True, False])
    given = {"box": row, "score": [0.9, 0.8, 0.7]}
    found = value_of("nms(box, score, overlap = 0.3)", types, given)
    np.testing.assert_array_equal(found, [True, False, True])


@pytest.mark.parametrize("by_class", [True, False])
def test_detections(by_class):
    types = {"box": GRID["z"], "logits": GRID["logits"]}
    box = decoded(SCENE["z"], 4)
    given = {"box": box, "logits": SCENE["logits"]}
    call = f"detections(logits, box, 9, 0.2, 0.4, {str(by_class).lower()})"
    results = {}
    for name in ("a", "s", "c"):
        program = (
            "fn part(box: [..., h, w, 4], logits: [..., h, w, n]) -> y {\n"
            f"    a, s, c = {call}\n"
            f"    y = {name}\n}}\n"
        )
        results[name] = value_of("part(box, logits)", types, given, program)
    for b in range(IMAGES):
        each = SCENE["logits"][b].reshape(-1)
        order = np.argsort(-each, kind="stable")[:9]
        cell, of = np.divmod(order, CLASSES)
        sure, own = 1 / (1 + np.exp(-each[order])), box[b].reshape(-1, 4)[cell]
        kept = greedy(own, sure, of if by_class else 0 * of, 0.2) & (sure > 0.4)
        check(results["a"][b], own, "boxes")
        check(results["s"][b], np.where(kept, sure, 0), "scores")
        np.testing.assert_array_equal(results["c"][b], of)
    assert (results["s"] == 0).any() and (results["s"] > 0).any()


def test_a_place_may_have_two_classes():
    """Whose boxes are equal: each is kept, or only the surest."""
    types = {"box": "f32[1, 1, 3, 4]", "logits": "f32[1, 1, 3, 3]"}
    logits = np.full((1, 1, 3, 3), -9.0)
    logits[0, 0, 1] = [1, -9, 2]
    given = {"box": [[[[0, 0, 8, 8]] * 3]], "logits": logits}
    program = (
        "fn part(logits: [..., h, w, n], box: [..., h, w, 4]) -> y {\n"
        "    _, y, _ = detections(logits, box, 3, by_class = BY)\n}\n"
    )
    first, second = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    for by_class, expected in (("true", [first, second, 0]), ("false", [first, 0, 0])):
        found = value_of("part(logits, box)", types, given, program.replace("BY", by_class))
        check(found, np.array([expected]), by_class)


# --- the average precision of COCO ----------------------------------------------------------------


def coco(v: dict[str, np.ndarray], classes: int, overlaps: list[float]) -> float:
    """As COCO's `evaluateImg` and `accumulate`: images one after the other, boxes sorted stably."""
    each = []
    for c in range(classes):
        actual = sum((v["label"][b, : v["count"][b]] == c).sum() for b in range(IMAGES))
        if not actual:
            continue
        for least in overlaps:
            scores, right = [], []
            for b in range(IMAGES):
                own = [k for k in range(BOXES) if v["class"][b, k] == c and v["score"][b, k] > 0]
                left = {j for j in range(v["count"][b]) if v["label"][b, j] == c}
                for k in sorted(own, key=lambda k, b=b: -v["score"][b, k]):
                    near = {j: iou(v["box"][b, k], v["truth"][b, j]) for j in left}
                    best = max(near, key=lambda j, near=near: near[j], default=None)
                    hit = best is not None and near[best] >= least
                    left -= {best} if hit else set()
                    scores.append((-v["score"][b, k], b))
                    right.append(hit)
            order = sorted(range(len(scores)), key=lambda k: scores[k])
            hits = np.cumsum([right[k] for k in order])
            precision = hits / np.arange(1, len(order) + 1)
            reached = [precision[100 * hits >= q * actual].max(initial=0) for q in range(101)]
            each.append(np.mean(reached))
    return float(np.mean(each))


TABLE = {**FOUND, **{k: GRID[k] for k in ("truth", "label", "count")}}
ALL = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@pytest.mark.parametrize("classes, overlaps", [(3, None), (2, [0.5]), (1, [0.75]), (3, [0.3, 0.7])])
def test_average_precision(classes, overlaps):
    more = f", overlaps = {overlaps}" if overlaps else ""
    y = f"coco_average_precision(box, score, class, truth, label, count, {classes}{more})"
    expected = coco(SCENE, classes, overlaps or ALL)
    assert 0.05 < expected < 0.95
    check(value_of(y, TABLE, SCENE), np.asarray(expected), y)


def test_average_precision_of_all_and_of_none():
    y = "coco_average_precision(truth, score, label, truth, label, count, 2, [0.9])"
    types = {**TABLE, "score": f"f32[{IMAGES}, {OBJECTS}]"}
    present = np.arange(OBJECTS) < SCENE["count"][:, None]
    assert value_of(y, types, {**SCENE, "score": present * 0.5}) == 1
    assert value_of(y, types, {**SCENE, "score": present * 0.0}) == 0
    assert value_of(y, types, {**SCENE, "score": present * 0.5, "count": [0] * IMAGES}) == 0


WRONG = [
    ("nms(box, score, score)", "`class` of `nms` takes i32"),
    ("detections(logits, z, 400)", "there are not so many elements to select"),
    ("coco_average_precision(box, score, class, box, label, count)", "`truth_class`"),
    ("cell_boxes(z)", "`cell_boxes` needs `stride`"),
]


@pytest.mark.parametrize("y, message", WRONG)
def test_wrong_uses(y, message):
    with pytest.raises(UserError) as caught:
        value_of(y, {**GRID, **FOUND}, SCENE)
    assert any(message in d.message for d in caught.value.diagnostics), caught.value.diagnostics
