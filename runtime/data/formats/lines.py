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

from collections.abc import Callable, Sequence
from unicodedata import normalize

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.padding import max_length
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows
from ..core.tokenizer_file import ENDING
from ..core.vocabulary import (
    PAD,
    START,
    UNKNOWN,
    Vocabulary,
    all_bytes,
    chars,
    of_tokenizer,
    words,
)
from .new_lines import TEXT_COLUMN, LineReader
from .two_texts import TwoColumns, read_two_columns

NAMES = ("label", "text")
VOCABULARIES = ("words", "chars", "bytes")
BUILDERS: dict[str, Callable[..., Vocabulary]] = {"words": words, "chars": chars}

VOCABULARY_SETTINGS = (
    Setting("vocabulary", "text", "what a token is", "words", allowed=VOCABULARIES, ending=ENDING),
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
    last = request["label"] == "last"
    read = read_two_columns(request, NAMES, ("target", "text"), last)
    path, texts = read.name, [text for _, text in read.rows]
    labels, names = number_labels([label for label, _ in read.rows])
    if read.class_names:
        labels, names = _numbered(labels, names, read)
    parts = read.parts or split_rows(len(texts), request["test"], request["seed"], labels)
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
        request["text"] or (TEXT_COLUMN if read.is_table else ""),
    )
    fields = (
        Field("token", "i32", (length,), len(vocabulary)),
        Field("length", "i32", ()),
        Field("label", "i32", (), len(names)),
    )
    dataset = split_dataset(
        path,
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


def _numbered(
    labels: np.ndarray, names: tuple[str, ...], read: TwoColumns
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels that a file numbers and names itself. UserError E0606 for a number without a name."""
    numbers = {str(number): number for number in range(len(read.class_names))}
    wrong = next((name for name in names if name not in numbers), None)
    if wrong is not None:
        known = f"0 to {len(numbers) - 1}, which are {', '.join(read.class_names[:6])}"
        raise fail("E0606", f"label `{wrong}` of {read.name} is none of {known}")
    return np.array([numbers[name] for name in names], np.int32)[labels], read.class_names


def encode_texts(
    request: Request, texts: Sequence[str], training: np.ndarray, specials: tuple[str, ...]
) -> tuple[list[np.ndarray], Vocabulary]:
    """The ids of the texts, and the vocabulary of those in the rows `training`."""
    folded = [text.lower() for text in texts] if request["lowercase"] else texts
    kind = request["vocabulary"]
    if kind not in VOCABULARIES:
        # The tokens of a file are numbered as there, but for the marks that pairs need.
        own = specials if START in specials else ()
        with errors_at(request.span_of("vocabulary")):
            vocabulary = of_tokenizer(request.search.find_file(kind), own)
    elif kind == "bytes":
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
