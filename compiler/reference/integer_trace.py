"""Where an index was outside, or an integer had no result: the first such place in a system.

In: a system whose `integer_checks` failed, and the values of that run. Out: a `Refusal` with
the equation, the operation and its operands, the values of the indices, and the example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..ir.equation import Equation, System
from ..ir.expr import Apply, Const, Expr, Idx, Read, expr_text, reads
from ..passes.equations.integer_checks import Obligation, obligations
from .evaluator import Arrays, IndexGrid, evaluate
from .pass_checker import without_placeholders


@dataclass(frozen=True)
class Refusal:
    """`what` says what happened, as in "`token[b] + 1` is 10, and `table` has 10 places, 0 to 9";
    `where` has the values of the equation's indices; `example` is the number of the example within
    the batch, if the operation belongs to one."""

    equation: Equation
    what: str
    where: str
    example: int | None
    help: str = ""


def first_refusal(system: System, values: Mapping[str, np.ndarray]) -> Refusal | None:
    """The first operation, in the order of the equations, that had no result. `system` may have
    placeholders of gradients; they are left out."""
    system = without_placeholders(system)
    arrays = evaluate(system, values)
    with np.errstate(all="ignore"):
        for each in obligations(system):
            found = _found(each, system, arrays)
            if found is not None:
                return found
    return None


def _found(each: Obligation, system: System, arrays: Arrays) -> Refusal | None:
    eq = each.eq
    if each.wider is not None:
        # Added up again, from what the sum reads.
        wide = each.wider
        made = replace(system.tensors[eq.target], name=wide.target, dtype=wide.dtype)
        given = {n: replace(t, kind="input") for n, t in system.tensors.items()}
        alone = System("sum", {**given, wide.target: made}, (wide,), ())
        arrays = evaluate(alone, arrays)
        system = system.replace(tensors=alone.tensors)
        eq = Equation(eq.target, each.domain, each.wrong, span=eq.span)
    grid = IndexGrid(eq, system, arrays, {})
    bad = np.argwhere(grid.full(each.wrong))
    if not len(bad):
        return None
    place = tuple(int(p) for p in bad[0])
    point = {i.name: p for i, p in zip(eq.domain, place, strict=True)}

    def value(expr: Expr):
        return grid.full(expr)[place].item()

    what, help = _what(each, system, value)
    shown = {i.name: point[i.name] for i in eq.domain if i.size > 1}
    where = ", ".join(f"{name} = {at}" for name, at in shown.items())
    example = _example(each.eq, system, point)
    return Refusal(each.eq, what, where, example, help)


def _what(each: Obligation, system: System, value) -> tuple[str, str]:
    """What happened, and how to mend it."""
    node = each.node
    if each.index is not None:
        gathered = isinstance(node, Read) and node is not each.index
        name = node.tensor if isinstance(node, Read) and gathered else each.eq.target
        places = "1 place there, 0" if each.size == 1 else f"places 0 to {each.size - 1:,} there"
        text = (
            f"the index `{expr_text(each.index)}` is {value(each.index):,}: `{name}` has {places}"
        )
        return text, "`(… else 0)` reads 0 outside" if gathered else ""
    if each.wider is not None:
        wide = each.wider
        total = value(Read(wide.target, tuple(Idx(i.name) for i in each.domain), None, wide.dtype))
        about = "" if wide.dtype == "i64" else "about "
        kind = "sum" if each.eq.reduce == "sum" else "product"
        text = f"the {kind} `{each.eq.target}` is {about}{_number(total)}, which does not fit "
        help = f"`{each.eq.reduce}(…) i64(…)` has 64 bits" if each.eq.dtype == "i32" else ""
        return text + each.eq.dtype, help or "as floats, `f64(…)`, it has no limit"
    assert isinstance(node, Apply)
    operands = [(expr_text(a), value(a)) for a in node.args]
    given = ", ".join(f"`{t}` = {_number(v)}" for t, v in operands if t != _number(v))
    text = f"`{expr_text(node)}` has no result in {node.dtype}"
    if given:
        text += f": {given}"
    return text, _advice(node, [v for _, v in operands])


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _advice(node: Apply, operands: list) -> str:
    if node.fn in ("floordiv", "mod") and operands[1] == 0:
        return "it divides by 0; `if … == 0 then … else …` computes only what is chosen"
    if node.fn == "pow" and operands[1] < 0:
        return "a negative power is no whole number: convert the base, `f32(…)`"
    if node.fn in ("u8", "i8", "i32", "i64"):
        return "`min` and `max` keep it in range"
    return "`i64(…)` has 64 bits" if node.dtype == "i32" else "`f64(…)` has no limit"


def _example(eq: Equation, system: System, point: Mapping[str, int]) -> int | None:
    """The first index of what is read of the data: the number of the example in the batch. Followed
    through the equations as long as their first index is given."""
    seen: set[str] = set()
    stack: list[tuple[Equation, Mapping[str, int]]] = [(eq, point)]
    while stack:
        here, known = stack.pop()
        for read in (r for part in (*(here.at or ()), here.body) for r in reads(part)):
            if not read.index:
                continue
            first = read.index[0]
            if isinstance(first, Const):
                at: int | None = int(first.value)
            else:
                at = known.get(first.name) if isinstance(first, Idx) else None
            if at is None:
                continue
            tensor = system.tensors[read.tensor]
            if tensor.kind == "input":
                return at
            inner = system.definition.get(read.tensor)
            if inner is not None and inner.indices and read.tensor not in seen:
                seen.add(read.tensor)
                stack.append((inner, {inner.indices[0].name: at}))
    return None
