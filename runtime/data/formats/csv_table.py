"""`csv("houses.csv", target = "price")`: a table of numbers, one row per example.

In: UTF-8 text with a delimiter, quotes as spreadsheets write them. Out: the columns that are not
targets as `x` f32[columns], the target as `y`: f32[] for numbers, i32[] for labels, f32[targets]
for a list. A target is labels if its first cell is no number (words, in alphabetical order), or if
all its cells are whole numbers from 0 to 255 written without a point; `labels = …` overrides the
latter. A missing cell is an error.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.decompress import readable
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows, training_size
from .text_file import not_utf8

BLOCK = 4096  # rows converted at a time
MAX_CLASSES = 256  # whole numbers below this are labels unless `labels = false`
MISSING = {"", "nan", "na", "n/a", "null", "none", "?", "-"}


@dataclass(frozen=True)
class Table:
    """An open table: where its cells are, and the names of its columns."""

    path: Path
    delimiter: str
    header: bool
    names: tuple[str, ...]
    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    def cell_error(
        self, code: str, row: int, column: int, message: str, hint: str = ""
    ) -> UserError:
        """The error for one cell; `row` counts from 0, without the header and empty lines."""
        place = f"{self.path}, line {line_of(self, row)}, column `{self.names[column]}`"
        return fail(code, f"{place}: {message}", help=hint)


@dataclass
class Target:
    """The target cells read so far: numbers, or words numbered in the order in which they occur."""

    words: bool | None = None  # not known before the first cell
    whole: bool = True  # every cell so far consists of digits
    blocks: list[np.ndarray] = field(default_factory=list)
    numbering: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """A table's values: `x` f32[rows, inputs], `y` as the schema says; names of word labels."""

    count: int
    x: np.ndarray | None
    y: np.ndarray | None
    classes: int | None
    class_names: tuple[str, ...]


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
        labels = columns.y if columns.classes is not None else None
        # The split is stratified by class if there are classes; for numbers it is simply random.
        parts = split_rows(columns.count, request["test"], request["seed"], labels)
        arrays = {n: a for n, a in (("x", columns.x), ("y", columns.y)) if a is not None}
        names = {"y": columns.class_names} if columns.class_names else {}
        fields = _fields(table, columns)
        return split_dataset(str(table.path), fields, arrays, parts, class_names=names)


def _fields(table: Table, columns: Columns) -> tuple[Field, ...]:
    fields = []
    if table.inputs:
        fields.append(Field("x", "f32", (len(table.inputs),)))
    if columns.y is not None:
        dtype = "i32" if columns.y.dtype == np.int32 else "f32"
        fields.append(Field("y", dtype, columns.y.shape[1:], columns.classes))
    return tuple(fields)


# ── opening: names and choice of columns ─────────────────────────────────────────────────────────


def _open(request: Request) -> Table:
    path = request.file()
    delimiter, header = request["delimiter"], request["header"]
    # Only the first row is wanted here, so a provisional table without columns will do.
    with _rows(Table(path, delimiter, header, (), (), ()), from_top=True) as rows:
        first = next(rows, None)
    if first is None:
        raise fail("E0613", f"{path} is empty")
    names = (
        tuple(cell.strip() for cell in first)
        if header
        else tuple(str(number + 1) for number in range(len(first)))
    )
    # Before columns are looked up, since an empty or doubled name would make a look-up ambiguous.
    _check_names(names, path)
    target = request["target"]
    wanted = [] if target is None else [target] if isinstance(target, str) else list(target)
    targets = tuple(_column(name, names, "target", path, request) for name in wanted)
    chosen = request["columns"]
    inputs = (
        [i for i in range(len(names)) if i not in targets]
        if chosen is None
        else [_column(name, names, "columns", path, request) for name in chosen]
    )
    # `targets` and `inputs` are places in a row by now, which makes comparing them exact.
    for setting, indices in (("target", targets), ("columns", inputs)):
        twice = [names[i] for i in indices if list(indices).count(i) > 1]
        if twice:
            message = f"`{setting}` names column `{twice[0]}` twice"
            raise fail("E0614", message, request.span_of(setting))
    both = [names[i] for i in inputs if i in targets]
    if both:
        message = f"column `{both[0]}` is both a target and in `columns`"
        raise fail("E0614", message, request.span_of("columns"))
    return Table(path, delimiter, header, names, tuple(inputs), targets)


