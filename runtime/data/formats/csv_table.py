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
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from unicodedata import normalize

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ....dsl.regular_files import open_regular
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.decompress import readable
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows, training_size
from .text_file import not_utf8

BLOCK_CELLS = 1 << 18  # converted at a time
MAX_LINE = 1 << 24  # characters
MAX_LABEL = (1 << 31) - 1
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
    """The target cells read so far: their texts, numbered in the order in which they occur."""

    blocks: list[np.ndarray] = field(default_factory=list)
    numbering: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """A table's values: `x` f64[rows, inputs], `y` as the schema says; names of word labels."""

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
        columns_of = {
            "x": tuple(table.names[i] for i in table.inputs),
            "y": tuple(table.names[i] for i in table.targets),
        }
        return split_dataset(
            str(table.path), fields, arrays, parts, class_names=names, columns=columns_of
        )


def _fields(table: Table, columns: Columns) -> tuple[Field, ...]:
    fields = []
    if table.inputs:
        fields.append(Field("x", "f64", (len(table.inputs),)))
    if columns.y is not None:
        dtype = "i32" if columns.y.dtype == np.int32 else "f64"
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
    with _text(table.path) as file:
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
    count, rows_at_once = 0, max(1, BLOCK_CELLS // len(table.names))
    with _rows(table) as rows:
        # Column by column over blocks of rows: conversions run at the speed of `map(float, …)`, and
        # the text of a large table is never in memory as a whole.
        while block := list(islice(rows, rows_at_once)):
            _check_widths(table, block, count)
            # Rows of cells → columns of cells; the rows have one width by now.
            cells = list(zip(*block, strict=True))
            if with_inputs and table.inputs:
                values = np.empty((len(block), len(table.inputs)))
                for place, column in enumerate(table.inputs):
                    values[:, place] = numbers(table, column, cells[column], count)
                inputs.append(values)
            for target, column in zip(targets, table.targets, strict=True):
                # Texts are numbered as they come: what they are is only known at the end.
                number, known = target.numbering, map(str.strip, cells[column])
                places = (number.setdefault(text, len(number)) for text in known)
                target.blocks.append(np.fromiter(places, np.int32, len(block)))
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
    """The numbers (f64) in cells of one column; E0605 or E0616 names the first other cell."""
    # All cells at once; only if that fails is the cell at fault searched for.
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
        if np.isfinite(values).all() and "_" not in "".join(cells):  # float() takes 1_000
            return values
    except ValueError:
        pass
    row = next(row for row, cell in enumerate(cells) if not is_number(cell))
    raise _not_a_number(table, column, first + row, cells[row].strip())


def is_number(cell: str) -> bool:
    """Whether a cell holds a number in the range of f64."""
    try:
        return bool(np.isfinite(float(cell))) and "_" not in cell
    except ValueError:
        return False


def is_missing(cell: str) -> bool:
    """Whether a cell says in one of the usual ways that there is no value."""
    return cell.lower() in MISSING


# what a cell that is no number looks like → what to do; `{n}` is the cell without what disturbs
HINTS = (
    (re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d*|[+-]?\d{1,3}(,\d{3}){2,}"), ",",
     "write it without separators: `{n}`"),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d*"), ".",
     "write it without separators and decimals with a point"),
    (re.compile(r"[+-]?\d{1,3}([ '\u2019\u00a0\u202f_]\d{3})+([.,]\d*)?"), " '\u2019\u00a0\u202f_",
     "write it without separators: `{n}`"),
    (re.compile(r"[+-]?\d{1,3},\d{3}"), ",",
     "write `{n}`, or decimals with a point"),
    (re.compile(r"[+-]?\d*,\d*"), "", "write decimals with a point"),
    (re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\d{1,2}:\d{2}.*"), "",
     "a date or time is no number: leave the column out with `columns = [...]`, or write the time "
     "since a fixed one"),
    (re.compile(r"(?i)true|false|yes|no"), "", "write 1 and 0"),
    (re.compile(r"[$\u20ac\u00a3]?\s*[+-]?[\d.,]+\s*[%$\u20ac\u00a3]?"), "",
     "write the number alone, without its unit"),
)  # fmt: skip


