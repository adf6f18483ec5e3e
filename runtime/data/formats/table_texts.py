"""Texts in columns of tables: what `lines`, `pairs` and `text` read of Parquet, Arrow, JSON Lines,
and of CSV where a program names columns.

In: files and the names of columns. Out: the texts of each row with their places, and which rows are
of which split, where files say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from ....dsl.syntax.source import Span
from ..core import file_kinds
from ..core.reader import listed
from .table_file import JSON_ENDINGS, TableFile, TextForm, open_table

CSV_ENDINGS = frozenset({".csv"})


def is_table(path: Path, named: bool) -> bool:
    """Whether a file is a table and not lines of text: by its kind, its ending, or, of CSV, since
    columns are `named`."""
    if file_kinds.kind_of(path)[0] == file_kinds.TABLE:
        return True
    endings = {suffix.lower() for suffix in path.suffixes[-2:]}
    return bool(JSON_ENDINGS & endings) or (named and bool(CSV_ENDINGS & endings))


@dataclass(frozen=True)
class TextTable:
    """The texts of columns by row, in the order in which the columns were named, and where each row
    is; `class_names` are those of labels that the first column numbers."""

    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    class_names: tuple[str, ...]
    path: Path


def read_texts(
    path: Path,
    columns: Sequence[tuple[str, Span | None]],
    form: TextForm,
    may_be_empty: bool = False,
) -> TextTable:
    """The texts in columns. UserError E0614 for one that there is not, E0616 for a missing text,
    and as `open_table`."""
    table = open_table(path, form)
    for name, span in columns:
        if name not in table.names:
            known = listed(f"`{one}`" for one in table.names)
            help = did_you_mean(name, table.names) or f"the columns are {known}"
            raise fail("E0614", f"{path} has no column `{name}`", span, help=help)
    names = [name for name, _ in columns]
    rows = tuple(
        row
        for _, cells in table.blocks(names)
        for row in zip(*(cells[name].texts() for name in names), strict=True)
    )
    lines = tuple(table.lines())
    if not rows:
        raise fail("E0613", f"{path} has a header but no rows")
    if not may_be_empty:
        _check_filled(table, names, rows, lines)
    return TextTable(rows, lines, table.class_names.get(names[0], ()), path)


def _check_filled(
    table: TableFile, names: Sequence[str], rows: Sequence[tuple[str, ...]], lines: Sequence[int]
) -> None:
    for row, line in zip(rows, lines, strict=True):
        for name, text in zip(names, row, strict=True):
            if not text.strip():
                place = f"{table.path}, {table.row_word} {line}, column `{name}`"
                help = "fill it or remove the row"
                raise fail("E0616", f"{place}: is empty", help=help)
