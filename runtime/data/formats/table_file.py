"""Files that hold a table: what text, Parquet, Arrow and JSON Lines have in common.

In: a path. Out: a `TableFile` of the kind that the file is by its first bytes or its ending: the
names of its columns, and its rows in blocks of cells, which are texts or numbers as the file stores
them. A list of numbers is as many columns, `e[0]`, `e[1]`, …, and a record `a` has columns `a.b`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ....dsl.records import record
from ..core import file_kinds
from ..core.decompress import read_start, readable
from ..core.encodings import UTF8
from .csv_cells import EXACT, WrongCell, inexact, not_a_number

BLOCK_CELLS = 1 << 18  # read at a time
JSON_ENDINGS = frozenset({".jsonl", ".ndjson", ".json"})
BOOLEANS = ("false", "true")
LEAVE_OUT = "leave the column out with `columns = [...]`"
# the endings of tables → what they are
ENDINGS = frozenset(
    {".csv", ".tsv", ".txt", ".dat", ".parquet", ".pq", ".arrow", ".arrows", ".feather", ".ipc",
     ".jsonl", ".ndjson", ".json"}
)  # fmt: skip
TEXT_ENDINGS = frozenset({".csv", ".tsv", ".txt", ".dat"})
KINDS = (file_kinds.TEXT, file_kinds.TABLE, file_kinds.GZIP)
# the kind of a file → its reader, which needs a package that few others do
READERS = {"text": ("csv_table", "CsvFile"), "arrow": ("arrow_table", "ArrowFile"),
           "json": ("json_table", "JsonFile")}  # fmt: skip


class Cells(Protocol):
    """Cells of one column in rows that follow each other."""

    def numbers(self, column: int, first: int, may_miss: bool) -> np.ndarray:
        """f64, not a number where a cell may be missing and is. WrongCell E0605 or E0616 with the
        column and a row, of which the first here is `first`."""
        ...

    def texts(self, booleans: tuple[str, str] = BOOLEANS) -> Sequence[str]:
        """As a table of text has them; missing ones are empty."""
        ...

    def values(self) -> Sequence[Any]:
        """As Python has them; missing ones are None, or the empty text."""
        ...


@record
class TextForm:
    """How a table of text is written, and where packed files are unpacked."""

    delimiter: str = ","
    header: bool = True
    encoding: str = UTF8
    cache: Path = Path()


class TableFile(Protocol):
    """An open table. `row_word` is what a message calls a row; `typed` tells a whole number from
    one that is written with a point; `lists` are the columns that a list
    of numbers has become, by its name; `categories` are columns of categories with their order, if
    they have one, and `class_names` the names of the labels 0, 1, …, as the file itself says."""

    path: Path
    row_word: str
    typed: bool
    names: tuple[str, ...]

    @property
    def lists(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]: ...

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Cells]]]:
        """The number of rows of a block, and their cells in these columns."""
        ...

    def lines(self) -> Iterator[int]:
        """Where each row is, as messages count: the line on which it begins."""
        ...


def kind_of_table(path: Path) -> str:
    """`text`, `arrow` or `json`, by the first bytes, or the ending of what is text."""
    kind, name = file_kinds.kind_of(path)
    if kind == file_kinds.TABLE:
        return "arrow"
    endings = {suffix.lower() for suffix in path.suffixes[-2:]}
    # Standard input has no ending.
    is_json = JSON_ENDINGS & endings or (not ENDINGS & endings and _begins_as_json(path))
    if is_json and kind in (file_kinds.TEXT, file_kinds.GZIP):
        return "json"
    if kind == file_kinds.GZIP and not endings & TEXT_ENDINGS:
        help = "unpack it with `gunzip`; what is in a Parquet or Arrow file may be packed itself"
        raise fail("E0602", f"{path} is {name}", help=help)
    if name == file_kinds.OLD_FEATHER:
        help = "read and write it with pandas once, which makes it version 2"
        raise fail("E0602", f"{path} is {name}", help=help)
    # Whatever else it is may be a text that begins so, or be in another encoding.
    return "text"


def _begins_as_json(path: Path) -> bool:
    with readable(path):
        return re.match(rb'\s*\{\s*"', read_start(path, file_kinds.START)) is not None


def open_table(path: Path, form: TextForm) -> TableFile:
    """A table of any kind, its names read. UserError E0602, E0603, E0609, E0612 to E0614, E0617."""
    file, name = READERS[kind_of_table(path)]
    opened: TableFile = getattr(import_module(f"{__package__}.{file}"), name)(path, form)
    return opened


def rows_at_once(columns: int) -> int:
    """How many rows a block has."""
    return max(1, BLOCK_CELLS // max(1, columns))


def checked_numbers(
    values: np.ndarray, column: int, first: int, may_miss: bool, whole: np.ndarray | None = None
) -> np.ndarray:
    """Numbers (f64) of typed cells: missing ones are refused unless they may be, and so are
    infinite ones and integers, `whole` as they were stored, that f64 does not hold."""
    absent = np.isnan(values)
    if not may_miss and absent.any():
        raise not_a_number(first + int(np.argmax(absent)), column, "")
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise WrongCell("E0605", first + row, column, f"`{values[row]}` is not finite")
    if whole is not None:
        large = (whole > EXACT) | (whole < -EXACT)
        if large.any():
            row = int(np.argmax(large))
            raise inexact(first + row, column, int(whole[row]))
    return values
