"""Two texts for each example: a label and a text, or a source and a target.

In: lines that a delimiter divides, or a table of any format, in one file or in several. Out: the
texts, as often as they are asked for, and which rows are of which split, where files say so. Rows
that do not fit into the memory for data are read anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from sys import getsizeof

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.shards import find_shards, rows_of_splits
from ..core.source import Request, errors_at
from .new_lines import SUFFIXES
from .table_file import TextForm
from .table_texts import TextTable, is_table
from .text_file import TextRow, text_rows

PAIR = ("source", "target")
SHARE = 4  # of the memory for data, one part in so many may be rows as texts
ROW_BYTES = 64  # of a row in memory, beside its texts

Row = tuple[str, str]


class TwoColumns:
    """Two texts a row, of lines or of a table."""

    def __init__(self, request: Request, names: Row, settings: tuple[str, str], last: bool) -> None:
        """The texts called `names`; of a table those in the columns that the `settings` name, or
        that are called so. Of lines they are divided by a delimiter, the first one `last`, if that
        is so. UserError E0612, E0614, E0617, E0618."""
        self._request, self._names, self._last = request, names, last
        self._columns = [
            (request[setting] or name, request.span_of(setting))
            for setting, name in zip(settings, names, strict=True)
        ]
        named = any(request[setting] is not None for setting in settings)
        self.class_names: tuple[str, ...] = ()
        self.is_table = False
        self._kept: list[Row] | None = None
        self._counts: tuple[int, ...] = ()
        with errors_at(request.span_of("file")):
            self._splits = find_shards(request.search, request["file"], SUFFIXES)
            self.files = tuple(path for own in self._splits.values() for path in own)
            self._parts = [self._part(path, named) for path in self.files]
        self.name = str(self.files[0]) if len(self.files) == 1 else request["file"]

    def _part(self, path: Path, named: bool) -> Callable[[], Iterator[Row]]:
        """What reads the rows of a file."""
        request = self._request
        if is_table(path, named):
            delimiter = "," if request["delimiter"] == "\t" else request["delimiter"]
            form = TextForm(delimiter, True, request["encoding"], request.search.cache_folder)
            table = TextTable(path, self._columns, form)
            self.class_names, self.is_table = table.class_names, True
            return lambda: ((first.strip(), second.strip()) for first, second in table.rows())
        if named:
            message = f"{path} is text, which has no columns that have names"
            raise fail("E0614", message, help="a table ends in .csv, .parquet, .arrow or .jsonl")
        return lambda: self._lines(path)

    def _lines(self, path: Path) -> Iterator[Row]:
        request, last = self._request, self._last
        delimiter, shown = request["delimiter"], self._names[::-1] if last else self._names
        cache, encoding = request.search.cache_folder, request["encoding"]
        for row in text_rows(path, cache, delimiter, shown, last, encoding):
            if not last and self._names == PAIR:
                check_two_cells(path, row, delimiter)
            yield row.cells[last], row.cells[not last]

    def rows(self) -> Iterator[Row]:
        """All rows; UserError E0604, E0612, E0613, E0616 or E0617 for what is wrong with one."""
        if self._kept is not None:
            yield from self._kept
            return
        kept, counts = [], []
        room = self._request.search.memory // SHARE
        for part in self._parts:
            count = 0
            with errors_at(self._request.span_of("file")):
                for row in part():
                    if room >= 0:
                        kept.append(row)
                        room -= ROW_BYTES + getsizeof(row[0]) + getsizeof(row[1])
                    yield row
                    count += 1
            counts.append(count)
            if room < 0:
                kept.clear()
        self._counts = tuple(counts)
        if room >= 0:
            self._kept = kept

    def column(self, side: int) -> Iterator[str]:
        """One of the two texts of all rows."""
        return (row[side] for row in self.rows())

    @property
    def counts(self) -> tuple[int, ...]:
        """The rows of each file; they must have been read once."""
        assert self._counts
        return self._counts

    def split(self, counts: Sequence[int]) -> list[np.ndarray] | None:
        """The rows that train, test and validate, of files with so many rows, if files say so."""
        return rows_of_splits(self._splits, counts)


def check_two_cells(path: Path, row: TextRow, delimiter: str) -> None:
    """E0604 for a line of a pair with more than two cells."""
    # A row is divided at its first delimiter, so further cells end up in the second.
    if delimiter in row.cells[1]:
        found = row.cells[1].count(delimiter) + 2
        message = f"{path}, line {row.line}: {found} cells where a pair has 2"
        hint = "keep the first two columns: `cut -f 1,2`" if delimiter == "\t" else ""
        raise fail("E0604", message, help=hint)
