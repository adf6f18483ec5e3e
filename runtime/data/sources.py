"""The data sources that a train block can name, and the two things to ask of one.

In: a source's name and settings. Out: its schema, or its dataset. A new source is one file with
one `Source` record and one line in the table below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ...dsl.syntax.source import Span
from .core.data_paths import Search
from .core.dataset import Dataset, Schema
from .core.source import Source, request_for
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

SOURCES: dict[str, Source] = {
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


def find_source(name: str, span: Span | None = None) -> Source:
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
    """The fields of a source, from little reading. `spans` are the settings' places, by name.

    Raises UserError E0601 to E0621, at a setting's place or at `span`. Downloads nothing.
    """
    source = find_source(name, span)
    return source.describe(request_for(source, settings, search, spans or {}, span))


def load(
    name: str,
    settings: Mapping[str, Any],
    search: Search,
    *,
    spans: Mapping[str, Span] | None = None,
    span: Span | None = None,
) -> Dataset:
    """The splits of a source, validated; as `describe`, but reads, and downloads a known set."""
    source = find_source(name, span)
    return source.load(request_for(source, settings, search, spans or {}, span))
