"""Tokens and their numbers: what turns text into ids for a model, and ids back into text.

In: training text, or the JSON that a run folder keeps. Out: a `Vocabulary` that encodes and
decodes. Four kinds: the characters of a text, bytes, words, and byte pairs (`byte_pairs.py`). Ids
count the special tokens first, so that padding is 0 wherever there is padding.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.syntax.source import Span
from . import byte_pairs

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
WORD = re.compile(r"\w+|[^\w\s]")  # a run of letters and digits, or one mark
BLOCK = 1 << 20  # characters looked up at a time
BYTES = tuple(f"0x{value:02x}" for value in range(256))


@dataclass(frozen=True)
class Vocabulary:
    """Ids 0, 1, … stand for `specials`, then for `tokens`.

    A token of the kinds `chars` and `words` is itself; of `bytes` its number, like `0x0a`; of
    `bpe` its bytes in the spelling of `byte_pairs.spelt`, and only there are `merges`.
    """

    kind: str  # 'chars', 'bytes', 'words' or 'bpe'
    tokens: tuple[str, ...]
    specials: tuple[str, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.specials) + len(self.tokens)

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every id."""
        return np.dtype(
            np.uint8 if len(self) <= 1 << 8 else np.uint16 if len(self) <= 1 << 16 else np.int32
        )

    def special(self, name: str) -> int:
        """The id of a special token; ValueError if the vocabulary has none of that name."""
        return self.specials.index(name)

    def encode(self, text: str, origin: str = "the text", span: Span | None = None) -> np.ndarray:
        """The ids of a text (`dtype` [n]), without special tokens but `<unk>`.

        What is not in the vocabulary becomes `<unk>` if that is one of the specials, or else E0619
        with its place in `origin`.
        """
        first = len(self.specials)
        if self.kind == "chars":
            return self._encode_chars(text, origin, span)
        if self.kind == "words":
            return self._encode_words(text, origin, span)
        if self.kind == "bytes":
            found = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        else:
            found = byte_pairs.encode(self._coder, text)
        return (found.astype(np.int32) + first).astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids: up to `<end>`, without `<pad>` and `<start>`.

        Words are joined with spaces; bytes that are no UTF-8 become `\N{REPLACEMENT CHARACTER}`.
        IndexError for an id that the vocabulary does not have.
        """
        pieces = []
        for one in map(int, ids):
            if not 0 <= one < len(self):
                raise IndexError(f"id {one} in a vocabulary of {len(self)}")
            name = self.specials[one] if one < len(self.specials) else None
            if name == END:
                break
            if name == UNKNOWN:
                pieces.append(self._unknown_piece)
            elif name is None:
                pieces.append(self._pieces[one - len(self.specials)])
        if self.kind in ("chars", "words"):
            return (" " if self.kind == "words" else "").join(pieces)
        return b"".join(pieces).decode("utf-8", "replace")

    def to_json(self) -> str:
        """Everything about it, as text; `from_json` gives an equal vocabulary."""
        plain: dict[str, Any] = {"kind": self.kind, "specials": self.specials}
        if self.kind != "bytes":
            plain["tokens"] = self.tokens
        if self.kind == "bpe":
            plain["merges"] = self.merges
        return json.dumps(plain, ensure_ascii=True)

    @staticmethod
    def from_json(text: str, origin: str = "the vocabulary") -> Vocabulary:
        """The vocabulary that `to_json` wrote; E0603 if `text` is something else."""
        try:
            plain = json.loads(text)
            kind, specials = plain["kind"], _texts(plain["specials"])
            tokens = BYTES if kind == "bytes" else _texts(plain["tokens"])
            merges = tuple((a, b) for a, b in map(_texts, plain.get("merges", ())))
            if kind not in ("chars", "bytes", "words", "bpe"):
                raise ValueError(f"no kind {kind!r}")
            if not tokens or len({*tokens, *specials}) != len(tokens) + len(specials):
                raise ValueError("it has no tokens, or one twice")
            if kind == "chars" and max(map(len, tokens)) > 1:
                raise ValueError("a token is no character")
            if kind == "bpe" and not all(map(byte_pairs.unspelt, tokens)):
                raise ValueError("a token is empty")
            if not {left + right for left, right in merges} <= set(tokens):
                raise ValueError("a merged pair is no token")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(origin, error) from error
        return Vocabulary(kind, tokens, specials, merges)

    # ── one kind each ────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _pieces(self) -> tuple[Any, ...]:
        """What each token decodes to: text, or bytes."""
        if self.kind == "bytes":
            return tuple(bytes([value]) for value in range(256))
        if self.kind == "bpe":
            return tuple(map(byte_pairs.unspelt, self.tokens))
        return self.tokens

    @property
    def _unknown_piece(self) -> Any:
        return UNKNOWN if self.kind in ("chars", "words") else UNKNOWN.encode()

    @cached_property
    def _numbering(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens, len(self.specials))}

    @cached_property
    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """Code points of the characters, ascending, and their ids."""
        order = sorted((ord(token), place) for token, place in self._numbering.items())
        points, ids = zip(*order, strict=True)
        return np.array(points, np.uint32), np.array(ids, self.dtype)

    @cached_property
    def _coder(self) -> Any:
        return byte_pairs.coder(self.tokens, self.merges)

    def _encode_chars(self, text: str, origin: str, span: Span | None) -> np.ndarray:
        points, ids = self._points
        found = np.empty(len(text), self.dtype)
        for start in range(0, len(text), BLOCK):
            block = text[start : start + BLOCK].encode("utf-32-le", "surrogatepass")
            wanted = np.frombuffer(block, "<u4")
            places = np.minimum(np.searchsorted(points, wanted), len(points) - 1)
            piece = ids[places]
            strange = np.flatnonzero(points[places] != wanted)
            if strange.size:
                if UNKNOWN not in self.specials:
                    raise self._strange(text, start + int(strange[0]), 1, origin, span)
                piece[strange] = self.special(UNKNOWN)
            found[start : start + len(piece)] = piece
        return found

    def _encode_words(self, text: str, origin: str, span: Span | None) -> np.ndarray:
        words = WORD.findall(text)
        if UNKNOWN in self.specials:
            other = self.special(UNKNOWN)
            return np.array([self._numbering.get(word, other) for word in words], self.dtype)
        for match in WORD.finditer(text):
            if match[0] not in self._numbering:
                raise self._strange(text, match.start(), len(match[0]), origin, span)
        return np.array([self._numbering[word] for word in words], self.dtype)

    def _strange(self, text: str, at: int, length: int, origin: str, span) -> UserError:
        line = text.count("\n", 0, at) + 1
        column = at - text.rfind("\n", 0, at)
        found = text[at : at + length]
        shown = f"`{found}`" if found.isprintable() and not found.isspace() else "a character"
        number = f" (U+{ord(found):04X})" if self.kind == "chars" else ""
        return fail(
            "E0619",
            f"{shown}{number} in {origin}, line {line}, column {column}, is not in the vocabulary "
            f"of {len(self)} {self.kind}",
            span,
            help="only what the training text holds can be read"
            + ('; `vocabulary = "bytes"` reads everything' if self.kind == "chars" else ""),
        )


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("no list of texts where one belongs")
    return tuple(value)


def _damaged(origin: str, error: Exception) -> UserError:
    return fail("E0603", f"{origin} is damaged: {error}")


# ── from training text ───────────────────────────────────────────────────────────────────────────


def chars(texts: Iterable[str], specials: Sequence[str] = (), least: int = 1) -> Vocabulary:
    """The characters that come at least `least` times, in the order of their code points."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    tokens = sorted(token for token, count in counts.items() if count >= least)
    return Vocabulary("chars", tuple(tokens), tuple(specials))


def words(texts: Iterable[str], specials: Sequence[str] = (), least: int = 1) -> Vocabulary:
    """The words that come at least `least` times, the most frequent first, then alphabetically."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text))
    kept = sorted((-count, token) for token, count in counts.items() if count >= least)
    return Vocabulary("words", tuple(token for _, token in kept), tuple(specials))


def all_bytes(specials: Sequence[str] = ()) -> Vocabulary:
    """The 256 bytes."""
    return Vocabulary("bytes", BYTES, tuple(specials))


def pairs_of_bytes(text: str, size: int, span: Span | None = None) -> Vocabulary:
    """Byte pairs learnt from a text, at most `size` tokens. E0609 without the package for it."""
    tokens, merges = byte_pairs.learn(text, size, span)
    return Vocabulary("bpe", tokens, (), merges)
