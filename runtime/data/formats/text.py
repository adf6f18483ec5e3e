"""`text("book.txt", length = 128)`: windows of a text, to predict the next token at every position.

In: a text file, plain or gzip'd, in UTF-8 or the declared `encoding`; or a table of Parquet, Arrow
or JSON Lines, or of CSV if `column` names its column of texts, each row of which is a line. Out:
`token` i32[length] and `target` i32[length], the same window one token later: target[t] = token[t +
1] of the text. Example i begins at token i · stride; with the default stride, `length`, every token
is a target once per epoch, and with a smaller one examples overlap. The end of the text validates:
it is divided off before windows are taken, so that no token is in both parts, and its windows never
overlap. Tokens are stored once, in the smallest type; windows are views into them and are only
copied into batches.

Vocabularies: `chars`, the characters of the whole text (so that validation can be read); `bytes`;
`bpe`, `size` byte pairs learnt from the training part alone; or a `tokenizer.json` of Hugging Face
beside the program, whose ids are taken as they are, without the marks that it puts around a text.

A folder or a pattern names several files, as for `csv`: the parts of one text, and where their
names say so, what validates (or tests) in place of a share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, Split
from ..core.encodings import UTF8
from ..core.padding import pad
from ..core.reader import NewExamples, NewFile
from ..core.shards import Splits, find_shards
from ..core.source import DataSource, Request, Setting, errors_at
from ..core.stored import bounded
from ..core.tokenizer_file import ENDING
from ..core.vocabulary import Vocabulary
from .new_lines import KINDS, SUFFIXES, NewLine, encoded, new_lines, plain_values
from .text_tokens import Text, Tokens, encoding_of, kept_tokens, tokens_of

FIELDS = ("token", "target")
VOCABULARIES = ("chars", "bytes", "bpe")
SETTINGS = (
    Setting("vocabulary", "text", "what a token is", "chars", allowed=VOCABULARIES, ending=ENDING),
    Setting("length", "count", "tokens in a window"),
    Setting("stride", "count", "tokens from one training window to the next (length)", None),
    Setting("validation", "fraction", "the share of the text, at its end, that validates", 0.1),
    Setting("size", "count", "the most tokens that `bpe` may have", 1000),
)


def describe(request: Request) -> Schema:
    """Reads the text, whose characters are its vocabulary; byte pairs are learnt once and then
    stored in the cache."""
    return describe_files(request, _files(request))


def load(request: Request) -> Dataset:
    """Training and validation. E0601, E0603, E0609, E0612 to E0618 if not."""
    return load_files(request, _files(request), request["file"])


def _files(request: Request) -> Splits:
    with errors_at(request.span_of("file")):
        return find_shards(request.search, request["file"], SUFFIXES)


def describe_files(request: Request, files: Splits) -> Schema:
    """The schema of the text in files; of characters without encoding them."""
    length, kind = request["length"], request["vocabulary"]
    if kind != "chars":
        return load_files(request, files, "").schema
    text, known = Text.of(request, files), kept_tokens(request, files)
    if known is not None:
        cut, rest, size = len(known.train), len(known.validation), len(known.vocabulary)
    else:
        found = text.measure()
        cut, rest, size = found.training, found.count - found.training, len(found.letters)
    _check_lengths(request, text.name, cut, rest)
    return window_schema(length, size, window_count(cut, request["stride"] or length, length))


def window_count(tokens: int, stride: int, length: int) -> int:
    """How many windows of so many tokens have their last target among them."""
    return max(0, tokens - length - 1) // stride + 1


def load_files(request: Request, files: Splits, name: str) -> Dataset:
    """The dataset of the text in files; `request` has the settings `SETTINGS`."""
    tokens, shown = tokens_of(request, files)
    train, validation = _windows(request, shown, tokens)
    vocabularies = dict.fromkeys(FIELDS, tokens.vocabulary)
    schema = window_schema(request["length"], len(tokens.vocabulary), len(train))
    column = request.settings.get("column") or ""
    reader = WindowReader(request["length"], vocabularies, encoding_of(request), column)
    return Dataset(name, schema, train, None, validation, vocabularies=vocabularies, reader=reader)


def window_schema(length: int, size: int | None, count: int | None) -> Schema:
    """The schema of `count` windows of `length` tokens, from a vocabulary of `size`."""
    return Schema(tuple(Field(name, "i32", (length,), size) for name in FIELDS), count)


# ── windows ──────────────────────────────────────────────────────────────────────────────────────


def _windows(request: Request, name: str, tokens: Tokens) -> tuple[Split, Split | None]:
    length = request["length"]
    stride = request["stride"] or length
    # Training windows may overlap; those that validate never do, to count each token once.
    parts = ((tokens.train, stride), (tokens.validation, length))
    _check_lengths(request, name, len(tokens.train), len(tokens.validation))
    train, validation = (split_of(*part, length) if len(part[0]) else None for part in parts)
    assert train is not None
    if tokens.mapped:
        train = Split(bounded(train.arrays, 0))
        validation = validation and Split(bounded(validation.arrays, 0))
    return train, validation


def _check_lengths(request: Request, text: str, train: int, validation: int) -> None:
    """E0613 for a part of so many tokens that is too short for a window."""
    length = request["length"]
    for name, tokens in (("training", train), ("validation", validation)):
        # No part for validation is a choice (`validation = 0`), one that is too short a mistake.
        if tokens <= length and not (name == "validation" and not tokens):
            hint = "choose a smaller `length`"
            raise fail(
                "E0613",
                f"the {name} part of {text} has {tokens} tokens, and a window with its targets "
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
    column: str = ""  # of texts, in a table

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
        lines = new_lines(files, cache, self.encoding, self.column)
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


TEXT = DataSource(
    "text",
    "windows of a text: token i32[length], target i32[length] one token later",
    (
        Setting("file", "text", "the file, a folder, or a pattern of files", positional=True),
        *SETTINGS,
        Setting("column", "text", "the column of the texts, in a table (text)", None),
        Setting("encoding", "encoding", "how the file writes characters", UTF8),
    ),
    describe,
    load,
)
