"""`csv("houses.csv", target = "price")`: a table of numbers, one row per example.

In: UTF-8 text with a delimiter, quotes as spreadsheets write them. Out: the columns that are not
targets as `x` f64[columns], the target as `y`: f64[] for numbers, i32[] for labels, f64[targets]
for a list. Numbers are read exactly; what is computed in f32 is rounded when a batch is taken.

What a target is depends on the whole column, not on one of its cells: it is labels if more of its
cells are words than numbers (all its texts are labels then, in alphabetical order, `NA` and `1e5`
among them), or if all its cells are whole numbers from 0 to 255 written without a point (`07`
is 7); else it is numbers. `labels = true` or `false` decides it. Quotes around a cell change
nothing. A missing cell is an error, and an empty cell is missing even among words.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, UserError, did_you_mean, fail
from ....dsl.regular_files import open_regular
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.decompress import readable
from ..core.file_kinds import TEXT
from ..core.reader import NewExamples, NewFile, listed, noted
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows, training_size
from .csv_cells import WrongCell, is_number, numbers
from .csv_targets import Target, Values, values_of
from .text_file import not_utf8

BLOCK_CELLS = 1 << 18  # converted at a time
MAX_LINE = 1 << 24  # characters


@dataclass(frozen=True)
class Table:
    """An open table: where its cells are, and the names of its columns."""

    path: Path
    delimiter: str
    header: bool
    names: tuple[str, ...]
    inputs: tuple[int, ...]
    targets: tuple[int, ...]

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
    """A table's values: `x` f64[rows, inputs], None if they were not wanted, and the targets."""

    count: int
    x: np.ndarray | None
    targets: Values


def describe(request: Request) -> Schema:
    """Reads the whole table once, but converts only the target."""
    with errors_at(request.span_of("file")):
        table = _open(request)
        columns = _read(table, request["labels"], with_inputs=False)
    return Schema(_fields(table, columns), training_size(columns.count, request["test"]))


def load(request: Request) -> Dataset:
    """Both splits, in memory. E0601, E0603 to E0606 and E0612 to E0617 for what can be wrong."""
    with errors_at(request.span_of("file")):
        table = _open(request)
        columns = _read(table, request["labels"], with_inputs=True)
        target = columns.targets
        labels = target.y if target.classes is not None else None
        # The split is stratified by class if there are classes; for numbers it is simply random.
        parts = split_rows(columns.count, request["test"], request["seed"], labels)
        arrays = {n: a for n, a in (("x", columns.x), ("y", target.y)) if a is not None}
        names = {"y": target.class_names} if target.class_names else {}
        fields = _fields(table, columns)
        reader = TableReader(
            tuple(table.names[i] for i in table.inputs),
            table.names,
            tuple(table.names[i] for i in table.targets),
            table.delimiter,
            table.header,
        )
        return split_dataset(
            str(table.path),
            fields,
            arrays,
            parts,
            class_names=names,
            columns={"x": reader.columns, "y": reader.targets},
            reader=reader if table.inputs else None,
        )


def _fields(table: Table, columns: Columns) -> tuple[Field, ...]:
    fields = []
    if table.inputs:
        fields.append(Field("x", "f64", (len(table.inputs),)))
    y, classes = columns.targets.y, columns.targets.classes
    if y is not None:
        dtype = "i32" if y.dtype == np.int32 else "f64"
        fields.append(Field("y", dtype, y.shape[1:], classes))
    return tuple(fields)


# ── opening: names and choice of columns ─────────────────────────────────────────────────────────


def _open(request: Request) -> Table:
    path = request.file()
    delimiter, header = request["delimiter"], request["header"]
    # Only the first row is wanted here, so a provisional table without columns will do.
    first = _first_row(Table(path, delimiter, header, (), (), ()))
    names = (
        tuple(cell.strip() for cell in first)
        if header
        else tuple(str(number + 1) for number in range(len(first)))
    )
    # Before columns are looked up, since an empty or doubled name would make a look-up ambiguous.
    _check_names(names, path)
    target = request["target"]
    wanted = [] if target is None else [target] if isinstance(target, str) else list(target)
    places = {name: place for place, name in enumerate(names)}
    targets = tuple(_column(name, places, "target", path, request) for name in wanted)
    chosen = request["columns"]
    inputs = (
        [i for i in range(len(names)) if i not in targets]
        if chosen is None
        else [_column(name, places, "columns", path, request) for name in chosen]
    )
    # `targets` and `inputs` are places in a row by now, which makes comparing them exact.
    for setting, indices in (("target", targets), ("columns", inputs)):
        twice = [names[i] for i, count in Counter(indices).items() if count > 1]
        if twice:
            message = f"`{setting}` names column `{twice[0]}` twice"
            raise fail("E0614", message, request.span_of(setting))
    both = [names[i] for i in inputs if i in targets]
    if both:
        message = f"column `{both[0]}` is both a target and in `columns`"
        raise fail("E0614", message, request.span_of("columns"))
    return Table(path, delimiter, header, names, tuple(inputs), targets)


