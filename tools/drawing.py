"""Pictures as SVG: boxes, words, grids of pixels, and axes with curves or points.

In: coordinates and numbers. Out: a file that needs no other and has the same bytes for the same
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

INK, LINE, PAPER, PANEL = "#222831", "#8a94a6", "#ffffff", "#f7f9fc"
BLUE, RED, GREEN, GREY = "#2457a6", "#c0392b", "#2e8b57", "#9aa3b2"
# One colour for each of ten classes.
CLASSES = ("#2457a6", "#e07b1f", "#2e8b57", "#c0392b", "#8e5bb0", "#8b5a3c", "#d9679f", "#6b7280",
           "#a8a227", "#2aa5b8")  # fmt: skip
LEVELS = 24  # shades of a grid of pixels
Colour = Callable[[float], str]


class Svg:
    """A drawing that grows by boxes, lines and words. Coordinates are in pixels, from the top
    left."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="13" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, fill: str, edge: str = LINE) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="3" '
            f'fill="{fill}" stroke="{edge}"/>'
        )

    def text(self, x: float, y: float, words: str, size: int = 13, where: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{where}">'
            f"{escape(words)}</text>"
        )

    def code(self, x: float, y: float, words: str, size: int = 12) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-family="monospace" '
            f'xml:space="preserve">{escape(words)}</text>'
        )

    def arrow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        sign = 1 if y1 > y0 else -1
        head = (
            f"M{x1 - 4},{y1 - 6 * sign} L{x1},{y1} L{x1 + 4},{y1 - 6 * sign}"
            if x0 == x1
            else f"M{x1 - 6},{y1 - 4} L{x1},{y1} L{x1 - 6},{y1 + 4}"
        )
        self.parts.append(f'<path d="M{x0},{y0} L{x1},{y1} {head}" fill="none" stroke="{INK}"/>')

    def pixels(
        self,
        x: float,
        y: float,
        values: np.ndarray,
        colour: Colour,
        cell: float,
        height: float | None = None,
    ) -> None:
        """A grid [rows, columns] of numbers from 0 to 1, each `cell` pixels wide and as high, or
        `height` pixels.

        A path for each of the shades, in which neighbours of a row are one rectangle; the most
        frequent shade is the ground.
        """
        shades = np.clip(np.rint(np.asarray(values) * (LEVELS - 1)), 0, LEVELS - 1).astype(int)
        rows, columns = shades.shape
        ground = int(np.bincount(shades.ravel()).argmax())
        paths: dict[int, list[str]] = {}
        for row in range(rows):
            for shade, run in groupby(range(columns), lambda n, row=row: int(shades[row, n])):
                places = list(run)
                if shade != ground:
                    size = len(places)
                    part = f"M{places[0]} {row}h{size}v1h-{size}z"
                    paths.setdefault(shade, []).append(part)
        self.parts.append(
            f'<g transform="translate({x:.1f} {y:.1f}) scale({cell:g} {height or cell:g})" '
            f'shape-rendering="crispEdges"><rect width="{columns}" height="{rows}" '
            f'fill="{colour(ground / (LEVELS - 1))}"/>'
        )
        for shade in sorted(paths):
            fill = colour(shade / (LEVELS - 1))
            self.parts.append(f'<path fill="{fill}" d="{"".join(paths[shade])}"/>')
        self.parts.append("</g>")

    def words(self, x: float, y: float, words: Sequence[str], shades: Sequence[str]) -> float:
        """Words in a row, each on a ground of its own colour; where the row ends."""
        for word, shade in zip(words, shades, strict=True):
            width = 7.3 * len(word) + 8
            self.parts.append(
                f'<rect x="{x:.1f}" y="{y - 14:.1f}" width="{width:.1f}" height="20" '
                f'fill="{shade}"/>'
            )
            self.code(x + 4, y, word)
            x += width + 2
        return x

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*self.parts, "</svg>", ""]), "utf-8")


class Axes:
    """A frame in a drawing with a scale along each side, for curves and points."""

    def __init__(
        self,
        picture: Svg,
        place: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str] = ("", ""),
        y_ticks: bool = True,
    ):
        self.picture, self.place, self.x, self.y = picture, place, x, y
        left, top, width, height = place
        picture.box(left, top, width, height, PANEL, "#d5dbe5")
        for value in ticks(*x):
            at = self.point(value, y[0])[0]
            picture.text(at, top + height + 16, f"{value:g}", 11, "middle")
        for value in ticks(*y) if y_ticks else ():
            at = self.point(x[0], value)[1]
            picture.text(left - 6, at + 4, f"{value:g}", 11, "end")
            self.path([(x[0], value), (x[1], value)], "#e3e8f0", 1)
        picture.text(left + width / 2, top + height + 34, labels[0], 13, "middle")
        picture.text(left, top - 8, labels[1], 13)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where in the drawing a point of the scales is."""
        left, top, width, height = self.place
        return (
            left + width * (x - self.x[0]) / (self.x[1] - self.x[0]),
            top + height * (1 - (y - self.y[0]) / (self.y[1] - self.y[0])),
        )

    def path(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        width: float = 2,
        dashes: str = "",
    ) -> None:
        """A curve through points, cut off above and below the frame."""
        low, high = self.y
        at = [self.point(float(x), min(max(float(y), low), high)) for x, y in points]
        listed = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.picture.parts.append(
            f'<polyline points="{listed}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
            f"{dashed}/>"
        )

    def dots(self, points: np.ndarray, colour: str, radius: float = 2.5) -> None:
        """Points [n, 2] within the frame as discs, which are the ends of one path's strokes."""
        low, high = np.array([self.x, self.y]).T
        inside = points[((points >= low) & (points <= high)).all(1)]
        at = [self.point(float(x), float(y)) for x, y in inside]
        discs = "".join(f"M{a:.1f} {b:.1f}h.01" for a, b in at)
        self.picture.parts.append(
            f'<path d="{discs}" stroke="{colour}" stroke-width="{2 * radius:g}" '
            'stroke-linecap="round" stroke-opacity=".65" fill="none"/>'
        )

    def legend(self, entries: Sequence[tuple[str, str]], x: float, y: float) -> None:
        """Colours and what they stand for, below each other."""
        for n, (colour, words) in enumerate(entries):
            self.picture.parts.append(
                f'<rect x="{x:.1f}" y="{y + 18 * n - 9:.1f}" width="12" height="9" '
                f'fill="{colour}"/>'
            )
            self.picture.text(x + 18, y + 18 * n, words, 12)


def ticks(low: float, high: float) -> list[float]:
    """About four round numbers between two."""
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(float(n * step), 10) for n in range(first, last + 1)]


def between(*colours: str) -> Colour:
    """A colour for each number from 0 to 1, on the way from the first colour to the last."""
    known = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], float)

    def at(value: float) -> str:
        place = min(max(float(value), 0.0), 1.0) * (len(known) - 1)
        first = min(int(place), len(known) - 2)
        mixed = known[first] + (place - first) * (known[first + 1] - known[first])
        return "#" + "".join(f"{round(float(c)):02x}" for c in mixed)

    return at


INKED = between("#ffffff", "#1f2733")  # white to black
SIGNED = between("#2457a6", "#ffffff", "#c0392b")  # 0 blue, a half white, 1 red
HEAT = between("#0d1b3e", "#2a5d9f", "#52a69a", "#e9d66b", "#e4572e")
SHADE = between("#ffffff", "#f2a65a")  # of the ground of a word
