"""Equations as text of the language. What this prints parses again and means the same.

In: expressions, equations, systems. Out: text, the same on every run. Layout only; no analysis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from ...dsl.syntax.source import Span
from .build import renamed
from .equation import Equation, Gradient, Index, System, Tensor, unused_name
from .expr import PRODUCT, Const, Expr, expr_text


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a stage's text, and the equations that it comes from."""

    text: str
    equations: tuple[Equation, ...] = ()


def axes_text(indices: tuple[Index, ...]) -> str:
    return ", ".join(f"{i.name} < {i.size}" for i in indices)


def equation_text(eq: Equation, shape: tuple[int, ...] = ()) -> str:
    """One line: every range explicit, the reduction (if any) over a product. `shape` is the
    target's; an accumulation says it, because its indices do not."""
    eq = _told_apart(eq)
    if eq.at is not None:
        ends = zip(eq.at, shape, strict=True)
        # From precedence 5, a sum: else a comparison in the place would run into the `<` of the
        # range.
        place, equals = ", ".join(f"{expr_text(e, 5)} < {n}" for e, n in ends), "+="
    else:
        place, equals = axes_text(eq.indices), "="
    target = f"{eq.target}[{place}]" if place else eq.target
    if not eq.reduce:
        return f"{target} {equals} {_body(eq.body)}"
    body = _body(eq.body, PRODUCT)
    body = f"({body})" if body.startswith("-") else body  # else the sign would bind to `sum`
    return f"{target} {equals} {eq.reduce}({axes_text(eq.over)}) {body}"


def _told_apart(eq: Equation) -> Equation:
    """The equation with its indices renamed that are called as a number it reads."""
    numbers = {read.tensor for read in eq.reads if not read.index}
    if numbers.isdisjoint(eq.sizes):
        return eq
    taken, names = {*numbers, *eq.sizes}, {}
    for index in eq.domain:
        if index.name in numbers:
            names[index.name] = unused_name(index.name, taken)
            taken.add(names[index.name])
    indices, over = (
        tuple(Index(names.get(i.name, i.name), i.size) for i in part)
        for part in (eq.indices, eq.over)
    )
    at = None if eq.at is None else tuple(renamed(e, {}, names) for e in eq.at)
    return replace(eq, indices=indices, over=over, at=at, body=renamed(eq.body, {}, names))


def _body(expr: Expr, least: int = 0) -> str:
    """A whole body: a constant whose type does not follow from its text is cast to it."""
    text = expr_text(expr, least)
    natural = expr.dtype in ("f32", "i32", "bool")
    return text if natural or not isinstance(expr, Const) else f"{expr.dtype}({text})"


def type_text(tensor: Tensor) -> str:
    return f"{tensor.storage_dtype}[{', '.join(map(str, tensor.shape))}]"


def gradient_text(gradient: Gradient) -> str:
    return f"{gradient.target} = grad({gradient.of}, {gradient.wrt})"


MARK = "# equations of "


def origin(span: Span) -> str:
    """Where a place comes from, as `file.nn:12`. In a text printed here, that is the place that
    the nearest comment above names, so that printing again prints the same."""
    lines = span.source.text[: span.start].splitlines()
    # Text that was printed here and parsed again: the span's own line is of no use, the comment
    # above it names the first origin.
    if span.source.text.startswith(MARK):
        for line in reversed(lines):
            found = re.fullmatch(r"\s*# (\S+:\d+)", line)
            if found:
                return found[1]
        return ""
    return f"{span.source.name}:{span.line}"


def origins(span: Span) -> str:
    """Where a place comes from; of one in the library, which line of the user's asks for it, too:
    `stdlib/layers.nn:8, for file.nn:12`."""
    own, user = origin(span), origin(span.user_span)
    return own if own == user else f"{own}, for {user}"


def system_text(system: System) -> str:
    """The whole system as a `model` whose inputs are all that it is given, and whose outputs are
    its own and the next values of params and states."""
    return "".join(f"{line.text}\n" for line in system_lines(system))


def system_lines(system: System) -> Iterator[Line]:
    """The lines of `system_text`."""
    inputs = ", ".join(f"{t.name}: {type_text(t)}" for t in system.of_kind("input"))
    outputs = ", ".join(f"{n}: {type_text(system.tensors[n])}" for n in system.outputs)
    yield Line(f"{MARK}{system.name}")
    for text in system.initializers:
        yield Line("")
        yield from map(Line, text.splitlines())
    yield Line("")
    yield Line(f"model {system.name}({inputs}) -> {outputs} {{")
    for kind in ("param", "state"):
        for tensor in system.of_kind(kind):
            yield Line(f"    {kind} {tensor.name}: {type_text(tensor)} {tensor.init}")
    # A placeholder is printed just before the first equation that reads it.
    pending = dict(system.placeholder)
    previous = None
    # Neighbouring equations of one `remat` block share its braces.
    for block, equations in groupby(system.equations, lambda eq: system.block.get(eq.target)):
        indent = "    " if block is None else "        "
        if block is not None:
            yield Line("    remat {")
        for eq in equations:
            for name in eq.sources:
                if name in pending:
                    yield Line(f"{indent}{gradient_text(pending.pop(name))}")
            place = origin(eq.span) if eq.span else ""
            # A run of equations from one line of the source has one comment.
            if place and place != previous:
                yield Line(f"{indent}# {place}", (eq,))
            previous = place or previous
            yield Line(f"{indent}{equation_text(eq, system.tensors[eq.target].shape)}", (eq,))
        if block is not None:
            yield Line("    }")
    # Those that no equation reads, such as a gradient that is an output.
    for gradient in pending.values():
        yield Line(f"    {gradient_text(gradient)}")
    yield Line("}")