def _first_row(table: Table) -> list[str]:
    with _rows(table, from_top=True) as rows:
        first = next(rows, None)
    if first is None:
        raise fail("E0613", f"{table.path} is empty")
    return first


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


def _column(name: str, places: dict[str, int], setting: str, path: Path, request: Request) -> int:
    if name in places:
        return places[name]
    names = list(places)
    # One column whose name contains another delimiter: `a;b;c` read with commas.
    other = next((mark for mark in ";\t,|" if mark in names[0]), None)
    if len(names) == 1 and other:
        shown = "\\t" if other == "\t" else other
        hint = f'is the delimiter another one? write `delimiter = "{shown}"`'
    else:
        listed = ", ".join(f"`{n}`" for n in names[:12]) + (" …" if len(names) > 12 else "")
        hint = did_you_mean(name, names) or f"the columns are {listed}"
    raise fail("E0614", f"{path} has no column `{name}`", request.span_of(setting), help=hint)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _rows(table: Table, from_top: bool = False) -> Iterator[Iterator[list[str]]]:
    """The rows of a table, without empty lines and, unless `from_top`, without the header."""
    with readable(table.path), _text(table.path) as file:
        reader = _reader(file, table)
        rows = (row for row in reader if row)
        try:
            if table.header and not from_top:
                next(rows, None)
            yield rows
        except csv.Error as error:
            message = f"{table.path}, line {reader.line_num}: {error}"
            raise fail("E0603", message, help="is a quote missing or not doubled?") from error
        except UnicodeDecodeError as error:
            # The error's offset is within a buffer; reading the bytes once more finds the line.
            with open_regular(table.path) as lines:
                raise not_utf8(table.path, lines) from error


def _text(path: Path) -> TextIOWrapper:
    # `utf-8-sig` drops the byte order mark that spreadsheets write, which would otherwise become
    # part of the first name; `newline=""` leaves line ends inside quotes to the reader.
    return TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="")


def _reader(file: TextIOWrapper, table: Table):
    spaces = table.delimiter != " "  # "1, 2" is two numbers and `"a, b", 2` a quoted cell
    lines = _lines(file, table.path)
    return csv.reader(lines, delimiter=table.delimiter, strict=True, skipinitialspace=spaces)


def _lines(file: TextIOWrapper, path: Path) -> Iterator[str]:
    """The lines of a table; E0603 for one that is no line of a table, before it is all read."""
    number = 1
    while line := file.readline(MAX_LINE + 1):
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
    with _text(table.path) as file:
        reader = _reader(file, table)
        # A quoted cell may span lines, so a row begins after the line on which the one before
        # ended.
        begins, is_header = 1, table.header
        for cells in reader:
            if cells and not is_header:
                yield begins
            is_header = is_header and not cells
            begins = reader.line_num + 1


