"""The pictures of a well-known set as things to draw on larger canvases: cut out, resized, turned.

In: the name of a set. Out: its pictures and labels for each split, and patches of them, u8. Sums
are those of whole numbers, so that the patches are the same on every machine. `digit_scenes.py`,
`moving_digits.py` and `digit_actions.py` draw with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, pi, sin

import numpy as np

from ..core.dataset import Split
from ..core.source import Request, Setting, request_for
from .digits import DIGITS
from .fashion_mnist import FASHION_MNIST
from .mnist import MNIST

SETS = {"mnist": MNIST, "fashion_mnist": FASHION_MNIST, "digits": DIGITS}
OF = Setting("of", "text", "the set of the pictures: " + ", ".join(SETS), "mnist", tuple(SETS))
UNIT = 1 << 12  # weights of interpolation are whole multiples of 1 / UNIT
CLASSES = 10
DARK = 25  # of 255: a tenth of the brightness, what is seen as background
AT_ONCE = 128  # random numbers
PARTS = 1 << 20  # into which a random number of a range is divided


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures u8 [n, height, width], 255 the brightest, and their labels i32 [n]."""

    images: np.ndarray
    labels: np.ndarray

    def cut(self, row: int) -> np.ndarray:
        """The smallest box of a picture with all that is brighter than `DARK`: u8 [height, width],
        and at least one pixel."""
        image = self.images[row]
        bright = image > DARK
        lines, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        if not lines.size:
            return image[:1, :1]
        return image[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1]


class Draws:
    """Random whole numbers, one after the other: `draws(n)` is below n. Many are drawn at a time,
    since to draw takes longer than to use them."""

    def __init__(self, random: np.random.RandomState):
        self._random = random
        self._left: Iterator[float] = iter(())

    def __call__(self, n: int) -> int:
        for u in self._left:
            return int(u * n)
        self._left = iter(self._random.random_sample(AT_ONCE).tolist())
        return self(n)

    def between(self, least: float, most: float) -> float:
        """A random number from `least` on, below `most`."""
        return least + (most - least) * (self(PARTS) / PARTS)


Make = Callable[[Request, Pictures, np.random.RandomState, int], Split]


def drawn(request: Request, make: Make) -> tuple[Split, Split, tuple[str, ...]]:
    """`count` examples of pictures that train, and `test_count` of those that test, as `make` draws
    them from a stream of random numbers of their own; and the names of the pictures' classes.
    UserError as the set of the pictures."""
    of_train, of_test, names = pictures(request)
    # RandomState and not default_rng: NumPy promises never to change its stream.
    streams = (np.random.RandomState([request["seed"], number]) for number in (0, 1))
    train = make(request, of_train, next(streams), request["count"])
    test = make(request, of_test, next(streams), request["test_count"])
    return train, test, names


def pictures(request: Request) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """Those that train and those that test, and the names of the classes. UserError as the set."""
    source = SETS[request["of"]]
    found = source.load(request_for(source, {}, request.search, {}, request.span))
    assert found.test is not None
    brightest = found.train.scale["image"]  # 1/255, or 1/16
    parts = [
        Pictures(
            _bytes(np.asarray(split.arrays["image"][..., 0]), brightest),
            np.asarray(split.arrays["label"], np.int32),
        )
        for split in (found.train, found.test)
    ]
    names = found.class_names.get("label") or tuple(map(str, range(CLASSES)))
    return parts[0], parts[1], names


def _bytes(images: np.ndarray, scale: float) -> np.ndarray:
    return images if scale == 1 / 255 else (images * (255 * scale)).round().astype(np.uint8)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture [m, n] of another size, u8 [height, width]: the mean over what a pixel covers when
    it becomes smaller, bilinear when it becomes larger."""
    down, right = _weights(image.shape[0], height), _weights(image.shape[1], width)
    # whole numbers below 2^53, which float64 adds up exactly in any order
    whole = down @ image.astype(np.float64) @ right.T
    return ((whole.astype(np.int64) + UNIT * UNIT // 2) // (UNIT * UNIT)).astype(np.uint8)


@lru_cache(maxsize=4096)
def _weights(size: int, wanted: int) -> np.ndarray:
    """f64 [wanted, size] of whole numbers, rows that add up to UNIT: a triangle around
    each new pixel's middle, which reaches as far as the pixel is wide, or an old one."""
    scale = size / wanted
    reach = max(scale, 1.0)
    found = np.zeros((wanted, size))
    for place in range(wanted):
        middle = (place + 0.5) * scale - 0.5
        near = range(max(0, ceil(middle - reach)), min(size - 1, floor(middle + reach)) + 1)
        weights = [1 - abs(k - middle) / reach for k in near]
        total = sum(weights)
        found[place, near.start : near.stop] = [round(w / total * UNIT) for w in weights]
        found[place, round(min(max(middle, 0), size - 1))] += UNIT - found[place].sum()
    return found


def dimmed(image: np.ndarray, light: int) -> np.ndarray:
    """A picture times light / 255, rounded down."""
    return (image.astype(np.uint16) * light // 255).astype(np.uint8)


def turned(image: np.ndarray, degrees: Sequence[float]) -> np.ndarray:
    """A picture turned clockwise around its middle by each of some angles, bilinear, black outside:
    [angles, height, width]."""
    height, width = image.shape
    angles = [angle * pi / 180 for angle in degrees]
    c, s = (np.array([f(a) for a in angles]).reshape(-1, 1, 1) for f in (cos, sin))
    i, j = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
    at = np.stack([c * i - s * j + (height - 1) / 2, s * i + c * j + (width - 1) / 2])
    places = np.rint(at * 64).astype(np.int64)  # in 1/64 of a pixel
    (top, left), (low, beside) = places // 64 + 1, places % 64
    edged = np.pad(image.astype(np.int64), 1).reshape(-1)

    def read(down: int, right: int) -> np.ndarray:
        rows, columns = np.clip(top + down, 0, height + 1), np.clip(left + right, 0, width + 1)
        return edged[rows * (width + 2) + columns]

    upper = (64 - beside) * read(0, 0) + beside * read(0, 1)
    lower = (64 - beside) * read(1, 0) + beside * read(1, 1)
    return (((64 - low) * upper + low * lower + 2048) // 4096).astype(np.uint8)


def draw(canvas: np.ndarray, patch: np.ndarray, top: int, left: int) -> None:
    """Lay a patch on a canvas u8 [height, width] where it is brighter; what is outside is cut."""
    height, width = canvas.shape
    rows = slice(max(top, 0), min(top + patch.shape[0], height))
    columns = slice(max(left, 0), min(left + patch.shape[1], width))
    if rows.start < rows.stop and columns.start < columns.stop:
        part = canvas[rows, columns]
        inside = patch[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        np.maximum(part, inside, out=part)
