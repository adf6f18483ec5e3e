"""Tables of Parquet and Arrow files (Feather is one of the latter), by the package pyarrow.

In: a path, or a table in memory. Out: cells in the types of Arrow, as `table_file.py` has them.
Numbers and booleans are numbers; texts are texts, and those of a dictionary are categories. What is
neither is refused where it is wanted, with what to do: decimals and large integers, since f64 does
not hold them exactly, dates, bytes, lists of texts. The column that pandas makes of its index is
left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.files import reason
from ....dsl.regular_files import open_regular
from ..core.decompress import AGAIN, readable
from .csv_cells import WrongCell, numbers
from .table_file import BOOLEANS, LEAVE_OUT, Cells, TextForm, checked_numbers, rows_at_once

INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")
PARQUET, ARROW = b"PAR1", b"ARROW1"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow
# a test of types by its name in `pyarrow.types` → what to do where numbers are wanted
ADVICE = (
    ("is_decimal", "f64 does not hold decimals exactly: cast them where that does not matter, by "
                   "`.cast(pyarrow.float64())` or `.astype(float)`"),
    ("is_temporal", f"a date or time is no number: {LEAVE_OUT}, write the time since a fixed one, "
                    'or split by it with `time = "…"`'),
    ("is_binary", f"bytes are no numbers: {LEAVE_OUT}"),
)  # fmt: skip


def pyarrow(what: object, span: Any = None) -> Any:
    """The package; UserError E0609 without it."""
    try:
        import pyarrow  # an optional dependency
        import pyarrow.ipc
        import pyarrow.parquet  # neither of which the package imports itself
    except ImportError as error:
        help = "install it with `pip install 'nnc-lang[arrow]'`"
        raise fail("E0609", f"{what} needs the package pyarrow", span, help=help) from error
    return pyarrow


@dataclass(frozen=True)
class Column:
    """A column: where it is in a table of Arrow, and which number of its lists it is, if it is
    one of them."""

    path: tuple[str, ...]
    element: int = 0
    length: int = 0

    def of(self, array: Any) -> Any:
        """Its cells: a number of each list, missing where the list is."""
        if not self.length:
            return array
        from pyarrow import compute

        return compute.list_element(array, self.element)


class ArrowFile:
    """A file of Parquet or Arrow, or a table in memory, as a `TableFile`."""

    row_word = "row"
    typed = True

    def __init__(self, path: Path, form: TextForm, table: Any = None):
        """UserError E0602, E0603, E0609, E0613 or E0617."""
        self.path, self._table = path, table
        self._package = pyarrow(path)
        with self._opened() as (schema, batches):
            self.schema = schema
            first = next((batch for batch in batches if batch.num_rows), None)
            if first is None:
                raise fail("E0613", f"{path} has columns but no rows")
            self.columns: dict[str, Column] = {}
            self.lists: dict[str, tuple[str, ...]] = {}
            self.categories: dict[str, tuple[str, ...]] = {}
            for name in schema.names:
                if not INDEX_OF_PANDAS.fullmatch(name):
                    self._add(first.column(schema.get_field_index(name)), (name,))
        self.names = tuple(self.columns)
        self.class_names = _class_names(schema.metadata)

    def _add(self, array: Any, path: tuple[str, ...]) -> None:
        """The columns that a column of Arrow is, by its first rows."""
        name, types = ".".join(path), self._package.types
        array = _plain(array)
        if name in self.columns or name in self.lists:
            raise fail("E0614", f"{self.path}: two columns are called `{name}`")
        if types.is_struct(array.type):
            for place, field in enumerate(array.type):
                self._add(array.field(place), (*path, field.name))
            return
        if types.is_list(array.type) or types.is_large_list(array.type):
            lengths = [len(one) for one in array if one.is_valid]
            self._add_list(name, path, array.type.value_type, lengths[0] if lengths else 0)
        elif types.is_fixed_size_list(array.type):
            self._add_list(name, path, array.type.value_type, array.type.list_size)
        else:
            self.columns[name] = Column(path)
        if types.is_dictionary(array.type) and not types.is_integer(array.type.value_type):
            order = array.dictionary.to_pylist() if array.type.ordered else []
            self.categories[name] = tuple(map(str, order))

    def _add_list(self, name: str, path: tuple[str, ...], value: Any, length: int) -> None:
        types = self._package.types
        if not length or not (types.is_integer(value) or types.is_floating(value)):
            self.columns[name] = Column(path)  # refused where it is wanted
            return
        names = tuple(f"{name}[{k}]" for k in range(length))
        self.columns |= {one: Column(path, k, length) for k, one in enumerate(names)}
        self.lists[name] = names

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Cells]]]:
        """As a `TableFile`."""
        wanted = {name: self.columns[name] for name in columns}
        with self._opened([one.path[0] for one in wanted.values()], len(self.names)) as (
            _,
            batches,
        ):
            row = 0
            for batch in batches:
                arrays = {one.path: self._array(batch, one, row) for one in wanted.values()}
                yield (
                    batch.num_rows,
                    {
                        name: ArrowCells(one.of(arrays[one.path]), name, self)
                        for name, one in wanted.items()
                    },
                )
                row += batch.num_rows

    def _array(self, batch: Any, column: Column, first: int) -> Any:
        """The cells of a column, of which the first is in the row `first`. UserError E0604 for
        lists of another length."""
        array = batch.column(batch.schema.get_field_index(column.path[0]))
        for name in column.path[1:]:
            # `flatten` gives a missing record missing fields.
            array = array.flatten()[array.type.get_field_index(name)]
        array, length = _plain(array), column.length
        if length and not self._package.types.is_fixed_size_list(array.type):
            lengths = array.value_lengths().fill_null(length).to_numpy(zero_copy_only=False)
            if (lengths != length).any():
                row = int(np.argmax(lengths != length))
                raise fail(
                    "E0604",
                    f"{self.path}, row {first + row + 1}: column `{'.'.join(column.path)}` has "
                    f"{lengths[row]} numbers, and the first row {length}",
                    help=f"lists of one length become inputs; {LEAVE_OUT}",
                )
        return array

    def lines(self) -> Iterator[int]:
        """The rows, from 1."""
        with self._opened([]) as (_, batches):
            row = 0
            for batch in batches:
                yield from range(row + 1, row + batch.num_rows + 1)
                row += batch.num_rows

    @contextmanager
    def _opened(
        self, columns: Sequence[str] | None = None, width: int = 1
    ) -> Iterator[tuple[Any, Iterator[Any]]]:
        """The schema, and batches of rows with the columns of these names, or all of them."""
        package, rows = self._package, rows_at_once(width)
        if self._table is not None:
            yield self._table.schema, iter(self._table.to_batches(max_chunksize=rows))
            return
        with readable(self.path), open_regular(self.path) as file:
            start = file.read(len(ARROW))
            file.seek(0)
            try:
                if start.startswith(PARQUET):
                    whole = package.parquet.ParquetFile(file)
                    names = None if columns is None else list(dict.fromkeys(columns))
                    yield whole.schema_arrow, whole.iter_batches(rows, columns=names)
                    return
                is_file = start.startswith(ARROW)
                if not is_file:
                    _check_end(file)
                opened = package.ipc.open_file(file) if is_file else package.ipc.open_stream(file)
                yield opened.schema, _pieces(opened, is_file, rows)
            except (UserError, WrongCell, GeneratorExit):
                raise
            # What a damaged file leads to is an error of Arrow, of the system, or of a codec; or a
            # length that no memory has.
            except (package.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
                why = reason(error).partition("\n")[0]
                message = f"{self.path} cannot be read as a table: {why}"
                raise fail("E0603", message, help=AGAIN) from error


def _check_end(file: BinaryIO) -> None:
    """ValueError for a stream that has been cut short, perhaps between two batches."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - len(END)))
    if file.read() != END:
        raise ValueError("it ends early")
    file.seek(0)


