"""Tables of JSON Lines: an object on every line, whose keys are the columns.

In: a path, plain or gzip'd. Out: cells as JSON has them, as `table_file.py` says. A key that an
object lacks is a missing cell, as null is. Objects in an object are columns `a.b`, lists of numbers
as many columns as they have numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, fail
from .csv_cells import EXACT, inexact, numbers
from .table_file import (
    BOOLEANS,
    LEAVE_OUT,
    Cells,
    TextForm,
    checked_numbers,
    rows_at_once,
)
from .text_file import text_lines

ARRAY_HELP = "`jq -c '.[]' FILE` writes an array of objects line by line"


class JsonFile:
    """A file of JSON Lines as a `TableFile`."""

    row_word = "line"
    typed = True

    def __init__(self, path: Path, form: TextForm):
        """UserError E0603, E0604, E0612 to E0614 or E0617."""
        self.path, self._form = path, form
        self.lists: dict[str, tuple[str, ...]] = {}
        self.categories: dict[str, tuple[str, ...]] = {}
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._lengths: dict[str, int | None] = {}  # of lists, by name; None of other columns
        self._filled: set[str] = set()  # columns that hold more than null
        self._report = Report()
        first = 0
        for number, line in self._rows():
            self._see(_object(path, number, line, self._report))
            # A first line that is no object says what the file is; the others only repeat it.
            if not first:
                self._report.check()
            first = first or number
        self._report.check()
        if not first:
            raise fail("E0613", f"{path} holds only blank lines")
        names: list[str] = []
        records = {
            name[:at] for name in self._lengths for at, mark in enumerate(name) if mark == "."
        }
        for name, length in self._lengths.items():
            if name in records and name not in self._filled:
                continue  # an object in other rows, and null here
            own = (name,) if length is None else tuple(f"{name}[{k}]" for k in range(length))
            names += own
            if length is not None:
                self.lists[name] = own
        self.names = tuple(names)
        self._places = {
            one: (name, k) for name, own in self.lists.items() for k, one in enumerate(own)
        }

    def _see(self, cells: Mapping[str, Any]) -> None:
        for name, value in cells.items():
            if value is not None:
                self._filled.add(name)
            if isinstance(value, list) and value and all(map(_is_number, value)):
                if self._lengths.get(name) is None:
                    self._lengths[name] = len(value)
            elif value is not None or name not in self._lengths:
                # Null alone says nothing of what a column holds.
                self._lengths.setdefault(name, None)

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Cells]]]:
        """As a `TableFile`."""
        at_once, start, lines = rows_at_once(len(self.names)), 0, self._rows()
        while block := [*islice(lines, at_once)]:
            rows = [_object(self.path, number, line, self._report) for number, line in block]
            yield len(rows), {name: self._cells(name, rows, start) for name in columns}
            start += len(rows)

    def _rows(self) -> Iterator[tuple[int, str]]:
        """The lines that are not blank, with their numbers; read anew each time."""
        lines = text_lines(self.path, self._form.cache, self._form.encoding)
        return ((number, line) for number, line in enumerate(lines, 1) if line.strip())

    def _cells(self, name: str, rows: Sequence[Mapping[str, Any]], first: int) -> JsonCells:
        if name not in self._places:
            return JsonCells([row.get(name) for row in rows], name, self.path)
        whole, element = self._places[name]
        values, length = [row.get(whole) for row in rows], len(self.lists[whole])
        for row, one in enumerate(values, first):
            if one is not None and not (isinstance(one, list) and len(one) == length):
                has = f"{len(one)} numbers" if isinstance(one, list) else f"`{one!s:.40}`"
                line = next(islice(self.lines(), row, None))
                raise fail(
                    "E0604",
                    f"{self.path}, line {line}: column `{whole}` has {has}, and the first list "
                    f"{length} numbers",
                    help=f"lists of one length become inputs; {LEAVE_OUT}",
                )
        return JsonCells([one and one[element] for one in values], name, self.path)

    def lines(self) -> Iterator[int]:
        """The lines of the objects."""
        return (number for number, _ in self._rows())


def _object(path: Path, number: int, line: str, report: Report) -> dict[str, Any]:
    """The cells of a line by the names of their columns; what is wrong with it is reported."""
    place = f"{path}, line {number}"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", "it is nested too deeply")
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        help = ARRAY_HELP if number == 1 and line.lstrip()[:1] in "[{" else ""
        report.add("E0603", f"{place}{column}: this is no JSON: {why}", help=help)
        return {}
    if not isinstance(found, dict):
        shown = f"`{line.strip()[:40]}`"
        report.add("E0604", f"{place}: {shown} is no object", help=ARRAY_HELP)
        return {}
    return dict(_flat(found, ""))


def _flat(record: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False)
class JsonCells:
    """Cells of a column, as JSON has them."""

    cells: Sequence[Any]
    name: str
    path: Path

    def numbers(self, column: int, first: int, may_miss: bool) -> np.ndarray:
        """As `Cells`; E0611 for what is no number."""
        values = self.cells
        if any(isinstance(one, str) for one in values):
            return numbers(column, self.texts(("0", "1")), first, may_miss)
        for row, one in enumerate(values):
            if isinstance(one, int) and abs(one) > EXACT:
                raise inexact(first + row, column, one)
        self._check()
        found = np.array([np.nan if one is None else float(one) for one in values])
        return checked_numbers(found, column, first, may_miss)

    def texts(self, booleans: tuple[str, str] = BOOLEANS) -> Sequence[str]:
        """As `Cells`; E0611 for what has no text."""
        self._check()
        return [_text(one, booleans) for one in self.cells]

    def values(self) -> Sequence[Any]:
        """As `Cells`."""
        return self.cells

    def _check(self) -> None:
        odd = next((one for one in self.cells if isinstance(one, list)), None)
        if odd is not None:
            raise fail(
                "E0611",
                f"column `{self.name}` of {self.path} holds lists that are not of numbers alone: "
                f"`{json.dumps(odd, ensure_ascii=False)[:40]}`",
                help=LEAVE_OUT,
            )


def _text(value: Any, booleans: tuple[str, str]) -> str:
    if isinstance(value, bool):
        return booleans[value]
    if value is None or value != value:  # NaN, which Python's JSON has
        return ""
    return repr(value) if isinstance(value, float) else str(value)
