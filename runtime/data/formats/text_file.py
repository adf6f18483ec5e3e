"""Text files: their text, or their lines cut into cells.

In: a path, plain or gzip'd. Out: text with `\\n` between lines, or rows with the lines they come
from. This file knows no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.syntax.source import Span
from ..core.decompress import plain_bytes


@dataclass(frozen=True)
class Row:
    """The cells of one line, without spaces around them; `line` counts from 1."""

    line: int
    cells: tuple[str, ...]


def read_text(path: Path, cache: Path, span: Span | None = None) -> str:
    """The whole text. E0603 or E0617 if it cannot be read, E0612 if it is not UTF-8."""
    raw = plain_bytes(path, cache, span).tobytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, raw, span) from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_rows(
    path: Path,
    cache: Path,
    delimiter: str,
    named: tuple[str, str],
    last: bool,
    span: Span | None = None,
) -> list[Row]:
    """Two cells of every line that is not blank, cut at the first delimiter, or at the `last`.

    `named` is what messages call the cells. E0604 for a line without a delimiter, E0616 for an
    empty cell, E0613 for no lines.
    """
    rows: list[Row] = []
    for number, line in enumerate(read_text(path, cache, span).split("\n"), 1):
        if not line.strip():
            continue
        left, found, right = line.rpartition(delimiter) if last else line.partition(delimiter)
        if not found:
            raise _uncut(path, number, line, delimiter, named, not rows, span)
        cells = (left.strip(), right.strip())
        if not all(cells):
            empty = named[cells.index("")]
            message = f"{path}, line {number}: the {empty} is empty"
            raise fail("E0616", message, span, help="fill it or remove the line")
        rows.append(Row(number, cells))
    if not rows:
        raise fail("E0613", f"{path} holds only blank lines", span)
    return rows


def _uncut(
    path: Path,
    number: int,
    line: str,
    delimiter: str,
    named: tuple[str, str],
    first: bool,
    span: Span | None,
) -> UserError:
    """For a line without a delimiter; where others before it have one, that is not the question."""
    shown = {"\t": "tab", " ": "space"}.get(delimiter, f"`{delimiter}`")
    other = next((mark for mark in "\t;,| " if mark in line and mark != delimiter), None)
    spelling = "\\t" if other == "\t" else other
    return fail(
        "E0604",
        f"{path}, line {number}: no {shown} between {named[0]} and {named[1]}: `{line[:60]}`",
        span,
        help="the lines before it have both: complete it or remove it"
        if not first
        else f'is the delimiter another one? write `delimiter = "{spelling}"`'
        if other
        else "",
    )


def _not_utf8(path: Path, raw: bytes, span: Span | None) -> UserError:
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = line[error.start : error.start + 1]
            message = f"{path}, line {number}, byte {error.start + 1}: {found!r} is not UTF-8"
            return fail("E0612", message, span, help="save the file as UTF-8")
    return fail("E0612", f"{path} is not UTF-8", span)
