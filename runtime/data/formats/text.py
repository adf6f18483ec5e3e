"""`text("book.txt", length = 128)`: windows of a text, to predict the next token at every position.

In: a text file, plain or gzip'd, in UTF-8 or the declared `encoding`. Out: `token` i32[length] and
`target` i32[length], the same window one token later: target[t] = token[t + 1] of the text. Example
i begins at token i · stride;
with the default stride, `length`, every token is a target once per epoch, and with a smaller one
examples overlap. The end of the text validates: it is divided off before windows are taken, so that
no token is in both parts, and its windows never overlap. Tokens are stored once, in the smallest
type; windows are views into them and are only copied into batches.

Vocabularies: `chars`, the characters of the whole text (so that validation can be read); `bytes`;
`bpe`, `size` byte pairs learnt from the training part alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ..core import byte_pairs, vocabulary
from ..core.dataset import Dataset, Field, Schema, Split
from ..core.decompress import plain_bytes
from ..core.encodings import UTF8, is_utf8
from ..core.feature_cache import load_cached, store_cached
from ..core.padding import pad
from ..core.reader import NewExamples, NewFile
from ..core.source import DataSource, Request, Setting
from ..core.vocabulary import Vocabulary
from .new_lines import KINDS, SUFFIXES, NewLine, encoded, new_lines, plain_values
from .text_file import read_text

FIELDS = ("token", "target")
SETTINGS = (
    Setting("vocabulary", "text", "what a token is", "chars", allowed=("chars", "bytes", "bpe")),
    Setting("length", "count", "tokens in a window"),
    Setting("stride", "count", "tokens from one training window to the next (length)", None),
    Setting("validation", "fraction", "the share of the text, at its end, that validates", 0.1),
    Setting("size", "count", "the most tokens that `bpe` may have", 1000),
)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The ids of a text: the part that trains and the part that validates, which may be empty."""

    vocabulary: Vocabulary
    train: np.ndarray
    validation: np.ndarray


def describe(request: Request) -> Schema:
    """Reads the text, whose characters are its vocabulary; byte pairs are learnt once and then
    stored in the cache."""
    return describe_file(request, request.file())


def load(request: Request) -> Dataset:
    """Training and validation. E0601, E0603, E0609, E0612, E0613, E0615 or E0617 if not."""
    return load_file(request, request.file(), request["file"])


def describe_file(request: Request, path: Path) -> Schema:
    """The schema of a text file; of characters without encoding them."""
    length, kind = request["length"], request["vocabulary"]
    if kind != "chars":
        return load_file(request, path, path.name).schema
    text = _text(request, path)
    cut = training_length(len(text), request["validation"])
    _check_lengths(request, path, cut, len(text) - cut)
    size = len(vocabulary.chars([text]))
    return window_schema(length, size, window_count(cut, request["stride"] or length, length))


def window_count(tokens: int, stride: int, length: int) -> int:
    """How many windows of so many tokens have their last target among them."""
    return max(0, tokens - length - 1) // stride + 1


def load_file(request: Request, path: Path, name: str) -> Dataset:
    """The dataset of a text file; `request` has the settings `SETTINGS`."""
    tokens = _tokens(request, path)
    train, validation = _windows(request, path, tokens)
    vocabularies = dict.fromkeys(FIELDS, tokens.vocabulary)
    schema = window_schema(request["length"], len(tokens.vocabulary), len(train))
    reader = WindowReader(request["length"], vocabularies, _encoding(request))
    return Dataset(name, schema, train, None, validation, vocabularies=vocabularies, reader=reader)


def window_schema(length: int, size: int | None, count: int | None) -> Schema:
    """The schema of `count` windows of `length` tokens, from a vocabulary of `size`."""
    return Schema(tuple(Field(name, "i32", (length,), size) for name in FIELDS), count)


# ── windows ──────────────────────────────────────────────────────────────────────────────────────


def _windows(request: Request, path: Path, tokens: Tokens) -> tuple[Split, Split | None]:
    length = request["length"]
    stride = request["stride"] or length
    # Training windows may overlap; those that validate never do, to count each token once.
    parts = ((tokens.train, stride), (tokens.validation, length))
    _check_lengths(request, path, len(tokens.train), len(tokens.validation))
    train, validation = (split_of(*part, length) if len(part[0]) else None for part in parts)
    assert train is not None
    return train, validation


def _check_lengths(request: Request, path: Path, train: int, validation: int) -> None:
    """E0613 for a part of so many tokens that is too short for a window."""
    length = request["length"]
    for name, tokens in (("training", train), ("validation", validation)):
        # No part for validation is a choice (`validation = 0`), one that is too short a mistake.
        if tokens <= length and not (name == "validation" and not tokens):
            hint = "choose a smaller `length`"
            raise fail(
                "E0613",
                f"the {name} part of {path} has {tokens} tokens, and a window with its targets "
                f"takes {length + 1}",
                request.span_of("length"),
                help=hint + (" or `validation = 0`" if name == "validation" else ""),
            )


