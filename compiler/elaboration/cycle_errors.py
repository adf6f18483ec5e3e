"""Errors for equations that depend on each other.

E0501: a recurrence that no order of computation satisfies (`ir/recurrence.py`). The message shows
one cycle of dependences in the words of the file: every equation goes by its name there, a
reduction inside an equation is a part of it, and each step shows the element that is read.
E0503: a `remat` block that contains only some equations of a recurrence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax.source import Span
from ..ir.affine import affine, is_affine
from ..ir.equation import Equation, components, is_recurrent
from ..ir.expr import Idx, Read, expr_text, reads
from ..ir.recurrence import NoOrder, plan_recurrence
from .context import Context

# where the element that is read lies from the one that is computed
SAME = "the same place"
DATA_DEPENDENT = "a place that is known only when it runs"
WHOLE_AXIS = "all along"
VARYING_DISTANCE = "no fixed number of steps away"
ADVICE = {
    DATA_DEPENDENT: "a recurrence reads a place that is known when compiling, such as "
    "`(y[t-1] else 0)`",
    WHOLE_AXIS: "what was there before can be summed up by a recurrence of its own: "
    "`r[t] = (r[t-1] else 0) + (y[t-1] else 0)`",
    VARYING_DISTANCE: "a recurrence reads a fixed number of steps back, such as `(y[t-2] else 0)`",
}


def check_order(ctx: Context) -> None:
    """Report recurrences that have no order of computation, and gradients that need themselves."""
    _check_gradients(ctx)
    # Recurrences are the strongly connected components of the dependence graph.
    for component in filter(is_recurrent, components(tuple(ctx.equations))):
        try:
            plan_recurrence(component)
        except NoOrder as error:
            _report_cycle(ctx, error.equations)


def _check_gradients(ctx: Context) -> None:
    system = ctx.system("", ())
    for of in dict.fromkeys(g.of for g in ctx.gradients):
        needed = system.ancestors([of])
        for gradient in ctx.gradients:
            if gradient.of == of and gradient.target in needed and gradient.span is not None:
                ctx.error(
                    "E0501",
                    f"this gradient of `{of}` needs itself",
                    gradient.span,
                    label=f"`{of}` is computed from it",
                    help="a step of gradient descent gives its result a new name: "
                    "`z_2 = z - 0.1 * grad(e, z)`",
                )


def check_remat_blocks(ctx: Context) -> None:
    """Report `remat` blocks that contain a part of a recurrence: it cannot be recomputed alone."""
    for component in filter(is_recurrent, components(tuple(ctx.equations)) if ctx.blocks else ()):
        for block in ctx.blocks:
            # All inside or all outside is fine: then the recurrence is recomputed, or kept, as a
            # whole.
            inside = [eq for eq in component if eq.target in block.targets]
            outside = [eq for eq in component if eq.target not in block.targets]
            if not inside or not outside:
                continue
            place = outside[0].span
            assert block.span is not None
            here, there = (_name(_statement(part[0], part)) for part in (inside, outside))
            ctx.error(
                "E0503",
                f"this `remat` holds half of a recurrence: `{here}` without `{there}`",
                block.span,
                label=f"`{here}` is computed in here",
                notes=(Note(place, f"and needs `{there}`, which needs `{here}`"),) if place else (),
                help="put all of its equations into the block, or none",
            )


def _report_cycle(ctx: Context, equations: Sequence[Equation]) -> None:
    """E0501 for the first cycle in the file that has no order even alone."""
    # `y[t] = 1 + sum(i) …` is two equations here and one statement in the file. The message speaks
    # of statements.
    statement = {eq.target: _statement(eq, equations) for eq in equations}
    starts = {eq.target: eq for eq in statement.values()}.values()
    in_text_order = sorted(starts, key=lambda eq: eq.span.start if eq.span else 0)
    # A component may hold several cycles, some of which are sound recurrences by themselves: show
    # one that has no order even without the others.
    cycles = [_cycle(start, equations) for start in in_text_order]
    cycle = next(filter(_has_no_order, cycles), cycles[0])
    # A statement that the cycle passes twice (by its sum and by itself) is named once.
    members = list({e.target: e for e in (statement[eq.target] for eq in cycle)}.values())
    steps = [
        _reads_of(member.target, source, equations, statement)
        for member, source in zip(members, members[1:] + members[:1], strict=True)
    ]
    labels = [
        "reads " + ", ".join(f"`{text}` ({place})" for text, place in step.items())
        for step in steps
    ]
    places = [place for step in steps for place in step.values()]
    # The advice is for the first kind, in the order of ADVICE, that occurs among the reads.
    advice = (text for kind, text in ADVICE.items() if any(p.startswith(kind) for p in places))
    names = [f"`{_name(eq)}`" for eq in members]
    assert members[0].span is not None
    ctx.error(
        "E0501",
        f"{names[0]} cannot be computed: it needs itself"
        if len(names) == 1
        else f"these equations need each other: {' → '.join([*names, names[0]])}",
        members[0].span,
        label=labels[0],
        notes=tuple(
            Note(eq.span, label)
            for eq, label in zip(members[1:], labels[1:], strict=True)
            if eq.span
        ),
        help=next(
            advice,
            "a recurrence reads earlier places alone, such as `(y[t-1] else 0)`, or later places "
            "alone",
        ),
    )


# --- the cycle ----------------------------------------------------------------------------------


def _statement(eq: Equation, equations: Sequence[Equation]) -> Equation:
    """The equation of the file that this equation is a part of: the widest around it."""
    around = [e for e in equations if _within(eq.span, e.span)]
    return max(around, key=lambda e: e.span.end - e.span.start if e.span else 0, default=eq)


def _within(inner: Span | None, outer: Span | None) -> bool:
    if inner is None or outer is None or inner.source is not outer.source:
        return False
    return outer.start <= inner.start and inner.end <= outer.end


def _cycle(first: Equation, equations: Sequence[Equation]) -> list[Equation]:
    """A shortest path from the equation along its reads back to itself (breadth first)."""
    by_target = {eq.target: eq for eq in equations}
    paths = [[first]]
    seen: set[str] = set()
    # `paths` grows while it is walked: it is the queue of the search.
    for path in paths:
        for source in path[-1].sources:
            if source == first.target:
                return path
            if source in by_target and source not in seen:
                seen.add(source)
                paths.append([*path, by_target[source]])
    return [first]


def _has_no_order(cycle: list[Equation]) -> bool:
    try:
        plan_recurrence(cycle)
    except NoOrder:
        return True
    return False


def _reads_of(
    target: str, source: Equation, equations: Sequence[Equation], statement: Mapping[str, Equation]
) -> dict[str, str]:
    """The reads of `source` in the statement of `target` as text, each with its place."""
    found: dict[str, str] = {}
    for eq in equations:
        for read in eq.reads if statement[eq.target].target == target else ():
            if read.tensor == source.target:
                text = expr_text(Read(_name(source), read.index, None, read.dtype))
                found[text] = _place(read, eq)
    return found


def _name(eq: Equation) -> str:
    """The name of the target in the file: without the prefix of the layer around it."""
    # `dense1_h` is `h` in the text of its layer: the span begins with the written name.
    written = re.match(r"\w+'?", eq.span.text) if eq.span else None
    return written[0] if written and eq.target.endswith(written[0]) else eq.target


def _place(read: Read, eq: Equation) -> str:
    """Where the element that is read lies from the one that is computed."""
    distances: list[str] = []
    for axis, expr in enumerate(read.index):
        # t - 1 → coefficients {t: 1}, constant -1
        form = affine(expr)
        if reads(expr):
            return DATA_DEPENDENT
        if not is_affine(expr) or len(form.coefficients) > 1:
            return VARYING_DISTANCE
        # a constant index, `y[0]`
        if not form.coefficients:
            continue
        ((atom, factor),) = form.coefficients.items()
        assert isinstance(atom, Idx)
        # summed over: the whole dimension is read, later elements included
        if atom.name in {i.name for i in eq.over}:
            return f"{WHOLE_AXIS} `{atom.name}`"
        # y[i, j] from y[j, i]: the distance depends on i and j
        transposed = read.tensor == eq.target and atom.name != eq.indices[axis].name
        if factor != 1 or transposed:
            return VARYING_DISTANCE
        if form.constant:
            distances.append(f"{'earlier' if form.constant < 0 else 'later'} in `{atom.name}`")
    return ", ".join(distances) or SAME
