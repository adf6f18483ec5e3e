"""`digit_scenes()`: what is drawn is in its box, and the same every time; pictures that test do not
train."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.sets import drawn_digits
from nnc.runtime.data.sets.digit_scenes import DARKEST, LEAST_SIDE
from nnc.runtime.data.sets.drawn_digits import DARK, draw, resized, turned


def load(folder: Path, **settings) -> data.Dataset:
    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    return data.load(
        "digit_scenes", {"of": "digits", "count": 40, "test_count": 9, **settings}, search
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> data.Dataset:
    return load(tmp_path_factory.mktemp("scenes"), clutter=0)


def test_objects_are_in_their_boxes(scenes) -> None:
    assert scenes.test is not None and len(scenes.train) == 40 and len(scenes.test) == 9
    assert len(np.unique(scenes.train.arrays["label"])) == 10
    for split in scenes.splits.values():
        a = split.arrays
        assert a["count"].min() >= 1
        for image, truth, count in zip(a["image"][..., 0], a["truth"], a["count"], strict=True):
            assert not truth[count:].any()
            inside = np.zeros(image.shape, bool)
            for left, top, right, bottom in truth[:count].astype(int):
                part = image[top:bottom, left:right]
                assert LEAST_SIDE <= max(part.shape) <= 32 and part.max() > DARK
                # nothing of the object is further out, and it reaches all four sides
                edges = (part[0], part[-1], part[:, 0], part[:, -1])
                assert all(edge.max() > DARK * DARKEST // 512 for edge in edges)
                inside[top:bottom, left:right] = True
            assert image[~inside].max() <= DARK


def test_objects_overlap_a_little_at_most(tmp_path) -> None:
    def overlaps(**settings) -> float:
        a = load(tmp_path, clutter=0, most=8, **settings).train.arrays
        return max(
            iou(one, other)
            for truth, count in zip(a["truth"], a["count"], strict=True)
            for one, other in combinations(truth[:count], 2)
        )

    assert 0.05 < overlaps() <= 0.1
    assert overlaps(overlap=0.0) == 0
    assert 0.1 < overlaps(overlap=0.3) <= 0.3


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def test_the_seed_alone_decides(scenes, tmp_path) -> None:
    again, other = load(tmp_path, clutter=0), load(tmp_path, clutter=0, seed=1)
    for name, values in scenes.train.arrays.items():
        np.testing.assert_array_equal(values, again.train.arrays[name])
    assert (scenes.train.arrays["image"] != other.train.arrays["image"]).any()
    assert not np.array_equal(scenes.train.arrays["count"][:9], scenes.test.arrays["count"])


def test_clutter_is_no_object(tmp_path, scenes) -> None:
    full = load(tmp_path, clutter=12, most=2).train.arrays
    outside = [
        image[..., 0][~covered(image.shape[:2], truth[:count])].max()
        for image, truth, count in zip(full["image"], full["truth"], full["count"], strict=True)
    ]
    assert np.mean(np.array(outside) > DARKEST // 2) > 0.9


def covered(shape: tuple[int, ...], truth: np.ndarray) -> np.ndarray:
    found = np.zeros(shape, bool)
    for left, top, right, bottom in truth.astype(int):
        found[top:bottom, left:right] = True
    return found


def test_pictures_that_train_and_that_test_stay_apart(tmp_path, monkeypatch) -> None:
    """Of a set whose test pictures are brighter: no training scene has anything as bright."""
    train, test, names = drawn_digits.pictures(request(tmp_path))
    assert len(train.images) == 1438 and len(test.images) == 359 and names[3] == "3"
    dark = drawn_digits.Pictures(train.images // 4, train.labels)
    monkeypatch.setattr(drawn_digits, "pictures", lambda _: (dark, test, names))
    found = load(tmp_path, clutter=5)
    assert found.test is not None
    assert found.train.arrays["image"].max() <= 64 < found.test.arrays["image"].max()


def request(folder: Path):
    from nnc.runtime.data.core.source import request_for
    from nnc.runtime.data.sources import SOURCES

    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    return request_for(SOURCES["digit_scenes"], {"of": "digits"}, search, {}, None)


@pytest.mark.parametrize(
    ("settings", "code", "told"),
    [
        ({"size": 20}, "E0615", "too small"),
        ({"of": "letters"}, "E0615", "mnist"),
        ({"clutter": -1}, "E0615", "a whole number from 0"),
        ({"most": 0}, "E0615", "a whole number from 1"),
        ({"of": "mnist"}, "E0601", "MNIST"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, settings, code, told) -> None:
    monkeypatch.delenv("NNC_DATA", raising=False)
    with pytest.raises(UserError) as caught:
        load(tmp_path, **settings)
    (found,) = caught.value.diagnostics
    assert found.code == code and told in f"{found.message} {found.help}", found


def test_fields_are_known_without_pictures(tmp_path) -> None:
    search = data.Search(tmp_path, tmp_path, offline=True, cache=tmp_path / "cache")
    fields = {f.name: f.shape for f in data.describe("digit_scenes", {"most": 3}, search).fields}
    assert fields == {"image": (64, 64, 1), "truth": (3, 4), "label": (3,), "count": ()}


# --- pictures -------------------------------------------------------------------------------------


def test_resizing_keeps_the_mean_and_what_is_even() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (20, 13), np.uint8)
    for height, width in ((20, 13), (10, 7), (33, 40), (5, 1)):
        found = resized(image, height, width)
        assert found.shape == (height, width) and found.dtype == np.uint8
        assert abs(found.mean() - image.mean()) < 6
    np.testing.assert_array_equal(resized(image, 20, 13), image)
    np.testing.assert_array_equal(resized(np.full((9, 9), 200, np.uint8), 14, 5), 200)
    step = resized(np.repeat([[0, 240]], 4, axis=0).astype(np.uint8), 4, 4)
    np.testing.assert_array_equal(step[0], [0, 60, 180, 240])


def test_turning() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (11, 11), np.uint8)
    found = turned(image, [0, 90, -180])
    for one, expected in zip(found, (image, np.rot90(image, -1), image[::-1, ::-1]), strict=True):
        np.testing.assert_array_equal(one, expected)
    dot = np.zeros((21, 21), np.uint8)
    dot[9:12, 14:17] = 255
    places = [np.argwhere(one > 100).mean(axis=0) for one in turned(dot, [0, 30, 60])]
    for (i, j), (down, right) in pairwise(places):  # clockwise: from the right downwards
        assert down > i and right < j


def test_drawing_is_cut_at_the_edges() -> None:
    canvas = np.full((6, 6), 10, np.uint8)
    patch = np.arange(9, dtype=np.uint8).reshape(3, 3) * 20
    draw(canvas, patch, -1, 4)
    draw(canvas, patch, 5, -2)
    draw(canvas, patch, 9, 9)
    expected = np.full((6, 6), 10)
    expected[:2, 4:] = patch[1:, :2]
    expected[5, 0] = 40
    np.testing.assert_array_equal(canvas, expected)
