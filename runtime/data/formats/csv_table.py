"""Tables of text: lines of cells with a delimiter, quotes as spreadsheets write them.

In: a path. Out: cells that are texts, as `table_file.py` has them. Texts of large tables are never
in memory as a whole.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.regular_files import open_regular
from ..core.decompress import CHUNK, GZIP_MAGIC, plain_bytes, readable
from ..core.encodings import SAMPLE, check_encoding, codec, undecodable
from .csv_cells import numbers
from .table_file import BOOLEANS, Cells, TextForm, rows_at_once

MAX_LINE = 1 << 24  # characters


@dataclass(frozen=True)
class TextCells:
    """Cells of a column as they are written."""

    cells: Sequence[str]

    def numbers(self, column: int, first: int, may_miss: bool) -> np.ndarray:
        """As `Cells`."""
        return numbers(column, self.cells, first, may_miss)

    def texts(self, booleans: tuple[str, str] = BOOLEANS) -> Sequence[str]:
        """As `Cells`."""
        return self.cells

    def values(self) -> Sequence[str]:
        """As `Cells`."""
        return self.cells


class CsvFile:
    """A table of text as a `TableFile`. Without a header the columns are called by their places,
    from 1."""

    row_word = "line"
    typed = False

    def __init__(self, path: Path, form: TextForm):
        """UserError E0603, E0612 to E0614 or E0617."""
        self.path, self.form = path, form
        with readable(path), open_regular(path) as file:
            self._packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self.lists: dict[str, tuple[str, ...]] = {}
        self.categories: dict[str, tuple[str, ...]] = {}
        self.class_names: dict[str, tuple[str, ...]] = {}
        first = self._first_row()
        self.names = tuple(str(number + 1) for number in range(len(first)))
        if form.header:
            self.names = tuple(cell.strip() for cell in first)
            # An empty or doubled name would make a look-up ambiguous.
            _check_names(self.names, path)

    def _first_row(self) -> list[str]:
        with readable(self.path), self._bytes() as file:
            check_encoding(self.path, file.read(SAMPLE), self.form.encoding)
        with self._rows(from_top=True) as rows:
            first = next(rows, None)
        if first is None:
            raise fail("E0613", f"{self.path} is empty")
        return first

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Cells]]]:
        """As a `TableFile`. UserError E0603, E0604, E0612 or E0617."""
        places = dict(zip(self.names, range(len(self.names)), strict=True))
        count, at_once = 0, rows_at_once(len(self.names))
        with self._rows() as rows:
            # Column by column over blocks of rows: conversions run at the speed of `map(float, …)`.
            while block := list(islice(rows, at_once)):
                self._check_widths(block, count)
                # Rows of cells → columns of cells; the rows have one width by now.
                cells = list(zip(*block, strict=True))
                yield len(block), {name: TextCells(cells[places[name]]) for name in columns}
                count += len(block)

    @contextmanager
    def _rows(self, from_top: bool = False) -> Iterator[Iterator[list[str]]]:
        """The rows, without empty lines and, unless `from_top`, without the header."""
        with readable(self.path), self._text() as file:
            reader = _reader(file, self)
            rows = (row for row in reader if row)
            try:
                if self.form.header and not from_top:
                    next(rows, None)
                yield rows
            except csv.Error as error:
                message = f"{self.path}, line {reader.line_num}: {error}"
                raise fail("E0603", message, help="is a quote missing or not doubled?") from error
            except UnicodeError as error:
                # The error's offset is within a buffer; reading the bytes once more finds the line.
                raise undecodable(self.path, self._byte_blocks, self.form.encoding) from error

    def _text(self) -> TextIOWrapper:
        # `utf-8-sig` drops the byte order mark that spreadsheets write, which would otherwise
        # become part of the first name; `newline=""` leaves line ends inside quotes to the reader.
        encoding = codec(self.form.encoding)
        return TextIOWrapper(self._bytes(), encoding=encoding, newline="")

    def _bytes(self) -> BinaryIO:
        """The plain bytes of the file, which may be packed by gzip."""
        if not self._packed:
            return open_regular(self.path)
        return BytesIO(plain_bytes(self.path, self.form.cache).data)

    def _byte_blocks(self) -> Iterator[bytes]:
        with self._bytes() as file:
            yield from iter(partial(file.read, CHUNK), b"")

    def lines(self) -> Iterator[int]:
        """The lines on which the rows begin. Reads the file again, so that rows need no line
        numbers."""
        with self._text() as file:
            reader = _reader(file, self)
            # A quoted cell may span lines, so a row begins after the line on which the one before
            # ended.
            begins, is_header = 1, self.form.header
            for cells in reader:
                if cells and not is_header:
                    yield begins
                is_header = is_header and not cells
                begins = reader.line_num + 1

    def _check_widths(self, block: Sequence[list[str]], first: int) -> None:
        width, delimiter = len(self.names), self.form.delimiter
        if set(map(len, block)) == {width}:
            return
        # Found only after the cheap check of the whole block has failed.
        row = next(row for row, cells in enumerate(block) if len(cells) != width)
        found, line = len(block[row]), next(islice(self.lines(), first + row, None), 1)
        raise fail(
            "E0604",
            f"{self.path}, line {line}: {found} cell{'s' * (found != 1)} where the "
            f"{'header' if self.form.header else 'first row'} has {width}: "
            f"`{delimiter.join(block[row])[:60]}`",
            help="a cell that contains the delimiter needs quotes" if found > width else "",
        )


def _check_names(names: tuple[str, ...], path: Path) -> None:
    first: dict[str, int] = {}
    for column, name in enumerate(names):
        if not name:
            message = f"{path}, line 1: column {column + 1} has no name"
            hint = "name it, or write `header = false` if the first row is data"
            raise fail("E0614", message, help=hint)
        if name in first:
            both = f"columns {first[name] + 1} and {column + 1}"
            raise fail("E0614", f"{path}, line 1: {both} are both called `{name}`")
        first[name] = column


def _reader(file: TextIOWrapper, table: CsvFile):
    spaces = table.form.delimiter != " "  # "1, 2" is two numbers and `"a, b", 2` a quoted cell
    lines = _lines(file, table.path)
    return csv.reader(lines, delimiter=table.form.delimiter, strict=True, skipinitialspace=spaces)


def _lines(file: TextIOWrapper, path: Path) -> Iterator[str]:
    """The lines of a table; E0603 for one that is no line of a table, before it is all read."""
    number = 1
    while line := file.readline(MAX_LINE + 1):
        line = line.removeprefix("\ufeff") if number == 1 else line
        if len(line) > MAX_LINE:
            message = f"{path}, line {number}, has more than {MAX_LINE:,} characters"
            raise fail("E0603", message, help="is it a table?")
        yield line
        number += 1
