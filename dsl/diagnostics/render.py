"""Rendering: diagnostics as text with source lines, as one line each, or as JSON lines.

The only place that decides how a diagnostic looks. Tests: tests/language/test_render.py.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby

from ..records import record
from ..syntax.source import Source, Span
from .diagnostic import Diagnostic, Note

_STYLES = {
    "error": "\x1b[1;31m", "warning": "\x1b[1;33m", "message": "\x1b[1m", "gutter": "\x1b[1;34m",
    "note": "\x1b[1;34m", "help": "\x1b[1;36m",
}  # fmt: skip
_RESET = "\x1b[0m"
_ESCAPES = re.compile(r"\x1b\[[\d;]*m")


def render(diagnostic: Diagnostic, color: bool = False, width: int = 100) -> str:
    """The human form: header, place, source lines with marks, help. No line end at the end."""
    kind = _severity(diagnostic)
    lines = [
        _paint(kind, f"{kind}[{diagnostic.code}]")
        + _paint("message", f": {_printable(diagnostic.message)}")
    ]
    marks = _marks(diagnostic)
    # Line numbers are right-aligned in as many columns as the largest needs.
    gutter = max((len(str(mark.line)) for mark in marks), default=1)
    # One block for each file, that of the mistake first: `-->`, others `:::`, as in rustc.
    for k, source in enumerate(dict.fromkeys(mark.source for mark in marks)):
        here = [mark for mark in marks if mark.source is source]
        place = diagnostic.span if k == 0 and diagnostic.span else here[0].span
        arrow = _paint("gutter", "-->" if k == 0 else ":::")
        lines.append(" " * (gutter + 1) + f"{arrow} {_printable(str(place))}")
        lines += _snippet(source, [m for m in here if m.drawn], gutter, width)
    # further lines of a help are indented below its first
    for k, text in enumerate(diagnostic.help.splitlines()):
        sign = _paint("gutter", "=") + " " + _paint("help", "help:") if k == 0 else " " * 7
        lines.append(" " * (gutter + 2) + f"{sign} {_printable(text)}")
    # Always painted first, so that there is one path through the layout.
    if not color:
        lines = [_ESCAPES.sub("", line) for line in lines]
    return "\n".join(line.rstrip() for line in lines)


def render_all(
    diagnostics: Iterable[Diagnostic], form: str = "human", color: bool = False, width: int = 100
) -> str:
    """All of them in order: `human`, `short` (a line each) or `json` (a line each)."""
    if form == "human":
        return "\n\n".join(render(d, color, width) for d in diagnostics)
    if form == "short":
        return "\n".join(_short(d) for d in diagnostics)
    if form == "json":
        return "\n".join(json.dumps(_record(d), ensure_ascii=True) for d in diagnostics)
    raise ValueError(f"no form of diagnostics is called {form!r}")


def _severity(diagnostic: Diagnostic) -> str:
    return "error" if diagnostic.is_error else "warning"


def _short(diagnostic: Diagnostic) -> str:
    place = f"{diagnostic.span}: " if diagnostic.span else ""
    return _printable(f"{place}{_severity(diagnostic)}[{diagnostic.code}]: {diagnostic.message}")


def _record(diagnostic: Diagnostic) -> dict[str, object]:
    return {
        "code": diagnostic.code,
        "severity": _severity(diagnostic),
        "message": diagnostic.message,
        **(_place(diagnostic.span) if diagnostic.span else {}),
        "label": diagnostic.label,
        "notes": [{**_place(note.span), "text": note.text} for note in diagnostic.notes],
        "help": diagnostic.help,
    }


def _place(span: Span) -> dict[str, object]:
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


def _paint(style: str, text: str) -> str:
    return f"{_STYLES[style]}{text}{_RESET}" if text else ""


def _printable(text: str) -> str:
    """The text without characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " if c in "\t\n" else "�" for c in text)


# --- snippets -------------------------------------------------------------------------------------


@record
class _Mark:
    """A marked span on one line of a source."""

    span: Span
    sign: str  # `^` for the diagnostic's own span, `-` for a note's
    label: str
    style: str
    drawn: bool = True

    @property
    def source(self) -> Source:
        return self.span.source

    @property
    def line(self) -> int:
        return self.span.line


def _marks(diagnostic: Diagnostic) -> list[_Mark]:
    """The diagnostic's own span, then its notes. A span without a label is not drawn on a line
    with notes, which say what is to be seen there."""
    marks = [_Mark(note.span, "-", _label(note), "note") for note in diagnostic.notes]
    span = diagnostic.span
    if span is None:
        return marks
    drawn = bool(diagnostic.label) or not any(
        m.source is span.source and m.line == span.line for m in marks
    )
    label = _label(Note(span, diagnostic.label))
    return [_Mark(span, "^", label, _severity(diagnostic), drawn), *marks]


def _label(note: Note) -> str:
    """The label, with the last line of a span of several lines."""
    # `end` is exclusive; a span may be empty, as at the end of a file.
    end = note.span.source.position(max(note.span.end - 1, note.span.start))[0]
    more = f"(to line {end})" if end > note.span.line else ""
    return " ".join(filter(None, [_printable(note.text.replace("\n", " ")), more]))


def _snippet(source: Source, marks: list[_Mark], gutter: int, width: int) -> list[str]:
    """The marked lines of one source, each with its underlines and labels."""
    blank = " " * (gutter + 2) + _paint("gutter", "|")
    lines = [blank] if marks else []
    before = 0
    for number in sorted({mark.line for mark in marks}):
        # lines left out between two marked ones
        if before and number > before + 1:
            lines.append(" " + _paint("gutter", "..."))
        before = number
        here = [mark for mark in marks if mark.line == number]
        # 4: the space before the number, " |" and the space after it
        text, underlines = _line(source, number, here, max(width - gutter - 4, 20))
        lines.append(" " + _paint("gutter", f"{number:>{gutter}} |") + f" {text}")
        lines += [f"{blank} {row}" for row in _underline(underlines)]
    return lines


