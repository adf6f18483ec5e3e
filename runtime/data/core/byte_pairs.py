"""Byte-pair encoding (Sennrich et al. 2016, byte level as in GPT-2): frequent sequences of bytes of
a text become tokens.

In: text, or tokens and merges learnt before. Out: tokens and merges, or ids. The package
`tokenizers` does the work; only this file imports it, and only when byte pairs are used. Learning
depends on the text and the size alone; the 256 bytes are always tokens, so every text can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ....dsl.syntax.source import Span

INSTALL = "pip install 'tokenizers>=0.20'"
MIN_SIZE = 257  # tokens: the bytes and one pair
PIECE = 1 << 16  # characters encoded at a time
AT_ONCE = 16  # pieces that are encoded at a time
# A token always ends before a space or a line's end that follows something else, so cutting the
# text there changes no token.
BORDER = re.compile(r"(?<=\S)(?=[ \n])")


def check_size(size: int, span: Span | None) -> None:
    """E0615 for fewer tokens than the bytes and a pair."""
    if size < MIN_SIZE:
        message = f"setting `size` must be {MIN_SIZE} or more: 256 bytes and their pairs"
        raise fail("E0615", message, span)


def learn(
    texts: Iterable[str], size: int, span: Span | None
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Tokens by id and the merges in their order, from a text in parts; fewer than `size` if it is
    short. What is in memory are the words of the text, each once, with their numbers."""
    package = _tokenizers(span)
    # All 256 bytes are tokens from the start, whether the text has them or not, so nothing is
    # unknown later. A pair that occurs once would not make other texts any shorter.
    tokenizer = _tokenizer(package, package.models.BPE())
    alphabet = [token_of_bytes(bytes([value])) for value in range(256)]
    trainer = package.trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=sorted(alphabet)
    )
    tokenizer.train_from_iterator(pieces(texts), trainer)
    # The ids of the trainer are dense, from 0 on, so a token's place in the tuple is its id.
    ids = tokenizer.get_vocab()
    return tuple(sorted(ids, key=ids.__getitem__)), _merges(tokenizer)


def encoder(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> Any:
    """The tokenizer for `encode`, from tokens and merges; E0609 without the package."""
    package = _tokenizers(None)
    ids = {token: number for number, token in enumerate(tokens)}
    return _tokenizer(package, package.models.BPE(vocab=ids, merges=list(merges)))


def encode(tokenizer: Any, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """The ids of a text in parts, i32 [n] each."""
    every = pieces(texts)
    while some := [*islice(every, AT_ONCE)]:
        for piece in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            yield np.array(piece.ids, np.int32)


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """A text in parts, cut at the first border of tokens after every `PIECE` characters."""
    # Pieces bound the memory, since the package builds objects for every token. A text without
    # a border, such as one without spaces and lines, is a single piece.
    rest = ""
    for text in texts:
        rest, start = rest + text, 0
        while border := BORDER.search(rest, start + PIECE):
            yield rest[start : border.start()]
            start = border.start()
        rest = rest[start:]
    if rest:
        yield rest


@cache
def _letters() -> tuple[str, ...]:
    """A visible character for every byte: itself where it is one, or else from U+0100 on."""
    # This table is GPT-2's: bytes that are no visible Latin-1 character get letters from U+0100 on,
    # in ascending order, so 0x20 (a space) becomes U+0120, `Ġ`.
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [value for value in range(256) if value not in visible]
    return tuple(
        chr(value if value in visible else 0x100 + hidden.index(value)) for value in range(256)
    )


def token_of_bytes(raw: bytes) -> str:
    """Bytes as GPT-2's vocabulary files write them, and `tokenizers` does."""
    return "".join(_letters()[value] for value in raw)


def bytes_of_token(token: str) -> bytes:
    """The bytes of a token; ValueError if it is not in that spelling."""
    return bytes(_letters().index(letter) for letter in token)


def _tokenizers(span: Span | None) -> Any:
    try:
        import tokenizers  # an optional dependency
    except ImportError as error:
        message = '`vocabulary = "bpe"` needs the package tokenizers'
        raise fail("E0609", message, span, help=f"install it with `{INSTALL}`") from error
    return tokenizers


def _tokenizer(package: Any, model: Any) -> Any:
    tokenizer = package.Tokenizer(model)
    # No space before the first word: decoding must give back exactly the text that was encoded.
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _merges(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    """The pairs that became tokens; older versions of the package write them as one text."""
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    split = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in found)
    return tuple((left, right) for left, right in split)
