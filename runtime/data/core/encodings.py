"""How characters are written as bytes: the encoding that is declared, and a guess of another one.

In: bytes and the name of an encoding, as Python has them. Out: text, or E0612 with the line and the
byte. A guess looks at what the bytes are in each encoding of a few: letters in words, in a case
that words have, or the characters of a script.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ....dsl.diagnostics.diagnostic import UserError, fail

UTF8 = "utf-8"
MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 1 << 16  # bytes that a guess looks at
LIKELY = 0.8  # of the characters beyond ASCII that must look right
HIGH = re.compile(rb"[\x80-\xff]")


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


def decoded(raw: bytes | memoryview, encoding: str, path: Path) -> str:
    """The text of a file's bytes; E0612 if they are not in that encoding."""
    check_encoding(path, bytes(raw[:SAMPLE]), encoding)
    try:
        return str(raw, codec(encoding)).removeprefix("\ufeff")
    except (UnicodeError, ValueError) as error:
        raise undecodable(path, bytes(raw), encoding) from error


def check_encoding(path: Path, start: bytes, encoding: str) -> None:
    """E0612 for a file that begins in UTF-8 and not in an encoding that takes any byte for a
    character: its letters would become others without a word."""
    high = HIGH.findall(start)
    one_each = len(b"".join(high).decode(encoding, "replace")) == len(high)
    if high and not is_utf8(encoding) and one_each and guess(start) == UTF8:
        help = "leave `encoding` out"
        raise fail("E0612", f"{path} is UTF-8, and `encoding` says {encoding}", help=help)


def undecodable(path: Path, raw: bytes, encoding: str) -> UserError:
    """E0612 for the first byte of a file that is not in the encoding."""
    shown = "UTF-8" if is_utf8(encoding) else encoding
    near = guess(raw)
    help = f"save the file as {shown}"
    if near is not None and codecs.lookup(near) != codecs.lookup(encoding):
        help = f'write `encoding = "{near}"`, which it seems to be, or save the file as {shown}'
        # A byte order mark tells what it is.
        if near in ("utf-16", "utf-32"):
            return fail("E0612", f"{path} is {near.upper()}", help=help)
    try:
        raw.decode(codec(encoding))
        return fail("E0612", f"{path} is not {shown}", help=help)
    except UnicodeDecodeError as error:
        line, byte = _place(raw, error.start, encoding)
        found = raw[error.start : error.start + 1]
        place = f"{path}, line {line}, byte {byte}"
        return fail("E0612", f"{place}: {found!r} is not {shown}", help=help)
    except (UnicodeError, ValueError) as error:  # `utf-16` of an odd number of bytes, and the like
        return fail("E0612", f"{path} is not {shown}: {error}", help=help)


def _place(raw: bytes, at: int, encoding: str) -> tuple[int, int]:
    """The line of a byte and its place in that line, both from 1."""
    before = raw[:at].decode(encoding, "replace")
    # `utf-16` would write a mark before each piece that is measured.
    wide = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
    plain = wide.get(codecs.lookup(encoding).name, encoding)
    started = before.rpartition("\n")[0] + "\n" if "\n" in before else ""
    begin = len(started.encode(plain, "replace"))
    if plain != encoding:
        begin += len("\ufeff".encode(plain)) * bool(started)
    return before.count("\n") + 1, at - min(begin, at) + 1


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
