"""Rows of two texts in tokens, for `lines` and `pairs`, in memory or in a file.

In: rows, as often as they are read. Out: their tokens with a vocabulary for each text, and the
numbers of labels. The vocabulary is that of the rows that train, which follow from the labels; so
rows are read several times, and no more than a few are in memory. Tokens that do not fit into the
memory for data go to a file of the user's cache, where the next run finds everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, compress, islice

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core import byte_pairs
from ..core.kept import Kept, as_bytes, from_bytes
from ..core.label_numbers import LabelNumbers
from ..core.padding import Sequences, SequenceSpool
from ..core.source import Request, Setting, errors_at
from ..core.splitting import split_rows
from ..core.stored import Examples, Stored
from ..core.tokenizer_file import ENDING
from ..core.vocabulary import (
    START,
    Vocabulary,
    all_bytes,
    chars,
    learn_byte_pairs,
    of_tokenizer,
    words,
)
from .two_texts import TwoColumns

KIND = "rows"  # the folder in the cache
VERSION = 1  # of how texts become ids: after a change, kept ones must not be found
VOCABULARIES = ("words", "chars", "bytes", "bpe")
BUILDERS: dict[str, Callable[..., Vocabulary]] = {"words": words, "chars": chars}
VOCABULARY_SETTINGS = (
    Setting("vocabulary", "text", "what a token is", "words", allowed=VOCABULARIES, ending=ENDING),
    Setting("min_count", "count", "how often a token must occur in the training texts", 1),
    Setting("lowercase", "bool", "whether to read capitals as small letters", False),
    Setting("size", "count", "the most tokens that `bpe` may have", 1000),
)
AT_ONCE = 1024  # rows that are encoded at a time
SHARE = 4  # of the memory for data, one part in so many may be tokens


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Texts in tokens, and the vocabulary of each; the rows of each split, the first of which
    trains; and labels with their names, if the first text is one."""

    texts: tuple[Sequences, ...]
    vocabularies: tuple[Vocabulary, ...]
    parts: list[np.ndarray]
    labels: np.ndarray | None
    names: tuple[str, ...]


def encode_rows(
    request: Request, read: TwoColumns, specials: tuple[str, ...], labelled: bool
) -> EncodedRows:
    """The rows; of those that are `labelled`, the first text is a label. E0604, E0606, E0612,
    E0613, E0616, E0617 or E0619."""
    kept = _kept(request, read, labelled)
    found = kept.find()
    if found is None:
        found = _encoded(request, read, kept, specials, labelled)
    counts, names, *known = from_bytes(found["about"])
    labels = np.asarray(found["labels"]) if labelled else None
    vocabularies = tuple(map(Vocabulary.from_json, known))
    texts = tuple(
        Sequences(found[f"tokens{k}"], np.asarray(found[f"ends{k}"])) for k in range(len(known))
    )
    parts = _parts(request, read, counts, labels)
    return EncodedRows(texts, vocabularies, parts, labels, tuple(names))


def _kept(request: Request, read: TwoColumns, labelled: bool) -> Kept:
    about = {n: one for n, one in request.settings.items() if n not in ("file", *LAYOUT)}
    if request["vocabulary"] not in VOCABULARIES:
        about["vocabulary"] = sha256(_of_tokenizer(request, ()).tokenizer.encode()).hexdigest()
    splits = read.split([1] * len(read.files))
    files = splits and [part.tolist() for part in splits]
    about_files = [VERSION, labelled, files, about]
    return Kept.of(request.search, KIND, read.files, about_files)


# settings of what is made of tokens
LAYOUT = ("length", "source_length", "target_length", "packed")


def _parts(
    request: Request, read: TwoColumns, counts: list[int], labels: np.ndarray | None
) -> list[np.ndarray]:
    known = read.split(counts)
    return known or [*split_rows(sum(counts), request["test"], request["seed"], labels)]


