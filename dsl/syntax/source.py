"""Source texts and spans: a `Span` is a range of characters of a `Source`.

Every node, equation and diagnostic carries a span. Reading files is `check/library.py`, showing
spans `diagnostics/render.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import field
from functools import cached_property

from ..records import record

COMMAND_LINE = "command line"  # the name of a source that is a flag


@record(eq=False)
class Source:
    """A text and the name that messages use for it. Compared by identity."""

    name: str
    text: str
    library: bool = False  # part of nnc: a mistake that surfaces here was made by its caller
    outside: bool = False  # a flag or an argument, by who runs the program, not by who wrote it

    @cached_property
    def line_starts(self) -> list[int]:
        """Offset of the first character of each line."""
        return [0] + [i + 1 for i, c in enumerate(self.text) if c == "\n"]

    def position(self, offset: int) -> tuple[int, int]:
        """The 1-based line and column of a character offset."""
        # The number of line starts at or before the offset is its 1-based line.
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a 1-based line, without its line end."""
        start = self.line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)]


@record
class Span:
    """The half-open range of characters [start, end) of a source. `call_site` is the span in the
    user's own file that applied the layer or function which holds this one; it follows an
    equation through all passes and does not count in comparisons."""

    source: Source
    start: int
    end: int
    call_site: Span | None = field(default=None, compare=False, repr=False)

    @property
    def user_span(self) -> Span:
        """The span itself if it lies in a file of the user's, else its call site there."""
        # Equations of a library layer are shown where the user applies the layer.
        return self.call_site if self.call_site is not None and self.source.library else self

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """From the start of this span to the end of the other."""
        return Span(self.source, self.start, other.end)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"
