"""The equations of a kernel over as few indices as will do.

In: a `Kernel` and its `Plan`. Out: a `Form`: the kernel's expressions over one set of index names,
with neighbouring indices merged where memory allows, and the access of every read. It decides
nothing about loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ..affine import Affine
from ..ir import Expr, Idx, Index, Read, reads, substitute, walk
from ..kernels import Kernel, Plan
from ..loops import Access
from ..scalar import call, literal
from .access import access, place


@dataclass(frozen=True)
class Form:
    """A kernel with indices merged: the equations' expressions over fewer, longer loops."""

    outputs: tuple[Index, ...]
    over: tuple[Index, ...]
    body: Expr
    values: tuple[tuple[str, Expr], ...]  # the epilogue: target and value
    point: tuple[Expr, ...]  # the index at which every target is stored
    at: tuple[Expr, ...] | None
    position: Expr
    sizes: Mapping[str, int]


def _renamed(kernel: Kernel) -> Form:
    """The kernel's equations over the anchor's index names."""
    anchor = kernel.anchor
    point = tuple(Idx(i.name) for i in anchor.indices)
    values = []
    for equation in kernel.epilogue:
        renamed = {i.name: own for i, own in zip(equation.indices, point, strict=True)}
        values.append((equation.target, substitute(equation.body, renamed)))
    position: Expr = literal(0)
    for index in anchor.over:
        position = call("add", call("mul", position, index.size), Idx(index.name))
    return Form(kernel.indices, anchor.over, anchor.body, tuple(values), point, anchor.at,
                 position, dict(anchor.sizes))  # fmt: skip


def merged(kernel: Kernel, plan: Plan) -> Form:
    """Neighbouring indices made one as long as every read and store steps through both as through
    one: a map over a whole array becomes one loop, the window row of a convolution another."""
    form = _renamed(kernel)
    while True:
        pair = _mergeable(form, kernel, plan)
        if pair is None:
            return form
        form = _merge(form, *pair)


def _mergeable(form: Form, kernel: Kernel, plan: Plan) -> tuple[Index, Index] | None:
    data = _as_data(form)
    found = list(accesses(form, kernel, plan).values())
    offsets = [a.offset for a in found]
    offsets += stores(form, kernel, plan).values()
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
    exprs = (form.body, *(value for _, value in form.values))
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
    now = {i.name: call("floordiv", Idx(both.name), j.size),
           j.name: call("mod", Idx(both.name), j.size)}  # fmt: skip

    def joined(group: tuple[Index, ...]) -> tuple[Index, ...]:
        return tuple(both if x == i else x for x in group if x != j)

    def moved(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(substitute(e, now) for e in exprs)

    return Form(
        outputs=joined(form.outputs),
        over=joined(form.over),
        body=substitute(form.body, now),
        values=tuple((name, substitute(value, now)) for name, value in form.values),
        point=moved(form.point),
        at=None if form.at is None else moved(form.at),
        position=substitute(form.position, now),
        sizes={**form.sizes, both.name: both.size},
    )


# --- accesses and statements ---------------------------------------------------------------------


def accesses(form: Form, kernel: Kernel, plan: Plan) -> dict[Read, Access]:
    """Every read of memory; reads of the kernel's own results stay in registers."""
    own = {kernel.anchor.target, *(e.target for e in kernel.epilogue)}
    found: dict[Read, Access] = {}
    inputs = [form.body, *(form.at or ()), *(value for _, value in form.values)]
    for expr in inputs:
        for read in reads(expr):
            in_registers = read.tensor in own and read.index == form.point
            if not in_registers and read not in found:
                found[read] = access(read, plan.system.tensors[read.tensor], form.sizes)
    return found


def stores(form: Form, kernel: Kernel, plan: Plan) -> dict[str, Affine]:
    """Where each target that is stored goes."""
    if form.at is not None:
        return {}
    tensors = plan.system.tensors
    return {name: place(form.point, tensors[name].shape, form.sizes) for name in kernel.stored}
