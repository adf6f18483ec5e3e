"""`jsonl("houses.jsonl", target = "price")`: a table of JSON Lines, one row per example.

In: an object of JSON on every line, plain or gzip'd, whose keys are the columns. Out: as `parquet`:
a key that an object lacks is a missing cell, as null is; lists of numbers are as many columns, and
an object in an object has columns `a.b`.
"""

from __future__ import annotations

from ..core.source import DataSource
from . import csv_source as table

JSONL = DataSource(
    "jsonl",
    table.WHAT,
    (*table.COLUMN_SETTINGS, table.ENCODING, *table.ROW_SETTINGS),
    table.describe,
    table.load,
)
