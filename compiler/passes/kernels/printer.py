"""The kernel stage as text (`nnc compile --emit kernels`): what runs in which order, what is
computed together and why, and where it is stored.

The text is the same on every run. Nothing is decided here. Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from ...ir.affine import Affine, affine
from ...ir.equation import Equation, Index
from ...ir.expr import Apply, Expr, Read, expr_text, index_names
from ...ir.printer import Line, equation_text, origin
from ...ir.terms import multiplicands
from ...ir.work import flops
from .kernel import Blocks, Item, Kernel, Plan, Scan


@dataclass(frozen=True)
class MnkClasses:
    """The index classes of a sum of products of two tensors: M of the first factor alone, N of the
    second alone, K of both and summed over, batch of both and of the result."""

    m: tuple[Index, ...]
    n: tuple[Index, ...]
    k: tuple[Index, ...]
    batch: tuple[Index, ...]

    def __str__(self) -> str:
        parts = (("M", self.m), ("N", self.n), ("K", self.k), ("batch", self.batch))
        return ", ".join(
            f"{name} = {'*'.join(i.name for i in indices)} = {prod(i.size for i in indices)}"
            for name, indices in parts
            if indices
        )


def contraction(eq: Equation) -> MnkClasses | None:
    """The index classes, if the equation sums a product of two reads."""
    # Pairs and quads are multiplied by functions of their own; `multiplicands` knows `mul` only.
    dot = isinstance(eq.body, Apply) and eq.body.fn in ("bf16_dot", "int8_dot")
    parts = list(eq.body.children) if dot else multiplicands(eq.body)
    if eq.reduce != "sum" or len(parts) != 2 or not all(isinstance(p, Read) for p in parts):
        return None
    a, b = (index_names(p) for p in parts)
    return MnkClasses(
        # x[b, i] * w[i, o]: M = b, N = o, K = i; with a head h in both factors, batch = h.
        m=tuple(i for i in eq.indices if i.name in a - b),
        n=tuple(i for i in eq.indices if i.name in b - a),
        k=tuple(i for i in eq.over if i.name in a and i.name in b),
        batch=tuple(i for i in eq.indices if i.name in a and i.name in b),
    )


def plan_text(plan: Plan, notes: Mapping[Kernel, str] = MappingProxyType({})) -> str:
    """Every kernel with its reason, its equations, and the offset of what it stores; of some
    kernels also a note on how they are lowered."""
    return "".join(f"{line.text}\n" for line in plan_lines(plan, notes))


def plan_lines(plan: Plan, notes: Mapping[Kernel, str] = MappingProxyType({})) -> Iterator[Line]:
    """The lines of `plan_text`."""
    # A kernel in a scan counts with all its steps: the stepping index is in its equation's domain.
    total = sum(flops(eq, plan.system) for k in plan.kernels for eq in k.equations)
    yield Line(
        f"# kernels of {plan.system.name}: {sum(1 for _ in plan.kernels)} kernels, "
        f"{plan.arena_bytes:,} bytes of memory, {total:,} floating-point operations in products"
    )
    if plan.prologue:
        yield Line("")
        yield Line("prologue    # not again while params and states stay as they are")
        for item in plan.items[: plan.prologue]:
            yield Line("")
            yield from _indented(_item_lines(item, plan, notes))
    for item in plan.items[plan.prologue :]:
        yield Line("")
        yield from _item_lines(item, plan, notes)


def _item_lines(item: Item, plan: Plan, notes: Mapping[Kernel, str]) -> Iterator[Line]:
    # Indented like a loop, with its kernels inside.
    if isinstance(item, Blocks):
        over = [f"{i.name} < {i.size}" for i in item.fixed]
        if item.row is not None:
            until = "" if item.extent is None else f" until {item.extent}"
            over.append(f"{item.row.name} < {item.row.size} by {item.rows}{until}")
        held = f"{item.held_bytes:,} bytes for each thread"
        yield Line(f"blocks {', '.join(over)}    # {item.reason}; {held}", item.equations)
    elif isinstance(item, Scan):
        until = "" if item.steps is None else f" until {item.steps}"
        head = f"scan {item.index.name} < {item.index.size}{until}    # {item.reason}"
        yield Line(head, item.equations)
    if isinstance(item, Blocks | Scan):
        for inner in item.kernels:
            yield from _indented(_item_lines(inner, plan, notes))
        return
    for line in _kernel_head(item, plan, notes):
        yield Line(line, item.equations)
    for eq in item.equations:
        tensor = plan.system.tensors[eq.target]
        at = f"at {plan.offsets[eq.target]:,}" if eq.target in plan.offsets else "not placed yet"
        if tensor.held:
            at = "of a thread's own"
        at = "in registers" if eq.target in item.local else at
        padding = ", rows padded by a cache line" if tensor.pad_after else ""
        note = f"{tensor.bytes:,} bytes {at}{padding}"
        yield Line(f"    {equation_text(eq, tensor.shape)}    # {note}", (eq,))


def _kernel_head(item: Kernel, plan: Plan, notes: Mapping[Kernel, str]) -> Iterator[str]:
    place = f"    # {origin(item.anchor.span)}" if item.anchor.span else ""
    yield f"kernel {item.name}{place}"
    yield f"    # {item.reason}{'' if item.name in plan.barriers else '; no barrier before it'}"
    classes = contraction(item.anchor)
    if classes is not None:
        yield f"    # a product: {classes}"
    if item in notes:
        yield f"    # {notes[item]}"
    if item.zero_where:
        yield f"    # no term where {' or '.join(map(_comparison, item.zero_where))}"
    if item.unread_where:
        yield f"    # not computed where {' or '.join(map(_comparison, item.unread_where))}"
    if item in plan.prefetch:
        yield f"    # prefetches for later kernels: {', '.join(plan.prefetch[item])}"


def _indented(lines: Iterable[Line]) -> Iterator[Line]:
    for line in lines:
        yield Line(f"    {line.text}", line.equations) if line.text else line


def _comparison(form: Expr) -> str:
    """That the form is 0 or more: `s > t + 2` for s - t - 3."""
    # s - t - 3 >= 0   →   s > t + 2: positive terms stay on the left, the others change sides, and
    # `>=` becomes `>` by taking 1 from the right.
    parts = affine(form)
    above = Affine({a: c for a, c in parts.coefficients.items() if c > 0}, 0)
    below = Affine({a: -c for a, c in parts.coefficients.items() if c < 0}, -1 - parts.constant)
    return f"{expr_text(above.expr())} > {expr_text(below.expr())}"
