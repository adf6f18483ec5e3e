"""Results of a prediction on disk, in the format that the ending of the file says.

    .npy     one array, also in a file without an ending
    .npz     any number of arrays by name
    .csv     a row for each example, a column for each number: `y`, or `y_0`, `y_1`, …
    .jsonl   an object for each example: {"y": [0.1, 0.9]}

Numbers in texts are the shortest that are read back as the same number of their type.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from io import BytesIO, StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..training.atomic_files import write_bytes

ENDINGS = (".npy", ".npz", ".csv", ".jsonl")

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


def write_results(path: Path, results: Results) -> None:
    """Write the results. The file appears complete or not at all, under exactly that name.

    UserError E0716 if the format cannot hold them, E0709 if it cannot be written.
    """
    check_ending(path)
    write_bytes(path, _FORMATS[path.suffix.lower() or ".npy"](path, results))


def _npy(path: Path, results: Results) -> bytes:
    if len(results) > 1:
        raise fail(
            "E0716",
            f"{path} holds one array, and there are {len(results)} results: {_listed(results)}",
            help=f"`{path.with_suffix('.npz')}` holds several; `--tensor NAME` takes one",
        )
    # Through memory: NumPy would append `.npy` to a name.
    data = BytesIO()
    np.save(data, next(iter(results.values())))
    return data.getvalue()


def _npz(path: Path, results: Results) -> bytes:
    data = BytesIO()
    np.savez(data, **results)  # type: ignore[arg-type]
    return data.getvalue()


def _csv(path: Path, results: Results) -> bytes:
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(column for name, result in results.items() for column in _columns(name, result))
    for row in _rows(path, results):
        rows.writerow(_number(n) for result in row for n in np.asarray(result).reshape(-1))
    return text.getvalue().encode()


def _jsonl(path: Path, results: Results) -> bytes:
    lines = (
        json.dumps(dict(zip(results, map(_plain, row), strict=True)), allow_nan=False)
        for row in _rows(path, results)
    )
    return "".join(f"{line}\n" for line in lines).encode()


_FORMATS = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".jsonl": _jsonl}


def _rows(path: Path, results: Results) -> Iterator[tuple[Any, ...]]:
    """What each example has of all results; UserError E0716 if they have different numbers of
    them. A number is one example's."""
    arrays = [np.atleast_1d(result) for result in results.values()]
    if len({len(array) for array in arrays}) > 1:
        raise fail(
            "E0716",
            f"{path} has a line for each example, and the results differ in their number: "
            + _listed(results),
            help=f"`{path.with_suffix('.npz')}` holds them",
        )
    return zip(*arrays, strict=True)


def _columns(name: str, result: np.ndarray) -> list[str]:
    """`y`, or `y_0_1` for each number of an example."""
    return ["_".join([name, *map(str, place)]) for place in np.ndindex(result.shape[1:])]


def _listed(results: Results) -> str:
    return ", ".join(f"`{name}` {list(result.shape)}" for name, result in results.items())


def _number(value: np.generic) -> str:
    """`0.1` for the f32 that is nearest to it; `true`, `nan`, `inf`."""
    return str(value).lower()


def _plain(value: Any) -> Any:
    """As JSON has it; what is not finite, which JSON lacks, is null."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value]
    if value.dtype.kind != "f":
        return value.item()
    number = float(str(value))
    return number if isfinite(number) else None
