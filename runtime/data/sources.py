"""The table of data sources that a train block can name; `describe` and `load` for any of them.

In: a source's name and settings. Out: its schema, or its dataset. A new source is one file with
one `DataSource` record, and a line in the table below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ...dsl.syntax.source import Span
from .core.data_paths import Search
from .core.dataset import Dataset, Schema
from .core.source import DataSource, Request, errors_at, request_for

# the name of a source → its file; the record is called as the source, in capitals
FILES = {
    "mnist": "sets.mnist",
    "fashion_mnist": "sets.fashion_mnist",
    "digits": "sets.digits",
    "digit_scenes": "sets.digit_scenes",
    "moving_digits": "sets.moving_digits",
    "digit_actions": "sets.digit_actions",
    "movielens": "sets.movielens",
    "film_reviews": "sets.film_reviews",
    "debian_handbook": "sets.debian_handbook",
    "csv": "formats.csv_source",
    "parquet": "formats.parquet",
    "arrow": "formats.arrow",
    "jsonl": "formats.jsonl",
    "npz": "formats.npz",
    "npy": "formats.npy",
    "images": "formats.images",
    "text": "formats.text",
    "shakespeare": "sets.shakespeare",
    "lines": "formats.lines",
    "pairs": "formats.pairs",
    "time_series": "formats.time_series",
    "wav": "formats.wav",
    "spoken_digits": "sets.spoken_digits",
    "digit_strings": "sets.digit_strings",
    "digit_sounds": "sets.digit_sounds",
    "asterisk_prompts": "sets.asterisk_prompts",
    "english_german": "synthetic.english_german",
    "reversal": "synthetic.reversal",
    "retrieval": "synthetic.question_answering",
    "babi": "synthetic.babi",
    "copying": "synthetic.copying",
    "adding": "synthetic.adding",
    "sine": "synthetic.sine",
    "opinions": "synthetic.sentiment",
}


# what others call a source, or a format → how it is written
OTHER_NAMES = {
    **dict.fromkeys(("table", "tsv", "pandas", "polars", "read_csv"), 'csv("houses.csv")'),
    **dict.fromkeys(("read_parquet", "pyarrow"), 'parquet("houses.parquet")'),
    **dict.fromkeys(("feather", "ipc", "load_from_disk"), 'arrow("houses.feather")'),
    **dict.fromkeys(("json", "ndjson", "json_lines", "read_json"), 'jsonl("houses.jsonl")'),
    **dict.fromkeys(("huggingface", "hf", "datasets", "load_dataset"), 'parquet("FOLDER")'),
    **dict.fromkeys(("imagefolder", "image_folder", "ImageFolder"), 'images("FOLDER")'),
}


class _Sources(Mapping[str, DataSource]):
    """The records by name, each imported when it is first asked for: a program needs one."""

    def __getitem__(self, name: str) -> DataSource:
        module = import_module(f"{__package__}.{FILES[name]}")
        found: DataSource = getattr(module, name.upper())
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


SOURCES: Mapping[str, DataSource] = _Sources()


def find_source(name: str, span: Span | None = None) -> DataSource:
    """The source of that name; E0608 if there is none."""
    if name not in SOURCES:
        raise fail(
            "E0608",
            f"there is no data source `{name}`",
            span,
            help=f"write `{OTHER_NAMES[name]}`"
            if name in OTHER_NAMES
            else did_you_mean(name, SOURCES) or f"there are {', '.join(SOURCES)}",
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
