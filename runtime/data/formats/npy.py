"""`npy(x = "x.npy", y = "y.npy")`: one array per file, one field per setting.

In: `.npy` files, the first axis counting the examples. Out: fields named as the settings are,
mapped from disk. `x_test = "…"` and `x_validation = "…"` form the other splits.
"""

from __future__ import annotations

from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import check_explicit, find_file
from ..core.dataset import Dataset, Schema
from ..core.named_arrays import dataset_of, schema_of
from ..core.source import Request, Source
from .numpy_format import npy_header, npy_values


def describe(request: Request) -> Schema:
    """From the headers of the files alone."""
    headers = {
        name: npy_header(path, request.span_of(name)) for name, path in _paths(request).items()
    }
    return schema_of(headers, "npy", request)


def load(request: Request) -> Dataset:
    """All splits, mapped. E0601 to E0603, E0607, E0611, E0613 or E0617 if that cannot be."""
    paths = _paths(request)
    headers = {name: npy_header(path, request.span_of(name)) for name, path in paths.items()}
    arrays = {name: npy_values(path, request.span_of(name)) for name, path in paths.items()}
    return dataset_of(arrays, headers, "npy", request)


def _paths(request: Request) -> dict[str, Path]:
    check_explicit(request.search)
    if not request.settings:
        raise fail(
            "E0608",
            "`npy` needs a file for each field",
            request.span,
            help='write `npy(x = "x.npy", y = "y.npy")`',
        )
    return {
        name: find_file(request.search, file, request.span_of(name))
        for name, file in request.settings.items()
    }


NPY = Source("npy", "one .npy file per field", (), describe, load, others="text")
