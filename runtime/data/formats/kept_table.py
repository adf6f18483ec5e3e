"""A table that is converted once, as `Kept` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.data_paths import Search
from ..core.kept import Kept, as_bytes, from_bytes
from .csv_features import RawColumns
from .csv_targets import Target
from .table_file import TableFile

KIND = "tables"  # the folder in the cache
VERSION = 2  # of how cells become numbers: after a change, kept tables must not be found
INPUTS = "x"


@dataclass(frozen=True, eq=False)
class Columns:
    """A table's inputs, None if they were not wanted, and the texts of its targets; `counts` are
    the rows of each file."""

    counts: tuple[int, ...]
    inputs: RawColumns | None
    targets: tuple[Target, ...]

    @property
    def count(self) -> int:
        return sum(self.counts)


def kept_table(search: Search, opened: Sequence[TableFile], about: list[Any]) -> Kept:
    """Where the numbers of a table in some files are kept; `about` says which columns are read, and
    how."""
    forms = [str(getattr(file, "form", "")) for file in opened]
    paths = [file.path for file in opened]
    return Kept.of(search, KIND, paths, [VERSION, forms, about])


def store_columns(kept: Kept, columns: Columns) -> None:
    """Keep the columns, of which the inputs are in their file."""
    assert columns.inputs is not None
    texts = [list(target.numbering) for target in columns.targets]
    words = [[place, *names] for place, names in columns.inputs.texts.items()]
    arrays = {
        f"target{number}": np.concatenate(target.blocks)
        for number, target in enumerate(columns.targets)
    }
    about = as_bytes([columns.counts, texts, words])
    kept.store({**arrays, "about": about, INPUTS: columns.inputs.values})


def find_columns(
    kept: Kept, inputs: tuple[int, ...], wanted: tuple[int, ...], exact: bool
) -> Columns | None:
    """What another run has kept of the inputs and targets in these columns."""
    found = kept.find()
    if found is None:
        return None
    counts, texts, words = from_bytes(found["about"])
    targets = []
    for number, (column, own) in enumerate(zip(wanted, texts, strict=True)):
        cells = np.asarray(found[f"target{number}"])
        numbering = {text: place for place, text in enumerate(own)}
        are_numbers = cells.dtype == np.float64
        targets.append(Target(column, exact, not are_numbers, are_numbers, [cells], numbering))
    known = {place: tuple(names) for place, *names in words}
    return Columns(tuple(counts), RawColumns(found[INPUTS], known, inputs), tuple(targets))