def _encoded(
    request: Request, read: TwoColumns, kept: Kept, specials: tuple[str, ...], labelled: bool
) -> dict[str, Examples]:
    """What `encode_rows` takes, kept for the next run if it is in files."""
    found: dict[str, Examples] = {}
    numbers = LabelNumbers()
    for first, _ in read.rows():
        if labelled:
            numbers.add(first)
    labels, names = numbers.finish() if labelled else (None, ())
    if labels is not None:
        if read.class_names:
            labels, names = _numbered(labels, names, read)
        found["labels"] = labels
    training = np.zeros(sum(read.counts), bool)
    training[_parts(request, read, [*read.counts], labels)[0]] = True
    sides = (1,) if labelled else (0, 1)
    # Split first: the vocabulary is of training texts, so that others can be unknown.
    chosen = [compress(read.column(side), training.tobytes()) for side in sides]
    known = vocabularies_of(request, chosen, specials)
    with ExitStack() as opened:
        most = request.search.memory // SHARE // len(sides)
        spools = [
            opened.enter_context(SequenceSpool(kept.spool(f"tokens{k}", most)))
            for k in range(len(sides))
        ]
        rows = read.rows()
        while some := [*islice(rows, AT_ONCE)]:
            for spool, vocabulary, side in zip(spools, known, sides, strict=True):
                spool.add(encoded_texts(request, (row[side] for row in some), vocabulary))
        for k, spool in enumerate(spools):
            tokens = spool.sequences()
            found[f"tokens{k}"], found[f"ends{k}"] = tokens.values, tokens.ends
    found["about"] = as_bytes([read.counts, names, *(one.to_json() for one in known)])
    if any(isinstance(one, Stored) for one in found.values()):
        kept.store(found)
    return found


def _folded(request: Request, texts: Iterable[str]) -> Iterator[str]:
    return map(str.lower, texts) if request["lowercase"] else iter(texts)


def _of_tokenizer(request: Request, specials: tuple[str, ...]) -> Vocabulary:
    # The tokens of a file are numbered as there, but for the marks that pairs need.
    own = specials if START in specials else ()
    with errors_at(request.span_of("vocabulary")):
        return of_tokenizer(request.search.find_file(request["vocabulary"]), own)


def vocabularies_of(
    request: Request, training: Sequence[Iterable[str]], specials: tuple[str, ...]
) -> list[Vocabulary]:
    """One for each side's texts that train, or the same one, if they are `joint`. E0613 if one
    would be empty."""
    if request.settings.get("joint"):
        return [vocabulary_of(request, chain(*training), specials)] * len(training)
    return [vocabulary_of(request, texts, specials) for texts in training]


def vocabulary_of(
    request: Request, training: Iterable[str], specials: tuple[str, ...]
) -> Vocabulary:
    """That of the texts that train. E0613 if it would be empty."""
    kind = request["vocabulary"]
    if kind not in VOCABULARIES:
        return _of_tokenizer(request, specials)
    if kind == "bytes":  # there are 256, whatever the texts are
        return all_bytes(specials)
    if kind == "bpe":
        byte_pairs.check_size(request["size"], request.span_of("size"))
        lines = (f"{text}\n" for text in _folded(request, training))
        learnt = learn_byte_pairs(lines, request["size"], request.span_of("vocabulary"))
        return replace(learnt, specials=specials)
    found = BUILDERS[kind](_folded(request, training), specials, request["min_count"])
    if not found.tokens:
        raise fail(
            "E0613",
            f"no token of `{request.source}` comes {request['min_count']} times in training",
            request.span_of("min_count"),
            help="choose a smaller `min_count`",
        )
    return found


def encoded_texts(
    request: Request, texts: Iterable[str], vocabulary: Vocabulary
) -> list[np.ndarray]:
    """The ids of texts."""
    return [vocabulary.encode(text) for text in _folded(request, texts)]


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
