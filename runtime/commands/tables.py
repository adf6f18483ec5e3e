"""Tables on stdout, laid out by rich: as wide as the terminal, or 100 columns elsewhere."""

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
