"""`lines("reviews.tsv")`: a label and a text per line, for sentiment and other classification.

In: text, plain or gzip'd, in UTF-8 or the declared `encoding`; on every line that is not blank a
label, a delimiter and a text.
Out: `token` i32[length], padded with 0; `length` i32, the tokens that count; `label` i32, which
numbers the labels in order (by value if all are whole numbers, else alphabetically). The vocabulary
comes from the training lines; other tokens are read as `<unk>`. `length` is that of the longest
text unless it is set; then longer texts are truncated, and a line on stderr says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unicodedata import normalize

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.padding import max_length
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows
from ..core.vocabulary import PAD, UNKNOWN, Vocabulary, all_bytes, chars, words
from .new_lines import LineReader
from .text_file import read_rows

NAMES = ("label", "text")
BUILDERS: dict[str, Callable[..., Vocabulary]] = {"words": words, "chars": chars}

VOCABULARY_SETTINGS = (
    Setting("vocabulary", "text", "what a token is", "words", allowed=("words", "chars", "bytes")),
    Setting("min_count", "count", "how often a token must occur in the training texts", 1),
    Setting("lowercase", "bool", "whether to read capitals as small letters", False),
)
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
    path, last = request.file(), request["label"] == "last"
    # The cells in the order of the line: (label, text), or the other way round. `last` then serves
    # as the place of the label, False being 0 and True being 1.
    cells = NAMES[::-1] if last else NAMES
    with errors_at(request.span_of("file")):
        rows = read_rows(
            path,
            request.search.cache_folder,
            request["delimiter"],
            cells,
            last,
            request["encoding"],
        )
    labels, names = number_labels([row.cells[last] for row in rows])
    texts = [row.cells[not last] for row in rows]
    parts = split_rows(len(rows), request["test"], request["seed"], labels)
    # Split first: the vocabulary is of training texts, so that test words can be unknown.
    tokens, vocabulary = encode_texts(request, texts, parts[0], (PAD, UNKNOWN))
    length = request["length"] or max_length(tokens)
    reader = LineReader(
        length,
        request["lowercase"],
        request["delimiter"],
        last,
        names,
        {"token": vocabulary},
        request["encoding"],
    )
    fields = (
        Field("token", "i32", (length,), len(vocabulary)),
        Field("length", "i32", ()),
        Field("label", "i32", (), len(names)),
    )
    dataset = split_dataset(
        str(path),
        fields,
        {**reader.arrays(tokens), "label": labels},
        parts,
        class_names={"label": names},
        vocabularies={"token": vocabulary},
        reader=reader,
    )
    # Truncation keeps an example usable, but the user should know of it.
    cut = sum(len(one) > length for one in tokens)
    note = f"{cut} of {len(tokens)} texts of {path} are cut at {length} tokens" if cut else ""
    return dataset, note


def encode_texts(
    request: Request, texts: Sequence[str], training: np.ndarray, specials: tuple[str, ...]
) -> tuple[list[np.ndarray], Vocabulary]:
    """The ids of the texts, and the vocabulary of those in the rows `training`."""
    folded = [text.lower() for text in texts] if request["lowercase"] else texts
    kind = request["vocabulary"]
    if kind == "bytes":
        # Bytes need no training text: there are 256.
        vocabulary = all_bytes(specials)
    else:
        training_texts = [folded[row] for row in training]
        vocabulary = BUILDERS[kind](training_texts, specials, request["min_count"])
    if not vocabulary.tokens:
        raise fail(
            "E0613",
            f"no token of `{request.source}` comes {request['min_count']} times in training",
            request.span_of("min_count"),
            help="choose a smaller `min_count`",
        )
    return [vocabulary.encode(text) for text in folded], vocabulary


def number_labels(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices (i32 [n]) into their names, which are in order."""
    # One label where Unicode has several spellings of the same text.
    labels = [normalize("NFC", label) for label in labels]
    distinct = set(labels)
    # `2` before `10` if all labels are whole numbers, and alphabetical order otherwise. The name
    # breaks the tie of `1` and `01`.
    whole = all(name.isascii() and name.lstrip("-").isdigit() for name in distinct)
    names = sorted(distinct, key=(lambda name: (int(name), name)) if whole else None)
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[name] for name in labels], np.int32), tuple(names)


LINES = DataSource(
    "lines",
    "a label and a text per line: token i32[length], length i32, label i32",
    (
        Setting("file", "text", "the file", positional=True),
        Setting("length", "count", "the most tokens of a text (the longest text's)", None),
        *VOCABULARY_SETTINGS,
        Setting("label", "text", "where the label stands", "first", allowed=("first", "last")),
        *SPLIT_SETTINGS,
    ),
    describe,
    load,
)
