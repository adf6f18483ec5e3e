"""Tokens and their ids: turns text into ids for a model, and ids back into text.

In: training text, or the JSON of a run folder. Out: a `Vocabulary` that encodes and decodes. Five
kinds: the characters of a text, bytes, words, byte pairs (`byte_pairs.py`), and the tokens of a
`tokenizer.json` (`tokenizer_file.py`). Special tokens have the first ids, so that padding is 0
wherever there is padding.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.records import record
from ....dsl.syntax.source import Span
from . import byte_pairs, tokenizer_file

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
WORD = re.compile(r"\w+|[^\w\s]")  # a run of letters and digits, or one mark
BLOCK = 1 << 16  # characters looked up at a time
KINDS = ("chars", "bytes", "words", "bpe", "tokens")
BYTES = tuple(f"0x{value:02x}" for value in range(256))


@record
class Vocabulary:
    """Ids 0, 1, … are `specials`, then `tokens`.

    A token of the kinds `chars` and `words` is its text; of `bytes` its value, like `0x0a`; of
    `bpe` its bytes as `byte_pairs.token_of_bytes` writes them. Only `bpe` has `merges`, and only
    `tokens` has a `tokenizer`, the text of its file.
    """

    kind: str  # one of KINDS
    tokens: tuple[str, ...]
    specials: tuple[str, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()
    tokenizer: str = ""

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

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each id stands for, as people read it; bytes that are no UTF-8 like `\\xe2`."""
        if self.kind == "tokens":
            every = ([number] for number in range(len(self.tokens)))
            pieces = (tokenizer_file.decode(self._encoder, one) for one in every)
            # What has no text of its own, such as a mark, is called by its token.
            read = zip(pieces, self.tokens, strict=True)
            return (*self.specials, *(piece or token for piece, token in read))
        texts = (
            p if isinstance(p, str) else p.decode("utf-8", "backslashreplace") for p in self._pieces
        )
        return (*self.specials, *texts)

    def encode(self, text: str, origin: str = "the text", line: int = 1) -> np.ndarray:
        """The ids of a text (`dtype` [n]), without special tokens except `<unk>`.

        Anything outside the vocabulary becomes `<unk>` if that is one of the specials; otherwise it
        is E0619, with its place in `origin`, where the text begins on `line`.
        """
        if self.kind == "words":
            return self._encode_words(text, origin, line)
        parts = [*self.encode_parts([text], origin, line)]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def encode_parts(
        self, texts: Iterable[str], origin: str = "the text", line: int = 1
    ) -> Iterator[np.ndarray]:
        """The same of one text in parts, which may divide it anywhere but within a word of the
        kind `words`; the ids come in parts, too."""
        if self.kind in ("chars", "words"):
            for text in texts:
                make = self._encode_chars if self.kind == "chars" else self._encode_words
                yield make(text, origin, line)
                line += text.count("\n")
            return
        # A lone surrogate has no UTF-8, yet a prompt from a command line may contain one.
        parts = (
            (np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in texts)
            if self.kind == "bytes"
            else tokenizer_file.encode(self._encoder, texts, origin, line)
            if self.kind == "tokens"
            else byte_pairs.encode(self._encoder, texts)
        )
        for part in parts:
            # Widened before the specials are added: 255 + 1 would wrap around in a byte.
            yield (part.astype(np.int32) + len(self.specials)).astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids: up to `<end>`, without `<pad>` and `<start>`.

        Words are joined with spaces; bytes that are no UTF-8 become `\N{REPLACEMENT CHARACTER}`.
        IndexError for an id that the vocabulary does not have.
        """
        pieces: list[Any] = []
        is_text = self.kind in ("chars", "words")
        if self.kind == "tokens":
            return self._decode_tokens(ids)
        for number in map(int, ids):
            if not 0 <= number < len(self):
                raise IndexError(f"id {number} in a vocabulary of {len(self)}")
            special = self.specials[number] if number < len(self.specials) else None
            # `<pad>` and `<start>` fall through both branches: they stand for no text.
            if special == END:
                break
            if special == UNKNOWN:
                pieces.append(UNKNOWN if is_text else UNKNOWN.encode())
            elif special is None:
                pieces.append(self._pieces[number - len(self.specials)])
        # Bytes are joined before they are decoded, as a character may span several tokens.
        if is_text:
            return (" " if self.kind == "words" else "").join(pieces)
        return b"".join(pieces).decode("utf-8", "replace")

    def _decode_tokens(self, ids: Iterable[int]) -> str:
        kept, first = [], len(self.specials)
        for number in map(int, ids):
            if not 0 <= number < len(self):
                raise IndexError(f"id {number} in a vocabulary of {len(self)}")
            if number < first and self.specials[number] == END:
                break
            if number >= first:
                kept.append(number - first)
        return tokenizer_file.decode(self._encoder, kept)

    def to_json(self) -> str:
        """The vocabulary as JSON; `from_json` gives an equal one."""
        plain: dict[str, Any] = {"kind": self.kind, "specials": self.specials}
        if self.kind != "bytes":
            plain["tokens"] = self.tokens
        if self.kind == "bpe":
            plain["merges"] = self.merges
        if self.kind == "tokens":
            plain["tokenizer"] = self.tokenizer
        return json.dumps(plain, ensure_ascii=True)

    @staticmethod
    def from_json(text: str, origin: str = "the vocabulary") -> Vocabulary:
        """The vocabulary that `to_json` wrote; E0603 if `text` is not one."""
        try:
            # The file may have been edited or truncated, so nothing about it is taken for granted.
            plain = json.loads(text)
            kind, specials = plain["kind"], _strings(plain["specials"])
            tokens = BYTES if kind == "bytes" else _strings(plain["tokens"])
            merges = tuple((a, b) for a, b in map(_strings, plain.get("merges", ())))
            tokenizer = plain.get("tokenizer", "")
            if not isinstance(tokenizer, str) or bool(tokenizer) != (kind == "tokens"):
                raise ValueError("a tokenizer is missing, or too many")
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r}")
            # One id per token and one token per id, or decoding would not invert encoding.
            apart = kind == "tokens" or not {*tokens} & {*specials}
            if not tokens or len({*tokens}) != len(tokens) or not apart:
                raise ValueError("it has no tokens, or a token twice")
            if kind == "chars" and max(map(len, tokens)) > 1:
                raise ValueError("a token is not a character")
            # `bytes_of_token` raises for a wrong spelling and gives b"", which is false, for "".
            if kind == "bpe" and not all(map(byte_pairs.bytes_of_token, tokens)):
                raise ValueError("a token is empty")
            # A merge joins two tokens into a third, which must then have an id, too.
            if not {left + right for left, right in merges} <= set(tokens):
                raise ValueError("a merged pair is not a token")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise fail("E0603", f"{origin} is damaged: {error}") from error
        return Vocabulary(kind, tokens, specials, merges, tokenizer)

    # ── one kind each ────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _pieces(self) -> tuple[Any, ...]:
        """The text or the bytes of each token."""
        if self.kind == "bytes":
            return tuple(bytes([value]) for value in range(256))
        if self.kind == "bpe":
            return tuple(map(byte_pairs.bytes_of_token, self.tokens))
        return self.tokens

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens, len(self.specials))}

    @cached_property
    def _code_points(self) -> tuple[np.ndarray, np.ndarray]:
        """The code points of the characters, ascending, and their ids."""
        order = sorted((ord(token), number) for token, number in self._ids.items())
        points, ids = zip(*order, strict=True)
        return np.array(points, np.uint32), np.array(ids, self.dtype)

    @cached_property
    def _encoder(self) -> Any:
        if self.kind == "tokens":
            return tokenizer_file.made(self.tokenizer)
        return byte_pairs.encoder(self.tokens, self.merges)

    def _encode_chars(self, text: str, origin: str, line: int) -> np.ndarray:
        points, ids = self._code_points
        found = np.empty(len(text), self.dtype)
        # A binary search for a block of characters at a time: the arrays of 4 bytes per character
        # would take many times the memory of a long text, and a dictionary many times the time.
        for start in range(0, len(text), BLOCK):
            block = text[start : start + BLOCK].encode("utf-32-le", "surrogatepass")
            wanted = np.frombuffer(block, "<u4")
            # A code point beyond the last finds no place; it then differs from the last one below.
            places = np.minimum(np.searchsorted(points, wanted), len(points) - 1)
            piece = ids[places]
            unknown = np.flatnonzero(points[places] != wanted)
            if unknown.size:
                if UNKNOWN not in self.specials:
                    raise self._unknown(text, start + int(unknown[0]), 1, origin, line)
                piece[unknown] = self.special(UNKNOWN)
            found[start : start + len(piece)] = piece
        return found

    def _encode_words(self, text: str, origin: str, line: int) -> np.ndarray:
        unknown = self.special(UNKNOWN) if UNKNOWN in self.specials else None
        found = []
        for match in WORD.finditer(text):
            number = self._ids.get(match[0], unknown)
            if number is None:
                raise self._unknown(text, match.start(), len(match[0]), origin, line)
            found.append(number)
        return np.array(found, self.dtype)

    def unknown(self, text: str) -> list[str]:
        """The words or characters of a text that are read as `<unk>`, each once, in its order."""
        if self.kind == "tokens":
            return tokenizer_file.unknown(self._encoder, text)
        # Without `<unk>` an unknown token is an error; bytes and byte pairs lack nothing.
        if UNKNOWN not in self.specials or self.kind not in ("chars", "words"):
            return []
        pieces = WORD.findall(text) if self.kind == "words" else list(text)
        return [piece for piece in dict.fromkeys(pieces) if piece not in self._ids]

    def _unknown(self, text: str, at: int, length: int, origin: str, first: int) -> UserError:
        """E0619 for the characters from `at` on; the text begins on the line `first`."""
        line = text.count("\n", 0, at) + first
        # `rfind` is -1 on the first line, so columns count from 1 on every line.
        column = at - text.rfind("\n", 0, at)
        found = text[at : at + length]
        shown = f"`{found}`" if found.isprintable() and not found.isspace() else "a character"
        number = f" (U+{ord(found):04X})" if self.kind == "chars" else ""
        return fail(
            "E0619",
            f"{shown}{number} in {origin}, line {line}, column {column}, is not in the vocabulary "
            f"of {len(self)} {self.kind}",
            help="only what the training text holds can be read"
            + ('; `vocabulary = "bytes"` reads everything' if self.kind == "chars" else ""),
        )


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of strings is missing")
    return tuple(value)


# ── from training text ───────────────────────────────────────────────────────────────────────────


def chars(texts: Iterable[str], specials: Sequence[str] = (), min_count: int = 1) -> Vocabulary:
    """The characters that occur at least `min_count` times, by code point."""
    if min_count > 1:
        return Vocabulary("chars", tuple(sorted(_counted(texts, min_count))), tuple(specials))
    # Which ones occur is known ten times as soon as how often.
    tokens: set[str] = set()
    for text in texts:
        tokens.update(text)
    return Vocabulary("chars", tuple(sorted(tokens)), tuple(specials))


def words(texts: Iterable[str], specials: Sequence[str] = (), min_count: int = 1) -> Vocabulary:
    """The words that occur at least `min_count` times, by frequency, then alphabetically."""
    # A text is an iterable of its characters, so `_counted` serves characters and words alike.
    counts = _counted(map(WORD.findall, texts), min_count)
    # Frequent words get small ids; the alphabet breaks ties, so that ids depend on counts only.
    tokens = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary("words", tuple(tokens), tuple(specials))


def _counted(parts: Iterable[Iterable[str]], min_count: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part)
    return {token: count for token, count in counts.items() if count >= min_count}


def all_bytes(specials: Sequence[str] = ()) -> Vocabulary:
    """The 256 bytes."""
    return Vocabulary("bytes", BYTES, tuple(specials))


def of_tokenizer(path: Path, specials: Sequence[str] = (), span: Span | None = None) -> Vocabulary:
    """The tokens of a `tokenizer.json`, behind special ones. UserError as `read_tokenizer`."""
    text, tokens = tokenizer_file.read_tokenizer(path, span)
    return Vocabulary("tokens", tokens, tuple(specials), (), text)


def learn_byte_pairs(texts: Iterable[str], size: int, span: Span | None = None) -> Vocabulary:
    """Byte pairs learnt from a text in parts, at most `size` tokens. E0609 without the package for
    it."""
    tokens, merges = byte_pairs.learn(texts, size, span)
    return Vocabulary("bpe", tokens, (), merges)
