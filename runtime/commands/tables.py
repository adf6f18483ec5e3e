"""Tables on stdout, laid out by rich: as wide as the terminal, or 100 columns elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ...dsl.records import record

WIDTH = 100  # columns where there is no terminal
LEAST = 12  # of a column that takes what is left; below, the last other ones are left out


@record
class TableColumn:
    """A column's heading and width; 0 is what the other columns leave, `LEAST` at least."""

    name: str
    width: int
    right: bool = True


Row = tuple[Sequence[str], str]  # the cells, and rich's style of the row


def print_table(columns: Sequence[TableColumn], rows: Iterable[Row], gap: int = 1) -> None:
    """Print the rows under the headings, then an empty line. Cells that are too long end in `…`; in
    a narrow terminal the last columns are left out, so that no line is broken."""
    from rich.console import Console  # heavy, and only needed once there is something to show
    from rich.table import Table
    from rich.text import Text

    width = screen_width()
    least = LEAST if any(not c.width for c in columns) else 0
    # What nobody watches may be wide.
    watched = sys.stdout.isatty() or width < WIDTH
    while watched and _fixed(columns, gap) + least > width and len(columns) > 2:
        columns = columns[:-1]
    rest = max(width - _fixed(columns, gap), least)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column in columns:
        layout: dict[str, Any] = {"justify": "right" if column.right else "left"}
        table.add_column(
            column.name, width=column.width or rest, no_wrap=True, overflow="ellipsis", **layout
        )
    for cells, style in rows:
        table.add_row(*(Text(cell) for cell in cells[: len(columns)]), style=style)
    # As wide as the columns need: rich would shrink numbers.
    console = Console(width=max(width, _fixed(columns, gap) + rest), highlight=False)
    console.print(table)
    console.print()


def _fixed(columns: Sequence[TableColumn], gap: int) -> int:
    return sum(c.width for c in columns) + gap * len(columns)


def screen_width() -> int:
    """The columns of the terminal, or `WIDTH` elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
