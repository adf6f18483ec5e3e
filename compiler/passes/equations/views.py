"""Views: equations that only reindex a tensor, so that the result can share its memory.

    y[b, p] = x[b, p // 64, p % 64]      y[b] = after(x[b], d[0])
    q[b, p] = int8_quad(x[b, 4*p], x[b, 4*p + 1], x[b, 4*p + 2], x[b, 4*p + 3])

Element by element, both sides have the same offset from the start of their tensors, in bytes: all
targets put the lowest byte first. No kernel
computes a view: the memory plan places it where its source is. This is an analysis, not a pass.
Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from ...ir.affine import Affine, affine
from ...ir.build import call, literal, rewrite
from ...ir.dtypes import SMALL
from ...ir.equation import Equation, System, is_recurrent
from ...ir.expr import Apply, Const, Expr, Idx, Read


def views(system: System) -> dict[str, str]:
    """The source of each target that is a view of another tensor."""
    roots = set(system.roots)
    found = {}
    for eq in system.equations:
        read, quads = of_later(eq.body), _quads(eq)
        if quads is not None and system.tensors[quads].kind == "temp" and eq.target not in roots:
            found[eq.target] = quads
            continue
        source = system.tensors[read.tensor] if isinstance(read, Read) else None
        if source is None or eq.target in roots or is_recurrent([eq]):
            continue
        lasting = source.kind == "temp" or (source.kind == "input" and read is not eq.body)
        own = system.tensors[eq.target]
        same = (source.size, source.storage) == (own.size, own.storage)
        if lasting and same and _in_place(eq, read, source.shape):
            found[eq.target] = source.name
    return found


def _quads(eq: Equation) -> str | None:
    """The tensor that an equation reads in fours, one after the other; None for any other."""
    body = eq.body
    if eq.reduce or eq.at is not None or not isinstance(body, Apply) or body.fn != "int8_quad":
        return None
    names = [Idx(i.name) for i in eq.indices]
    tensors = set()
    for place, read in enumerate(body.args):
        if not isinstance(read, Read) or read.other is not None or read.dtype not in SMALL:
            return None
        step = call("add", call("mul", names[-1], literal(len(body.args))), literal(place))
        if read.index != (*names[:-1], step):
            return None
        tensors.add(read.tensor)
    return tensors.pop() if len(tensors) == 1 else None


def of_later(body: Expr) -> Expr:
    """The x of `after(x, y)`, and of `after(after(x, y), z)`; else the body itself."""
    while isinstance(body, Apply) and body.fn == "after":
        body = body.args[0]
    return body


def _in_place(eq: Equation, read: Expr, shape: tuple[int, ...]) -> bool:
    if eq.reduce or eq.at is not None or not isinstance(read, Read) or read.other is not None:
        return False
    # A dimension of size 1 does not contribute to an offset.
    steps = [e for e, size in zip(read.index, shape, strict=True) if size > 1]
    if all(isinstance(e, Idx) for e in steps):  # most are: then the order of the indices tells
        return steps == [Idx(i.name) for i in eq.indices if i.size > 1]
    # Reshapes: [b, p // 64, p % 64] has the offset 64 * (p // 64) + p % 64 = p in each row.
    theirs = _row_major(read.index, shape)
    own = _row_major(tuple(Idx(i.name) for i in eq.indices), tuple(i.size for i in eq.indices))
    return theirs == own


def _row_major(index: tuple[Expr, ...], shape: tuple[int, ...]) -> Affine:
    """The offset from the start, in elements, with e % n as e - n*(e // n), so that sums cancel."""
    offset: Expr = literal(0)
    for expr, size in zip(index, shape, strict=True):
        offset = call("add", call("mul", offset, size), expr) if size != 1 else offset
    return affine(rewrite(offset, _quotients))


def _quotients(node: Expr) -> Expr | None:
    if not isinstance(node, Apply) or node.fn not in ("mod", "floordiv"):
        return None
    value, by = node.args
    if not isinstance(by, Const):
        return None
    # With quotients alone, 64*(p // 64) + p % 64 cancels to p as an affine form.
    if node.fn == "mod":  # e % n = e - n*(e // n)
        quotient = call("floordiv", value, by)
        return call("sub", value, call("mul", rewrite(quotient, _quotients), by))
    # (e // a) // b = e // (a*b) for positive a and b: nested reshapes get one form.
    inner = value
    if isinstance(inner, Apply) and inner.fn == "floordiv" and isinstance(inner.args[1], Const):
        return call("floordiv", inner.args[0], call("mul", inner.args[1], by))
    return None
