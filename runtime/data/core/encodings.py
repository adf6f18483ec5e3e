"""How characters are written as bytes: the encoding that is declared, and a guess of another one.

In: bytes and the name of an encoding, as Python has them. Out: text, or E0612 with the line and the
byte. A guess looks at what the bytes are in each encoding of a few: letters in words, in a case
that words have, or the characters of a script.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.records import record

UTF8 = "utf-8"
MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 1 << 16  # bytes that a guess looks at
SEEN = 1 << 24  # bytes in which it looks for these
LIKELY = 0.8  # of the characters beyond ASCII that must look right
HIGH = re.compile(rb"[\x80-\xff]")

Blocks = Callable[[], Iterator[bytes]]  # the bytes of a file, from its begin each time


def is_encoding(name: object) -> bool:
    """Whether Python knows an encoding of texts by that name."""
    try:
        # Others, such as `hex` and `rot13`, turn bytes into bytes or texts into texts.
        return isinstance(name, str) and "a".encode(name).decode(name) == "a"
    except (LookupError, ValueError):
        return False


def is_utf8(name: str) -> bool:
    """Whether it is UTF-8 by one of its names."""
    return codecs.lookup(name).name == UTF8


def codec(name: str) -> str:
    """The encoding as files are read with it: without the mark that may stand before UTF-8."""
    return "utf-8-sig" if is_utf8(name) else name


def decoded(raw: bytes, encoding: str, path: Path) -> str:
    """The text of a file's bytes; E0612 if they are not in that encoding."""
    return "".join(decoded_blocks(lambda: iter([raw]), encoding, path))


def decoded_blocks(blocks: Blocks, encoding: str, path: Path) -> Iterator[str]:
    """The text of a file, block by block; E0612 if its bytes are not in that encoding."""
    decoder = None
    for block in blocks():
        if decoder is None:
            check_encoding(path, block[:SAMPLE], encoding)
            decoder = _decoder(block, encoding)
            text = _next_text(decoder, block, blocks, encoding, path).removeprefix("\ufeff")
        else:
            text = _next_text(decoder, block, blocks, encoding, path)
        yield text
    if decoder is not None:
        yield _next_text(decoder, b"", blocks, encoding, path)


def _next_text(
    decoder: codecs.IncrementalDecoder, block: bytes, blocks: Blocks, encoding: str, path: Path
) -> str:
    try:
        return decoder.decode(block, not block)
    except (UnicodeError, ValueError) as error:
        raise undecodable(path, blocks, encoding) from error


def _decoder(start: bytes, encoding: str) -> codecs.IncrementalDecoder:
    """The decoder of a file that begins so."""
    name = codecs.lookup(codec(encoding)).name
    if name in ("utf-16", "utf-32") and not any(start.startswith(mark) for mark, _ in MARKS):
        name += "-le" if sys.byteorder == "little" else "-be"  # as `bytes.decode` has it
    return codecs.getincrementaldecoder(name)()


def check_encoding(path: Path, start: bytes, encoding: str) -> None:
    """E0612 for a file that begins in UTF-8 and not in an encoding that takes any byte for a
    character: its letters would become others without a word."""
    high = HIGH.findall(start)
    one_each = len(b"".join(high).decode(encoding, "replace")) == len(high)
    if high and not is_utf8(encoding) and one_each and guess(start) == UTF8:
        help = "leave `encoding` out"
        raise fail("E0612", f"{path} is UTF-8, and `encoding` says {encoding}", help=help)


def undecodable(path: Path, blocks: Blocks, encoding: str) -> UserError:
    """E0612 for the first byte of a file that is not in the encoding."""
    shown = "UTF-8" if is_utf8(encoding) else encoding
    found = _first_wrong(blocks, encoding)
    near = guess(found.seen)
    help = f"save the file as {shown}"
    if near is not None and codecs.lookup(near) != codecs.lookup(encoding):
        help = f'write `encoding = "{near}"`, which it seems to be, or save the file as {shown}'
        # A byte order mark tells what it is.
        if near in ("utf-16", "utf-32"):
            return fail("E0612", f"{path} is {near.upper()}", help=help)
    if found.why:  # what is wrong is not one byte
        return fail("E0612", f"{path} is not {shown}: {found.why}", help=help)
    place = f"{path}, line {found.line}, byte {found.byte}"
    return fail("E0612", f"{place}: {found.value!r} is not {shown}", help=help)


@record
class _Wrong:
    """A byte that is not in an encoding: its line and its place in that line, both from 1. `seen`
    is what a guess of another encoding looks at."""

    line: int
    byte: int
    value: bytes
    seen: bytes
    why: str = ""


def _first_wrong(blocks: Blocks, encoding: str) -> _Wrong:
    """Looks for a byte that is known to be there, in little memory."""
    decoder: codecs.IncrementalDecoder | None = None
    seen, line, offset = b"", 1, 0
    # The block in which the present line begins, and the decoder's state before it.
    begun: list[tuple[Any, bytes, int]] = []
    for block in chain(blocks(), [b""]):
        decoder = decoder or _decoder(block, encoding)
        if len(seen) < SEEN:
            seen += block
        state = decoder.getstate()
        try:
            text = decoder.decode(block, not block)
        except UnicodeDecodeError:
            begun.append((state, block, offset))
            return _place(decoder, begun, line, seen if offset < len(seen) else seen + block)
        except (UnicodeError, ValueError) as error:
            return _Wrong(0, 0, b"", seen, str(error))
        if "\n" in text or not begun:
            begun = [(state, block, offset)]
            line += text.count("\n")
        offset += len(block)
    return _Wrong(0, 0, b"", seen, "its end is missing")


