"""The equations of a kernel over as few indices as will do.

In: a `Kernel` and its `Plan`. Out: a `Form`: the kernel's expressions over one set of index names,
with neighbouring indices merged where memory allows, and the access of every read. It decides
nothing about loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product

from ...ir.affine import Affine
from ...ir.build import call, literal, substitute
from ...ir.equation import Equation, Index
from ...ir.expr import Expr, Idx, Read, reads, walk
from ..cpu.loop_ir import Access
from ..kernels.kernel import Kernel, Plan
from .addressing import access, place


@dataclass(frozen=True)
class Result:
    """What a kernel computes at one place: the value of `own`, an element of a target."""

    own: Read
    value: Expr


@dataclass(frozen=True)
class Form:
    """A kernel with indices merged: the equations' expressions over fewer, longer loops. Unrolled
    indices are gone: there is a result for each of their values."""

    outputs: tuple[Index, ...]
    over: tuple[Index, ...]
    bodies: tuple[Result, ...]  # of the anchor: reduced over `over`, if it reduces
    values: tuple[Result, ...]  # of the epilogue
    at: tuple[Expr, ...] | None
    position: Expr
    ends: tuple[Expr, ...]
    sizes: Mapping[str, int]


def _form(kernel: Kernel, plan: Plan) -> Form:
    """The kernel's equations over the anchor's index names."""
    anchor = kernel.anchor
    box = [i for i in anchor.indices if i.name not in kernel.unrolled]
    position: Expr = literal(0)
    for index in anchor.over:
        position = call("add", call("mul", position, index.size), Idx(index.name))
    bodies, *values = (_results(eq, box, kernel.unrolled, plan) for eq in kernel.equations)
    return Form(
        kernel.indices,
        anchor.over,
        bodies,
        tuple(r for some in values for r in some),
        anchor.at,
        position,
        kernel.ends,
        dict(anchor.sizes),
    )


def _results(
    eq: Equation, box: list[Index], unrolled: frozenset[str], plan: Plan
) -> tuple[Result, ...]:
    """The equation's values at one place of the box: one for each value of its unrolled index."""
    own = [i for i in eq.indices if i.name not in unrolled]
    names: dict[str, Expr] = {i.name: Idx(b.name) for i, b in zip(own, box, strict=True)}
    results = []
    extra = [i for i in eq.indices if i.name in unrolled]
    for numbers in product(*(range(i.size) for i in extra)):
        known = {i.name: literal(n) for i, n in zip(extra, numbers, strict=True)}
        places = {**names, **known}
        point = tuple(places[i.name] for i in eq.indices)
        dtype = plan.system.tensors[eq.target].dtype
        results.append(Result(Read(eq.target, point, None, dtype), substitute(eq.body, places)))
    return tuple(results)


def merged(kernel: Kernel, plan: Plan) -> Form:
    """Neighbouring indices made one as long as every read and store steps through both as through
    one: a map over a whole array becomes one loop, the window row of a convolution another."""
    form = _far_first(_form(kernel, plan), kernel, plan)
    while True:
        pair = _mergeable(form, kernel, plan)
        if pair is None:
            return form
        form = _merge(form, *pair)


def _far_first(form: Form, kernel: Kernel, plan: Plan) -> Form:
    """A sum over its indices in the order of their strides, so that its innermost steps are near
    each other in memory."""
    if kernel.anchor.reduce != "sum" or form.at is not None or len(form.over) < 2:
        return form
    offsets = [a.offset for a in accesses(form, plan).values()]

    def stride(index: Index) -> int:
        strides = (offset.coefficients.get(Idx(index.name), 0) for offset in offsets)
        return max(map(abs, strides), default=0)

    return replace(form, over=tuple(sorted(form.over, key=stride, reverse=True)))


