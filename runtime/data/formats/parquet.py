"""`parquet("houses.parquet", target = "price")`: a table of a Parquet file, one row per example.

In: Parquet files, with the package pyarrow (`pip install 'nnc-lang[arrow]'`). Out: as `csv`, with
its settings. Columns have types here: numbers and booleans (0 and 1) are inputs as they are; texts
are categories where the file has a dictionary of them, as of a pandas or Polars categorical, in its
order if that is one, and otherwise where `categories` names them; null is a missing cell, and so is
NaN. A column of lists of one length is as many numbers, `e[0]`, `e[1]`, …, and `columns` and
`target` name them together; a record `a` has columns `a.b`. A target of whole numbers below 256, of
booleans or of texts is labels, whose names are those that Hugging Face's `datasets` notes in the
file, if it does.

What f64 does not hold exactly is refused with its column: decimals, and whole numbers beyond 2^53;
so are dates and bytes among inputs. The column that pandas makes of an index is left out. Files are
checked against each other: shards, and splits, have the same columns.
"""

from __future__ import annotations

from ..core.source import DataSource
from . import csv_source as table

PARQUET = DataSource(
    "parquet",
    table.WHAT,
    (*table.COLUMN_SETTINGS, *table.ROW_SETTINGS),
    table.describe,
    table.load,
)
