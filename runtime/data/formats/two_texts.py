"""Two texts for each example: a label and a text, or a source and a target.

In: lines that a delimiter divides, or a table of any format, in one file or in several. Out: the
texts, and which rows are of which split, where files say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.shards import find_shards, rows_of_splits
from ..core.source import Request, errors_at
from .new_lines import SUFFIXES
from .table_file import TextForm
from .table_texts import is_table, read_texts
from .text_file import TextRow, read_rows

PAIR = ("source", "target")


@dataclass(frozen=True)
class TwoColumns:
    """Two texts a row, of lines or of a table, and the rows of the splits, if files say these."""

    name: str
    rows: list[tuple[str, str]]
    is_table: bool
    parts: list[np.ndarray] | None
    class_names: tuple[str, ...]


def read_two_columns(
    request: Request, names: tuple[str, str], settings: tuple[str, str], last: bool
) -> TwoColumns:
    """The texts called `names`; of a table those in the columns that the `settings` name, or that
    are called so. Of lines they are divided by a delimiter, the first one `last`, if that is so.
    UserError E0604, E0612 to E0614, E0616 to E0618."""
    with errors_at(request.span_of("file")):
        cache, encoding = request.search.cache_folder, request["encoding"]
        splits = find_shards(request.search, request["file"], SUFFIXES)
        files = [path for own in splits.values() for path in own]
        named = any(request[setting] is not None for setting in settings)
        columns = [
            (request[setting] or name, request.span_of(setting))
            for setting, name in zip(settings, names, strict=True)
        ]
        rows: list[tuple[str, str]] = []
        counts: list[int] = []
        class_names: tuple[str, ...] = ()
        any_table = False
        for path in files:
            if is_table(path, named):
                delimiter = "," if request["delimiter"] == "\t" else request["delimiter"]
                table = read_texts(path, columns, TextForm(delimiter, True, encoding, cache))
                found = [(first.strip(), second.strip()) for first, second in table.rows]
                class_names, any_table = table.class_names, True
            else:
                if named:
                    message = f"{path} is text, which has no columns that have names"
                    help = "a table ends in .csv, .parquet, .arrow or .jsonl"
                    raise fail("E0614", message, help=help)
                shown = names[::-1] if last else names
                read = read_rows(path, cache, request["delimiter"], shown, last, encoding)
                found = [(row.cells[last], row.cells[not last]) for row in read]
                if not last and names == PAIR:
                    check_two_cells(path, read, request["delimiter"])
            rows += found
            counts.append(len(found))
    name = str(files[0]) if len(files) == 1 else request["file"]
    return TwoColumns(name, rows, any_table, rows_of_splits(splits, counts), class_names)


def check_two_cells(path: Path, rows: list[TextRow], delimiter: str) -> None:
    """E0604 for a line of a pair with more than two cells."""
    # A row is divided at its first delimiter, so further cells end up in the second.
    for row in rows:
        if delimiter in row.cells[1]:
            found = row.cells[1].count(delimiter) + 2
            message = f"{path}, line {row.line}: {found} cells where a pair has 2"
            hint = "keep the first two columns: `cut -f 1,2`" if delimiter == "\t" else ""
            raise fail("E0604", message, help=hint)
