"""Tables of text that are as narrow as they have to be.

In: columns and cells. Out: lines. Widths are those that the cells need; where these are too many,
texts are shortened and columns left out, and numbers stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_TEXT = 6  # characters to which a text is shortened before a column is left out


@dataclass(frozen=True)
class Fitting:
    """A column as wide as its cells. Where there is no room, columns of text are shortened, and
    then those that are not `needed` left out, the last one first. Numbers stay whole."""

    name: str
    right: bool = True
    needed: bool = True


def laid_out(
    columns: Sequence[Fitting], rows: Sequence[Sequence[str]], width: int, gap: int = 2
) -> list[str]:
    """Lines of text, the headings first."""
    shown = list(range(len(columns)))
    while True:
        widths = _widths([columns[n] for n in shown], [[r[n] for n in shown] for r in rows])
        excess = sum(widths) + gap * (len(widths) - 1) - width
        widths = _shortened([columns[n] for n in shown], widths, excess)
        droppable = [n for n in shown if not columns[n].needed]
        if sum(widths) + gap * (len(widths) - 1) <= width or not droppable:
            break
        shown.remove(droppable[-1])
    lines = [[columns[n].name for n in shown], *([row[n] for n in shown] for row in rows)]
    return [
        (" " * gap)
        .join(
            _cell(cell, size, columns[n].right)
            for cell, size, n in zip(line, widths, shown, strict=True)
        )
        .rstrip()
        for line in lines
    ]


def _widths(columns: Sequence[Fitting], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max([len(c.name), *(len(row[n]) for row in rows)]) for n, c in enumerate(columns)]


def _shortened(columns: Sequence[Fitting], widths: Sequence[int], excess: int) -> list[int]:
    """Take the excess from the widest column of text, one character at a time."""
    found = list(widths)
    texts = [n for n, column in enumerate(columns) if not column.right]
    for _ in range(max(excess, 0)):
        widest = max(texts, key=lambda n: found[n], default=None)
        if widest is None or found[widest] <= LEAST_TEXT:
            break
        found[widest] -= 1
    return found


def _cell(text: str, width: int, right: bool) -> str:
    short = text if len(text) <= width else f"{text[: width - 1]}…"
    return short.rjust(width) if right else short.ljust(width)
