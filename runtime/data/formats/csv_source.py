"""`csv("houses.csv", target = "price")`: a table, one row per example.

In: text with a delimiter, quotes as spreadsheets write them, in UTF-8 or the `encoding` that is
declared, as "latin-1". Out: the columns that are not targets as `x` f64[numbers], the target as
`y`: f64[] for numbers, i32[] for labels, f64[targets] for a list. Numbers are read exactly; what is
computed in f32 is rounded when a batch is taken.

What a target is depends on the whole column, not on one of its cells: it is labels if more of its
cells are words than numbers (all its texts are labels then, in alphabetical order, `NA` and `1e5`
among them), or if all its cells are whole numbers from 0 to 255 written without a point (`07`
is 7); else it is numbers. `labels = true` or `false` decides it. Quotes around a cell change
nothing.

The inputs are numbers, one for each column, unless the program says otherwise:
`categories = ["colour"]` makes a number for each category of a column, of which one is 1, in
alphabetical order; `ordered = ["size: small < medium < large"]` makes 0, 1, 2 of a column.
`normalize = true` gives columns of numbers mean 0 and deviation 1 over the rows that train.

A missing cell is an error, and an empty cell is missing even among words. `missing = "fill"` puts
the mean of the rows that train in its place, or their most frequent category;
`missing = "indicator"` adds a number besides that is 1 where a cell of the column is missing (of
`categories`, the others are 0 then), for every column in which a cell is. Targets are never filled.

`time = "date"`, a column of numbers or of dates like 2024-01-31, tests on the last share of the
rows by that time instead of a random one: all that tests is later than all that trains. It is no
input unless `columns` names it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, UserError, did_you_mean, fail
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.file_kinds import TEXT
from ..core.reader import NewExamples, NewFile, listed, noted
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows, split_size, training_size
from .csv_cells import is_number
from .csv_features import FILL, INDICATOR, REFUSE, Choice, Features, fit
from .csv_table import Columns, Table, check_names, first_row, lines_of, read_columns
from .csv_targets import Values, times_of, values_of


def describe(request: Request) -> Schema:
    """Reads the whole table once, but converts only the target, unless more decides the sizes."""
    with errors_at(request.span_of("file")):
        table, choice = _open(request)
        if not choice.is_plain or request["time"] is not None:
            return load(request).schema
        columns = read_columns(table, with_inputs=False)
        with table.placed():
            target = values_of(columns.targets, request["labels"])
    return Schema(_fields(len(table.inputs), target), training_size(columns.count, request["test"]))


def load(request: Request) -> Dataset:
    """Both splits, in memory. E0601, E0603 to E0606 and E0612 to E0617 for what can be wrong."""
    with errors_at(request.span_of("file")):
        table, choice = _open(request)
        columns = read_columns(table)
        with table.placed():
            # The column of times is read as the last of the targets.
            timed = request["time"] is not None
            target = values_of(columns.targets[: -1 if timed else None], request["labels"])
            parts = _parts(request, columns, target)
            features = None
            if columns.inputs is not None and not choice.is_plain:
                features = fit(columns.inputs, choice, parts[0])
        targets = table.targets[: -1 if timed else None]
        reader = TableReader(
            tuple(table.names[i] for i in table.inputs),
            table.names,
            tuple(table.names[i] for i in targets),
            table.delimiter,
            table.header,
            features,
            table.encoding,
        )
        x = reader.numbers(table, columns)
        arrays = {n: a for n, a in (("x", x), ("y", target.y)) if a is not None}
        names = {"y": target.class_names} if target.class_names else {}
        return split_dataset(
            str(table.path),
            _fields(0 if x is None else x.shape[1], target),
            arrays,
            parts,
            class_names=names,
            columns={"x": reader.titles, "y": reader.targets},
            reader=reader if table.inputs else None,
        )


def _fields(width: int, target: Values) -> tuple[Field, ...]:
    fields = [Field("x", "f64", (width,))] if width else []
    if target.y is not None:
        dtype = "i32" if target.y.dtype == np.int32 else "f64"
        fields.append(Field("y", dtype, target.y.shape[1:], target.classes))
    return tuple(fields)


def _parts(request: Request, columns: Columns, target: Values) -> tuple[np.ndarray, np.ndarray]:
    """The rows that train and those that test."""
    count, share = columns.count, request["test"]
    if request["time"] is None:
        labels = target.y if target.classes is not None else None
        # The split is stratified by class if there are classes; for numbers it is simply random.
        return split_rows(count, share, request["seed"], labels)
    times, size = times_of(columns.targets[-1]), split_size(count, share)
    if not size:
        return np.arange(count), np.arange(0)
    # Rows of one time stay together, so that nothing of the time that tests is trained on.
    later = times >= np.sort(times)[count - size]
    if later.all():
        message = f"no row is earlier than the last {size} by `{request['time']}`"
        raise fail("E0613", message, request.span_of("time"), help="choose a smaller `test`")
    return np.flatnonzero(~later), np.flatnonzero(later)


# ── columns ──────────────────────────────────────────────────────────────────────────────────────


def _open(request: Request) -> tuple[Table, Choice]:
    """The table and what is done with its columns; that of times is the last of the targets."""
    path = request.file()
    delimiter, header = request["delimiter"], request["header"]
    # Only the first row is wanted here, so a provisional table without columns will do.
    encoding = request["encoding"]
    first = first_row(Table(path, delimiter, header, (), encoding=encoding))
    names = (
        tuple(cell.strip() for cell in first)
        if header
        else tuple(str(number + 1) for number in range(len(first)))
    )
    # Before columns are looked up, since an empty or doubled name would make a look-up ambiguous.
    check_names(names, path)
    wanted = _listed(request, "target")
    places = {name: place for place, name in enumerate(names)}
    targets = tuple(_column(name, places, "target", path, request) for name in wanted)
    chosen, time = request["columns"], request["time"]
    moment = () if time is None else (_column(time, places, "time", path, request),)
    inputs = (
        [i for i in range(len(names)) if i not in targets and i not in moment]
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
    choice = _choice(request, places, inputs, path)
    texts = frozenset({*choice.categories, *(choice.ordered or {})})
    may_miss = choice.missing != REFUSE
    found = Table(
        path,
        delimiter,
        header,
        names,
        tuple(inputs),
        (*targets, *moment),
        texts,
        may_miss,
        encoding,
    )
    return found, choice


def _listed(request: Request, setting: str) -> list[str]:
    """A text or a list of texts as a list; empty if it is left out."""
    given = request[setting]
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def _choice(request: Request, places: dict[str, int], inputs: Sequence[int], path: Path) -> Choice:
    """What the settings say of the input columns. E0614 for a column that is none, E0615."""
    categories = tuple(
        _column(name, places, "categories", path, request)
        for name in _listed(request, "categories")
    )
    ordered: dict[int, tuple[str, ...]] = {}
    for text in _listed(request, "ordered"):
        name, _, order = text.rpartition(":")
        names = tuple(part.strip() for part in order.split("<"))
        if not name or not all(names) or len({*names}) < max(2, len(names)):
            raise fail(
                "E0615",
                f"`{text}` does not order the categories of a column",
                request.span_of("ordered"),
                help="like `size: small < medium < large`",
            )
        ordered[_column(name.strip(), places, "ordered", path, request)] = names
    for setting, chosen in (("categories", categories), ("ordered", tuple(ordered))):
        for column in chosen:
            name = next(name for name, place in places.items() if place == column)
            span = request.span_of(setting)
            if column not in inputs:
                raise fail("E0614", f"column `{name}` of `{setting}` is no input", span)
            if column in categories and column in ordered:
                raise fail("E0614", f"column `{name}` is in `categories` and in `ordered`", span)
    return Choice(categories, ordered, request["missing"], request["normalize"])


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
    features: Features | None = None
    encoding: str = UTF8

    kind: ClassVar[str] = "csv"
    file_kinds: ClassVar[tuple[str, ...]] = (TEXT,)
    suffixes: ClassVar[frozenset[str]] = frozenset({".csv", ".tsv", ".txt", ".dat"})
    example: ClassVar[str] = "new.csv"
    fields: ClassVar[tuple[str, ...]] = ("x",)

    def __post_init__(self) -> None:
        """ValueError for what no table has."""
        if not self.columns or not {*self.columns, *self.targets} <= {*self.known}:
            raise ValueError("the columns of a table are not among its names")
        if self.features is not None:
            self.features.check(len(self.columns))

    @property
    def takes(self) -> str:
        if not self.header:
            return f"tables of {len(self.columns)} columns without a header"
        count = f"the {len(self.columns)} columns " if len(self.columns) > 1 else "the column "
        return f"tables with {count}{listed(f'`{name}`' for name in self.columns)}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def titles(self) -> tuple[str, ...]:
        """What the numbers of `x` are called."""
        return self.features.titles(self.columns) if self.features else self.columns

    def numbers(self, table: Table, columns: Columns) -> np.ndarray | None:
        """The numbers of the rows of a table, f64 [rows, numbers]; None without inputs."""
        raw = columns.inputs
        if raw is None or self.features is None:
            return None if raw is None else raw.values
        with table.placed():
            return self.features.encode(raw)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The rows of all tables. UserError as `load`, and E0614 for columns that are missing."""
        report, parts, names, notes = Report(), [], [], []
        for file in files:
            with noted(report):
                table, others = self._table(file)
                values = self.numbers(table, read_columns(table))
                parts += [] if values is None else [values]
                names += [f"{file.name}:{line}" for line in lines_of(table)]
                if others:
                    notes.append(f"not read of {file.name}: {listed(others)}")
        report.check()
        return NewExamples({"x": np.concatenate(parts)}, tuple(names), notes=tuple(notes))

    def _table(self, file: NewFile) -> tuple[Table, list[str]]:
        """An open table, and its columns that were in no table that trained."""
        first = first_row(Table(file.path, self.delimiter, self.header, (), encoding=self.encoding))
        if not self.header:
            names = self._places(file, len(first))
        else:
            names = tuple(cell.strip() for cell in first)
            check_names(names, file.path)
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise self._missing(file, missing, names)
        places = tuple(names.index(name) for name in self.columns)
        features = self.features
        texts = features.texts if features else ()
        table = Table(
            file.path,
            self.delimiter,
            self.header,
            names,
            places,
            (),
            frozenset(place for k, place in enumerate(places) if k in texts),
            features is not None and features.missing != REFUSE,
            self.encoding,
        )
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
    "a table: x f64[numbers], y the target (numbers f64, or labels i32)",
    (
        Setting("file", "text", "the file", positional=True),
        Setting("target", "names", "the column, or list of columns, to predict", None),
        Setting("columns", "texts", "the columns that become x, in order (all others)", None),
        Setting("delimiter", "character", "what separates cells", ","),
        Setting("header", "bool", "whether the first row names the columns", True),
        Setting("encoding", "encoding", "how the file writes characters", UTF8),
        Setting("labels", "bool", "whether the target is class labels", None),
        Setting("categories", "names", "the columns of words, a number for each category", None),
        Setting("ordered", "names", "columns of ordered words, like `size: S < M < L`", None),
        Setting(
            "missing",
            "text",
            "what is done with missing cells of inputs",
            REFUSE,
            allowed=(REFUSE, FILL, INDICATOR),
        ),
        Setting("normalize", "bool", "numbers with mean 0 and deviation 1 in training", False),
        Setting("time", "text", "the column by which the last rows test", None),
        Setting("test", "fraction", "the share that tests", 0.2),
        Setting("seed", "seed", "of the choice of what tests", 0),
    ),
    describe,
    load,
)
