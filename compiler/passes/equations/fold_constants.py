"""Folding: scales after a product move into its weights, and what is the same in every run apart.

    z[b, o] = sum(i) x[b, i] * w[i, o]                     s[o]     = g[o] * (1 / sqrt(v[o] + eps))
    y[b, o] = g[o] * (z[b, o] - m[o])                  →   w2[i, o] = w[i, o] * s[o]
              * (1 / sqrt(v[o] + eps)) + t[o]              t2[o]    = t[o] - m[o] * s[o]
                                                           z[b, o]  = sum(i) x[b, i] * w2[i, o]
                                                           y[b, o]  = z[b, o] + t2[o]

Where nothing is trained, the statistics and scales of a normalisation are constants: s, w2 and t2
are computed once, in the prologue. `fold_scales` applies to a sum of products with a weight, if one
equation alone reads it, and the scale depends on indices that are the weight's. It rounds w * s
instead of z * s: results differ by an ulp or so of the magnitudes that are added up.
`hoist_constants` computes every other subexpression of parameters alone apart.

Known as batch-normalisation folding (Jacob et al. 2018, arXiv:1712.05877, section 3.2) and as
loop-invariant code motion. Tests: tests/passes/test_fold_constants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.affine import inside
from ...ir.build import literal, rebuild, rewrite, substitute
from ...ir.dtypes import is_float
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System
from ...ir.expr import Apply, Expr, Idx, Read, index_names, reads, walk
from ...ir.invariants import invariants, lasting_values
from ...ir.terms import is_constant, is_zero, multiplicands, product
from ...ir.work import cost

# --- scales ---------------------------------------------------------------------------------------


def fold_scales(system: System) -> System:
    """The system in which constant scales of sums of products are part of their weights."""
    computed = invariants(system)
    known = lasting_values(system) | computed
    if not known:
        return system
    edit = SystemEdit(system)
    for eq in system.equations:
        if eq.at is not None or eq.target in computed | system.recurrent | system.blocked:
            continue
        for read in eq.reads:
            now = edit[eq.target]
            body = _folded(now, read, known, edit)
            # The equation's own weight may have been scaled meanwhile.
            edit.replace(edit[eq.target].with_body(body))
    return edit.result()


@dataclass(frozen=True)
class Line:
    """A value as `scale * z + shift`, in which both are the same in every run."""

    scale: Expr
    shift: Expr


def _folded(eq: Equation, read: Read, known: frozenset[str], edit: SystemEdit) -> Expr:
    """The equation's body, where the sum that is read has its scale in its weight if it can."""
    body = eq.body
    total = edit.system.definition.get(read.tensor)
    if total is None or total.reduce != "sum" or not is_only_read(total, read, eq, edit.system):
        return body
    names = {e.name: i.name for e, i in zip(read.index, total.indices, strict=True)}  # type: ignore
    total = edit[total.target]
    factors = multiplicands(total.body)
    weights = [f for f in factors if isinstance(f, Read) and f.tensor in known and f.other is None]
    for node, line in lines(body, read, known):
        if is_constant(line.scale, 1) or not index_names(line.scale) <= names.keys():
            continue
        # The scale by the names of the sum's indices, then by those of the weight's.
        scale = substitute(line.scale, {old: Idx(new) for old, new in names.items()})
        for weight in weights:
            scaled = _scaled_weight(total, weight, scale, edit)
            if scaled is not None:
                edit.replace(scaled)
                return _with(body, node, read + line.shift)
    return body


def is_only_read(total: Equation, read: Read, eq: Equation, system: System) -> bool:
    """Whether this equation alone reads it, at the same elements everywhere."""
    if total.at is not None or total.target in system.roots:
        return False
    if total.target in system.recurrent | system.blocked or not is_float(read.dtype):
        return False
    here = [r for r in eq.reads if r.tensor == total.target]
    names = [e.name for e in read.index if isinstance(e, Idx)]
    return (
        here == [read]
        and read.other is None
        and system.readers.get(total.target) == [system.definition[eq.target]]
        and len({*names}) == len(read.index)
        and all(eq.sizes[n] == i.size for n, i in zip(names, total.indices, strict=True))
    )


def lines(body: Expr, read: Read, known: frozenset[str]) -> list[tuple[Expr, Line]]:
    """The parts of the body that are lines of what is read, the largest first."""
    found: dict[Expr, Line | None] = {}
    for node in walk(body):
        found[node] = _line(node, read, known, found)
    forms = [
        (node, line) for node, line in found.items() if line is not None and not is_zero(line.scale)
    ]
    # `walk` goes upwards. Read at a second place of the body, the sum would need its scale there.
    return [each for each in reversed(forms) if _is_only_use(each[0], read, body)]


def _is_only_use(top: Expr, read: Read, body: Expr) -> bool:
    """Whether nothing but this part of the body needs what is read."""
    inside = {n for n in walk(top) if read in reads(n)} - {top}
    uses = [child for n in walk(body) for child in n.children if child in inside]
    return len(uses) == len(inside)