def _mergeable(form: Form, kernel: Kernel, plan: Plan) -> tuple[Index, Index] | None:
    data = _as_data(form)
    found = list(accesses(form, plan).values())
    offsets = [a.offset for a in found]
    offsets += [place for place in stores(form, kernel, plan).values() if place is not None]
    checked = [check for a in found for check, _ in a.checks]
    if form.at is not None:
        tensor = plan.system.tensors[kernel.anchor.target]
        into = access(Read(tensor.name, form.at, None, tensor.dtype), tensor, form.sizes)
        offsets.append(into.offset)
        checked += [check for check, _ in into.checks]
    for group in (form.outputs, form.over):
        for i, j in pairwise(group):
            if {i.name, j.name} & data:
                continue
            if all(_composes(o, i, j) for o in offsets) and not any(
                _mentions(c, i) or _mentions(c, j) for c in checked
            ):
                return i, j
    return None


def _as_data(form: Form) -> set[str]:
    """The indices whose value is computed with, not only used to address memory."""
    exprs = [result.value for result in (*form.bodies, *form.values)]
    return {e.name for expr in exprs for e in outside_addresses(expr) if isinstance(e, Idx)}


def outside_addresses(expr: Expr) -> set[Expr]:
    """The nodes of an expression that are computed as data: not those inside indices of reads."""
    seen: set[Expr] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, Read):
            stack += [node.other] if node.other is not None else []
        else:
            stack += node.children
    return seen


def _composes(offset: Affine, i: Index, j: Index) -> bool:
    """Whether i and j step through memory as one index of i.size * j.size."""
    outer, inner = (offset.coefficients.get(Idx(x.name), 0) for x in (i, j))
    plain = Affine({a: c for a, c in offset.coefficients.items() if not isinstance(a, Idx)}, 0)
    return outer == inner * j.size and not _mentions(plain, i) and not _mentions(plain, j)


def _mentions(form: Affine, index: Index) -> bool:
    own = Idx(index.name)
    return any(own in walk(atom) for atom in form.coefficients)


def _merge(form: Form, i: Index, j: Index) -> Form:
    both = Index(f"{i.name}_{j.name}", i.size * j.size)
    now = {
        i.name: call("floordiv", Idx(both.name), j.size),
        j.name: call("mod", Idx(both.name), j.size),
    }

    def joined(group: tuple[Index, ...]) -> tuple[Index, ...]:
        return tuple(both if x == i else x for x in group if x != j)

    def moved(results: tuple[Result, ...]) -> tuple[Result, ...]:
        return tuple(
            Result(
                _at(r.own, tuple(substitute(e, now) for e in r.own.index)), substitute(r.value, now)
            )
            for r in results
        )

    return Form(
        outputs=joined(form.outputs),
        over=joined(form.over),
        bodies=moved(form.bodies),
        values=moved(form.values),
        at=None if form.at is None else tuple(substitute(e, now) for e in form.at),
        position=substitute(form.position, now),
        ends=tuple(substitute(e, now) for e in form.ends),
        sizes={**form.sizes, both.name: both.size},
    )


def _at(read: Read, index: tuple[Expr, ...]) -> Read:
    return Read(read.tensor, index, None, read.dtype)


# --- accesses and statements ---------------------------------------------------------------------


def accesses(form: Form, plan: Plan) -> dict[Read, Access]:
    """Every read of memory; reads of the kernel's own results stay in registers."""
    results = (*form.bodies, *form.values)
    own = {result.own for result in results}
    found: dict[Read, Access] = {}
    for expr in (*(form.at or ()), *(result.value for result in results)):
        for read in reads(expr):
            if read not in own and read not in found:
                found[read] = access(read, plan.system.tensors[read.tensor], form.sizes)
    return found


def stores(form: Form, kernel: Kernel, plan: Plan) -> dict[Read, Affine | None]:
    """Where each result goes; None if it stays in registers."""
    tensors = plan.system.tensors
    return {
        own: None
        if own.tensor in kernel.local or form.at is not None
        else place(own.index, tensors[own.tensor].strides, form.sizes)
        for own in (result.own for result in (*form.bodies, *form.values))
    }
