"""`moving_digits()` and `digit_actions()`: what moves moves as it is said, and stays inside."""

from __future__ import annotations

from itertools import pairwise
from math import atan2, degrees
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.sets.digit_actions import DIRECTIONS, ROTATIONS, SPEEDS
from nnc.runtime.data.sets.drawn_digits import DARK
from nnc.runtime.data.sets.moving_digits import reflected


def load(name: str, folder: Path, **settings) -> data.Dataset:
    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    given = {"of": "digits", "count": 60, "test_count": 7, **settings}
    return data.load(name, given, search)


def middles(frames: np.ndarray) -> np.ndarray:
    """Of the light in each of some frames, row and column: [..., 2]."""
    light = np.where(frames[..., 0] > DARK, frames[..., 0], 0).astype(float)
    rows, columns = np.arange(light.shape[-2]), np.arange(light.shape[-1])
    total = light.sum((-1, -2))
    down, right = light.sum(-1) @ rows, light.sum(-2) @ columns
    return np.stack([down / total, right / total], -1)


@pytest.fixture(scope="module")
def actions(tmp_path_factory) -> data.Dataset:
    return load("digit_actions", tmp_path_factory.mktemp("actions"), count=150)


def test_a_digit_moves_as_its_labels_say(actions) -> None:
    a = actions.train.arrays
    assert a["frames"].shape == (150, 8, 32, 32, 1)
    assert actions.class_names["direction"] == DIRECTIONS
    place = middles(a["frames"])
    way = place[:, -1] - place[:, 0]
    still = a["rotation"] == 0  # others turn, and so does the middle of their light
    for (down, right), direction, speed in zip(
        way[still], a["direction"][still], a["speed"][still], strict=True
    ):
        off = (degrees(atan2(down, right)) - 45 * direction + 180) % 360 - 180
        assert abs(off) < 16, (DIRECTIONS[direction], down, right)
        far = np.hypot(down, right) / 32
        assert (0.13 < far < 0.25, 0.36 < far < 0.54)[speed], SPEEDS[speed]


def test_a_digit_turns_as_its_label_says(actions) -> None:
    """The main axis of its light, from frame to frame, where it is longer than wide."""
    a = actions.train.arrays
    seen = 0
    for frames, rotation in zip(a["frames"], a["rotation"], strict=True):
        angles = [axis(frame[..., 0]) for frame in frames]
        if any(angle is None for angle in angles):
            continue
        turns = [(b - a + 90) % 180 - 90 for a, b in pairwise(angles)]
        way = {"none": 0, "clockwise": 1, "anticlockwise": -1}[ROTATIONS[rotation]]
        total = sum(turns)
        assert abs(total) < 20 if not way else total * way > 40, (ROTATIONS[rotation], turns)
        seen += 1
    assert seen > 15


def axis(frame: np.ndarray) -> float | None:
    """The angle of the main axis in degrees, clockwise from the right; None for a round thing."""
    light = np.where(frame > DARK, frame, 0).astype(float)
    i, j = np.mgrid[: frame.shape[0], : frame.shape[1]]
    i, j = (x - (light * x).sum() / light.sum() for x in (i, j))
    down, right, both = ((light * x * y).sum() for x, y in ((i, i), (j, j), (i, j)))
    longer, shorter = np.linalg.eigvalsh([[right, both], [both, down]])[::-1]
    return None if longer < 2.5 * shorter else degrees(atan2(2 * both, right - down)) / 2


def test_labels_are_independent_and_even(tmp_path) -> None:
    a = load("digit_actions", tmp_path, count=600, length=2, size=16).train.arrays
    for name, classes in (("direction", 8), ("speed", 2), ("rotation", 3)):
        shares = np.bincount(a[name], minlength=classes) / 600
        assert abs(shares - 1 / classes).max() < 0.06
    assert abs(np.corrcoef(a["speed"], a["rotation"] > 0)[0, 1]) < 0.1


def test_digits_keep_their_speed_between_borders(tmp_path) -> None:
    a = load("moving_digits", tmp_path, slowest=2.0, fastest=2.0, length=12).train.arrays
    place = middles(a["frames"])
    step = np.diff(place, axis=1)
    assert (a["frames"].sum((1, 2, 3, 4)) % a["frames"][:, 0].sum((1, 2, 3)) == 0).all()  # inside
    far = np.hypot(step[..., 0], step[..., 1])
    assert far.max() < 3 and abs(np.median(far) - 2) < 0.3
    # each dimension goes on in its direction, except at a border
    turned = (np.sign(step[:, 1:]) * np.sign(step[:, :-1]) < 0).mean()
    assert 0 < turned < 0.3


def test_several_digits(tmp_path) -> None:
    one, two = (load("moving_digits", tmp_path, digits=n).train.arrays for n in (1, 2))
    assert one["label"].shape == (60, 1) and two["label"].shape == (60, 2)
    assert two["frames"].sum(dtype=np.int64) > 1.5 * one["frames"].sum(dtype=np.int64)


def test_reflection() -> None:
    found = [reflected(place, 5) for place in range(-6, 13)]
    assert found == [4, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("name", ["moving_digits", "digit_actions"])
def test_the_seed_alone_decides(tmp_path, name) -> None:
    one, same, other = (load(name, tmp_path, seed=seed) for seed in (3, 3, 4))
    assert one.test is not None and len(one.test) == 7
    for key, values in one.train.arrays.items():
        np.testing.assert_array_equal(values, same.train.arrays[key])
    assert (one.train.arrays["frames"] != other.train.arrays["frames"]).any()


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("moving_digits", {"size": 8}, "too small"),
        ("moving_digits", {"slowest": 4}, "faster"),
        ("moving_digits", {"slowest": -1}, "a number from 0"),
        ("digit_actions", {"size": 8}, "too small"),
        ("digit_actions", {"length": 1}, "single frame"),
        ("digit_actions", {"of": "clothes"}, "fashion_mnist"),
    ],
)
def test_mistakes(tmp_path, name, settings, told) -> None:
    with pytest.raises(UserError) as caught:
        load(name, tmp_path, **settings)
    (found,) = caught.value.diagnostics
    assert found.code == "E0615" and told in f"{found.message} {found.help}", found
