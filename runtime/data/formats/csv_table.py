"""Rows of a table: UTF-8 text with a delimiter, quotes as spreadsheets write them.

In: a path and which columns are wanted. Out: numbers for the inputs, and the texts of targets,
numbered as they occur. Texts of large tables are never in memory as a whole. What is wrong with a
cell comes with its line and column.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.regular_files import open_regular
from ..core.decompress import readable
from ..core.encodings import SAMPLE, UTF8, check_encoding, codec, undecodable
from .csv_cells import WrongCell, not_a_number, numbers
from .csv_features import RawColumns, category
from .csv_targets import Target

BLOCK_CELLS = 1 << 18  # converted at a time
MAX_LINE = 1 << 24  # characters


@dataclass(frozen=True)
class Table:
    """An open table: where its cells are, and the names of its columns. Of the inputs, `texts` are
    no numbers but categories; `may_miss` allows empty cells."""

    path: Path
    delimiter: str
    header: bool
    names: tuple[str, ...]
    inputs: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    texts: frozenset[int] = frozenset()
    may_miss: bool = False
    encoding: str = UTF8

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Turn a `WrongCell` into a UserError with its place."""
        try:
            yield
        except WrongCell as wrong:
            place = f"line {line_of(self, wrong.row)}, column `{self.names[wrong.column]}`"
            message = f"{self.path}, {place}: {wrong.message}"
            raise fail(wrong.code, message, help=wrong.hint) from None


@dataclass(frozen=True)
class Columns:
    """A table's inputs, None if they were not wanted, and the texts of its targets."""

    count: int
    inputs: RawColumns | None
    targets: tuple[Target, ...]


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def first_row(table: Table) -> list[str]:
    with readable(table.path), open_regular(table.path) as file:
        check_encoding(table.path, file.read(SAMPLE), table.encoding)
    with _rows(table, from_top=True) as rows:
        first = next(rows, None)
    if first is None:
        raise fail("E0613", f"{table.path} is empty")
    return first


def check_names(names: tuple[str, ...], path: Path) -> None:
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


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _rows(table: Table, from_top: bool = False) -> Iterator[Iterator[list[str]]]:
    """The rows of a table, without empty lines and, unless `from_top`, without the header."""
    with readable(table.path), _text(table) as file:
        reader = _reader(file, table)
        rows = (row for row in reader if row)
        try:
            if table.header and not from_top:
                next(rows, None)
            yield rows
        except csv.Error as error:
            message = f"{table.path}, line {reader.line_num}: {error}"
            raise fail("E0603", message, help="is a quote missing or not doubled?") from error
        except UnicodeError as error:
            # The error's offset is within a buffer; reading the bytes once more finds the line.
            with open_regular(table.path) as whole:
                raise undecodable(table.path, whole.read(), table.encoding) from error


def _text(table: Table) -> TextIOWrapper:
    # `utf-8-sig` drops the byte order mark that spreadsheets write, which would otherwise become
    # part of the first name; `newline=""` leaves line ends inside quotes to the reader.
    return TextIOWrapper(open_regular(table.path), encoding=codec(table.encoding), newline="")


def _reader(file: TextIOWrapper, table: Table):
    spaces = table.delimiter != " "  # "1, 2" is two numbers and `"a, b", 2` a quoted cell
    lines = _lines(file, table.path)
    return csv.reader(lines, delimiter=table.delimiter, strict=True, skipinitialspace=spaces)


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


def line_of(table: Table, wanted: int) -> int:
    """The line on which a row begins. Reads the file again, so that rows need no line numbers."""
    return next(islice(lines_of(table), wanted, None), 1)


def lines_of(table: Table) -> Iterator[int]:
    """The lines on which the rows begin, without the header and empty lines."""
    with _text(table) as file:
        reader = _reader(file, table)
        # A quoted cell may span lines, so a row begins after the line on which the one before
        # ended.
        begins, is_header = 1, table.header
        for cells in reader:
            if cells and not is_header:
                yield begins
            is_header = is_header and not cells
            begins = reader.line_num + 1


def read_columns(table: Table, with_inputs: bool = True) -> Columns:
    """All rows, converted block by block; inputs only on request. UserError E0603 to E0605, E0612,
    E0613, E0616 or E0617."""
    inputs: list[np.ndarray] = []
    targets = tuple(Target(column) for column in table.targets)
    categories = {column: Target(column) for column in table.inputs if column in table.texts}
    count, rows_at_once = 0, max(1, BLOCK_CELLS // len(table.names))
    with table.placed(), _rows(table) as rows:
        # Column by column over blocks of rows: conversions run at the speed of `map(float, …)`.
        while block := list(islice(rows, rows_at_once)):
            _check_widths(table, block, count)
            # Rows of cells → columns of cells; the rows have one width by now.
            cells = list(zip(*block, strict=True))
            if with_inputs and table.inputs:
                inputs.append(_input_block(table, cells, categories, count))
            for target in targets:
                # Texts are numbered as they come: what they are is only known at the end.
                target.add(map(str.strip, cells[target.column]), len(block))
            count += len(block)
    if not count:
        raise fail("E0613", f"{table.path} has a header but no rows")
    if not inputs:
        return Columns(count, None, targets)
    texts = {
        k: tuple(categories[c].numbering) for k, c in enumerate(table.inputs) if c in categories
    }
    return Columns(count, RawColumns(np.concatenate(inputs), texts, table.inputs), targets)


def _input_block(
    table: Table, cells: Sequence[tuple[str, ...]], categories: dict[int, Target], first: int
) -> np.ndarray:
    """The inputs of the rows of a block, f64 [rows, inputs], from row `first` on."""
    values = np.empty((len(cells[0]), len(table.inputs)))
    for place, column in enumerate(table.inputs):
        if column in categories:
            values[:, place] = _category_block(table, cells[column], categories[column], first)
        else:
            values[:, place] = numbers(column, cells[column], first, table.may_miss)
    return values


def _category_block(table: Table, cells: Sequence[str], known: Target, first: int) -> np.ndarray:
    """Cells of categories by their numbers; an empty one is not a number, or WrongCell E0616."""
    texts = [category(cell) for cell in cells]
    absent = np.array([not text for text in texts])
    if absent.any() and not table.may_miss:
        raise not_a_number(first + int(np.argmax(absent)), known.column, "")
    found = np.full(len(texts), np.nan)
    present = [text for text in texts if text]
    known.add(iter(present), len(present))
    found[~absent] = known.blocks.pop()
    return found


def _check_widths(table: Table, block: Sequence[list[str]], first: int) -> None:
    width = len(table.names)
    if set(map(len, block)) == {width}:
        return
    # Found only after the cheap check of the whole block has failed.
    row = next(row for row, cells in enumerate(block) if len(cells) != width)
    found = len(block[row])
    shown = table.delimiter.join(block[row])
    raise fail(
        "E0604",
        f"{table.path}, line {line_of(table, first + row)}: {found} cell{'s' * (found != 1)} where "
        f"the {'header' if table.header else 'first row'} has {width}: `{shown[:60]}`",
        help="a cell that contains the delimiter needs quotes" if found > width else "",
    )
