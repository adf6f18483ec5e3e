"""A picture of the examples that a model gets most wrong, for inputs that are images.

In: a report and the examples that it is of. Out: the bytes of a PNG or SVG. Drawn by matplotlib, of
the extra `plot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt
from pathlib import Path

import numpy as np

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..training.batch_inputs import Examples
from ..training.metrics import format_number
from .classification import Classification, Example
from .curve_pictures import new_figure, saved
from .labels import LabelSets
from .residuals import FarExample, Residuals

ENDINGS = (".png", ".svg")
ACROSS, SIDE = 4, 1.7  # pictures in a row, and the side of one in inches
LEAST_SIDE = 4  # of numbers that are taken for an image


def check_ending(path: Path) -> None:
    """UserError E0716 unless there is a picture of the file's ending."""
    if path.suffix.lower() not in ENDINGS:
        what = f"as `{path.suffix}`" if path.suffix else "without an ending"
        near = did_you_mean(path.suffix.lower(), ENDINGS)
        help = f"{near} there are {', '.join(ENDINGS)}".strip()
        raise fail("E0716", f"pictures of examples are not drawn {what}", help=help)


def draw_worst(
    path: Path,
    found: Classification | LabelSets | Residuals,
    count: int,
    inputs: Sequence[str],
    examples: Examples,
) -> bytes:
    """The worst examples side by side, each with what is true and what was predicted.

    UserError E0716 if none of the inputs is an image, E0741 without matplotlib.
    """
    images = {name: _as_image(examples, name) for name in inputs if name in examples.split.arrays}
    name = next((name for name, shape in images.items() if shape is not None), None)
    if name is None:
        raise fail(
            "E0716",
            f"{path} holds images, and {', '.join(f'`{n}`' for n in inputs)} are none",
            help="an image is [height, width], or [height, width, channels] with 1 or 3 channels",
        )
    worst: Sequence[Example | FarExample] = found.worst(count)
    down = max(1, ceil(len(worst) / ACROSS))
    figure = new_figure((ACROSS * SIDE, down * (SIDE + 0.5)))
    cells = figure.subplots(down, ACROSS, squeeze=False).reshape(-1)
    for axes in cells:
        axes.axis("off")
    for axes, one in zip(cells, worst, strict=False):
        shape = images[name]
        picture = _picture(examples, name, one.index).reshape(shape)
        axes.imshow(picture, cmap="gray" if picture.ndim == 2 else None)
        axes.set_title(_title(one), fontsize=8)
    return saved(figure, path.suffix.lower().removeprefix("."))


def _as_image(examples: Examples, name: str) -> tuple[int, ...] | None:
    """The shape of the picture that an example of a field is; None if it is none."""
    shape = examples.split.arrays[name].shape[1:]
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) == 1:  # an image whose rows were joined
        side = isqrt(shape[0])
        shape = (side, side) if side * side == shape[0] else shape
    image = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    return shape if image and min(shape[:2]) >= LEAST_SIDE else None


def _picture(examples: Examples, name: str, row: int) -> np.ndarray:
    """The numbers of an example, stretched to [0, 1]."""
    array = examples.split.arrays[name][row].astype(np.float64)
    low, high = array.min(), array.max()
    return (array - low) / (high - low if high > low else 1.0)


def _title(one: Example | FarExample) -> str:
    if isinstance(one, FarExample):
        return f"{one.index}: off by {format_number(one.error)}"
    chance = "" if one.probability is None else f" ({one.probability:.2f})"
    return f"{one.index}: {one.true}\npredicted {one.predicted}{chance}"