def _read(table: Table, labels: bool | None, with_inputs: bool) -> Columns:
    """All rows, converted block by block; inputs only on request."""
    inputs: list[np.ndarray] = []
    targets = [Target(column) for column in table.targets]
    count, rows_at_once = 0, max(1, BLOCK_CELLS // len(table.names))
    with table.placed(), _rows(table) as rows:
        # Column by column over blocks of rows: conversions run at the speed of `map(float, …)`, and
        # the text of a large table is never in memory as a whole.
        while block := list(islice(rows, rows_at_once)):
            _check_widths(table, block, count)
            # Rows of cells → columns of cells; the rows have one width by now.
            cells = list(zip(*block, strict=True))
            if with_inputs and table.inputs:
                values = np.empty((len(block), len(table.inputs)))
                for place, column in enumerate(table.inputs):
                    values[:, place] = numbers(column, cells[column], count)
                inputs.append(values)
            for target in targets:
                # Texts are numbered as they come: what they are is only known at the end.
                number, known = target.numbering, map(str.strip, cells[target.column])
                places = (number.setdefault(text, len(number)) for text in known)
                target.blocks.append(np.fromiter(places, np.int32, len(block)))
            count += len(block)
    if not count:
        raise fail("E0613", f"{table.path} has a header but no rows")
    x = np.concatenate(inputs) if inputs else None
    with table.placed():
        return Columns(count, x, values_of(targets, labels))


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


# ── new tables ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TableReader:
    """The rows of a table as `x` f64[columns]. `columns` are found by their names, wherever they
    stand; `known` are all those of the table that trained, `targets` among them. Without a header
    they are called by their places, from 1."""

    columns: tuple[str, ...]
    known: tuple[str, ...]
    targets: tuple[str, ...]
    delimiter: str
    header: bool

    kind: ClassVar[str] = "csv"
    file_kinds: ClassVar[tuple[str, ...]] = (TEXT,)
    suffixes: ClassVar[frozenset[str]] = frozenset({".csv", ".tsv", ".txt", ".dat"})
    example: ClassVar[str] = "new.csv"
    fields: ClassVar[tuple[str, ...]] = ("x",)

    def __post_init__(self) -> None:
        """ValueError for what no table has."""
        if not self.columns or not {*self.columns, *self.targets} <= {*self.known}:
            raise ValueError("the columns of a table are not among its names")

    @property
    def takes(self) -> str:
        if not self.header:
            return f"tables of {len(self.columns)} columns without a header"
        count = f"the {len(self.columns)} columns " if len(self.columns) > 1 else "the column "
        return f"tables with {count}{listed(f'`{name}`' for name in self.columns)}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The rows of all tables. UserError as `load`, and E0614 for columns that are missing."""
        report, parts, names, notes = Report(), [], [], []
        for file in files:
            with noted(report):
                table, others = self._table(file)
                values = _read(table, None, with_inputs=True).x
                parts += [] if values is None else [values]
                names += [f"{file.name}:{line}" for line in lines_of(table)]
                if others:
                    notes.append(f"not read of {file.name}: {listed(others)}")
        report.check()
        return NewExamples({"x": np.concatenate(parts)}, tuple(names), notes=tuple(notes))

    def _table(self, file: NewFile) -> tuple[Table, list[str]]:
        """An open table, and its columns that were in no table that trained."""
        first = _first_row(Table(file.path, self.delimiter, self.header, (), (), ()))
        if not self.header:
            names = self._places(file, len(first))
        else:
            names = tuple(cell.strip() for cell in first)
            _check_names(names, file.path)
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise self._missing(file, missing, names)
        places = tuple(names.index(name) for name in self.columns)
        table = Table(file.path, self.delimiter, self.header, names, places, ())
        return table, [name for name in names if name not in self.known]

    def _places(self, file: NewFile, count: int) -> tuple[str, ...]:
        """The names of columns by their places: all of them, or all but the targets."""
        inputs = tuple(name for name in self.known if name not in self.targets)
        for names in (self.known, inputs):
            if len(names) == count:
                return names
        raise fail(
            "E0604",
            f"{file.path} has {count} columns, and the run reads {len(inputs)}, or "
            f"{len(self.known)} with what it predicts",
        )

    def _missing(self, file: NewFile, missing: Sequence[str], names: tuple[str, ...]) -> UserError:
        what = "column" if len(missing) == 1 else "columns"
        strange = [name for name in names if name not in self.known]
        # A name that is nearly right, or in other letters, was probably meant.
        near = [
            f"`{guess[0]}` may be `{name}`"
            for name in missing
            if (guess := re.findall("`(.+)`", did_you_mean(name, strange)))
        ]
        if all(map(is_number, names)):
            hint = f"the first line names the columns: `{self.delimiter.join(self.columns)}`"
        elif near:
            hint = f"{', '.join(near)}: rename it in the first line"
        else:
            hint = f"it has {listed(f'`{name}`' for name in names)}"
        if len(names) == 1 and len(self.columns) > 1:
            shown = "\\t" if self.delimiter == "\t" else self.delimiter
            hint += f"; cells are separated by `{shown}`, as in training"
        shown = ", ".join(f"`{name}`" for name in missing)
        return fail("E0614", f"{file.path} has no {what} {shown}", help=hint)


CSV = DataSource(
    "csv",
    "a table: x f64[columns], y the target (numbers f64, or labels i32)",
    (
        Setting("file", "text", "the file", positional=True),
        Setting("target", "names", "the column, or list of columns, to predict", None),
        Setting("columns", "texts", "the columns that become x, in order (all others)", None),
        Setting("delimiter", "character", "what separates cells", ","),
        Setting("header", "bool", "whether the first row names the columns", True),
        Setting("labels", "bool", "whether the target is class labels", None),
        Setting("test", "fraction", "the share that tests", 0.2),
        Setting("seed", "seed", "of the choice of what tests", 0),
    ),
    describe,
    load,
)
