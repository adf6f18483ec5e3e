"""`moving_digits()`: handwritten digits that move over a black field and bounce off its borders.

In: the pictures of `mnist.py`, or those of `fashion_mnist.py` or `digits.py` (`of`). Out: `frames`
f32[length, size, size, 1], stored as bytes; `label` i32[digits], which pictures they are of. Each
digit is 7/16 of the field high and wide, and starts anywhere in any direction, with a speed of
`slowest` to `fastest` pixels per frame. Where they meet, the brighter one is seen. Sequences that
train are of pictures that train, sequences that test of pictures that test. Which they are depends
on the seed alone. As Moving MNIST, Srivastava, Mansimov & Salakhutdinov 2015, arXiv:1502.04681,
with a field of 64, a length of 20 and speeds around 3.
"""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.source import DataSource, Request, Setting
from .drawn_digits import CLASSES, OF, Draws, Pictures, draw, drawn, resized

LEAST_SIZE = 16  # pixels of a side of the field


def describe(request: Request) -> Schema:
    """Known without the pictures."""
    size = request["size"]
    if size < LEAST_SIZE:
        message = f"a field of {size} pixels is too small for digits"
        raise fail("E0615", message, request.span_of("size"), help=f"from {LEAST_SIZE} on")
    if request["slowest"] > request["fastest"]:
        message = f"`slowest`, {request['slowest']}, is faster than {request['fastest']}, `fastest`"
        raise fail("E0615", message, request.span_of("slowest"))
    fields = (
        Field("frames", "f32", (request["length"], size, size, 1)),
        Field("label", "i32", (request["digits"],), CLASSES),
    )
    return Schema(fields, request["count"])


def load(request: Request) -> Dataset:
    """Both splits. UserError as the set of the pictures; E0615 for settings that do not fit."""
    schema = describe(request)
    train, test, names = drawn(request, _split)
    return validate(Dataset("moving_digits", schema, train, test, class_names={"label": names}))


def _split(request: Request, of: Pictures, random: np.random.RandomState, count: int) -> Split:
    size, length, digits = request["size"], request["length"], request["digits"]
    below = Draws(random)
    frames = np.zeros((count, length, size, size, 1), np.uint8)
    labels = np.zeros((count, digits), np.int32)
    side = size * 7 // 16
    room = size - side
    for row in range(count):
        for digit in range(digits):
            picture = below(len(of.images))
            labels[row, digit] = of.labels[picture]
            patch = resized(of.images[picture], side, side)
            angle = below.between(0, 2 * pi)
            speed = below.between(request["slowest"], request["fastest"])
            top, left = below(room + 1), below(room + 1)
            for step in range(length):
                draw(
                    frames[row, step, ..., 0],
                    patch,
                    reflected(top + step * speed * sin(angle), room),
                    reflected(left + step * speed * cos(angle), room),
                )
    return Split({"frames": frames, "label": labels}, {"frames": 1 / 255})


def reflected(place: float, room: int) -> int:
    """The place between 0 and `room` of what moves on a line and turns round at both ends, in whole
    pixels."""
    around = place % (2 * room)
    return round(min(around, 2 * room - around))


MOVING_DIGITS = DataSource(
    "moving_digits",
    "digits that bounce off borders: frames f32[length, size, size, 1], label i32[digits]",
    (
        OF,
        Setting("count", "count", "sequences that train", 4000),
        Setting("test_count", "count", "sequences that test", 500),
        Setting("length", "count", "frames of a sequence", 10),
        Setting("size", "count", "pixels of a side of the field", 32),
        Setting("digits", "count", "digits in each sequence", 1),
        Setting("slowest", "level", "pixels per frame", 1.0),
        Setting("fastest", "level", "pixels per frame", 2.5),
        Setting("seed", "seed", "of the sequences", 0),
    ),
    describe,
    load,
)
