"""Curves in characters: braille where the terminal has it, else ASCII.

In: `Panel`s and a `Screen`. Out: text no wider than the screen. Drawing in cells is plotext's work
(of the extra `plot`); ticks and the legend are ours, since a legend inside would hide curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from .curve_pictures import INSTALL
from .curves import Panel

SIGNS = "*+ox#@%&=~"  # of curves that no colour tells apart
COLORS = ("blue", "orange", "green", "red", "magenta", "cyan")
ANSI = {"blue": 34, "orange": 33, "green": 32, "red": 31, "magenta": 35, "cyan": 36}
FRAME = str.maketrans("┌┐└┘─│┤├┬┴┼", "++++-|++++" + "+")
LEAST_WIDTH, LEAST_HEIGHT, MOST_HEIGHT = 20, 11, 18  # of a panel, in cells
LEGEND = 3  # lines above a panel that are not of its picture


@dataclass(frozen=True)
class Screen:
    """Where text is shown: cells, and whether it knows colours and other characters than ASCII."""

    columns: int = 80
    lines: int = 40
    color: bool = False
    unicode: bool = True


PIPE = Screen()


def terminal_plot(shown: Sequence[Panel], screen: Screen = PIPE) -> str:
    """The panels below each other. UserError E0741 without plotext."""
    try:
        import plotext  # the extra `plot`
    except ImportError as error:
        raise fail("E0741", "curves in a terminal need plotext", help=INSTALL) from error
    height = max(LEAST_HEIGHT, min(MOST_HEIGHT, screen.lines // len(shown) - LEGEND))
    return "\n".join(_panel(plotext, panel, screen, height) for panel in shown)


def _panel(plotext: Any, panel: Panel, screen: Screen, height: int) -> str:
    width = max(screen.columns, LEAST_WIDTH)
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plotsize(width, height)
    for part in ("canvas_color", "axes_color", "ticks_color"):
        getattr(plotext, part)("default")
    signs = _signs(panel, screen)
    drawn = [_values(panel, curve.x, curve.y) for curve in panel.curves]
    for (x, y), sign, color in zip(drawn, signs, _colors(panel), strict=True):
        # One point is no line.
        draw = plotext.scatter if len(x) == 1 else plotext.plot
        if len(x):
            draw(x.tolist(), y.tolist(), marker=sign, color=color if screen.color else "default")
    if any(len(x) for x, _ in drawn):
        _set_ticks(plotext, panel, drawn, width, height)
    text = plotext.build()
    if not screen.color:
        text = plotext.uncolorize(text)
    if not screen.unicode:
        text = text.translate(FRAME)
    body = "\n".join(line.rstrip() for line in text.splitlines())
    return f"{_legend(panel, screen, signs, width)}\n{body}\n{panel.x_label:>{width}}\n"


def _values(panel: Panel, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What can be drawn of a curve; logarithms on a logarithmic axis."""
    known = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not panel.log))
    return x[known], np.log10(y[known]) if panel.log else y[known]


def _signs(panel: Panel, screen: Screen) -> list[str]:
    """What each curve is drawn with: dots of braille, or a character of its own."""
    if screen.unicode and (screen.color or len(panel.curves) == 1):
        return ["braille"] * len(panel.curves)
    return [SIGNS[n % len(SIGNS)] for n in range(len(panel.curves))]


def _colors(panel: Panel) -> list[str]:
    return [COLORS[n % len(COLORS)] for n in range(len(panel.curves))]


def _legend(panel: Panel, screen: Screen, signs: Sequence[str], width: int) -> str:
    """The title and the names of the curves, as many to a line as fit."""
    lines, used = [panel.title], len(panel.title)
    names = panel.labels if len(panel.curves) > 1 or len(panel.runs) > 1 else []
    for label, sign, color in zip(names, signs, _colors(panel), strict=False):
        mark = "──" if sign == "braille" else sign
        label = _short(label, width - len(mark) - 3, screen)
        size = len(f"  {mark} {label}")
        if used + size > width:
            lines, used = [*lines, ""], 0
        shown = f"\x1b[{ANSI[color]}m{mark}\x1b[0m" if screen.color else mark
        lines[-1] += f"  {shown} {label}"
        used += size
    return "\n".join(lines)


def _short(text: str, width: int, screen: Screen) -> str:
    """A text that fits; the end of a run's name says more than its beginning."""
    if len(text) <= width:
        return text
    dots = "…" if screen.unicode else ".."
    return dots + text[len(dots) - width :]


# --- ticks ----------------------------------------------------------------------------------------


def _set_ticks(
    plotext: Any,
    panel: Panel,
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
    width: int,
    height: int,
) -> None:
    xs, ys = (np.concatenate([pair[n] for pair in drawn]) for n in (0, 1))
    x_ticks = ticks(xs.min(), xs.max(), max(2, width // 12))
    y_ticks = ticks(ys.min(), ys.max(), max(2, (height - 2) // 2))
    plotext.xlim(*_limits(xs, x_ticks))
    plotext.ylim(*_limits(ys, y_ticks))
    plotext.xticks(x_ticks, [f"{tick:.6g}" for tick in x_ticks])
    plotext.yticks(y_ticks, [f"{10**tick if panel.log else tick:.3g}" for tick in y_ticks])


def _limits(values: np.ndarray, chosen: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis; a single value is in its middle."""
    low, high = min(values.min(), chosen[0]), max(values.max(), chosen[-1])
    return (low, high) if high > low else (low - 1, high + 1)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high], `most` of them at most: steps of 1, 2 or 5 times a power of 10
    (Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990)."""
    if high <= low:
        return [float(low)]
    least = (high - low) / most
    power = 10.0 ** floor(log10(least))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= least * (1 - 1e-9))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [n * step for n in range(first, last + 1)] or [float(low)]