def _place(
    decoder: codecs.IncrementalDecoder, begun: list[tuple[Any, bytes, int]], line: int, seen: bytes
) -> _Wrong:
    """Where decoding fails, byte by byte: in the last block."""
    begin = 0
    for number, (state, block, offset) in enumerate(begun, 1):
        decoder.setstate(state)
        for place in range(len(block)):
            pending = decoder.getstate()[0]
            try:
                text = decoder.decode(block[place : place + 1])
            except UnicodeDecodeError:
                break
            if "\n" in text:
                begin, line = offset + place + 1, line + (number == len(begun))
        else:
            # Not at any byte: it is the end that comes too soon.
            place, pending = len(block), decoder.getstate()[0]
    at = offset + place - len(pending)
    value = (pending + block[place : place + 1])[:1]
    return _Wrong(line, at - begin + 1, value, seen)


# --- which one it may be --------------------------------------------------------------------------


def guess(raw: bytes) -> str | None:
    """The encoding that bytes seem to be in; None if they seem to be in none that is known here."""
    for mark, name in MARKS:
        if raw.startswith(mark):
            return name
    start = raw[:SAMPLE]
    zeros = [start[k::2].count(0) / max(1, len(start) // 2) for k in (0, 1)]
    if max(zeros) > 0.3 and min(zeros) < 0.05:
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    if 0 in start:
        return None
    try:
        # The last character of a sample may have lost its end.
        codecs.getincrementaldecoder(UTF8)().decode(raw)
        return UTF8
    except UnicodeDecodeError:
        # Cut between lines, as a character of several bytes never has that of a line's end.
        lines = [line for line in raw.split(b"\n") if HIGH.search(line)]
    sample = b"\n".join(lines)[:SAMPLE].rpartition(b"\n")[0] or b"\n".join(lines[:1])
    found = [(score(sample), name) for name, score in _scores().items()]
    # Of equal ones the first, as the most frequent.
    best, name = max(found, key=lambda pair: pair[0])
    if best < LIKELY:
        return None
    # The two differ in 0x80 to 0x9f alone.
    return "latin-1" if name == "cp1252" and not re.search(rb"[\x80-\x9f]", sample) else name


def _text(raw: bytes, name: str) -> str:
    try:
        return raw.decode(name)
    except (UnicodeError, LookupError):
        return ""


def _alphabet(name: str, dense: bool) -> Callable[[bytes], float]:
    """The share of characters beyond ASCII that stand in words as letters do. In `dense` scripts
    words have no others; in the others they are few among ASCII letters."""

    def score(raw: bytes) -> float:
        text = f" {_text(raw, name)} "
        high = [k for k, letter in enumerate(text) if ord(letter) > 127]
        words = [word for word in re.findall(r"[^\W\d_]{2,}", text) if not word.isascii()]
        letters = "".join(words)
        share = sum(ord(letter) > 127 for letter in letters) / max(1, len(letters))
        if not high or (share > 0.6) != dense:
            return 0.0
        return sum(_fits(text[k - 1], text[k], text[k + 1]) for k in high) / len(high)

    return score


def _fits(before: str, letter: str, after: str) -> bool:
    if letter.isalpha():
        return not (letter.isupper() and before.islower())
    # Quotes and dashes stand between words, and within one an apostrophe.
    return letter in "‘’" or (letter.isprintable() and not (before.isalpha() and after.isalpha()))


def _script(name: str, pattern: str, lead: bytes) -> Callable[[bytes], float]:
    """The share of characters beyond ASCII that are of a script, if they begin with usual bytes."""
    script, leads = re.compile(pattern), re.compile(b"[" + lead + b"][\x40-\xff]")

    def score(raw: bytes) -> float:
        text = _text(raw, name)
        high = [letter for letter in text if ord(letter) > 127]
        if not high or 2 * len(leads.findall(raw)) < len(high):
            return 0.0
        marks = sum(letter in "　、。，．「」！？：；（）" for letter in high)
        return (len(script.findall(text)) + marks) / len(high)

    return score


def _japanese(name: str, lead: bytes) -> Callable[[bytes], float]:
    every = _script(name, "[぀-ヿ一-鿿]", lead)

    def score(raw: bytes) -> float:
        text = _text(raw, name)
        # Hiragana is what no other language has.
        return every(raw) if 6 * len(re.findall("[぀-ゟ]", text)) > len(text) / 2 else 0.0

    return score


@cache
def _scores() -> dict[str, Callable[[bytes], float]]:
    """How likely bytes are in each of some encodings: a number from 0 to 1."""
    return {
        "cp1252": _alphabet("cp1252", False),
        "cp1250": _alphabet("cp1250", False),
        "cp850": _alphabet("cp850", False),
        "mac-roman": _alphabet("mac-roman", False),
        "euc-jp": _japanese("euc-jp", rb"\xa4\xa5\xb0-\xd7"),
        "shift-jis": _japanese("shift-jis", rb"\x82\x83\x88-\x9f"),
        "euc-kr": _script("euc-kr", "[가-힣]", rb"\xb0-\xc8"),
        "gb18030": _script("gb18030", "[一-鿿]", rb"\xb0-\xd7"),
        "big5": _script("big5", "[一-鿿]", rb"\xa4-\xc6"),
        "cp1251": _alphabet("cp1251", True),
        "koi8-r": _alphabet("koi8-r", True),
    }