def _not_a_number(table: Table, column: int, row: int, cell: str) -> UserError:
    # A missing value first, as the commonest reason, whatever the column is for.
    if is_missing(cell):
        found = f"holds `{cell}`, a missing value" if cell else "is empty"
        hint = "fill the cell or remove the row; nothing is filled in silently"
        return table.cell_error("E0616", row, column, found, hint)
    hint = "leave a column of words out with `columns = [...]`"
    if column in table.targets:
        hint = "most cells of this column are numbers, so all must be; `labels = true` reads words"
    for form, disturbing, advice in HINTS:
        if form.fullmatch(cell):
            hint = advice.format(n="".join(c for c in cell if c not in disturbing))
            break
    # `1e999` is a number, but not in f64; `1_000` is one to Python's `float` alone.
    try:
        beyond = not np.isnan(float(cell)) and "_" not in cell
    except ValueError:
        beyond = False
    why = "is beyond the range of f64" if beyond else "is not a number"
    return table.cell_error("E0605", row, column, f"`{cell[:60]}` {why}", hint)


# ── targets ──────────────────────────────────────────────────────────────────────────────────────


def _columns(
    table: Table, count: int, x: np.ndarray | None, targets: list[Target], labels: bool | None
) -> Columns:
    if not targets:
        return Columns(count, x, None, None, ())
    if len(targets) > 1:
        if labels:
            raise fail("E0615", "`labels = true` needs a single target column")
        # Several targets form one vector of numbers per example: y is [rows, targets].
        both = zip(targets, table.targets, strict=True)
        return Columns(
            count, x, np.stack([_numbers(table, *each) for each in both], axis=1), None, ()
        )
    (target,), (column,) = targets, table.targets
    if _is_words(target, labels):
        y, names = _words(table, target, column)
        return Columns(count, x, y, len(names), names)
    y = _numbers(table, target, column)
    # All digits: then no sign, point or exponent, so these may be class labels.
    whole = all(text.isascii() and text.isdigit() for text in target.numbering)
    if labels or (labels is None and whole and y.max() < MAX_CLASSES):
        bad = np.flatnonzero((y < 0) | (y != np.floor(y)) | (y >= MAX_LABEL))
        if bad.size:
            message = f"{y[bad[0]]:.17g} is not a class label: a whole number from 0"
            raise table.cell_error("E0606", int(bad[0]), column, message)
        return Columns(count, x, y.astype(np.int32), int(y.max()) + 1, ())
    return Columns(count, x, y, None, ())


def _is_words(target: Target, labels: bool | None) -> bool:
    """Whether a column is one of words: of all its cells, so that no order of rows matters."""
    # `NA` and the like are words among words; a column of nothing else is one of missing values.
    any_words = any(not is_number(t) and not is_missing(t) for t in target.numbering)
    if labels is not None or not any_words:
        return bool(labels) and any_words
    cells = np.bincount(np.concatenate(target.blocks))
    in_words = sum(int(cells[n]) for t, n in target.numbering.items() if t and not is_number(t))
    in_numbers = sum(int(cells[n]) for t, n in target.numbering.items() if is_number(t))
    return in_words > in_numbers


def _words(table: Table, target: Target, column: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels i32 [rows] and their names, in alphabetical order; E0616 for an empty cell."""
    cells = np.concatenate(target.blocks)
    if "" in target.numbering:
        row = int(np.argmax(cells == target.numbering[""]))
        raise _not_a_number(table, column, row, "")
    # One label where Unicode has several spellings of the same text.
    spelt = {text: normalize("NFC", text) for text in target.numbering}
    # Numbered by first occurrence → numbered in alphabetical order, so that a label's number
    # does not depend on the order of the rows.
    names = tuple(sorted(set(spelt.values())))
    rank = {name: place for place, name in enumerate(names)}
    places = np.array([rank[spelt[text]] for text in target.numbering], np.int32)
    return places[cells], names


def _numbers(table: Table, target: Target, column: int) -> np.ndarray:
    """The numbers (f64 [rows]) of a target; E0605 or E0616 for the first cell that is none."""
    cells, texts = np.concatenate(target.blocks), list(target.numbering)
    wrong = [place for place, text in enumerate(texts) if not is_number(text)]
    if wrong:
        # A word before a missing value, wherever they stand: then it may be no column of numbers.
        # Texts are numbered by first occurrence, so the first that is wrong is in the first row.
        worst = next((place for place in wrong if not is_missing(texts[place])), wrong[0])
        row = int(np.argmax(cells == worst))
        raise _not_a_number(table, column, row, texts[worst])
    return np.array([float(text) for text in texts])[cells]


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
