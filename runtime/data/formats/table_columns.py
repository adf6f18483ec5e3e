"""The columns of a table, which may be several files: numbers for the inputs, and the texts of
targets, numbered as they occur.

In: open files and which of their columns are wanted. Out: `Columns`. What is wrong with a cell
comes with its file, its row and its column.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from ..core.data_paths import Search
from ..core.reader import listed
from ..core.spool import Spool
from ..core.stored import Stored
from .csv_cells import WrongCell, not_a_number
from .csv_features import RawColumns, category
from .csv_targets import NeedsTexts, Target
from .kept_table import INPUTS, Columns, find_columns, kept_table, store_columns
from .table_file import BOOLEANS, Cells, TableFile

COPIES = 4  # of the numbers of a table: as read, as a whole, encoded, divided into splits


@dataclass(frozen=True, eq=False)
class Table:
    """An open table: its files, of which each has the columns `names`, and where those are that are
    wanted. Of the inputs, `texts` are no numbers but categories; `may_miss` allows empty cells."""

    files: tuple[TableFile, ...]
    names: tuple[str, ...]
    inputs: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    texts: frozenset[int] = frozenset()
    may_miss: bool = False

    @contextmanager
    def placed(self, counts: Sequence[int]) -> Iterator[None]:
        """Turn a `WrongCell` into a UserError with its place. `counts` are the files' rows."""
        try:
            yield
        except WrongCell as wrong:
            row = wrong.row
            for file, count in zip(self.files, counts, strict=True):
                if row < count:
                    raise _placed(file, row, self.names, wrong) from None
                row -= count
            raise

    def only(self, file: TableFile) -> Table:
        """The same of one of its files."""
        return Table((file,), self.names, self.inputs, self.targets, self.texts, self.may_miss)


def _placed(file: TableFile, row: int, names: Sequence[str], wrong: WrongCell) -> Exception:
    line = next(islice(file.lines(), row, None), 1)
    place = f"{file.row_word} {line}, column `{names[wrong.column]}`"
    return fail(wrong.code, f"{file.path}, {place}: {wrong.message}", help=wrong.hint)


def check_same_columns(files: Sequence[TableFile]) -> None:
    """UserError E0614 unless all files have the columns of the first, in whatever order."""
    first = files[0]
    for file in files[1:]:
        if {*file.names} == {*first.names}:
            continue
        lacks = [name for name in first.names if name not in {*file.names}]
        extra = [name for name in file.names if name not in {*first.names}]
        near = did_you_mean(lacks[0], extra) if lacks else ""
        parts = [f"lacks {listed(lacks)}"] * bool(lacks) + [f"has {listed(extra)}"] * bool(extra)
        message = f"{file.path} and {first.path} have other columns: the former "
        raise fail("E0614", message + " and ".join(parts), help=near)


def read_columns(
    table: Table,
    with_inputs: bool = True,
    booleans: tuple[str, str] = BOOLEANS,
    search: Search | None = None,
) -> Columns:
    """All rows, converted block by block; inputs only on request, and in a file of the cache that
    `search` knows where they have more than a share of the memory for data. `booleans` are the
    texts of those in targets. UserError E0603 to E0605, E0611 to E0613, E0616 or E0617."""
    try:
        return _read(table, with_inputs, booleans, search, False)
    except NeedsTexts:
        return _read(table, with_inputs, booleans, search, True)


def _read(
    table: Table,
    with_inputs: bool,
    booleans: tuple[str, str],
    search: Search | None,
    keeps_texts: bool,
) -> Columns:
    with_inputs &= bool(table.inputs)
    exact = table.files[0].typed
    targets = tuple(Target(column, exact, keeps_texts) for column in table.targets)
    categories = {c: Target(c, keeps_texts=True) for c in table.inputs if c in table.texts}
    wanted = {*table.targets, *(table.inputs if with_inputs else ())}
    names = [table.names[column] for column in sorted(wanted)]
    kept = None
    if search is not None and with_inputs:
        read = [table.names, table.inputs, table.targets, sorted(table.texts), table.may_miss]
        kept = kept_table(search, table.files, [*read, booleans])
        if (found := find_columns(kept, table.inputs, table.targets, exact)) is not None:
            return found
    counts = []
    most = search.memory // COPIES if search else sys.maxsize
    with kept.spool(INPUTS, most) if kept else Spool(Path(), most) as spool:
        for file in table.files:
            count = 0
            try:
                for rows, cells in file.blocks(names):
                    if with_inputs:
                        spool.add(_input_block(table, cells, categories, count, rows))
                    for target in targets:
                        # Texts are numbered as they come: what they are is only known at the end.
                        texts = cells[table.names[target.column]].texts(booleans)
                        target.add(map(str.strip, texts), rows)
                    count += rows
            except WrongCell as wrong:
                raise _placed(file, wrong.row, table.names, wrong) from None
            if not count:
                raise fail("E0613", f"{file.path} has a header but no rows")
            counts.append(count)
        values = spool.values()
    if values is None:
        return Columns(tuple(counts), None, targets)
    words = {
        k: tuple(categories[c].numbering) for k, c in enumerate(table.inputs) if c in categories
    }
    columns = Columns(tuple(counts), RawColumns(values, words, table.inputs), targets)
    if kept is not None and isinstance(values, Stored):
        store_columns(kept, columns)
    return columns


def _input_block(
    table: Table,
    cells: Mapping[str, Cells],
    categories: dict[int, Target],
    first: int,
    rows: int,
) -> np.ndarray:
    """The inputs of the rows of a block, f64 [rows, inputs], from row `first` on."""
    values = np.empty((rows, len(table.inputs)))
    for place, column in enumerate(table.inputs):
        own = cells[table.names[column]]
        if column in categories:
            values[:, place] = _category_block(table, own.texts(), categories[column], first)
        else:
            values[:, place] = own.numbers(column, first, table.may_miss)
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
