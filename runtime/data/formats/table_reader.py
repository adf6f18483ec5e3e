"""New tables, and those that train: the columns of a run, found by their names, as `x`.

In: files of any kind that `table_file.py` knows. Out: `x`, encoded as the columns of training were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, UserError, did_you_mean, fail
from ..core.encodings import UTF8
from ..core.reader import NewExamples, NewFile, listed, noted
from ..core.stored import Examples
from .csv_cells import FOR_NEW_TABLES, is_number
from .csv_features import REFUSE, Features
from .table_columns import Columns, Table, read_columns
from .table_file import ENDINGS, KINDS, TableFile, TextForm, open_table


@contextmanager
def _as_new() -> Iterator[None]:
    """Within, what is wrong with a cell is answered with what can be done about a new table: what
    the program says of its columns is settled."""
    try:
        yield
    except UserError as error:
        raise UserError(
            [replace(d, help=FOR_NEW_TABLES.get(d.help, d.help)) for d in error.diagnostics]
        ) from error


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
    file_kinds: ClassVar[tuple[str, ...]] = KINDS
    suffixes: ClassVar[frozenset[str]] = ENDINGS
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

    def numbers(self, table: Table, columns: Columns) -> Examples | None:
        """The numbers of the rows of a table, f64 [rows, numbers]; None without inputs."""
        raw = columns.inputs
        if raw is None or self.features is None:
            return None if raw is None else raw.values
        with table.placed(columns.counts):
            return self.features.encoded(raw)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The rows of all tables. UserError as `load`, and E0614 for columns that are missing."""
        report, parts, names, notes = Report(), [], [], []
        for file in files:
            with noted(report), _as_new():
                form = TextForm(self.delimiter, self.header, self.encoding, cache)
                table, others = self.table(open_table(file.path, form))
                values = self.numbers(table, read_columns(table))
                parts += [] if values is None else [np.asarray(values)]
                names += [f"{file.name}:{line}" for line in table.files[0].lines()]
                if others:
                    notes.append(f"not read of {file.name}: {listed(others)}")
        report.check()
        return NewExamples({"x": np.concatenate(parts)}, tuple(names), notes=tuple(notes))

    def table(self, file: TableFile) -> tuple[Table, list[str]]:
        """The table with the columns of the run, and its columns that were in no table that
        trained. UserError E0604 or E0614 if it lacks some."""
        names = file.names if self.header else self._places(file)
        where = {one: place for place, one in enumerate(names)}
        missing = [one for one in self.columns if one not in where]
        if missing:
            raise self._missing(file, missing, names)
        places = tuple(where[one] for one in self.columns)
        features = self.features
        texts = features.texts if features else ()
        table = Table(
            (file,),
            file.names,
            places,
            (),
            frozenset(place for k, place in enumerate(places) if k in texts),
            features is not None and features.missing != REFUSE,
        )
        return table, [one for one in names if one not in self.known]

    def _places(self, file: TableFile) -> tuple[str, ...]:
        """The names of columns by their places: all of them, or all but the targets."""
        count = len(file.names)
        inputs = tuple(name for name in self.known if name not in self.targets)
        for names in (self.known, inputs):
            if len(names) == count:
                return names
        raise fail(
            "E0604",
            f"{file.path} has {count} columns, and the run reads {len(inputs)}, or "
            f"{len(self.known)} with what it predicts",
        )

    def _missing(
        self, file: TableFile, missing: Sequence[str], names: tuple[str, ...]
    ) -> UserError:
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
