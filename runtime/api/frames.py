"""Tables in memory: frames of pandas, Polars and Arrow, and of any library that exchanges columns.

In: a frame as a caller gives it, and what a program or a run says of its table. Out: the data that
a file with these columns would be, by the code that reads files. Needs the package pyarrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..data import Dataset, Search
from ..data.core.reader import Reader, listed
from ..data.formats.arrow_table import ArrowFile, pyarrow
from ..data.formats.csv_source import load_in_memory
from ..data.formats.table_columns import read_columns
from ..data.formats.table_file import TextForm
from ..data.formats.table_reader import TableReader
from ..data.recorded import Recorded
from ..project import Project, source_settings

CALL = Path("the table")  # what messages call a table in memory
SOURCES = ("csv", "parquet", "arrow", "jsonl")
LABEL_HELP = "the classes are those of training"


@dataclass(frozen=True)
class Frame:
    """A table in memory, and the names of its columns."""

    value: Any
    names: tuple[str, ...]

    def table(self) -> Any:
        """As a table of Arrow. UserError E0609 without pyarrow, E0708 for what cannot be one."""
        package = pyarrow("a table in memory")
        try:
            if hasattr(self.value, "__arrow_c_stream__"):
                return package.table(self.value)
            if type(self.value).__module__.partition(".")[0] == "pandas":
                return package.Table.from_pandas(self.value)
            from pyarrow import interchange

            return interchange.from_dataframe(self.value)
        except (package.ArrowException, ValueError, TypeError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            raise fail("E0708", f"{CALL} cannot be one of Arrow: {why}") from error

    def file(self) -> ArrowFile:
        """As a file of Arrow."""
        return ArrowFile(CALL, TextForm(), self.table())


def frame_of(arrays: Sequence[object], named: Mapping[str, object]) -> Frame | None:
    """The table that is the only one of what is given to a call; None for anything else."""
    if len(arrays) != 1 or named or isinstance(arrays[0], Mapping | np.ndarray | list | tuple):
        return None
    value: Any = arrays[0]
    if not (hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__")):
        return None
    # Tables of Arrow have `columns`, too, which are arrays; one column has neither.
    names = getattr(value, "column_names", None)
    if names is None:
        names = getattr(value, "columns", None)
    if names is None and hasattr(value, "__dataframe__"):
        names = value.__dataframe__().column_names()
    found = () if names is None else tuple(names)
    return Frame(value, found) if found and all(isinstance(n, str) for n in found) else None


def by_field(frame: Frame, names: Sequence[str]) -> dict[str, object] | None:
    """The columns of these fields, if there are several fields and the table has them all."""
    if len(names) < 2 or not {*names} <= {*frame.names}:
        return None
    value = frame.value if hasattr(frame.value, "__getitem__") else frame.table()
    return {name: value[name] for name in names}


def is_table_of(frame: Frame, reader: Reader | None) -> bool:
    """Whether a table has columns that a run on a table reads; without pyarrow it is an array."""
    if find_spec("pyarrow") is None:
        return False
    return isinstance(reader, TableReader) and bool({*frame.names} & {*_whole(reader)})


def _whole(reader: TableReader) -> list[str]:
    """The columns of a run as a frame calls them: `e` for `e[0]`, `e[1]`, …"""
    return [name.split("[")[0].split(".")[0] for name in reader.columns] + [*reader.columns]


def read_frame(frame: Frame, reader: Reader | None) -> np.ndarray:
    """The inputs `x` of a run in a table. UserError as for files."""
    assert isinstance(reader, TableReader)
    table, _ = reader.table(frame.file())
    found = reader.numbers(table, read_columns(table))
    assert found is not None  # a reader has columns
    return np.asarray(found)


def trains_on(project: Project, frame: Frame) -> bool:
    """Whether a program reads a table, and a frame has its target."""
    choice = project.settings.data
    if choice is None or choice.source not in SOURCES:
        return False
    target = source_settings(choice).get("target")
    wanted = [target] if isinstance(target, str) else target or []
    return bool(wanted) and {*wanted} <= {*frame.names}


def training_data(project: Project, frame: Frame) -> Dataset:
    """The data that a program makes of its table, of a table in memory in its place."""
    choice = project.settings.data
    assert choice is not None
    settings, search = source_settings(choice), Search(None, project.path.parent)
    return load_in_memory(settings, search, frame.file())


def measured_data(frame: Frame, recorded: Recorded) -> dict[str, np.ndarray]:
    """The inputs and the targets of a run in a table, encoded as those of training. UserError E0606
    for a label that training did not have, E0614 for a column that is missing, and as for files."""
    reader = recorded.reader
    assert isinstance(reader, TableReader)
    found, file = {"x": read_frame(frame, reader)}, frame.file()
    for name in reader.targets:
        if name not in file.names:
            help = did_you_mean(name, file.names) or f"it has {listed(file.names)}"
            raise fail("E0614", f"{CALL} has no column `{name}`", help=help)
    blocks = [cells for _, cells in file.blocks(reader.targets)]
    known = recorded.class_names.get("y")
    if known:
        found["y"] = _labels([t for b in blocks for t in b[reader.targets[0]].texts()], known)
        return found
    columns = [
        np.concatenate([cells[name].numbers(0, 0, False) for cells in blocks])
        for name in reader.targets
    ]
    whole = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    found["y"] = whole.astype(np.int32) if "y" in recorded.classes else whole
    return found


def _labels(texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    # A file may number labels itself, whose names it has besides.
    numbers |= {str(n): n for n in range(len(names)) if str(n) not in numbers}
    wrong = next((row for row, text in enumerate(texts) if text.strip() not in numbers), None)
    if wrong is not None:
        message = f"label `{texts[wrong]}` of {CALL}, row {wrong + 1}, is none of {listed(names)}"
        raise fail("E0606", message, help=LABEL_HELP)
    return np.array([numbers[text.strip()] for text in texts], np.int32)
