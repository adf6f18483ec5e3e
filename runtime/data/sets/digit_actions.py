"""`digit_actions()`: a handwritten digit that does something, in a few frames.

In: the pictures of `mnist.py`, or those of `fashion_mnist.py` or `digits.py` (`of`). Out: `frames`
f32[length, size, size, 1], stored as bytes; `direction` i32, one of eight; `speed` i32, slow or
fast; `rotation` i32, none, clockwise or anticlockwise; and `label` i32, which picture it is of. All
are independent of each other. Over the whole sequence, a slow digit moves by 1/6 to 1/5 of the
field, a fast one by 2/5 to 1/2, and one that rotates turns by 60 to 120 degrees; where on the field
that happens is random, and all of it is inside. Noise of up to a tenth of the brightness lies
behind. Sequences that train are of pictures that train, sequences that test of pictures that test.
Which they are depends on the seed alone.
"""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.source import DataSource, Request, Setting
from .drawn_digits import CLASSES, DARK, OF, Draws, Pictures, draw, drawn, resized, turned

DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
SPEEDS = ("slow", "fast")
WAYS = ((1 / 6, 1 / 5), (2 / 5, 1 / 2))  # of each speed, as parts of the field
ROTATIONS = ("none", "clockwise", "anticlockwise")
TURNS = (60, 120)  # degrees of a rotation
LEAST_SIZE, LEAST_LENGTH = 16, 2


def describe(request: Request) -> Schema:
    """Known without the pictures."""
    size, length = request["size"], request["length"]
    for name, least, what in (
        ("size", LEAST_SIZE, f"a field of {size} pixels is too small for digits"),
        ("length", LEAST_LENGTH, "nothing moves in a single frame"),
    ):
        if request[name] < least:
            raise fail("E0615", what, request.span_of(name), help=f"from {least} on")
    fields = (
        Field("frames", "f32", (length, size, size, 1)),
        Field("direction", "i32", (), len(DIRECTIONS)),
        Field("speed", "i32", (), len(SPEEDS)),
        Field("rotation", "i32", (), len(ROTATIONS)),
        Field("label", "i32", (), CLASSES),
    )
    return Schema(fields, request["count"])


def load(request: Request) -> Dataset:
    """Both splits. UserError as the set of the pictures; E0615 for settings that do not fit."""
    schema = describe(request)
    train, test, names = drawn(request, _split)
    known = {"direction": DIRECTIONS, "speed": SPEEDS, "rotation": ROTATIONS, "label": names}
    return validate(Dataset("digit_actions", schema, train, test, class_names=known))


def _split(request: Request, of: Pictures, random: np.random.RandomState, count: int) -> Split:
    size, length = request["size"], request["length"]
    frames = random.randint(0, DARK + 1, (count, length, size, size, 1), np.uint8)
    below = Draws(random)
    side = size * 7 // 16
    whole = {
        "direction": np.zeros(count, np.int32),
        "speed": np.zeros(count, np.int32),
        "rotation": np.zeros(count, np.int32),
        "label": np.zeros(count, np.int32),
    }
    for row in range(count):
        picture = below(len(of.images))
        direction, speed, rotation = map(below, (len(DIRECTIONS), len(SPEEDS), len(ROTATIONS)))
        for name, value in zip(
            whole, (direction, speed, rotation, of.labels[picture]), strict=True
        ):
            whole[name][row] = value
        patch = resized(of.images[picture], side, side)
        way = size * below.between(*WAYS[speed])
        turn = (0, 1, -1)[rotation] * below.between(*TURNS)
        tilt = below.between(-15, 15)
        down, right = way * sin(pi * direction / 4), way * cos(pi * direction / 4)
        top, left = _start(below, down, size - side), _start(below, right, size - side)
        parts = [step / (length - 1) for step in range(length)]
        patches = turned(patch, [tilt + turn * (part - 0.5) for part in parts])
        for frame, one, part in zip(frames[row, ..., 0], patches, parts, strict=True):
            draw(frame, one, round(top + down * part), round(left + right * part))
    return Split({"frames": frames, **whole}, {"frames": 1 / 255})


def _start(below: Draws, way: float, room: int) -> float:
    """A random place from which a way along one dimension ends inside."""
    return max(-way, 0) + below.between(0, room - abs(way))


DIGIT_ACTIONS = DataSource(
    "digit_actions",
    "a digit that moves and turns: frames f32[length, size, size, 1], direction i32, speed i32, "
    "rotation i32, label i32",
    (
        OF,
        Setting("count", "count", "sequences that train", 6000),
        Setting("test_count", "count", "sequences that test", 1000),
        Setting("length", "count", "frames of a sequence", 8),
        Setting("size", "count", "pixels of a side of the field", 32),
        Setting("seed", "seed", "of the sequences", 0),
    ),
    describe,
    load,
)
