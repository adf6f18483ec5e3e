"""`nnc debug`: the origin of a value that is not finite, and what it reached.

In: a run folder. Out: text on stdout. The step is taken again in `debugging.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from ...compiler.ir.equation import Equation
from ...compiler.ir.expr import expr_text
from ..inspect.debugging import NonfiniteReport, NonfiniteTensor, replay
from ..training.run_folder import RunFolder
from .report import print_diagnostics

MANY = 12  # lines of a list; the rest are counted


def debug(run_folder) -> None:
    """What `nnc debug` does."""
    folder = RunFolder(run_folder)
    if not folder.path.exists():
        folder.require()
    report = replay(folder)
    print_diagnostics(folder.complete_as_reader())
    for line in _text(report):
        click.echo(line)


def _text(report: NonfiniteReport) -> Iterator[str]:
    snapshot = report.snapshot
    # An element as the language writes it, `d_w[3, 17]`.
    seen = _element(snapshot.tensor, snapshot.index)
    yield (
        f"step {snapshot.step} of epoch {snapshot.epoch}, {_rows(snapshot.rows)}: "
        f"`{seen}` became {snapshot.value}"
    )
    # Machine code adds up in another order than the evaluator, which may avoid the overflow.
    if not report.chain:
        yield "\nThe reference evaluator's numbers stay finite: at the edge of overflow the order"
        yield "of a sum decides. The largest numbers of the step are"
        yield from (f"    {_element(n.tensor, n.index)} = {n.value:g}" for n in report.large)
        return
    origin, *rest = report.chain
    yield "\norigin"
    yield f"    {origin} is {origin.value:g}" + (f": {origin.how}" if origin.how else "")
    # The origin may be an input or a weight, which no equation of this step has computed.
    if origin.equation is None:
        yield "    it had this value before the step"
    else:
        yield from _place(origin.equation)
    if report.operands:
        yield "    from"
        yield from (
            f"        {_element(n.tensor, n.index)} = {n.value:.9g}" for n in report.operands
        )
    if rest:
        yield "\nfrom there to where it was seen"
        yield from _cut([f"    {bad} is {bad.value:g}{_where(bad.equation)}" for bad in rest])
    if report.reached:
        yield "\nnot finite in this step"
        yield from _cut([_reached(tensor) for tensor in report.reached])
    named = len(report.losses) > 1
    losses = [
        f"the loss {f'`{name}` ' * named}is {value:g}" for name, value in report.losses.items()
    ]
    yield f"\n{', '.join(losses)}; after the step would not be finite"
    for kind in ("param", "state"):
        hits = [h for h in report.hit if h.kind == kind]
        yield from _cut([f"    {kind} {h.name}: {h.count:,} of {h.size:,} numbers" for h in hits])
    if not report.hit:
        yield "    nothing: parameters and states stay finite"
    elif report.safe:
        yield f"still finite: {', '.join(report.safe[:MANY])}" + ("…" * (len(report.safe) > MANY))


def _place(eq: Equation) -> Iterator[str]:
    """The equation, and where it stands in the source."""
    reduced = f"{eq.reduce}({', '.join(i.name for i in eq.over)}) " if eq.reduce else ""
    indices = ", ".join(i.name for i in eq.indices)
    yield f"    {eq.target}{f'[{indices}]' if indices else ''} = {reduced}{expr_text(eq.body)}"
    span = eq.span
    if span is None:
        return
    yield f"    {span}: {span.source.line(span.line).strip()}"
    # A line of the library says little to its user; the place that asked for it says where to look.
    call = span.user_span
    if call is not span:
        yield f"    asked for at {call}: {call.source.line(call.line).strip()}"


def _reached(tensor: NonfiniteTensor) -> str:
    first = _element(tensor.tensor, tensor.index)
    count = "" if tensor.size == 1 else f", {tensor.count:,} of {tensor.size:,} in all"
    return f"    {first} is {tensor.value:g}{count}{_where(tensor.equation)}"


def _where(eq: Equation | None) -> str:
    if eq is None:
        return "    (given)"
    if eq.span is None:
        return ""
    call = eq.span.user_span
    return f"    ({call.source.name}:{call.line})"


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= MANY:
        return lines
    # The beginning and the end: the origin is at one, what was seen at the other.
    half = MANY // 2
    return [*lines[:half], f"    … {len(lines) - 2 * half} more", *lines[-half:]]


def _rows(rows: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rows[:6])) + (", …" if len(rows) > 6 else "")
    plural = "s" * (len(rows) != 1)
    return f"{len(rows)} example{plural} (number{plural} {shown} of the training data)"


def _element(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name
