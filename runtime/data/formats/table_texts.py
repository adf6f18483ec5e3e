"""Texts in columns of tables: what `lines`, `pairs` and `text` read of Parquet, Arrow, JSON Lines,
and of CSV where a program names columns.

In: a file and the names of columns. Out: the texts of each row, and where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ....dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ....dsl.syntax.source import Span
from ..core import file_kinds
from ..core.reader import listed
from .table_file import JSON_ENDINGS, TextForm, open_table

CSV_ENDINGS = frozenset({".csv"})


def is_table(path: Path, named: bool) -> bool:
    """Whether a file is a table and not lines of text: by its kind, its ending, or, of CSV, since
    columns are `named`."""
    if file_kinds.kind_of(path)[0] == file_kinds.TABLE:
        return True
    endings = {suffix.lower() for suffix in path.suffixes[-2:]}
    return bool(JSON_ENDINGS & endings) or (named and bool(CSV_ENDINGS & endings))


class TextTable:
    """The texts in columns of a table. `class_names` are those of labels that the first column
    numbers."""

    def __init__(
        self, path: Path, columns: Sequence[tuple[str, Span | None]], form: TextForm
    ) -> None:
        """UserError E0614 for a column that there is not, and as `open_table`."""
        self._table = open_table(path, form)
        for name, span in columns:
            if name not in self._table.names:
                known = listed(f"`{one}`" for one in self._table.names)
                help = did_you_mean(name, self._table.names) or f"the columns are {known}"
                raise fail("E0614", f"{path} has no column `{name}`", span, help=help)
        self._names = [name for name, _ in columns]
        self.class_names = self._table.class_names.get(self._names[0], ())

    def rows(self, may_be_empty: bool = False) -> Iterator[tuple[str, ...]]:
        """The texts of every row, in the order in which the columns were named; E0613 without rows,
        E0616 for a missing text."""
        count = 0
        for _, cells in self._table.blocks(self._names):
            for row in zip(*(cells[name].texts() for name in self._names), strict=True):
                if not may_be_empty and not all(map(str.strip, row)):
                    raise self._empty(count, row)
                yield row
                count += 1
        if not count:
            raise fail("E0613", f"{self._table.path} has a header but no rows")

    def lines(self) -> Iterator[int]:
        """Where each row is."""
        return self._table.lines()

    def _empty(self, place: int, row: Sequence[str]) -> UserError:
        line = next(islice(self.lines(), place, None), 1)
        name = next(n for n, text in zip(self._names, row, strict=True) if not text.strip())
        where = f"{self._table.path}, {self._table.row_word} {line}, column `{name}`"
        return fail("E0616", f"{where}: is empty", help="fill it or remove the row")
