"""`arrow("houses.feather", target = "price")`: a table of an Arrow file, a row per example.

In: Arrow files, which Feather files are, and streams of Arrow, as `datasets` of Hugging Face saves
them, with the package pyarrow (`pip install 'nnc-lang[arrow]'`). Out: as `parquet`.
"""

from __future__ import annotations

from ..core.dataset import Dataset, Schema
from ..core.source import DataSource, Request
from . import csv_source as table


def describe(request: Request) -> Schema:
    """As `csv`."""
    return table.describe(request)


def load(request: Request) -> Dataset:
    """As `csv`."""
    return table.load(request)


ARROW = DataSource(
    "arrow",
    table.WHAT,
    (*table.COLUMN_SETTINGS, *table.ROW_SETTINGS),
    describe,
    load,
)
