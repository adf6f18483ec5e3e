"""Byte-pair encoding: the frequent sequences of bytes of a text become tokens of their own.

In: text, or tokens and merges learnt before. Out: tokens and merges, or ids. The package
`tokenizers` does the work and is imported here alone, and only when asked. Learning is a function
of the text and the size; the 256 bytes are always tokens, so that there is nothing it cannot read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.syntax.source import Span

INSTALL = "pip install 'tokenizers>=0.20'"
SMALLEST = 257  # tokens: the bytes and one pair
PIECE = 1 << 16  # characters encoded at a time
# Between a mark and " word" a token always ends, so that cutting there changes no token.
BORDER = re.compile(r"(?<=\S)(?= [^\W\d_])")


def learn(
    text: str, size: int, span: Span | None
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Tokens by id and the merges in their order; fewer than `size` if the text is short."""
    package = _tokenizers(span)
    made = _empty(package, package.models.BPE())
    alphabet = [spelt(bytes([value])) for value in range(256)]
    trainer = package.trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=sorted(alphabet)
    )
    made.train_from_iterator(pieces(text), trainer)
    numbering = made.get_vocab()
    tokens = tuple(sorted(numbering, key=numbering.__getitem__))
    return tokens, _merges(tokens, made)


def coder(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> Any:
    """What `encode` needs, from tokens and merges; E0609 without the package."""
    package = _tokenizers(None)
    numbering = {token: place for place, token in enumerate(tokens)}
    return _empty(package, package.models.BPE(vocab=numbering, merges=list(merges)))


def encode(made: Any, text: str) -> np.ndarray:
    """The ids of a text, i32 [n]."""
    found = made.encode_batch_fast(list(pieces(text)), add_special_tokens=False)
    parts = [np.array(piece.ids, np.int32) for piece in found]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of bounded length wherever it has a border of tokens soon enough."""
    start = 0
    while start < len(text):
        border = BORDER.search(text, start + PIECE)
        end = border.start() if border else len(text)
        yield text[start:end]
        start = end


@cache
def _letters() -> tuple[str, ...]:
    """A visible character for every byte: itself where it is one, or else from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [value for value in range(256) if value not in visible]
    return tuple(
        chr(value if value in visible else 0x100 + hidden.index(value)) for value in range(256)
    )


def spelt(raw: bytes) -> str:
    """Bytes in the spelling of GPT-2's vocabulary files, which the package uses too."""
    return "".join(_letters()[value] for value in raw)


def unspelt(token: str) -> bytes:
    """The bytes of a token; ValueError if it is not in that spelling."""
    return bytes(_letters().index(letter) for letter in token)


def _tokenizers(span: Span | None) -> Any:
    try:
        import tokenizers  # an optional dependency
    except ImportError as error:
        raise fail(
            "E0609",
            '`vocabulary = "bpe"` needs the package tokenizers',
            span,
            help=f"install it with `{INSTALL}`",
        ) from error
    return tokenizers


def _empty(package: Any, model: Any) -> Any:
    made = package.Tokenizer(model)
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def _merges(tokens: tuple[str, ...], made: Any) -> tuple[tuple[str, str], ...]:
    """The pairs that became tokens; older versions of the package write them as one text."""
    found = json.loads(made.to_str())["model"]["merges"]
    split = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in found)
    return tuple((left, right) for left, right in split)
