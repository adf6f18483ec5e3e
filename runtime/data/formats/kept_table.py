"""Tables that are converted once: the next run finds their numbers in the user's cache.

In: what was read of a table whose inputs do not fit into memory. Out: the same again, where its
files have the same names, sizes and times. A cache that is damaged costs time and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..core.data_paths import Search
from ..core.feature_cache import load_cached, store_cached
from ..core.spool import find_rows
from .csv_features import RawColumns
from .csv_targets import Target
from .table_file import TableFile

KIND = "tables"  # the folder in the cache
VERSION = 1  # of how cells become numbers: after a change, kept tables must not be found


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


@dataclass(frozen=True)
class Kept:
    """Where the numbers of a table are kept, and everything that they depend on."""

    cache: Path
    key: str

    @staticmethod
    def of(search: Search, opened: Sequence[TableFile], about: list[Any]) -> Kept:
        """Of a table in some files; `about` says which columns are read, and how."""
        files = []
        for file in opened:
            state = file.path.stat()
            files.append([str(file.path.resolve()), state.st_size, state.st_mtime_ns])
        form = [str(getattr(file, "form", "")) for file in opened]
        key = json.dumps([VERSION, files, form, about])
        return Kept(search.cache_folder, key)

    @property
    def path(self) -> Path:
        """The file of the inputs."""
        name = sha256(self.key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.cache / KIND / f"{name}.rows"

    def store(self, columns: Columns) -> None:
        """Keep what there is besides the inputs, which are in the file already."""
        assert columns.inputs is not None
        texts = [list(target.numbering) for target in columns.targets]
        words = [[place, *names] for place, names in columns.inputs.texts.items()]
        arrays = {
            f"target{number}": np.concatenate(target.blocks)
            for number, target in enumerate(columns.targets)
        }
        arrays["counts"] = np.array(columns.counts)
        arrays["texts"] = np.frombuffer(json.dumps([texts, words]).encode(), np.uint8)
        store_cached(self.cache, KIND, self.key, arrays)

    def find(self, inputs: tuple[int, ...], wanted: tuple[int, ...], exact: bool) -> Columns | None:
        """What another run has kept of the inputs and targets in these columns; None if there is
        nothing, or it is damaged."""
        found = load_cached(self.cache, KIND, self.key)
        if found is None:
            return None
        texts, words = json.loads(found["texts"].tobytes())
        counts = tuple(map(int, found["counts"]))
        rows = find_rows(self.path, (sum(counts), len(inputs)))
        if rows is None:
            return None
        targets = []
        for number, (column, own) in enumerate(zip(wanted, texts, strict=True)):
            cells = found[f"target{number}"]
            numbering = {text: place for place, text in enumerate(own)}
            are_numbers = cells.dtype == np.float64
            targets.append(Target(column, exact, not are_numbers, are_numbers, [cells], numbering))
        known = {place: tuple(names) for place, *names in words}
        return Columns(counts, RawColumns(rows, known, inputs), tuple(targets))