def _check_names(names: tuple[str, ...], path: Path) -> None:
    for column, name in enumerate(names):
        if not name:
            message = f"{path}, line 1: column {column + 1} has no name"
            hint = "name it, or write `header = false` if the first row is data"
            raise fail("E0614", message, help=hint)
        if name in names[:column]:
            both = f"columns {names.index(name) + 1} and {column + 1}"
            raise fail("E0614", f"{path}, line 1: {both} are both called `{name}`")


def _column(name: str, names: tuple[str, ...], setting: str, path: Path, request: Request) -> int:
    if name in names:
        return names.index(name)
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
    # `utf-8-sig` drops the byte order mark that spreadsheets write, which would otherwise become
    # part of the first name; `newline=""` leaves line ends inside quotes to the reader.
    """The rows of a table, without empty lines and, unless `from_top`, without the header."""
    with readable(table.path), open(table.path, encoding="utf-8-sig", newline="") as file:
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
            with open(table.path, "rb") as lines:
                raise not_utf8(table.path, lines) from error


def _reader(file, table: Table):
    spaces = table.delimiter != " "  # "1, 2" is two numbers and `"a, b", 2` a quoted cell
    return csv.reader(file, delimiter=table.delimiter, strict=True, skipinitialspace=spaces)


def line_of(table: Table, wanted: int) -> int:
    """The line on which a row begins. Reads the file again, so that rows need no line numbers."""
    with open(table.path, encoding="utf-8-sig", newline="") as file:
        reader = _reader(file, table)
        # A quoted cell may span lines, so a row begins after the line on which the one before
        # ended. A header counts, too: `row` is 0 at the first row of data in either case.
        row, begins = -1 - table.header, 1
        for cells in reader:
            row += bool(cells)
            if row == wanted and cells:
                return begins
            begins = reader.line_num + 1
    return begins


def _read(table: Table, labels: bool | None, with_inputs: bool) -> Columns:
    """All rows, converted block by block; inputs only on request."""
    inputs: list[np.ndarray] = []
    targets = [Target() for _ in table.targets]
    count = 0
    with _rows(table) as rows:
        # Column by column over blocks of rows: conversions run at the speed of `map(float, …)`, and
        # the text of a large table is never in memory as a whole.
        while block := list(islice(rows, BLOCK)):
            _check_widths(table, block, count)
            # Rows of cells → columns of cells; the rows have one width by now.
            cells = list(zip(*block, strict=True))
            if with_inputs and table.inputs:
                values = np.empty((len(block), len(table.inputs)), np.float32)
                for place, column in enumerate(table.inputs):
                    values[:, place] = numbers(table, column, cells[column], count)
                inputs.append(values)
            for target, column in zip(targets, table.targets, strict=True):
                _add(table, target, column, cells[column], count)
            count += len(block)
    if not count:
        raise fail("E0613", f"{table.path} has a header but no rows")
    x = np.concatenate(inputs) if inputs else None
    return _columns(table, count, x, targets, labels)


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


# ── cells ────────────────────────────────────────────────────────────────────────────────────────


def numbers(table: Table, column: int, cells: Sequence[str], first: int) -> np.ndarray:
    """The numbers (f32) in cells of one column; E0605 or E0616 names the first other cell."""
    # All cells at once; only if that fails is the cell at fault searched for.
    try:
        wide = np.fromiter(map(float, cells), np.float64, len(cells))
        # Beyond the range of f32 is infinity here, which the next line notices.
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        if np.isfinite(narrow).all() and "_" not in "".join(cells):  # float() takes 1_000
            return narrow
    except ValueError:
        pass
    row = next(row for row, cell in enumerate(cells) if not is_number(cell))
    raise _not_a_number(table, column, first + row, cells[row].strip())


def is_number(cell: str) -> bool:
    """Whether a cell holds a number in the range of f32."""
    try:
        value = float(cell)
    except ValueError:
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float32(value))) and "_" not in cell


