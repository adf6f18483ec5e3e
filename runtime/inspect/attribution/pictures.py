"""Maps as pictures: an image, its map as a heat map over it, and what the map leaves of it.

In: an example and its map. Out: the bytes of a PNG, drawn with Pillow, of the extra `images`; or an
SVG for signals in time. What raises the score is red, what lowers it blue. The strongest hundredth
of the values has the full colour, so that a few do not hide the others.
"""

from __future__ import annotations

from html import escape
from io import BytesIO
from typing import Any

import numpy as np

from ....dsl.diagnostics.diagnostic import fail

LEAST, GAP = 320, 8  # pixels of the longest side of a picture, and between pictures
FULL = 99.0  # the percentile of the values that has the full colour
RISE, FALL = np.array([214, 40, 40]), np.array([31, 90, 199])
PANEL, WIDTH, MARGIN = 110, 860, 34  # of a signal, in pixels
CHANNELS = 8  # of a signal that are drawn
INSTALL = "`pip install 'nnc-lang[images]'`"


def is_image(x: np.ndarray) -> bool:
    """Whether an example is a picture: [h, w], or [h, w, 1 or 3], and no short signal."""
    if x.ndim == 3:
        return x.shape[2] in (1, 3) and min(x.shape[:2]) > 3
    return x.ndim == 2 and min(x.shape) > CHANNELS


def is_signal(x: np.ndarray) -> bool:
    """Whether an example is one channel [T] in time, or a few, [T, c]."""
    return x.ndim == 1 or (x.ndim == 2 and x.shape[0] > 1 and x.shape[1] <= CHANNELS)


def strength(values: np.ndarray) -> np.ndarray:
    """Values from -1 to 1, of which the strongest are 1."""
    size = np.abs(values)
    full = float(np.percentile(size, FULL)) or float(size.max(initial=0.0)) or 1.0
    return np.clip(values / full, -1.0, 1.0)


def draw_image(x: np.ndarray, values: np.ndarray) -> bytes:
    """The image, the map over it in colours, and the image where the map is positive, side by side.
    UserError E0741 without Pillow."""
    image = _library()
    size = _size(x)
    plain = _resized(image, _pixels(x), size, smooth=False)
    flat = values.sum(axis=2) if values.ndim == 3 else values
    smooth = flat.shape != x.shape[:2]
    own = strength(_resized_numbers(image, strength(flat), size, smooth))[..., None]
    grey = plain.mean(axis=2, keepdims=True) * 0.55 + 90
    colour = np.where(own > 0, RISE, FALL)
    share = np.abs(own) ** 0.75
    heat = grey * (1 - share) + colour * share
    mask = plain * np.clip(own, 0, 1)
    gap = np.full((size[0], GAP, 3), 255.0)
    row = np.concatenate([plain, gap, heat, gap, mask], axis=1)
    file = BytesIO()
    image.fromarray(np.clip(row, 0, 255).astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


def _library() -> Any:
    """Pillow; UserError E0741 without it."""
    try:
        from PIL import Image  # of the extra `images`
    except ImportError as error:
        raise fail("E0741", "pictures of maps need Pillow", help=INSTALL) from error
    return Image


def check_library() -> None:
    """UserError E0741 without Pillow, before anything is computed."""
    _library()


def _size(x: np.ndarray) -> tuple[int, int]:
    """Height and width of a picture: a whole multiple of the image's."""
    scale = max(1, -(-LEAST // max(x.shape[:2])))
    return x.shape[0] * scale, x.shape[1] * scale


def _pixels(x: np.ndarray) -> np.ndarray:
    """The image as [h, w, 3] from 0 to 255, from its least to its greatest number."""
    low, high = float(x.min()), float(x.max())
    scaled = (x.astype(np.float64) - low) * (255.0 / (high - low if high > low else 1.0))
    full = scaled if scaled.ndim == 3 else scaled[..., None]
    return np.broadcast_to(full, (*full.shape[:2], 3))


def _resized(image: Any, pixels: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    parts = [_resized_numbers(image, pixels[..., c], size, smooth) for c in range(3)]
    return np.stack(parts, axis=2)


def _resized_numbers(
    image: Any, numbers: np.ndarray, size: tuple[int, int], smooth: bool
) -> np.ndarray:
    """[h, w] in another size: squares, or between the values of a smaller map."""
    how = image.Resampling.BILINEAR if smooth else image.Resampling.NEAREST
    made = image.fromarray(numbers.astype(np.float32), mode=None)
    return np.asarray(made.resize((size[1], size[0]), how), np.float64)


def draw_signal(x: np.ndarray, values: np.ndarray, title: str) -> str:
    """An SVG with a panel for each channel: its line over the colours of its values."""
    x, own = x.reshape(len(x), -1), strength(values).reshape(len(x), -1)
    steps, channels = x.shape
    wide = WIDTH - 2 * MARGIN
    height = MARGIN + channels * PANEL
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="20">{escape(title)}</text>',
    ]
    for channel in range(channels):
        top = MARGIN + channel * PANEL
        for step in range(steps):
            value = own[step, channel]
            if abs(value) < 0.02:
                continue
            colour = ",".join(map(str, RISE if value > 0 else FALL))
            parts.append(
                f'<rect x="{MARGIN + wide * step / steps:.2f}" y="{top}" '
                f'width="{wide / steps + 0.1:.2f}" height="{PANEL - 10}" '
                f'fill="rgb({colour})" fill-opacity="{0.7 * abs(value):.2f}"/>'
            )
        line = x[:, channel].astype(np.float64)
        low, high = line.min(), line.max()
        level = (line - low) / (high - low if high > low else 1.0)
        points = " ".join(
            f"{MARGIN + wide * (t + 0.5) / steps:.2f},{top + (PANEL - 14) * (1 - v) + 2:.2f}"
            for t, v in enumerate(level)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="#222" stroke-width="1.2"/>')
    return "\n".join([*parts, "</svg>\n"])
