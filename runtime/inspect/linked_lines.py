"""Lines of all stages, linked by where in the source they come from.

In: lines with their equations. Out: for each line the number of a set of origins. The origin of an
equation is the place where it stands and, of one in the library or in a layer, the user's line that
asks for it. Lines whose sets have an origin in common belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ...compiler.ir.equation import Equation
from ...compiler.ir.printer import Line
from ...dsl.syntax.highlighting import DOCSTRING
from ...dsl.syntax.source import Source, Span

Place = tuple[Source, int]  # a 1-based line of a source
NONE = -1  # the number of the set of a line without origins


@dataclass(frozen=True)
class Origin:
    """Where an equation stands, the user's line that it is shown for, and the one that applied the
    layer or function around it."""

    own: Place
    user: Place
    call: Place

    @property
    def places(self) -> tuple[Place, ...]:
        return self.own, self.user, self.call


def _place(span: Span) -> Place:
    return span.source, span.line


@dataclass
class Pane:
    """A stage as lines: what it is called, the language that its lines are coloured as, and what
    can be said of all. `times` are the milliseconds of rows, by stage of the step."""

    name: str
    title: str
    language: str
    note: str = ""
    texts: list[str] = field(default_factory=list)
    sets: list[int] = field(default_factory=list)
    # Of a source: which of its lines a row is; None is a heading, or between two definitions.
    places: list[Place | None] = field(default_factory=list)
    documentation: list[int] = field(default_factory=list)  # rows that are within a docstring
    times: dict[int, list[float]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON: neighbours of the same set are counted."""
        runs = [[len(list(same)), number] for number, same in groupby(self.sets)]
        return {
            "name": self.name, "title": self.title, "language": self.language, "note": self.note,
            "text": "\n".join(self.texts), "sets": runs,
            "numbers": [0 if place is None else place[1] for place in self.places],
            "documentation": self.documentation, "times": self.times,
        }  # fmt: skip


class Links:
    """The origins of all lines, numbered as they are met."""

    def __init__(self) -> None:
        self._origins: dict[Origin, int] = {}
        self._sets: dict[tuple[int, ...], int] = {}

    def of_spans(self, spans: Iterable[Span | None]) -> int:
        """The number of the set of these places."""
        found = set()
        for span in spans:
            if span is not None:
                call = _place(span.call_site or span)
                origin = Origin(_place(span), _place(span.user_span), call)
                found.add(self._origins.setdefault(origin, len(self._origins)))
        return self._number(found)

    def of_equations(self, equations: Iterable[Equation]) -> int:
        return self.of_spans(eq.span for eq in equations)

    def _number(self, origins: Iterable[int]) -> int:
        key = tuple(sorted(origins))
        return self._sets.setdefault(key, len(self._sets)) if key else NONE

    def fill(self, pane: Pane, lines: Iterable[Line], times: Mapping[str, list[float]]) -> None:
        """Give a stage after the source its lines. With the `times` of tensors, those of lines that
        compute one, and of kernels."""
        known: dict[tuple[Equation, ...], int] = {}
        for line in lines:
            # Many lines have the very same tuple.
            if line.equations not in known:
                known[line.equations] = self.of_equations(line.equations)
            if times and (len(line.equations) == 1 or line.text.lstrip().startswith("kernel ")):
                own = [times[eq.target] for eq in line.equations if eq.target in times]
                if own and not line.text.lstrip().startswith("#"):
                    pane.times[len(pane.texts)] = [sum(parts) for parts in zip(*own, strict=True)]
            pane.texts.append(line.text)
            pane.sets.append(known[line.equations])

    # --- the source, when all stages are linked ---------------------------------------------------

    def sources(self, library: bool) -> list[Source]:
        """The user's own, or those of the library, that something comes from."""
        found = {place[0]: None for origin in self._origins for place in origin.places}
        return [source for source in found if source.library == library]

    def fill_source(self, pane: Pane, sources: Sequence[Source]) -> None:
        """Whole files, one below the other; of the library the definitions that are used."""
        at: dict[Place, set[int]] = {}
        for origin, number in self._origins.items():
            for place in origin.places:
                at.setdefault(place, set()).add(number)
        for source in sources:
            lines = source.text.splitlines()
            inside = _within_docstrings(lines)
            shown = [range(1, len(lines) + 1)]
            if source.library:
                shown = _definitions(lines, sorted(n for s, n in at if s is source))
            if len(sources) > 1 or source.library:
                _add(pane, source.name)
            for stretch in shown:
                for number in stretch:
                    if inside[number - 1]:
                        pane.documentation.append(len(pane.texts))
                    linked = self._number(at.get((source, number), ()))
                    _add(pane, lines[number - 1], linked, (source, number))
                if source.library:
                    _add(pane, "")

    def plain(self) -> dict[str, Any]:
        """For JSON: the user's line of each origin as a number, and the sets of origins."""
        users: dict[Place, int] = {}
        numbers = [users.setdefault(origin.user, len(users)) for origin in self._origins]
        return {"users": numbers, "sets": list(map(list, self._sets))}


def _add(pane: Pane, text: str, linked: int = NONE, place: Place | None = None) -> None:
    pane.texts.append(text)
    pane.sets.append(linked)
    pane.places.append(place)


def _within_docstrings(lines: Sequence[str]) -> list[bool]:
    """For each line whether it is part of a docstring."""
    found, inside = [], False
    for line in lines:
        marks = line.count(DOCSTRING)
        found.append(inside or marks > 0)
        inside ^= marks % 2 == 1
    return found


def _definitions(lines: Sequence[str], wanted: Sequence[int]) -> list[range]:
    """The top-level definitions that contain the wanted 1-based lines, as ranges of such."""
    found: dict[int, range] = {}
    for number in wanted:
        # A definition begins, and ends, with a line that is not indented.
        first = last = number
        while first > 1 and lines[first - 1][:1] in ("", " ", "}"):
            first -= 1
        if lines[first - 1].rstrip().endswith("{"):
            while last < len(lines) and not lines[last - 1].startswith("}"):
                last += 1
        found[first] = range(first, last + 1)
    return list(found.values())
