"""Text files: their text, or their lines divided into cells.

In: a path, plain or gzip'd. Out: text with `\\n` between lines, or rows with their line numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import IncrementalNewlineDecoder
from pathlib import Path

from ....dsl.diagnostics.diagnostic import UserError, fail
from ..core.decompress import plain_blocks, readable
from ..core.encodings import UTF8, decoded_blocks

ALWAYS_ALLOWED = 1 << 24  # bytes that any packed text may have
MAX_RATIO = 32  # times its packed size that a longer text may have


@dataclass(frozen=True)
class TextRow:
    """The cells of one line, without spaces around them; `line` counts from 1."""

    line: int
    cells: tuple[str, ...]


def text_blocks(path: Path, cache: Path, encoding: str = UTF8) -> Iterator[str]:
    """The text, block by block. E0603 or E0617 if it cannot be read, E0612 if it is not in that
    encoding."""
    with readable(path):
        packed = path.stat().st_size
    # Text packs to a fifth of its size; what unpacks to far more would take hours and all memory.
    most = max(ALWAYS_ALLOWED, MAX_RATIO * packed)
    # Line ends of Windows and of old Macs become `\n`, also where blocks divide them.
    ends = IncrementalNewlineDecoder(None, True)
    for text in decoded_blocks(lambda: plain_blocks(path, cache, most), encoding, path):
        yield ends.decode(text)
    yield ends.decode("", True)


def read_text(path: Path, cache: Path, encoding: str = UTF8) -> str:
    """The whole text; errors as `text_blocks`."""
    return "".join(text_blocks(path, cache, encoding))


def text_lines(path: Path, cache: Path, encoding: str = UTF8) -> Iterator[str]:
    """The lines, without their ends; the last may be empty. Errors as `text_blocks`."""
    begun: list[str] = []
    for block in text_blocks(path, cache, encoding):
        first, *others = block.split("\n")
        begun.append(first)
        for line in others:
            yield "".join(begun)
            begun = [line]
    yield "".join(begun)


def text_rows(
    path: Path,
    cache: Path,
    delimiter: str,
    names: tuple[str, str],
    last: bool,
    encoding: str = UTF8,
) -> Iterator[TextRow]:
    """The two cells of every line that is not blank, divided at the first delimiter, or the `last`.

    `names` are those of the cells in messages. E0604 for a line without a delimiter, E0616 for an
    empty cell, E0613 for no lines, and errors as `text_blocks`.
    """
    is_first = True
    for number, line in enumerate(text_lines(path, cache, encoding), 1):
        if not line.strip():
            continue
        # With the label last, the text may contain the delimiter, and otherwise the label may not.
        left, found, right = line.rpartition(delimiter) if last else line.partition(delimiter)
        if not found:
            raise _no_delimiter(path, number, line, delimiter, names, is_first)
        cells = (left.strip(), right.strip())
        if not all(cells):
            empty = names[cells.index("")]
            message = f"{path}, line {number}: the {empty} is empty"
            raise fail("E0616", message, help="fill it or remove the line")
        yield TextRow(number, cells)
        is_first = False
    if is_first:
        raise fail("E0613", f"{path} holds only blank lines")


def _no_delimiter(
    path: Path, number: int, line: str, delimiter: str, names: tuple[str, str], first: bool
) -> UserError:
    """For a line without a delimiter. If lines before it have one, it is the right delimiter."""
    # If earlier lines were divided well, the delimiter is right and this line is incomplete.
    shown = {"\t": "tab", " ": "space"}.get(delimiter, f"`{delimiter}`")
    other = next((mark for mark in "\t;,| " if mark in line and mark != delimiter), None)
    spelling = "\\t" if other == "\t" else other
    return fail(
        "E0604",
        f"{path}, line {number}: no {shown} between {names[0]} and {names[1]}: `{line[:60]}`",
        help="the lines before it have both: complete it or remove it"
        if not first
        else f'is the delimiter another one? write `delimiter = "{spelling}"`'
        if other
        else "",
    )
