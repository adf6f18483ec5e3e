"""Tables on stdout: as wide as the terminal, or 100 columns elsewhere.

`print_table` has columns of fixed widths; `laid_out` finds the widths that its cells need, and what
to shorten or leave out where they are too many for the terminal.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100  # columns where there is no terminal


@dataclass(frozen=True)
class TableColumn:
    """A column's heading and width; 0 is what the other columns leave, 20 at least."""

    name: str
    width: int
    right: bool = True


Row = tuple[Sequence[str], str]  # the cells, and rich's style of the row


def print_table(columns: Sequence[TableColumn], rows: Iterable[Row], gap: int = 1) -> None:
    """Print the rows under the headings, then an empty line. Cells that are too long end in `…`."""
    from rich.console import Console  # heavy, and only needed once there is something to show
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    fixed = sum(c.width for c in columns) + gap * len(columns)
    rest = max(width - fixed, 20)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column in columns:
        layout: dict[str, Any] = {"justify": "right" if column.right else "left"}
        table.add_column(
            column.name, width=column.width or rest, no_wrap=True, overflow="ellipsis", **layout
        )
    for cells, style in rows:
        table.add_row(*(Text(cell) for cell in cells), style=style)
    # As wide as the columns need: a narrow terminal wraps lines, where rich would shrink columns.
    console = Console(width=max(width, fixed + rest), highlight=False)
    console.print(table)
    console.print()


# --- as narrow as it has to be --------------------------------------------------------------------

LEAST_TEXT = 6  # characters to which a text is shortened before a column is left out


@dataclass(frozen=True)
class Fitting:
    """A column as wide as its cells. Where there is no room, columns of text are shortened, and
    then those that are not `needed` left out, the last one first. Numbers stay whole."""

    name: str
    right: bool = True
    needed: bool = True


def screen_width() -> int:
    """The columns of the terminal, or `WIDTH` elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


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
