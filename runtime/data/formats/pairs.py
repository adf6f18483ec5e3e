"""`pairs("sentences.tsv")`: two texts per line, to turn the first into the second (translation).

In: UTF-8 text, plain or gzip'd; on every line that is not blank a source, a delimiter and a target.
Out: `source` i32[source_length] and its length; for the target y: `target_in`, which is `<start>`
and then y, and `target_out`, which is y and then `<end>`, both i32[target_length], padded with 0;
and `target_length`, the tokens of y and one. Vocabularies, one for each side, come from the
training lines. Without given lengths the longest texts decide; a pair that does not fit is left out
whole, since half a translation is a wrong one, and how many is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.syntax.source import Span
from ..core.data_paths import check_explicit, find_file
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.padding import longest, padded
from ..core.source import Request, Setting, Source
from ..core.splitting import split_rows
from ..core.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from .lines import SPLIT_SETTINGS, VOCABULARY_SETTINGS, with_vocabulary
from .text_file import Row, read_rows

SPECIALS = (PAD, UNKNOWN, START, END)


def describe(request: Request) -> Schema:
    """Reads the file as `load` does: lengths and vocabularies depend on all of it."""
    return _dataset(request)[0].schema


def load(request: Request) -> Dataset:
    """Both splits. E0601, E0603, E0604, E0612, E0613, E0616 or E0617 if that cannot be."""
    dataset, note = _dataset(request)
    if note:
        request.search.say(note)
    return validate(dataset, request.span)


def _dataset(request: Request) -> tuple[Dataset, str]:
    check_explicit(request.search)
    span, delimiter = request.span_of("file"), request["delimiter"]
    path = find_file(request.search, request["file"], span)
    named = ("source", "target")
    rows = read_rows(path, request.search.cache_folder, delimiter, named, False, span)
    _check_two(path, rows, delimiter, span)
    training, _ = parts = split_rows(len(rows), request["test"], request["seed"])
    sides, vocabularies = [], []
    for side in (0, 1):
        texts = [row.cells[side] for row in rows]
        texts, vocabulary = with_vocabulary(request, texts, training, SPECIALS)
        sides.append([vocabulary.encode(text) for text in texts])
        vocabularies.append(vocabulary)
    sources, targets = sides
    most = (
        request["source_length"] or longest(sources),
        request["target_length"] or longest(targets) + 1,
    )
    fits = np.array(
        [len(x) <= most[0] and len(y) < most[1] for x, y in zip(sources, targets, strict=True)]
    )
    parts = tuple(part[fits[part]] for part in parts)
    if not len(parts[0]):
        message = f"no training pair of {path} fits into {most[0]} and {most[1]} tokens"
        raise fail("E0613", message, span, help="choose larger lengths")
    dataset = assembled(str(path), sources, targets, parts, most, tuple(vocabularies))
    lost = len(rows) - int(fits.sum())
    note = f"{lost} of {len(rows)} pairs of {path} do not fit and are left out" if lost else ""
    return dataset, note


def _check_two(path: Path, rows: list[Row], delimiter: str, span: Span | None) -> None:
    for row in rows:
        if delimiter in row.cells[1]:
            found = row.cells[1].count(delimiter) + 2
            message = f"{path}, line {row.line}: {found} cells where a pair has 2"
            hint = "keep the first two columns: `cut -f 1,2`" if delimiter == "\t" else ""
            raise fail("E0604", message, span, help=hint)


def assembled(
    name: str,
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    parts: Sequence[np.ndarray],
    most: tuple[int, int],
    vocabularies: tuple[Vocabulary, ...],
) -> Dataset:
    """The dataset of pairs in ids (without special tokens): the rows `parts` train and test."""
    reader, writer = vocabularies
    start, end = ([writer.special(mark)] for mark in (START, END))
    splits: list[Split | None] = []
    for part in parts:
        if not len(part):
            splits.append(None)
            continue
        chosen = [targets[row].astype(writer.dtype) for row in part]
        source, source_length = padded([sources[row] for row in part], most[0])
        before = [np.concatenate([start, y]).astype(writer.dtype) for y in chosen]
        after = [np.concatenate([y, end]).astype(writer.dtype) for y in chosen]
        target_in, target_length = padded(before, most[1])
        splits.append(
            Split(
                {
                    "source": source,
                    "source_length": source_length,
                    "target_in": target_in,
                    "target_out": padded(after, most[1])[0],
                    "target_length": target_length,
                }
            )
        )
    train, test = splits
    assert train is not None
    schema = Schema(
        (
            Field("source", "i32", most[:1], len(reader)),
            Field("source_length", "i32", ()),
            Field("target_in", "i32", most[1:], len(writer)),
            Field("target_out", "i32", most[1:], len(writer)),
            Field("target_length", "i32", ()),
        ),
        len(train),
    )
    known = {"source": reader, "target_in": writer, "target_out": writer}
    return Dataset(name, schema, train, test, vocabularies=known)


PAIRS = Source(
    "pairs",
    "a source and a target per line: source, target_in and target_out i32[…], and their lengths",
    (
        Setting("file", "text", "the file", positional=True),
        Setting("source_length", "count", "the most tokens of a source (the longest)", None),
        Setting("target_length", "count", "the most tokens of a target and its end mark", None),
        *VOCABULARY_SETTINGS,
        *SPLIT_SETTINGS,
    ),
    describe,
    load,
)