def _line(
    node: Expr, read: Read, known: frozenset[str], found: dict[Expr, Line | None]
) -> Line | None:
    if not is_float(node.dtype):
        return None
    if node is read:
        return Line(literal(1.0, node.dtype), literal(0.0, node.dtype))
    if _is_known(node, known):
        return Line(literal(0.0, node.dtype), node)
    if not isinstance(node, Apply) or any(a.dtype != node.dtype for a in node.args):
        return None
    forms = [found.get(a) for a in node.args]
    match node.fn, forms:
        case "neg", [Line(a, b)]:
            return Line(-a, -b)
        case "add", [Line(a, b), Line(c, d)]:
            return Line(a + c, b + d)
        case "sub", [Line(a, b), Line(c, d)]:
            return Line(a - c, b - d)
        case "mul", [Line(a, b), Line(c, d)] if is_zero(c):
            return Line(a * d, b * d)
        case "mul", [Line(a, b), Line(c, d)] if is_zero(a):
            return Line(b * c, b * d)
        case "div", [Line(a, b), Line(c, d)] if is_zero(c):
            return Line(a / d, b / d)
    return None


def _is_known(expr: Expr, known: frozenset[str]) -> bool:
    return all(r.tensor in known for r in reads(expr))


def _scaled_weight(total: Equation, weight: Read, scale: Expr, edit: SystemEdit) -> Equation | None:
    """The sum with that weight times the scale, which is added to the system; None if the weight
    does not say which scale an element of it has."""
    shape = edit.tensors[weight.tensor].shape
    indices = tuple(Index(f"i{axis}", size) for axis, size in enumerate(shape))
    # Index expressions as a whole: the channel 4*g + o of a grouped convolution is one index.
    place = {e: Idx(i.name) for e, i in zip(weight.index, indices, strict=True)}
    scale = _replaced(scale, place)
    sizes = {i.name: i.size for i in indices}
    if not index_names(scale) <= sizes.keys():
        return None
    dims = ((e, size) for r in reads(scale) for e, size in _places(r, edit))
    if not all(inside(e, size, sizes) for e, size in dims):
        return None
    if cost(scale) and index_names(scale) < sizes.keys():
        scale = _apart(scale, indices, f"{total.target}_scale", edit)
    body = Read(weight.tensor, tuple(Idx(i.name) for i in indices), None, weight.dtype)
    span = edit.tensors[weight.tensor].span
    scaled = Equation(f"{weight.tensor}_scaled", indices, body * scale, span=span)
    moved = Read(edit.add(scaled), weight.index, None, weight.dtype)
    parts = [moved if p is weight else p for p in multiplicands(total.body)]
    return total.with_body(product(parts))


def _places(read: Read, edit: SystemEdit) -> list[tuple[Expr, int]]:
    return list(zip(read.index, edit.tensors[read.tensor].shape, strict=True))


def _replaced(expr: Expr, parts: Mapping[Expr, Expr]) -> Expr:
    """The expression with other parts, the largest first."""
    if expr in parts:
        return parts[expr]
    return rebuild(expr, tuple(_replaced(c, parts) for c in expr.children))


def _with(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(expr, lambda node: new if node is old else None)


# --- constants ------------------------------------------------------------------------------------


def hoist_constants(system: System) -> System:
    """The system in which subexpressions of parameters alone are temps of their own."""
    computed = invariants(system)
    known = lasting_values(system) | computed
    if not known:
        return system
    edit = SystemEdit(system)
    for eq in system.equations:
        if eq.target not in computed | system.blocked:
            hoisted = _with_hoisted(eq.body, eq, known, edit)
            edit.replace(eq.with_body(hoisted))
    return edit.result()


def _with_hoisted(expr: Expr, eq: Equation, known: frozenset[str], edit: SystemEdit) -> Expr:
    """The expression with its largest constant parts read from temps."""
    if not isinstance(expr, Apply):
        return expr
    if _is_hoistable(expr, eq, known):
        return _apart(expr, eq.domain, f"{eq.target}_constant", edit)
    return rebuild(expr, tuple(_with_hoisted(c, eq, known, edit) for c in expr.args))


def _is_hoistable(expr: Apply, eq: Equation, known: frozenset[str]) -> bool:
    """Whether it is a number of parameters that is worth a load and that fewer indices tell."""
    # Numbers that are rounded to bf16 are stored in formats of their own, by later passes.
    plain = all(not isinstance(n, Apply) or n.fn not in ("bf16", "after") for n in walk(expr))
    few = index_names(expr) < {i.name for i in eq.domain}
    worth = bool(reads(expr)) and plain and few and is_float(expr.dtype)
    return worth and _is_known(expr, known)


def _apart(expr: Expr, indices: tuple[Index, ...], name: str, edit: SystemEdit) -> Expr:
    """A read of a new temp that holds the expression, whose indices are among these."""
    own = tuple(i for i in indices if i.name in index_names(expr))
    target = edit.add(Equation(name, own, expr))
    return Read(target, tuple(Idx(i.name) for i in own), None, expr.dtype)
