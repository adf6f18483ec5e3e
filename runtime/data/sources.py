"""The table of data sources that a train block can name; `describe` and `load` for any of them.

In: a source's name and settings. Out: its schema, or its dataset. A new source is one file with
one `DataSource` record, and its name in the table below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ...dsl.syntax.source import Span
from .core.data_paths import Search
from .core.dataset import Dataset, Schema
from .core.source import DataSource, Request, errors_at, request_for
from .formats.csv_table import CSV
from .formats.images import IMAGES
from .formats.lines import LINES
from .formats.npy import NPY
from .formats.npz import NPZ
from .formats.pairs import PAIRS
from .formats.text import TEXT
from .formats.wav import WAV
from .sets.digit_strings import DIGIT_STRINGS
from .sets.digits import DIGITS
from .sets.mnist import MNIST
from .sets.shakespeare import SHAKESPEARE
from .sets.spoken_digits import SPOKEN_DIGITS
from .synthetic.english_german import ENGLISH_GERMAN
from .synthetic.question_answering import RETRIEVAL
from .synthetic.reversal import REVERSAL
from .synthetic.sentiment import OPINIONS
from .synthetic.sine import SINE

SOURCES: dict[str, DataSource] = {
    source.name: source
    for source in (
        MNIST,
        DIGITS,
        CSV,
        NPZ,
        NPY,
        IMAGES,
        TEXT,
        SHAKESPEARE,
        LINES,
        PAIRS,
        WAV,
        SPOKEN_DIGITS,
        DIGIT_STRINGS,
        ENGLISH_GERMAN,
        REVERSAL,
        RETRIEVAL,
        SINE,
        OPINIONS,
    )
}


def find_source(name: str, span: Span | None = None) -> DataSource:
    """The source of that name; E0608 if there is none."""
    if name not in SOURCES:
        raise fail(
            "E0608",
            f"there is no data source `{name}`",
            span,
            help=did_you_mean(name, SOURCES) or f"there are {', '.join(SOURCES)}",
        )
    return SOURCES[name]


def describe(
    name: str,
    settings: Mapping[str, Any],
    search: Search,
    *,
    spans: Mapping[str, Span] | None = None,
    span: Span | None = None,
) -> Schema:
    """The fields of a source, read from as little as possible. `spans` has those of the settings.

    UserError E0601 to E0621, at the span of a setting or at `span`. Downloads nothing.
    """
    # Settings are checked before any file is looked for: a misspelt one needs no data to be found.
    source, request = _request(name, settings, search, spans, span)
    with errors_at(span):
        return source.describe(request)


def load(
    name: str,
    settings: Mapping[str, Any],
    search: Search,
    *,
    spans: Mapping[str, Span] | None = None,
    span: Span | None = None,
) -> Dataset:
    """The splits of a source, validated. As `describe`, but it downloads a well-known set that is
    not on this machine."""
    source, request = _request(name, settings, search, spans, span)
    # What the source raises without a place is marked at the whole `data = …`.
    with errors_at(span):
        return source.load(request)


def _request(
    name: str,
    settings: Mapping[str, Any],
    search: Search,
    spans: Mapping[str, Span] | None,
    span: Span | None,
) -> tuple[DataSource, Request]:
    source = find_source(name, span)
    request = request_for(source, settings, search, spans or {}, span)
    search.check()
    return source, request
