"""`csv("houses.csv", target = "price")`: a table, one row per example.

In: text, plain or gzip'd, with a delimiter, quotes as spreadsheets write them, in UTF-8 or the
`encoding` that is declared, as "latin-1"; a file that is Parquet, Arrow or JSON Lines, by its first
bytes or its ending, is read as `parquet`, `arrow` and `jsonl` do. Out: the columns that are not
targets as `x` f64[numbers], the target as `y`: f64[] for numbers, i32[] for labels, f64[targets]
for a list. Numbers are read exactly; what is computed in f32 is rounded when a batch is taken.

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

`file` may be a pattern, as "data/train-*.parquet", or a folder: its files are one table then, in
the order of their names. In a folder, and of what a pattern fits, `train`, `test` and `validation`
(or `val`, `valid`, `dev`) in the name of a file or of its folder are the splits, in place of a
share; of files like `train-00000-of-00003.parquet` none may be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from ..core.data_paths import Search
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.shards import Splits, find_shards, rows_of_splits
from ..core.source import DataSource, Request, Setting, errors_at, request_for
from ..core.splitting import split_rows, split_size, training_size
from .csv_features import FILL, INDICATOR, REFUSE, Choice, fit
from .csv_targets import Values, times_of, values_of
from .table_columns import Columns, Table, check_same_columns, read_columns
from .table_file import BOOLEANS, ENDINGS, TableFile, TextForm, open_table
from .table_reader import TableReader


def describe(request: Request) -> Schema:
    """Reads the whole table once, but converts only the target, unless more decides the sizes."""
    with errors_at(request.span_of("file")):
        opened = _open(request)
        table = opened.table
        if not opened.choice.is_plain or request["time"] is not None:
            return load(request).schema
        columns = read_columns(table, False, _booleans(request))
        target = _target(request, opened, columns)
        count = training_size(columns.count, request["test"])
        if opened.is_split:
            count = sum(columns.counts[: len(opened.splits["train"])])
    return Schema(_fields(len(table.inputs), target), count)


def load(request: Request) -> Dataset:
    """All splits, in memory or in a file of the cache. E0601 to E0606, E0609, E0611 to E0618 for
    what can be wrong."""
    with errors_at(request.span_of("file")):
        return _load(request, _open(request), request.search)


def load_in_memory(settings: Mapping[str, Any], search: Search, file: TableFile) -> Dataset:
    """What `load` makes of a table that is in memory, in place of the file that is named. UserError
    as `load`, without the places in the program."""
    request = request_for(CSV, settings, search, {}, None)
    return _load(request, _opened(request, {"train": (file.path,)}, (file,)))


def _load(request: Request, opened: Opened, search: Search | None = None) -> Dataset:
    """The data of an open table, whose files are converted in the cache of `search` if they do not
    fit into memory."""
    table = opened.table
    columns = read_columns(table, True, _booleans(request), search)
    target = _target(request, opened, columns)
    parts = _parts(request, opened, columns, target)
    features = None
    if columns.inputs is not None and not opened.choice.is_plain:
        with table.placed(columns.counts):
            features = fit(columns.inputs, opened.choice, parts[0])
    form, targets = _form(request), opened.targets
    reader = TableReader(
        tuple(table.names[i] for i in table.inputs),
        table.names,
        tuple(table.names[i] for i in targets),
        form.delimiter,
        form.header,
        features,
        form.encoding,
    )
    x = reader.numbers(table, columns)
    arrays = {n: a for n, a in (("x", x), ("y", target.y)) if a is not None}
    return split_dataset(
        opened.name,
        _fields(0 if x is None else x.shape[1], target),
        arrays,
        parts,
        class_names={"y": target.class_names} if target.class_names else {},
        columns={"x": reader.titles, "y": reader.targets},
        reader=reader if table.inputs else None,
    )


def _booleans(request: Request) -> tuple[str, str]:
    """How booleans of the targets are written: as numbers where these are."""
    several = isinstance(request["target"], list | tuple) and len(request["target"]) > 1
    return ("0", "1") if request["labels"] is False or several else BOOLEANS


def _target(request: Request, opened: Opened, columns: Columns) -> Values:
    """What the targets are, with the names that the file has for their classes."""
    with opened.table.placed(columns.counts):
        # The column of times is read as the last of the targets.
        found = values_of(columns.targets[: len(opened.targets)], request["labels"])
    own = [opened.table.files[0].class_names.get(opened.table.names[i]) for i in opened.targets]
    names = own[0] if len(own) == 1 else None
    if names and not found.class_names and found.classes is not None:
        classes = max(found.classes, len(names))
        return replace(found, classes=classes, class_names=names if classes == len(names) else ())
    return found


def _fields(width: int, target: Values) -> tuple[Field, ...]:
    fields = [Field("x", "f64", (width,))] if width else []
    if target.y is not None:
        dtype = "i32" if target.y.dtype == np.int32 else "f64"
        fields.append(Field("y", dtype, target.y.shape[1:], target.classes))
    return tuple(fields)


def _parts(
    request: Request, opened: Opened, columns: Columns, target: Values
) -> Sequence[np.ndarray]:
    """The rows that train, those that test, and those that validate, if there are any."""
    count, share = columns.count, request["test"]
    if (parts := opened.parts(columns.counts)) is not None:
        return parts
    if request["time"] is None:
        labels = target.y if target.classes is not None else None
        # The split is stratified by class if there are classes; for numbers it is simply random.
        return split_rows(count, share, request["seed"], labels)
    with opened.table.placed(columns.counts):
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


@dataclass(frozen=True)
class Opened:
    """The table of a request, its name, what is done with its input columns, which files are of
    which split, and the places of the targets, after which that of times is one more."""

    table: Table
    name: str
    choice: Choice
    splits: Splits
    targets: tuple[int, ...]

    @property
    def is_split(self) -> bool:
        """Whether files say what tests."""
        return len(self.splits) > 1

    def parts(self, counts: Sequence[int]) -> list[np.ndarray] | None:
        """The rows of each split, of files with so many rows."""
        return rows_of_splits(self.splits, counts)


def _form(request: Request) -> TextForm:
    """How tables of text are written; those of other kinds have no such settings."""
    known = {"delimiter": ",", "header": True, "encoding": UTF8, **request.settings}
    cache = request.search.cache_folder
    return TextForm(known["delimiter"], known["header"], known["encoding"], cache)


def _open(request: Request) -> Opened:
    """The table in the files that are named. UserError E0614 and E0615 for its columns."""
    splits = find_shards(request.search, request["file"], ENDINGS)
    form = _form(request)
    files = tuple(open_table(path, form) for own in splits.values() for path in own)
    return _opened(request, splits, files)


def _opened(request: Request, splits: Splits, files: tuple[TableFile, ...]) -> Opened:
    """The table in open files, with what the settings say of its columns."""
    check_same_columns(files)
    names, path = files[0].names, files[0].path
    places = _Places(files[0], request)
    targets = places.of("target")
    chosen, time = request["columns"], request["time"]
    moment = () if time is None else places.of("time")
    inputs = (
        [i for i in range(len(names)) if i not in targets and i not in moment]
        if chosen is None
        else list(places.of("columns"))
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
    choice = _choice(request, places, inputs)
    texts = frozenset({*choice.categories, *(choice.ordered or {})})
    may_miss = choice.missing != REFUSE
    table = Table(files, names, tuple(inputs), (*targets, *moment), texts, may_miss)
    name = str(path) if len(files) == 1 else request["file"]
    return Opened(table, name, choice, splits, targets)


def _listed(request: Request, setting: str) -> list[str]:
    """A text or a list of texts as a list; empty if it is left out."""
    given = request[setting]
    return [] if given is None else [given] if isinstance(given, str) else list(given)


@dataclass(frozen=True)
class _Places:
    """The places of columns in a table, by the names that a request has for them."""

    file: TableFile
    request: Request

    @property
    def by_name(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.file.names)}

    def of(self, setting: str) -> tuple[int, ...]:
        """The places of the columns that a setting names, those of a list together. E0614."""
        names = _listed(self.request, setting)
        return tuple(place for name in names for place in self.named(name, setting))

    def named(self, name: str, setting: str) -> tuple[int, ...]:
        """The place of a column, or of the numbers of a list. E0614 if there is none."""
        by_name = self.by_name
        found = [by_name[one] for one in self.file.lists.get(name, (name,)) if one in by_name]
        if found:
            return tuple(found)
        names, path = list(by_name), self.file.path
        # One column whose name contains another delimiter: `a;b;c` read with commas.
        other = next((mark for mark in ";\t,|" if mark in names[0]), None)
        if len(names) == 1 and other:
            shown = "\\t" if other == "\t" else other
            hint = f'is the delimiter another one? write `delimiter = "{shown}"`'
        else:
            listed = ", ".join(f"`{n}`" for n in names[:12]) + (" …" if len(names) > 12 else "")
            hint = did_you_mean(name, names) or f"the columns are {listed}"
        span = self.request.span_of(setting)
        raise fail("E0614", f"{path} has no column `{name}`", span, help=hint)


def _choice(request: Request, places: _Places, inputs: Sequence[int]) -> Choice:
    """What the settings say of the input columns, and what the file says of its categories. E0614
    for a column that is none, E0615."""
    categories = list(places.of("categories"))
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
        (place,) = places.named(name.strip(), "ordered")
        ordered[place] = names
    for setting, chosen in (("categories", tuple(categories)), ("ordered", tuple(ordered))):
        for column in chosen:
            name, span = places.file.names[column], request.span_of(setting)
            if column not in inputs:
                raise fail("E0614", f"column `{name}` of `{setting}` is no input", span)
            if column in categories and column in ordered:
                raise fail("E0614", f"column `{name}` is in `categories` and in `ordered`", span)
    for name, own in places.file.categories.items():
        column = places.by_name[name]
        if column in inputs and column not in categories and column not in ordered:
            if len(own) > 1:
                ordered[column] = own
            else:
                categories.append(column)
    return Choice(tuple(categories), ordered, request["missing"], request["normalize"])


ENCODING = Setting("encoding", "encoding", "how the file writes characters", UTF8)
COLUMN_SETTINGS = (
    Setting("file", "text", "the file, a folder, or a pattern of files", positional=True),
    Setting("target", "names", "the column, or list of columns, to predict", None),
    Setting("columns", "texts", "the columns that become x, in order (all others)", None),
)
ROW_SETTINGS = (
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
    Setting("test", "fraction", "the share that tests, if no file does", 0.2),
    Setting("seed", "seed", "of the choice of what tests", 0),
)
WHAT = "a table: x f64[numbers], y the target (numbers f64, or labels i32)"

CSV = DataSource(
    "csv",
    WHAT,
    (
        *COLUMN_SETTINGS,
        Setting("delimiter", "character", "what separates cells", ","),
        Setting("header", "bool", "whether the first row names the columns", True),
        ENCODING,
        *ROW_SETTINGS,
    ),
    describe,
    load,
)
