"""`lines("reviews.tsv")`: a label and a text per line, for sentiment and other classification.

In: text, plain or gzip'd, in UTF-8 or the declared `encoding`; on every line that is not blank a
label, a delimiter and a text. Or a table of Parquet, Arrow or JSON Lines with columns `label` and
`text`, or those that `target` and `text` name, which a table of CSV needs. A folder or a pattern
names several files and the splits, as for `csv`. Out: `token` i32[length], padded with 0; `length`
i32, the tokens that count; `label` i32, which numbers the labels in order (by value if all are
whole numbers, else alphabetically). The vocabulary comes from the training lines; other tokens are
read as `<unk>`. Or it is a `tokenizer.json` of Hugging Face, with its ids. `length` is that of the
longest text unless it is set; then longer texts are truncated, and a line on stderr says how many.
"""

from __future__ import annotations

from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.source import DataSource, Request, Setting
from ..core.vocabulary import PAD, UNKNOWN
from .encoded_rows import VOCABULARY_SETTINGS, encode_rows
from .new_lines import TEXT_COLUMN, LineReader
from .two_texts import TwoColumns

NAMES = ("label", "text")

SPLIT_SETTINGS = (
    Setting("delimiter", "character", "what separates the two", "\t"),
    Setting("encoding", "encoding", "how the file writes characters", UTF8),
    Setting("test", "fraction", "the share that tests", 0.2),
    Setting("seed", "seed", "of the choice of what tests", 0),
)


def describe(request: Request) -> Schema:
    """Reads the file as `load` does: lengths and vocabulary depend on all of it."""
    return _dataset(request)[0].schema


def load(request: Request) -> Dataset:
    """Both splits. E0601, E0603, E0604, E0612, E0613, E0616 or E0617 if that cannot be."""
    dataset, note = _dataset(request)
    if note:
        request.search.notify(note)
    return dataset


def _dataset(request: Request) -> tuple[Dataset, str]:
    last = request["label"] == "last"
    read = TwoColumns(request, NAMES, ("target", "text"), last)
    rows = encode_rows(request, read, (PAD, UNKNOWN), labelled=True)
    (tokens,), (vocabulary,), labels = rows.texts, rows.vocabularies, rows.labels
    assert labels is not None
    length = request["length"] or tokens.longest
    reader = LineReader(
        length,
        request["lowercase"],
        request["delimiter"],
        last,
        rows.names,
        {"token": vocabulary},
        request["encoding"],
        request["text"] or (TEXT_COLUMN if read.is_table else ""),
    )
    fields = (
        Field("token", "i32", (length,), len(vocabulary)),
        Field("length", "i32", ()),
        Field("label", "i32", (), len(rows.names)),
    )
    dataset = split_dataset(
        read.name,
        fields,
        {**reader.arrays(tokens), "label": labels},
        rows.parts,
        class_names={"label": rows.names},
        vocabularies={"token": vocabulary},
        reader=reader,
        memory=request.search.memory,
    )
    # Truncation keeps an example usable, but the user should know of it.
    cut = int((tokens.lengths > length).sum())
    note = f"{cut} of {len(tokens)} texts of {read.name} are cut at {length} tokens" if cut else ""
    return dataset, note


LINES = DataSource(
    "lines",
    "a label and a text per line: token i32[length], length i32, label i32",
    (
        Setting("file", "text", "the file, a folder, or a pattern of files", positional=True),
        Setting("length", "count", "the most tokens of a text (the longest text's)", None),
        *VOCABULARY_SETTINGS,
        Setting("label", "text", "where the label stands", "first", allowed=("first", "last")),
        Setting("text", "text", "the column of the texts, in a table (text)", None),
        Setting("target", "text", "the column of the labels, in a table (label)", None),
        *SPLIT_SETTINGS,
    ),
    describe,
    load,
)
