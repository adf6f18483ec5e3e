"""Data for training: `data = mnist()` and its relatives, as named arrays in splits.

In: a source's name, its settings and where to look. Out: a `Schema` (`describe`) or a `Dataset`
(`load`). This package does not shuffle, batch or augment; the training loop asks `Split.take`.
"""

from .dataset import Dataset, Field, Schema, Split, check_labels
from .errors import DATA_ERRORS, SEQUENCE_ERRORS
from .places import Search
from .source import Setting, Source, bind
from .sources import SOURCES, describe, find_source, load
from .vocabulary import Vocabulary

__all__ = [
    "DATA_ERRORS",
    "SEQUENCE_ERRORS",
    "SOURCES",
    "Dataset",
    "Field",
    "Schema",
    "Search",
    "Setting",
    "Source",
    "Split",
    "Vocabulary",
    "bind",
    "check_labels",
    "describe",
    "find_source",
    "load",
]