def _not_a_number(table: Table, column: int, row: int, cell: str) -> UserError:
    # A missing value first, as the commonest reason, whatever the column is for.
    if cell.lower() in MISSING:
        found = f"holds `{cell}`, a missing value" if cell else "is empty"
        hint = "fill the cell or remove the row; nothing is filled in silently"
        return table.cell_error("E0616", row, column, found, hint)
    if column in table.targets:
        hint = "the first cell of this column is a number, so all must be"
    else:
        hint = "leave a column of words out with `columns = [...]`"
    # `1,5`, with a decimal comma.
    if is_number(cell.replace(",", ".", 1)):
        hint = "write decimals with a point"
    # `1e99` is a number, but not in f32; `1_000` is one to Python's `float` alone.
    try:
        beyond = not np.isnan(float(cell)) and "_" not in cell
    except ValueError:
        beyond = False
    why = "is beyond the range of f32" if beyond else "is not a number"
    return table.cell_error("E0605", row, column, f"`{cell[:60]}` {why}", hint)


def _add(table: Table, target: Target, column: int, cells: Sequence[str], first: int) -> None:
    """Take in the next cells of a target column."""
    # The first cell decides between numbers and words. A missing first cell counts as a number, so
    # that the error is about that cell. Several targets are always numbers.
    if target.words is None:
        start = cells[0].strip()
        several = len(table.targets) > 1
        target.words = not (several or is_number(start) or start.lower() in MISSING)
    if not target.words:
        joined = "".join(cells).replace(" ", "")
        # All digits: then no sign, point or exponent, so these may be class labels.
        target.whole = target.whole and joined.isascii() and joined.isdigit()
        target.blocks.append(numbers(table, column, cells, first))
        return
    words = [cell.strip() for cell in cells]
    if "" in words:
        raise _not_a_number(table, column, first + words.index(""), "")
    numbering = target.numbering
    # Words are numbered as they come, because the alphabet is only known at the end.
    known = (numbering.setdefault(word, len(numbering)) for word in words)
    target.blocks.append(np.fromiter(known, np.int32, len(words)))


def _columns(
    table: Table, count: int, x: np.ndarray | None, targets: list[Target], labels: bool | None
) -> Columns:
    if not targets:
        return Columns(count, x, None, None, ())
    values = [np.concatenate(target.blocks) for target in targets]
    # Several targets form one vector per example: y is [rows, targets].
    if len(values) > 1:
        if labels:
            raise fail("E0615", "`labels = true` needs a single target column")
        return Columns(count, x, np.stack(values, axis=1), None, ())
    (target,), (y,) = targets, values
    if target.words:
        # Numbered by first occurrence → numbered in alphabetical order, so that a label's number
        # does not depend on the order of the rows.
        names = tuple(sorted(target.numbering))
        rank = {name: place for place, name in enumerate(names)}
        places = np.array([rank[word] for word in target.numbering], np.int32)
        return Columns(count, x, places[y], len(names), names)
    if labels or (labels is None and target.whole and y.max() < MAX_CLASSES):
        # From 2^24 on, f32 does not hold every whole number, so a label may have been rounded.
        bad = np.flatnonzero((y < 0) | (y != np.floor(y)) | (y >= 1 << 24))
        if bad.size:
            message = f"{y[bad[0]]:g} is not a class label: a whole number from 0"
            raise table.cell_error("E0606", int(bad[0]), table.targets[0], message)
        return Columns(count, x, y.astype(np.int32), int(y.max()) + 1, ())
    return Columns(count, x, y, None, ())


CSV = DataSource(
    "csv",
    "a table: x f32[columns], y the target (numbers, or labels i32)",
    (
        Setting("file", "text", "the file", positional=True),
        Setting("target", "names", "the column, or list of columns, to predict", None),
        Setting("columns", "texts", "the columns that become x, in order (all others)", None),
        Setting("delimiter", "character", "what separates cells", ","),
        Setting("header", "bool", "whether the first row names the columns", True),
        Setting("labels", "bool", "whether whole numbers in the target are class labels", None),
        Setting("test", "fraction", "the share that tests", 0.2),
        Setting("seed", "seed", "of the choice of what tests", 0),
    ),
    describe,
    load,
)
