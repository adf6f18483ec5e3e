"""Diagnostics to text: the one place where a message gets its looks.

In: `Diagnostic`s. Out: the human form with source lines, one line each, or JSON lines. It decides
nothing about what is wrong and prints nothing.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ..syntax.source import Source, Span
from .diagnostic import Diagnostic, Note

# What each part of a message looks like where colours are wanted.
_STYLES = {
    "error": "\x1b[1;31m", "warning": "\x1b[1;33m", "message": "\x1b[1m", "gutter": "\x1b[1;34m",
    "note": "\x1b[1;34m", "help": "\x1b[1;36m",
}  # fmt: skip
_PLAIN = "\x1b[0m"


def render(diagnostic: Diagnostic, color: bool = False, width: int = 100) -> str:
    """The human form: header, place, source lines with marks, help. No line end at the end."""
    paint = _Painter(color)
    kind = "error" if diagnostic.is_error else "warning"
    header = paint(kind, f"{kind}[{diagnostic.code}]") + paint(
        "message", f": {_printable(diagnostic.message)}"
    )
    marks = _marks(diagnostic, kind)
    gutter = max((len(str(mark.line)) for mark in marks), default=1)
    lines = [header]
    for k, source in enumerate(dict.fromkeys(mark.source for mark in marks)):
        here = [mark for mark in marks if mark.source is source]
        place = diagnostic.span if k == 0 and diagnostic.span else here[0].span
        arrow = "-->" if k == 0 else ":::"
        lines.append(" " * (gutter + 1) + paint("gutter", arrow) + f" {_printable(str(place))}")
        lines += _snippet(source, [m for m in here if m.drawn], gutter, width, paint)
    for k, text in enumerate(diagnostic.help.splitlines()):
        sign = paint("gutter", "=") + " " + paint("help", "help:") if k == 0 else " " * 7
        lines.append(" " * (gutter + 2) + f"{sign} {_printable(text)}")
    return "\n".join(line.rstrip() for line in lines)


def render_all(
    diagnostics: Iterable[Diagnostic], form: str = "human", color: bool = False, width: int = 100
) -> str:
    """All of them, in the given order: `human`, `short` (a line each) or `json` (a line each)."""
    if form == "human":
        return "\n\n".join(render(d, color, width) for d in diagnostics)
    if form == "short":
        return "\n".join(_short(d) for d in diagnostics)
    if form == "json":
        return "\n".join(json.dumps(_record(d), ensure_ascii=True) for d in diagnostics)
    raise ValueError(f"no form of diagnostics is called {form!r}")


def _short(diagnostic: Diagnostic) -> str:
    kind = "error" if diagnostic.is_error else "warning"
    place = f"{diagnostic.span}: " if diagnostic.span else ""
    return _printable(f"{place}{kind}[{diagnostic.code}]: {diagnostic.message}")


def _record(diagnostic: Diagnostic) -> dict[str, object]:
    notes = [{**_place(note.span), "text": note.text} for note in diagnostic.notes]
    return {
        "code": diagnostic.code,
        "severity": "error" if diagnostic.is_error else "warning",
        "message": diagnostic.message,
        **(_place(diagnostic.span) if diagnostic.span else {}),
        "label": diagnostic.label,
        "notes": notes,
        "help": diagnostic.help,
    }


def _place(span: Span) -> dict[str, object]:
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": end_line,
        "end_column": end_column,
    }


# --- one snippet ----------------------------------------------------------------------------------


class _Painter:
    """Wraps text in a style if there is colour, else leaves it as it is."""

    def __init__(self, color: bool):
        self.color = color

    def __call__(self, style: str, text: str) -> str:
        return f"{_STYLES[style]}{text}{_PLAIN}" if self.color and text else text


@dataclass(frozen=True)
class _Mark:
    """A marked spot on one line of a source."""

    span: Span
    sign: str  # `^` for the diagnostic's own spot, `-` for a note's
    label: str
    style: str
    drawn: bool = True

    @property
    def source(self) -> Source:
        return self.span.source

    @property
    def line(self) -> int:
        return self.span.line


def _marks(diagnostic: Diagnostic, kind: str) -> list[_Mark]:
    """The diagnostic's own spot, then its notes.

    A spot without a label gives way to notes on its line: they say what is to be seen there.
    """
    marks = [_Mark(note.span, "-", _label(note), "note") for note in diagnostic.notes]
    if diagnostic.span is None:
        return marks
    span = diagnostic.span
    told = any(m.source is span.source and m.line == span.line for m in marks)
    main = Note(span, diagnostic.label)
    drawn = bool(diagnostic.label) or not told
    return [_Mark(span, "^", _label(main), kind, drawn), *marks]


def _label(note: Note) -> str:
    """The label, with the last line of a place that is longer than a line."""
    end = note.span.source.position(max(note.span.end - 1, note.span.start))[0]
    more = f"(to line {end})" if end > note.span.line else ""
    return " ".join(filter(None, [_printable(note.text.replace("\n", " ")), more]))


def _snippet(
    source: Source, marks: list[_Mark], gutter: int, width: int, paint: _Painter
) -> list[str]:
    """The marked lines of one source, each with its underlines and labels."""
    bar = paint("gutter", "|")
    blank = " " * (gutter + 2) + bar
    lines = [blank] if marks else []
    before = 0
    for number in sorted({mark.line for mark in marks}):
        if before and number > before + 1:
            lines.append(" " + paint("gutter", "..."))
        before = number
        text, places = _line(
            source, number, [m for m in marks if m.line == number], max(width - gutter - 4, 20)
        )
        lines.append(" " + paint("gutter", f"{number:>{gutter}} |") + f" {text}")
        lines += [f"{blank} {row}" for row in _underline(places, paint)]
    return lines


_Place = tuple[int, int, _Mark]  # first and last-but-one display column on the shown line


def _line(source: Source, number: int, marks: list[_Mark], width: int) -> tuple[str, list[_Place]]:
    """A line as it is shown, and where its marks are on it. Long lines are cut around the marks."""
    raw = source.line(number).rstrip("\r")
    start = source.line_starts[number - 1]
    cells, columns = [], [0]
    for character in raw:
        shown = "    " if character == "\t" else character if character.isprintable() else "�"
        cells.append(shown)
        columns.append(columns[-1] + sum(_width(c) for c in shown))
    places = []
    for mark in marks:
        first = min(mark.span.start - start, len(raw))
        last = min(max(mark.span.end - start, first), len(raw))
        places.append((columns[first], max(columns[last], columns[first] + 1), mark))
    if columns[-1] <= width:
        return "".join(cells), places
    return _cut(cells, columns, places, width)


def _cut(
    cells: list[str], columns: list[int], places: list[_Place], width: int
) -> tuple[str, list[_Place]]:
    """A window of the line that begins a little before the first mark."""
    first = min(place[0] for place in places)
    begin = 0 if first < width * 2 // 3 else max(first - width // 3, 0)
    low = next(k for k, column in enumerate(columns) if column >= begin)
    limit = columns[low] + width - 2
    high = max((k for k, column in enumerate(columns) if column <= limit), default=low)
    text = ("…" if low else "") + "".join(cells[low:high]) + ("…" if high < len(cells) else "")
    shift = columns[low] - bool(low)
    room = columns[high] - shift
    moved = []
    for begin_at, end_at, mark in places:
        left = min(begin_at - shift, room)
        moved.append((left, max(min(end_at - shift, room), left + 1), mark))
    return text, moved


def _width(character: str) -> int:
    """How many terminal columns a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _underline(places: list[_Place], paint: _Painter) -> list[str]:
    """The underlines of a line; the last label beside them, the others hanging below."""
    places = sorted(places, key=lambda place: (place[0], place[2].sign == "^"))
    row = _Row()
    for first, last, mark in sorted(places, key=lambda place: place[2].sign == "^"):
        row.put(first, mark.sign * (last - first), mark.style)
    hanging = [place for place in places if place[2].label]
    end = max(last for _, last, _ in places)
    if hanging and hanging[-1][1] == end:
        _, _, mark = hanging.pop()
        row.put(end + 1, mark.label, mark.style)
    rows = [row.text(paint)]
    if hanging:
        rows.append(_stems(hanging).text(paint))
    while hanging:
        first, _, mark = hanging.pop()
        row = _stems([place for place in hanging if place[0] < first])
        row.put(first, mark.label, mark.style)
        rows.append(row.text(paint))
        if hanging and hanging[-1][0] < first:
            rows.append(_stems(hanging).text(paint))
    return rows


def _stems(hanging: list[_Place]) -> _Row:
    row = _Row()
    for first, _, mark in hanging:
        row.put(first, "|", mark.style)
    return row


class _Row:
    """A line of text that is written at columns, each cell in a style."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, str]] = []

    def put(self, column: int, text: str, style: str) -> None:
        missing = column + len(text) - len(self.cells)
        self.cells += [(" ", "")] * missing
        for k, character in enumerate(text):
            self.cells[column + k] = (character, style)

    def text(self, paint: _Painter) -> str:
        pieces: list[list[str]] = []
        for character, style in self.cells:
            if pieces and pieces[-1][0] == style:
                pieces[-1][1] += character
            else:
                pieces.append([style, character])
        return "".join(paint(style, text) if style else text for style, text in pieces)


def _printable(text: str) -> str:
    """The text without characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " if c in "\t\n" else "�" for c in text)
