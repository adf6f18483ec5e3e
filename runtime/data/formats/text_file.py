"""Text files: their text, or their lines divided into cells.

In: a path, plain or gzip'd. Out: text with `\\n` between lines, or rows with their line numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....dsl.diagnostics.diagnostic import UserError, fail
from ..core.decompress import AGAIN, plain_view, readable
from ..core.encodings import UTF8, decoded

ALWAYS_ALLOWED = 1 << 24  # bytes that any packed text may have
MAX_RATIO = 32  # times its packed size that a longer text may have


@dataclass(frozen=True)
class TextRow:
    """The cells of one line, without spaces around them; `line` counts from 1."""

    line: int
    cells: tuple[str, ...]


def read_text(path: Path, cache: Path, encoding: str = UTF8) -> str:
    """The whole text. E0603 or E0617 if it cannot be read, E0612 if it is not in that encoding."""
    with readable(path):
        packed = path.stat().st_size
    # Text packs to a fifth of its size; what unpacks to far more would take hours and all memory.
    most = max(ALWAYS_ALLOWED, MAX_RATIO * packed)
    raw = plain_view(path, cache, most=most)
    if len(raw) > most:  # it was unpacked as bytes before, which are not held in memory
        message = f"{path} does not unpack: more than {most:,} bytes come out of it"
        raise fail("E0603", message, help=AGAIN)
    text = decoded(raw, encoding, path)
    # Line ends of Windows and of old Macs become `\n`, in this order, or `\r\n` would become two.
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_rows(
    path: Path,
    cache: Path,
    delimiter: str,
    names: tuple[str, str],
    last: bool,
    encoding: str = UTF8,
) -> list[TextRow]:
    """The two cells of every line that is not blank, divided at the first delimiter, or the `last`.

    `names` are those of the cells in messages. E0604 for a line without a delimiter, E0616 for an
    empty cell, E0613 for no lines.
    """
    rows: list[TextRow] = []
    for number, line in enumerate(read_text(path, cache, encoding).split("\n"), 1):
        if not line.strip():
            continue
        # With the label last, the text may contain the delimiter, and otherwise the label may not.
        left, found, right = line.rpartition(delimiter) if last else line.partition(delimiter)
        if not found:
            raise _no_delimiter(path, number, line, delimiter, names, not rows)
        cells = (left.strip(), right.strip())
        if not all(cells):
            empty = names[cells.index("")]
            message = f"{path}, line {number}: the {empty} is empty"
            raise fail("E0616", message, help="fill it or remove the line")
        rows.append(TextRow(number, cells))
    if not rows:
        raise fail("E0613", f"{path} holds only blank lines")
    return rows


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