def split_of(tokens: np.ndarray, stride: int, length: int) -> Split:
    """All windows of [n] tokens that begin at a multiple of `stride` and have their targets."""
    view = np.lib.stride_tricks.sliding_window_view
    # Windows are overlapping views of the tokens, which take no memory of their own: 0 1 2 3 4 with
    # length 2 and stride 2 → token [0 1], [2 3] and target [1 2], [3 4].
    return Split(
        {
            "token": view(tokens[:-1], length)[::stride],
            "target": view(tokens[1:], length)[::stride],
        }
    )


@dataclass(frozen=True)
class WindowReader:
    """A text a line as `token` i32[size], with 0 behind it. There is no padding in training, so a
    model may only be given shorter texts if what stands behind them makes no difference."""

    size: int
    vocabularies: Mapping[str, Vocabulary]
    encoding: str = UTF8

    kind: ClassVar[str] = "text"
    file_kinds: ClassVar[tuple[str, ...]] = KINDS
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    example: ClassVar[str] = "lines.txt"
    fields: ClassVar[tuple[str, ...]] = ("token",)

    @property
    def takes(self) -> str:
        return f"texts, one a line, of up to {self.size} {self.vocabularies['token'].kind}"

    def plain(self) -> dict[str, Any]:
        return plain_values(self)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The texts of all lines; E0708 for longer ones."""
        lines = new_lines(files, cache, self.encoding)
        texts = tuple(line.text for line in lines)

        def fits(line: NewLine, count: int) -> None:
            if count > self.size:
                kind = self.vocabularies["token"].kind
                message = f"{line.place} has {count} {kind}, and the model reads {self.size}"
                raise fail("E0708", message, help="shorten it, or cut it in two")

        tokens = encoded(lines, texts, self.vocabularies["token"], fits)
        token, lengths = pad(tokens, self.size)
        places = tuple(line.place for line in lines)
        return NewExamples({"token": token}, places, texts=texts, lengths=lengths)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


def _tokens(request: Request, path: Path) -> Tokens:
    kind, share = request["vocabulary"], request["validation"]
    # Bytes are their own ids, so the file stays mapped and may be larger than the memory.
    if kind == "bytes" and is_utf8(_encoding(request)):
        raw = plain_bytes(path, request.search.cache_folder)
        cut = training_length(len(raw), share)
        return Tokens(vocabulary.all_bytes(), raw[:cut], raw[cut:])
    text = _text(request, path)
    if kind == "bytes":  # those of UTF-8, as a prompt has them
        raw = np.frombuffer(text.encode(), np.uint8)
        cut = training_length(len(raw), share)
        return Tokens(vocabulary.all_bytes(), raw[:cut], raw[cut:])
    cut = training_length(len(text), share)
    # Only here is the cut in characters not one in ids: the parts are encoded one by one.
    if kind == "bpe":
        return _byte_pairs(request, text, cut)
    known = vocabulary.chars([text])
    ids = known.encode(text, str(path))
    return Tokens(known, ids[:cut], ids[cut:])


def _encoding(request: Request) -> str:
    """As the program declares it; well-known texts have no such setting."""
    encoding: str = request.settings.get("encoding", UTF8)
    return encoding


def _text(request: Request, path: Path) -> str:
    text = read_text(path, request.search.cache_folder, _encoding(request))
    if not text:
        raise fail("E0613", f"{path} holds no text")
    return text


def training_length(count: int, share: float) -> int:
    """How much of a text of that length trains: all but the validation share, rounded down."""
    return int(count * (1 - share))


def _byte_pairs(request: Request, text: str, cut: int) -> Tokens:
    cache, size = request.search.cache_folder, request["size"]
    if size < byte_pairs.MIN_SIZE:
        message = f"setting `size` must be {byte_pairs.MIN_SIZE} or more: 256 bytes and their pairs"
        raise fail("E0615", message, request.span_of("size"))
    # Everything that learning and encoding depend on; the text stands in by its hash.
    key = f"{hashlib.sha256(text.encode()).hexdigest()} {cut} {size}"
    found = load_cached(cache, "byte_pairs", key)
    if found is not None:
        known = Vocabulary.from_json(found["vocabulary"].tobytes().decode())
        return Tokens(known, found["train"], found["validation"])
    # Learnt from the training part alone: nothing of the validation text may leak into the tokens.
    known = vocabulary.learn_byte_pairs(text[:cut], size, request.span_of("vocabulary"))
    tokens = Tokens(known, known.encode(text[:cut]), known.encode(text[cut:]))
    stored = np.frombuffer(known.to_json().encode(), np.uint8)
    arrays = {"vocabulary": stored, "train": tokens.train, "validation": tokens.validation}
    store_cached(cache, "byte_pairs", key, arrays)
    return tokens


TEXT = DataSource(
    "text",
    "windows of a text: token i32[length], target i32[length] one token later",
    (
        Setting("file", "text", "the file", positional=True),
        *SETTINGS,
        Setting("encoding", "encoding", "how the file writes characters", UTF8),
    ),
    describe,
    load,
)