_Underline = tuple[int, int, _Mark]  # the half-open range of display columns, and its mark


def _line(
    source: Source, number: int, marks: list[_Mark], width: int
) -> tuple[str, list[_Underline]]:
    """A line as it is displayed, with its underlines. Long lines are cut around the marks."""
    raw = source.line(number).rstrip("\r")
    start = source.line_starts[number - 1]
    # A line may have a million characters: of a long one, only those are looked at that can be
    # shown beside the first mark.
    nearest = min(max(mark.span.start - start, 0) for mark in marks)
    skipped = max(nearest - 2 * width, 0)
    cut_right = len(raw) > skipped + 8 * width
    raw, start = raw[skipped : skipped + 8 * width], start + skipped
    # cells[i] is what the i-th character shows as, columns[i] the display column where it begins:
    # offsets in the text and columns on the screen differ by tabs and wide characters.
    cells, columns = [], [0]
    for character in raw:
        shown = "    " if character == "\t" else character if character.isprintable() else "�"
        cells.append(shown)
        columns.append(columns[-1] + sum(map(_display_width, shown)))
    underlines = []
    for mark in marks:
        # A span of several lines is underlined up to the end of its first; an empty one gets one
        # column.
        first = min(mark.span.start - start, len(raw))
        last = min(max(mark.span.end - start, first), len(raw))
        underlines.append((columns[first], max(columns[last], columns[first] + 1), mark))
    if columns[-1] <= width and not skipped and not cut_right:
        return "".join(cells), underlines
    return _cut(cells, columns, underlines, width, bool(skipped), cut_right)


def _cut(
    cells: list[str],
    columns: list[int],
    underlines: list[_Underline],
    width: int,
    cut_left: bool,
    cut_right: bool,
) -> tuple[str, list[_Underline]]:
    """A window of the line that begins a little before the first underline; the line goes on
    beyond the cells at the sides that are `cut`."""
    first = min(start for start, _, _ in underlines)
    # A mark near the left keeps the line's beginning; otherwise a third of the width shows what
    # stands before the mark.
    begin = 0 if first < width * 2 // 3 else max(first - width // 3, 0)
    low = next(k for k, column in enumerate(columns) if column >= begin)
    # 2: an ellipsis at each side
    limit = columns[low] + width - 2
    high = max((k for k, column in enumerate(columns) if column <= limit), default=low)
    cut_left, cut_right = cut_left or low > 0, cut_right or high < len(cells)
    text = "…" * cut_left + "".join(cells[low:high]) + "…" * cut_right
    # Columns move left by what was cut, and right by the ellipsis in its place.
    shift = columns[low] - cut_left
    room = columns[high] - shift
    moved = []
    for start, end, mark in underlines:
        # Marks right of the window stand at its edge, each at least one column wide.
        left = min(start - shift, room)
        moved.append((left, max(min(end - shift, room), left + 1), mark))
    return text, moved


def _display_width(character: str) -> int:
    """How many terminal columns a character takes."""
    if unicodedata.combining(character):
        return 0
    # East Asian wide and fullwidth characters take two columns of a terminal.
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _underline(underlines: list[_Underline]) -> list[str]:
    """The rows below a line: the underlines with the last label beside them, then the others,
    hanging below."""
    # From left to right; at one place the caret comes last, so its label hangs nearest.
    underlines = sorted(underlines, key=lambda u: (u[0], u[2].sign == "^"))
    row = _Row()
    # Carets are written over dashes where they overlap.
    for first, last, mark in sorted(underlines, key=lambda u: u[2].sign == "^"):
        row.put(first, mark.sign * (last - first), mark.style)
    hanging = [underline for underline in underlines if underline[2].label]
    end = max(last for _, last, _ in underlines)
    # The rightmost underline has free space after it: its label stands beside it.
    if hanging and hanging[-1][1] == end:
        _, _, mark = hanging.pop()
        row.put(end + 1, mark.label, mark.style)
    rows = [row]
    if hanging:
        rows.append(_stems(hanging))
    # The others hang below, the rightmost first, with `|` where those left of it go on:
    #     ----  ---  ^^^ label of the rightmost
    #     |     |
    #     |     label of the second
    #     label of the first
    while hanging:
        first, _, mark = hanging.pop()
        row = _stems([other for other in hanging if other[0] < first])
        row.put(first, mark.label, mark.style)
        rows.append(row)
        if hanging and hanging[-1][0] < first:
            rows.append(_stems(hanging))
    return [row.text() for row in rows]


def _stems(hanging: list[_Underline]) -> _Row:
    row = _Row()
    for first, _, mark in hanging:
        row.put(first, "|", mark.style)
    return row


class _Row:
    """A line of text that is written at columns, each cell in a style."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, str]] = []

    def put(self, column: int, text: str, style: str) -> None:
        # negative if the row is long enough: then nothing is appended
        missing = column + len(text) - len(self.cells)
        self.cells += [("", " ")] * missing
        self.cells[column : column + len(text)] = [(style, character) for character in text]

    def text(self) -> str:
        # one escape sequence for each run of equal style, not for each character
        runs = groupby(self.cells, key=lambda cell: cell[0])
        pieces = ((style, "".join(character for _, character in run)) for style, run in runs)
        return "".join(_paint(style, text) if style else text for style, text in pieces)
