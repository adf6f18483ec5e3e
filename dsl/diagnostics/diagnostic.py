"""Diagnostics: a user's mistake is data, collected in a `Report` and rendered in `render.py`.

Every stage that reads user text adds to a `Report`; none prints. `Report.check()` raises
`UserError` once a stage has found all that it can find.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from ..records import record
from ..syntax.source import COMMAND_LINE, Span

MAX_LISTED = 200  # errors of a report, and warnings
SIMILAR = 0.7  # ratio of difflib from which on a name is taken for a misspelt one


@record
class Note:
    """A second place that matters to a diagnostic, and what is there."""

    span: Span
    text: str


@record
class Diagnostic:
    """One mistake. `code` is a key of `catalogue()`: E… an error, W… a warning.

    `label` stands under the marked span; `help` names the likely fix. `span` is None for mistakes
    that are not in a `.nn` file (data, run folders).
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
    """The user's file, data or settings are wrong; carries every diagnostic."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))

    @property
    def of_flags(self) -> bool:
        """Whether every error is in a flag on the command line, such as `--set`."""
        spans = [d.span for d in self.diagnostics if d.is_error]
        return all(span is not None and span.source.name == COMMAND_LINE for span in spans)


def fail(code: str, message: str, span: Span | None = None, **more) -> UserError:
    """The exception for one mistake: `raise fail("E0601", …)`. `more` as in `Diagnostic`."""
    return UserError([Diagnostic(code, message, span, **more)])


@dataclass
class Report:
    """Collects diagnostics, each of them once, up to `MAX_LISTED` errors and as many warnings."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    _known: set[Diagnostic] = field(default_factory=set)
    _count: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # by `is_error`

    def add(self, code: str, message: str, span: Span | None = None, **more) -> None:
        """Add one diagnostic; `more` as in `Diagnostic`."""
        # through `extend`, which drops repetitions: a layer may be elaborated many times
        self.extend([Diagnostic(code, message, span, **more)])

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Add the diagnostics that are not in the report yet. UserError at the last error that is
        listed: a text with so many is hardly a program, and finding all would take long."""
        for diagnostic in diagnostics:
            if diagnostic in self._known or self._count[diagnostic.is_error] == MAX_LISTED:
                continue
            self._known.add(diagnostic)
            self._count[diagnostic.is_error] += 1
            if self._count[diagnostic.is_error] < MAX_LISTED:
                self.diagnostics.append(diagnostic)
                continue
            kind = "mistake" if diagnostic.is_error else "warning"
            last = f"{diagnostic.message}; this is {kind} {MAX_LISTED}, further ones are not listed"
            self.diagnostics.append(replace(diagnostic, message=last))
            if diagnostic.is_error:
                raise UserError(self.diagnostics)

    def withdraw(self, first: int) -> list[Diagnostic]:
        """Take back the diagnostics from number `first` on, and return them."""
        found = self.diagnostics[first:]
        del self.diagnostics[first:]
        for diagnostic in found:
            self._known.discard(diagnostic)
            self._count[diagnostic.is_error] -= 1
        return found

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.is_error]

    def check(self) -> None:
        """Raise everything found so far if any of it is an error."""
        if self.errors:
            raise UserError(self.diagnostics)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Help for a misspelt name, ignoring case; "" if none is similar."""
    found = closest(name, known)
    return f"did you mean `{found}`?" if found else ""


def closest(name: str, known: Iterable[str]) -> str:
    """The name that a misspelt one may stand for, ignoring case; "" if none is similar."""
    known = list(known)
    # `dense` finds `Dense`. Exact spellings come last in the table, so they win where both exist.
    spelt = {one.lower(): one for one in known} | {one: one for one in known}
    # Letters in another order: `adma` is `adam` before it is `adamax`.
    close = [one for one in spelt if sorted(one) == sorted(name)]
    for spelling in dict.fromkeys((name, name.lower())):
        close = close or get_close_matches(spelling, spelt, n=1, cutoff=SIMILAR)
    # One letter of three is less than `SIMILAR` allows: `rum` is `run`.
    close = close or [one for one in spelt if len(one) == len(name) == 3 and _typed(name, one)]
    return spelt[close[0]] if close else ""


def _typed(name: str, meant: str) -> bool:
    """Whether they differ in one letter."""
    return sum(a != b for a, b in zip(name, meant, strict=True)) == 1
