"""A user's mistake is data: `Diagnostic`, collected in a `Report`, rendered in `render.py`.

Every stage that looks at user text takes a `Report` and adds to it; nobody prints. `Report.check()`
raises `UserError` once a stage has found all that it can find.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

from ..syntax.source import COMMAND_LINE, Span


@dataclass(frozen=True)
class Note:
    """A second place that matters to a diagnostic, with what is there."""

    span: Span
    text: str


@dataclass(frozen=True)
class Diagnostic:
    """One mistake. `code` is a key of `catalogue()`; E… are errors, W… warnings.

    `label` stands under the marked spot; `help` names the likely fix. `span` may be None for
    mistakes that are not in a `.nn` file (data, flags).
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    notes: tuple[Note, ...] = ()
    help: str = ""

    @property
    def is_error(self) -> bool:
        return self.code.startswith("E")


class UserError(Exception):
    """The user's file, data or settings are wrong; carries everything that was found."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))

    @property
    def of_flags(self) -> bool:
        """Whether every mistake stands on the command line, as `--set` and its like."""
        spans = [d.span for d in self.diagnostics if d.is_error]
        return all(span is not None and span.source.name == COMMAND_LINE for span in spans)


def fail(code: str, message: str, span: Span | None = None, **more) -> UserError:
    """The exception for one mistake: `raise fail("E0601", …)`. `more` as in `Diagnostic`."""
    return UserError([Diagnostic(code, message, span, **more)])


@dataclass
class Report:
    """Collects diagnostics; the same one twice is kept once."""

    diagnostics: list[Diagnostic] = field(default_factory=list)

    def add(self, code: str, message: str, span: Span | None = None, **more) -> None:
        found = Diagnostic(code, message, span, **more)
        if found not in self.diagnostics:
            self.diagnostics.append(found)

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.is_error]

    def check(self) -> None:
        """Raise everything found so far if any of it is an error."""
        if self.errors:
            raise UserError(self.diagnostics)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A help text for a misspelt name, or an empty string when nothing is close."""
    known = list(known)
    spelt = {one.lower(): one for one in known} | {one: one for one in known}
    close = get_close_matches(name, spelt, n=1, cutoff=0.6)
    close = close or get_close_matches(name.lower(), spelt, n=1, cutoff=0.6)
    return f"did you mean `{spelt[close[0]]}`?" if close else ""
