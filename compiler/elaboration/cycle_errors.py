"""What is said about equations that need each other with no order in which they can be computed.

In: equations in which every one needs every other, as `recurrence.NoOrder` names them. Out: a
`Told`: one cycle among them in the words of the file, where each equation goes by the name that it
has there, a reduction inside an equation belongs to it, and every step says which place it reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax.source import Span
from ..ir.affine import affine, is_affine
from ..ir.equation import Equation
from ..ir.expr import Idx, Read, expr_text, reads
from ..ir.recurrence import NoOrder, plan_recurrence

SAME = "the same place"
RUNNING = "a place that is known only when it runs"
ALL = "all along"
UNEVEN = "no fixed number of steps away"
HELP = {
    RUNNING: "a recurrence reads a place that is known when compiling, such as `(y[t-1] else 0)`",
    ALL: "what was there before can be summed up by a recurrence of its own: "
    "`r[t] = (r[t-1] else 0) + (y[t-1] else 0)`",
    UNEVEN: "a recurrence reads a fixed number of steps back, such as `(y[t-2] else 0)`",
}


@dataclass(frozen=True)
class ReportedCycles:
    """The parts of a diagnostic."""

    message: str
    span: Span
    label: str
    notes: tuple[Note, ...]
    help: str


def told(equations: Sequence[Equation]) -> ReportedCycles:
    """The first cycle in the file that has no order even alone."""
    whole = {eq.target: _statement(eq, equations) for eq in equations}
    starts = sorted({eq.target: eq for eq in whole.values()}.values(), key=_place)
    paths = [_cycle(start, equations) for start in starts]
    path = next(filter(_is_stuck, paths), paths[0])
    first = path[0]
    statements = list(dict.fromkeys(whole[eq.target].target for eq in path))
    by_target = {eq.target: eq for eq in equations}
    steps = {name: _steps(name, statements, equations, whole) for name in statements}
    names = [_name(by_target[name]) for name in statements]
    assert first.span is not None
    itself = len(names) == 1
    ways = [way for step in steps.values() for _, way in step]
    return ReportedCycles(
        f"`{names[0]}` cannot be computed: it needs itself"
        if itself
        else f"these equations need each other: {' → '.join(f'`{n}`' for n in [*names, names[0]])}",
        first.span,
        _label(steps[first.target]),
        tuple(
            Note(span, _label(steps[name]))
            for name in statements[1:]
            if (span := by_target[name].span)
        ),
        next(
            (text for way, text in HELP.items() if any(w.startswith(way) for w in ways)),
            "a recurrence reads earlier places alone, such as `(y[t-1] else 0)`, or later places "
            "alone",
        ),
    )


def name_of(eq: Equation, equations: Sequence[Equation]) -> str:
    """What the file calls the equation that this one of them is a part of."""
    return _name(_statement(eq, equations))


def _place(eq: Equation) -> int:
    return eq.span.start if eq.span else 0


def _label(steps: list[tuple[str, str]]) -> str:
    return "reads " + ", ".join(f"`{text}` ({way})" for text, way in steps)


# --- the cycle --------------------------------------------------------------------------------


def _statement(eq: Equation, equations: Sequence[Equation]) -> Equation:
    """The equation of the file: the widest of these that the equation is a part of."""
    around = [e for e in equations if _within(eq.span, e.span)]
    return max(around, key=lambda e: e.span.end - e.span.start if e.span else 0, default=eq)


def _within(inner: Span | None, outer: Span | None) -> bool:
    if inner is None or outer is None or inner.source is not outer.source:
        return False
    return outer.start <= inner.start and inner.end <= outer.end


def _cycle(first: Equation, equations: Sequence[Equation]) -> list[Equation]:
    """From the equation along what it reads back to itself, in as few steps as there are."""
    by_target = {eq.target: eq for eq in equations}
    paths = [[first]]
    seen: set[str] = set()
    for path in paths:
        for source in path[-1].sources:
            if source == first.target:
                return path
            if source in by_target and source not in seen:
                seen.add(source)
                paths.append([*path, by_target[source]])
    return [first]


def _is_stuck(path: list[Equation]) -> bool:
    try:
        plan_recurrence(path)
    except NoOrder:
        return True
    return False


def _steps(
    name: str, statements: list[str], equations: Sequence[Equation], whole: dict[str, Equation]
) -> list[tuple[str, str]]:
    """What an equation of the file reads of the next one on the cycle, and which place that is."""
    after = statements[(statements.index(name) + 1) % len(statements)]
    by_target = {eq.target: eq for eq in equations}
    found: dict[str, str] = {}
    for eq in equations:
        if whole[eq.target].target != name:
            continue
        for read in eq.reads:
            if read.tensor == after:
                text = expr_text(Read(_name(by_target[after]), read.index, None, read.dtype))
                found[text] = _way(read, eq)
    return list(found.items())


def _name(eq: Equation) -> str:
    """What the file calls the tensor: without the layer that it stands in."""
    written = re.match(r"\w+'?", eq.span.text) if eq.span else None
    return written[0] if written and eq.target.endswith(written[0]) else eq.target


# --- the place --------------------------------------------------------------------------------


def _way(read: Read, eq: Equation) -> str:
    """Where the place that is read lies from the one that is computed."""
    ways: list[str] = []
    for axis, expr in enumerate(read.index):
        form = affine(expr)
        if reads(expr):
            return RUNNING
        if not is_affine(expr) or len(form.coefficients) > 1:
            return UNEVEN
        if not form.coefficients:
            continue
        ((atom, factor),) = form.coefficients.items()
        assert isinstance(atom, Idx)
        if atom.name in {i.name for i in eq.over}:
            return f"{ALL} `{atom.name}`"
        exchanged = read.tensor == eq.target and atom.name != eq.indices[axis].name
        if factor != 1 or exchanged:
            return UNEVEN
        if form.constant:
            ways.append(f"{'earlier' if form.constant < 0 else 'later'} in `{atom.name}`")
    return ", ".join(ways) or SAME
