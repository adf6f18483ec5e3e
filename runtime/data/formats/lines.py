"""`lines("reviews.tsv")`: a label and a text per line, for sentiment and other classification.

In: UTF-8 text, plain or gzip'd; on every line that is not blank a label, a delimiter and a text.
Out: `token` i32[length], padded with 0; `length` i32, the tokens that count; `label` i32, which
numbers the labels in order (by value if all are whole numbers, else alphabetically). The vocabulary
comes from the training lines; what else there is reads as `<unk>`. Without `length`, the longest
text decides; with it, longer texts are cut at their end, and how many is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import check_explicit, find_file
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.padding import longest, padded
from ..core.source import Request, Setting, Source
from ..core.splitting import split_rows
from ..core.vocabulary import PAD, UNKNOWN, Vocabulary, all_bytes, chars, words
from .text_file import read_rows

NAMES = ("label", "text")
MAKERS: dict[str, Callable[..., Vocabulary]] = {"words": words, "chars": chars}

VOCABULARY_SETTINGS = (
    Setting("vocabulary", "text", "what a token is", "words", allowed=("words", "chars", "bytes")),
    Setting("min_count", "count", "how often a training text must hold a token", 1),
    Setting("lowercase", "bool", "whether to read capitals as small letters", False),
)
SPLIT_SETTINGS = (
    Setting("delimiter", "character", "what stands between the two", "\t"),
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
        request.search.say(note)
    return validate(dataset, request.span)


def _dataset(request: Request) -> tuple[Dataset, str]:
    check_explicit(request.search)
    span = request.span_of("file")
    path = find_file(request.search, request["file"], span)
    last = request["label"] == "last"
    named = NAMES[::-1] if last else NAMES
    rows = read_rows(path, request.search.cache_folder, request["delimiter"], named, last, span)
    labels, names = numbered([row.cells[last] for row in rows])
    texts = [row.cells[not last] for row in rows]
    parts = split_rows(len(rows), request["test"], request["seed"], labels)
    texts, vocabulary = with_vocabulary(request, texts, parts[0], (PAD, UNKNOWN))
    tokens = [vocabulary.encode(text) for text in texts]
    length = request["length"] or longest(tokens)
    token, lengths = padded(tokens, length)
    arrays = {"token": token, "length": lengths, "label": labels}
    train, test = (Split({name: array[part] for name, array in arrays.items()}) for part in parts)
    schema = Schema(
        (
            Field("token", "i32", (length,), len(vocabulary)),
            Field("length", "i32", ()),
            Field("label", "i32", (), len(names)),
        ),
        len(train),
    )
    cut = sum(len(one) > length for one in tokens)
    note = f"{cut} of {len(tokens)} texts of {path} are cut at {length} tokens" if cut else ""
    return Dataset(
        str(path),
        schema,
        train,
        test if len(test) else None,
        class_names={"label": names},
        vocabularies={"token": vocabulary},
    ), note


def with_vocabulary(
    request: Request, texts: Sequence[str], training: np.ndarray, specials: tuple[str, ...]
) -> tuple[list[str], Vocabulary]:
    """The texts as `lowercase` wants them, and the vocabulary of those that train."""
    folded = [text.lower() for text in texts] if request["lowercase"] else list(texts)
    kind = request["vocabulary"]
    if kind == "bytes":
        return folded, all_bytes(specials)
    made = MAKERS[kind]([folded[row] for row in training], specials, request["min_count"])
    if not made.tokens:
        raise fail(
            "E0613",
            f"no token of `{request.source}` comes {request['min_count']} times in training",
            request.span_of("min_count"),
            help="choose a smaller `min_count`",
        )
    return folded, made


def numbered(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as numbers (i32 [n]) into their names, which are in order."""
    distinct = set(labels)
    whole = all(name.isascii() and name.lstrip("-").isdigit() for name in distinct)
    names = sorted(distinct, key=(lambda name: (int(name), name)) if whole else None)
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[name] for name in labels], np.int32), tuple(names)


LINES = Source(
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
