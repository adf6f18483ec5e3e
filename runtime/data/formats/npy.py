"""`npy(x = "x.npy", y = "y.npy")`: one array per file, one field per setting.

In: `.npy` files, the first axis counting the examples. Out: fields named as the settings are,
mapped from disk. `x_test = "…"` and `x_validation = "…"` form the other splits. A pattern like
`x = "x-*.npy"` names several files, whose examples follow each other in the order of the names,
numbers by their value: `x-9.npy` is before `x-10.npy`.
"""

from __future__ import annotations

from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Schema
from ..core.named_arrays import check_parts, dataset_of, joined_header, schema_of
from ..core.source import DataSource, Request, errors_at
from ..core.stored import bounded, joined
from .numpy_format import Header, map_npy, npy_header

Files = dict[Path, Header]  # of one array, in order


def describe(request: Request) -> Schema:
    """From the headers of the files alone."""
    return schema_of(_whole(_files(request), request), "npy", request)


def load(request: Request) -> Dataset:
    """All splits, mapped. E0601 to E0603, E0607, E0611, E0613, E0615 or E0617 if that cannot be."""
    files = _files(request)
    headers = _whole(files, request)
    # Mapped, so that only the examples of a batch are ever read.
    parts = {
        (name, number): map_npy(path, header)
        for name, each in files.items()
        for number, (path, header) in enumerate(each.items())
    }
    kept = bounded(parts, request.search.memory)
    arrays = {
        name: joined([kept[name, number] for number in range(len(each))])
        for name, each in files.items()
    }
    return dataset_of(arrays, headers, "npy", request)


def _whole(files: dict[str, Files], request: Request) -> dict[str, Header]:
    """The headers of the fields, each of all its files."""
    headers = {}
    for name, each in files.items():
        with errors_at(request.span_of(name)):
            headers[name] = joined_header({str(path): one for path, one in each.items()})
    lengths = {name: [h.shape[0] for h in each.values()] for name, each in files.items()}
    check_parts(lengths, {n: [*map(str, each)] for n, each in files.items()})
    return headers


def _files(request: Request) -> dict[str, Files]:
    if not request.settings:
        help = 'write `npy(x = "x.npy", y = "y.npy")`'
        raise fail("E0608", "`npy` needs a file for each field", help=help)
    found: dict[str, Files] = {}
    for name in request.settings:
        with errors_at(request.span_of(name)):
            # An error is marked at the file's own name, as each field has a file of its own.
            found[name] = {path: npy_header(path) for path in request.files(name)}
    return found


NPY = DataSource("npy", "one .npy file per field", (), describe, load, others="text")