def _pieces(opened: Any, is_file: bool, rows: int) -> Iterator[Any]:
    """The batches of a file or a stream of Arrow, cut to at most so many rows."""
    count = opened.num_record_batches if is_file else None
    batches = map(opened.get_batch, range(count)) if count is not None else iter(opened)
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _plain(array: Any) -> Any:
    """An array without what wraps its values: an extension type, or runs of equal ones."""
    array = getattr(array, "storage", array)
    if type(array).__name__ == "RunEndEncodedArray":
        from pyarrow import compute

        return compute.run_end_decode(array)
    return array


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """The names of the classes of columns, as the package `datasets` of Hugging Face notes them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}


@dataclass(frozen=True, eq=False)
class ArrowCells:
    """Cells of a column of Arrow."""

    array: Any
    name: str
    file: ArrowFile

    def numbers(self, column: int, first: int, may_miss: bool) -> np.ndarray:
        """As `Cells`; E0611 for what is no number."""
        package, array = self.file._package, self.array
        types = package.types
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if types.is_null(kind):
            return checked_numbers(np.full(len(array), np.nan), column, first, may_miss)
        if types.is_boolean(kind):
            array = array.cast(package.int8())
        if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
            whole = None
            if types.is_integer(kind) and kind.bit_width > 32:
                whole = array.fill_null(0).to_numpy(zero_copy_only=False)
            values = array.cast(package.float64(), safe=False).to_numpy(zero_copy_only=False)
            return checked_numbers(values, column, first, may_miss, whole)
        if _is_text(types, kind):
            return numbers(column, self.texts(), first, may_miss)
        raise self._unfit(array)

    def texts(self, booleans: tuple[str, str] = BOOLEANS) -> Sequence[str]:
        """As `Cells`; E0611 for what has no text."""
        package, array = self.file._package, self.array
        types = package.types
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if types.is_timestamp(kind):
            return _moments(package, array)
        if types.is_boolean(kind):
            return ["" if one is None else booleans[one] for one in array.to_pylist()]
        if types.is_floating(kind):
            return ["" if one is None or one != one else repr(one) for one in array.to_pylist()]
        if types.is_integer(kind) or types.is_null(kind) or _is_text(types, kind):
            return ["" if one is None else str(one) for one in array.to_pylist()]
        if types.is_date(kind) or types.is_time(kind):
            return ["" if one is None else one.isoformat() for one in array.to_pylist()]
        raise self._unfit(array)

    def values(self) -> Sequence[Any]:
        """As `Cells`."""
        found: list[Any] = self.array.to_pylist()
        return found

    def _unfit(self, array: Any) -> UserError:
        types, kind = self.file._package.types, array.type
        known = (advice for test, advice in ADVICE if getattr(types, test)(kind))
        return fail(
            "E0611",
            f"column `{self.name}` of {self.file.path} holds {kind}, which is no number",
            help=next(known, LEAVE_OUT),
        )


def _is_text(types: Any, kind: Any) -> bool:
    views = getattr(types, "is_string_view", lambda kind: False)
    return types.is_string(kind) or types.is_large_string(kind) or views(kind)


def _moments(package: Any, array: Any) -> list[str]:
    """Times as ISO 8601 writes them, to the microsecond."""
    zone = "+00:00" if array.type.tz else ""
    whole = array.cast(package.timestamp("us", array.type.tz), safe=False).cast(package.int64())
    return ["" if one is None else f"{np.datetime64(one, 'us')}{zone}" for one in whole.to_pylist()]
