"""Data for training: `data = mnist()` and its relatives, as named arrays in splits.

In: a source's name, its settings and where to look. Out: a `Schema` (`describe`) or a `Dataset`
(`load`). This package does not shuffle, batch or augment; the training loop asks `Split.take`.
"""

from .core.data_paths import Search
from .core.dataset import Dataset, Field, Schema, Split, check_labels
from .core.source import DataSource, Setting, bind
from .core.vocabulary import Vocabulary
from .sources import SOURCES, describe, find_source, load

__all__ = [
    "SOURCES",
    "DataSource",
    "Dataset",
    "Field",
    "Schema",
    "Search",
    "Setting",
    "Split",
    "Vocabulary",
    "bind",
    "check_labels",
    "describe",
    "find_source",
    "load",
]
