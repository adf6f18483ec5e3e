"""`arrow("houses.feather", target = "price")`: a table of an Arrow file, a row per example.

In: Arrow files, which Feather files are, and streams of Arrow, as `datasets` of Hugging Face saves
them, with the package pyarrow (`pip install 'nnc-lang[arrow]'`). Out: as `parquet`.
"""

from __future__ import annotations

from ..core.source import DataSource
from . import csv_source as table

ARROW = DataSource(
    "arrow",
    table.WHAT,
    (*table.COLUMN_SETTINGS, *table.ROW_SETTINGS),
    table.describe,
    table.load,
)
