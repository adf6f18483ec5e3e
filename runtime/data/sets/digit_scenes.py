"""`digit_scenes()`: handwritten digits on a canvas, of several sizes, among clutter, to be found.

In: the pictures of `mnist.py`, or those of `fashion_mnist.py` or `digits.py` (`of`). Out: `image`
f32[size, size, 1], stored as bytes; `truth` f32[most, 4], the objects' boxes [left, top, right,
bottom] in pixels, of which the first `count` i32 are objects and the others 0; and `label`
i32[most], their classes. Scenes that train are of pictures that train, scenes that test of pictures
that test. Which they are depends on the seed alone.

A scene has 1 to `most` objects, each a picture cut to what is not dark, with a longer side of 14
pixels to half of the canvas, as bright as it was or down to 6/10 of it. Boxes overlap by an iou of
`overlap` at most; for what finds no such place in 20 trials there is none. `clutter` pieces of
other pictures lie among them, half as high and as wide as these are. Behind all is noise of up to
a tenth of the brightness.
"""

from __future__ import annotations

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.source import DataSource, Request, Setting
from ..formats.images import ImageReader
from .drawn_digits import CLASSES, DARK, OF, Draws, Pictures, dimmed, draw, drawn, resized

LEAST_SIDE, LEAST_SIZE = 14, 32  # pixels: the longer side of an object, and the side of a canvas
Box = tuple[int, int, int, int]  # left, top, right, bottom

TRIALS = 20  # for a place that overlaps the others little enough
DARKEST = 154  # of 255: what the brightness of an object is multiplied by


def describe(request: Request) -> Schema:
    """Known without the pictures."""
    size, most = request["size"], request["most"]
    if size < LEAST_SIZE:
        message = f"a canvas of {size} pixels is too small for objects of {LEAST_SIDE} and more"
        raise fail("E0615", message, request.span_of("size"), help=f"from {LEAST_SIZE} on")
    fields = (
        Field("image", "f32", (size, size, 1)),
        Field("truth", "f32", (most, 4)),
        Field("label", "i32", (most,), CLASSES),
        Field("count", "i32", ()),
    )
    return Schema(fields, request["count"])


def load(request: Request) -> Dataset:
    """Both splits. UserError as the set of the pictures; E0615 for a canvas that is too small."""
    schema = describe(request)
    train, test, names = drawn(request, _split)
    reader = ImageReader(request["size"], request["size"], 1, is_dark=True)
    known = {"label": names}
    return validate(Dataset("digit_scenes", schema, train, test, class_names=known, reader=reader))


def _split(request: Request, of: Pictures, random: np.random.RandomState, count: int) -> Split:
    size, most = request["size"], request["most"]
    images = random.randint(0, DARK + 1, (count, size, size, 1), np.uint8)
    boxes = np.zeros((count, most, 4), np.float32)
    labels = np.zeros((count, most), np.int32)
    counts = np.zeros(count, np.int32)
    below = Draws(random)
    for row in range(count):
        canvas = images[row, ..., 0]
        _draw_clutter(canvas, of, below, request["clutter"])
        found = _objects(canvas, of, below, 1 + below(most), request["overlap"])
        for place, (box, label) in enumerate(found):
            boxes[row, place], labels[row, place] = box, label
        counts[row] = len(found)
    arrays = {"image": images, "truth": boxes, "label": labels, "count": counts}
    return Split(arrays, {"image": 1 / 255})


def _draw_clutter(canvas: np.ndarray, of: Pictures, below: Draws, pieces: int) -> None:
    size = len(canvas)
    for _ in range(pieces):
        cut = of.cut(below(len(of.images)))
        height, width = (max(1, min(side // 2, size // 4)) for side in cut.shape)
        top, left = below(cut.shape[0] - height + 1), below(cut.shape[1] - width + 1)
        piece = dimmed(cut[top : top + height, left : left + width], DARKEST + below(256 - DARKEST))
        draw(canvas, piece, below(size) - height // 2, below(size) - width // 2)


def _objects(
    canvas: np.ndarray, of: Pictures, below: Draws, wanted: int, overlap: float
) -> list[tuple[Box, int]]:
    """The boxes and classes of the objects that were drawn."""
    size = len(canvas)
    found: list[tuple[Box, int]] = []
    for _ in range(wanted):
        row = below(len(of.images))
        cut = of.cut(row)
        longer = LEAST_SIDE + below(size // 2 + 1 - LEAST_SIDE)
        height, width = (max(2, round(side * longer / max(cut.shape))) for side in cut.shape)
        light = DARKEST + below(256 - DARKEST)
        for _ in range(TRIALS):
            top, left = below(size - height + 1), below(size - width + 1)
            box = (left, top, left + width, top + height)
            if all(_iou(box, other) <= overlap for other, _ in found):
                draw(canvas, dimmed(resized(cut, height, width), light), top, left)
                found.append((box, int(of.labels[row])))
                break
    return found


def _iou(a: Box, b: Box) -> float:
    across, down = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    shared = max(across, 0) * max(down, 0)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (sum(areas) - shared)


DIGIT_SCENES = DataSource(
    "digit_scenes",
    "digits on a canvas with their boxes: image f32[size, size, 1], truth f32[most, 4], label "
    "i32[most], count i32",
    (
        OF,
        Setting("count", "count", "scenes that train", 10_000),
        Setting("test_count", "count", "scenes that test", 1000),
        Setting("size", "count", "pixels of a side of the canvas", 64),
        Setting("most", "count", "the most objects in a scene", 6),
        Setting("overlap", "fraction", "the most iou of two objects", 0.1),
        Setting("clutter", "amount", "pieces of other pictures in a scene", 4),
        Setting("seed", "seed", "of the scenes", 0),
    ),
    describe,
    load,
)
