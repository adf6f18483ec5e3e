"""Results of a prediction on disk, in the format that the ending of the file says.

    .npy     one array, also in a file without an ending
    .npz     any number of arrays by name
    .csv     a row for each example, a column for each number: `y`, or `y_0`, `y_1`, …
    .jsonl   an object for each example: {"y": [0.1, 0.9]}
    .parquet, .feather   the rows of a .csv, with numbers as numbers (needs the package pyarrow)
    .wav     a file for each example (`result_sounds.py`)

In texts, results that stand for something say what (`readable.py`): {"input": "a.jpg", "label":
"cat", "probability": 0.9, "probabilities": {"cat": 0.9, "dog": 0.1}}. Arrays are the results
themselves; an .npz has the names of the examples as `input` besides, where they come from files.

Numbers in texts are the shortest that are read back as the same number of their type.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..data.formats.arrow_table import pyarrow
from ..training.atomic_files import write_bytes
from .readable import ResultTable, listed
from .result_sounds import ENDING as SOUND
from .result_sounds import write_sounds

ENDINGS = (".npy", ".npz", ".csv", ".jsonl", ".parquet", ".feather", SOUND)

Results = Mapping[str, np.ndarray]


def check_ending(path: Path) -> None:
    """UserError E0716 unless there is a format of the file's ending."""
    if path.suffix and path.suffix.lower() not in ENDINGS:
        near = did_you_mean(path.suffix.lower(), ENDINGS)
        raise fail(
            "E0716",
            f"results are not written as `{path.suffix}`",
            help=f"{near} there are {', '.join(ENDINGS)}".strip(),
        )

    if path.suffix.lower() in (".parquet", ".feather"):
        pyarrow(path)


def write_results(
    path: Path, results: Results, table: ResultTable, rate: int | None = None
) -> list[str]:
    """Write the results, and say what was written; `table` is how texts say them, `rate` the
    samples per second of sounds. A file appears complete or not at all, under exactly that name.

    UserError E0716 if the format cannot hold them, E0709 if it cannot be written.
    """
    check_ending(path)
    if rate is not None:
        return write_sounds(path, results, rate)
    write_bytes(path, _FORMATS[path.suffix.lower() or ".npy"](path, results, table))
    return [f"{name}: {one.dtype}{list(one.shape)} in {path}" for name, one in results.items()]


def _npy(path: Path, results: Results, table: ResultTable) -> bytes:
    if len(results) > 1:
        raise fail(
            "E0716",
            f"{path} holds one array, and there are {len(results)} results: {listed(results)}",
            help=f"`{path.with_suffix('.npz')}` holds several; `--tensor NAME` takes one",
        )
    return npy_bytes(next(iter(results.values())))


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a file .npy has it."""
    # Through memory: NumPy would append `.npy` to a name.
    data = BytesIO()
    np.save(data, array)
    return data.getvalue()


def _npz(path: Path, results: Results, table: ResultTable) -> bytes:
    data = BytesIO()
    names = {"input": np.array(table.names)} if table.names else {}
    np.savez(data, **{**names, **results})  # type: ignore[arg-type]
    return data.getvalue()


def _csv(path: Path, results: Results, table: ResultTable) -> bytes:
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(table.head())
    for row in range(table.count(results, f"{path} has")):
        rows.writerows(table.lines(row))
    return text.getvalue().encode("utf-8", "backslashreplace")


def _jsonl(path: Path, results: Results, table: ResultTable) -> bytes:
    lines = json_lines(results, table, f"{path} has")
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def json_lines(results: Results, table: ResultTable, where: str) -> Iterator[str]:
    """An object of JSON for each example. UserError E0716 if there is not one of every result."""
    for row in range(table.count(results, where)):
        yield json.dumps(table.plain(row), allow_nan=False, ensure_ascii=False)


def _arrow(path: Path, results: Results, table: ResultTable) -> bytes:
    package, data = pyarrow(path), BytesIO()
    count = table.count(results, f"{path} has")
    rows = [line for row in range(count) for line in table.lines(row)]
    columns = zip(*rows, strict=True) if rows else [()] * len(table.head())
    texts = len([one for one in (table.names, table.texts) if one])
    found = {
        name: list(cells) if place < texts else _typed(cells)
        for place, (name, cells) in enumerate(zip(table.head(), columns, strict=True))
    }
    if path.suffix.lower() == ".parquet":
        package.parquet.write_table(package.table(found), data)
    else:
        whole = package.table(found)
        with package.ipc.new_file(data, whole.schema) as file:
            file.write_table(whole)
    return data.getvalue()


def _typed(cells: Sequence[str]) -> list[Any]:
    """Cells of a column as whole numbers, or numbers, if all are; else as they are."""
    for kind in (int, float):
        with suppress(ValueError):
            return [kind(cell) for cell in cells]
    return list(cells)


_FORMATS = {
    ".npy": _npy, ".npz": _npz, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _arrow,
    ".feather": _arrow,
}  # fmt: skip
