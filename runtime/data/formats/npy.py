"""`npy(x = "x.npy", y = "y.npy")`: one array per file, one field per setting.

In: `.npy` files, the first axis counting the examples. Out: fields named as the settings are,
mapped from disk. `x_test = "…"` and `x_validation = "…"` form the other splits.
"""

from __future__ import annotations

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Schema
from ..core.named_arrays import dataset_of, schema_of
from ..core.source import DataSource, Request, errors_at
from .numpy_format import Header, map_npy, npy_header


def describe(request: Request) -> Schema:
    """From the headers of the files alone."""
    return schema_of(_headers(request), "npy", request)


def load(request: Request) -> Dataset:
    """All splits, mapped. E0601 to E0603, E0607, E0611, E0613 or E0617 if that cannot be."""
    headers = _headers(request)
    # Mapped, so that only the examples of a batch are ever read.
    arrays = {name: map_npy(request.file(name), header) for name, header in headers.items()}
    return dataset_of(arrays, headers, "npy", request)


def _headers(request: Request) -> dict[str, Header]:
    if not request.settings:
        help = 'write `npy(x = "x.npy", y = "y.npy")`'
        raise fail("E0608", "`npy` needs a file for each field", help=help)
    headers = {}
    for name in request.settings:
        with errors_at(request.span_of(name)):
            # An error is marked at the file's own name, as each field has a file of its own.
            headers[name] = npy_header(request.file(name))
    return headers


NPY = DataSource("npy", "one .npy file per field", (), describe, load, others="text")
