"""Index coalescing: neighbouring loops that step through memory as one become one loop.

    y[b, i] = exp(x[b, i])                 →   y[b_i] = exp(x[b_i])
    sum(u, q) x[i + u, q] * k[u, q, o]     →   sum(u_q) x[Q*i + u_q] * k[u_q, o]

    y[o] = sum(q) x[o // 16, q] * k[q, o]  →   y[16*o_ + _o] = sum(q) x[o_, q] * k[q, 16*o_ + _o]

A map over a whole array becomes one loop, and the rows of a convolution's window another, so that
vectors and unrolling see long loops. Applies where every access of the kernel has strides
stride(i) = size(j) * stride(j), no bounds check mentions i or j, and neither is used as a value.
An output index of
a sum that addresses memory by its quotient becomes two (strip mining): the channels of a grouped
convolution, or the places that a strided one has read, are then rows and vectors like all others.
Also known as loop collapsing. Tests: tests/passes/test_operand_layout.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product

from ...ir.affine import Affine, affine
from ...ir.build import call, literal, rewrite, substitute
from ...ir.equation import Equation, Index, free_name
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from ..kernels.kernel import Kernel, Plan, Window
from .access import Access
from .addressing import access_of, offset_of


@dataclass(frozen=True)
class Result:
    """What a kernel computes at one point: `element` of a tensor gets `value`."""

    element: Read
    value: Expr


@dataclass(frozen=True)
class CoalescedKernel:
    """A kernel's equations over one set of index names. Unrolled indices are expanded: there is a
    result for each of their values.

    `position` is the number of a point among those reduced over (for argmax); `zero_where` and
    `unread_where` are the kernel's forms of these names. Of the index `batch` each example has
    `per_example` values, one example after the other."""

    outputs: tuple[Index, ...]
    over: tuple[Index, ...]
    bodies: tuple[Result, ...]  # of the anchor: reduced over `over`, if it reduces
    values: tuple[Result, ...]  # of the epilogue
    at: tuple[Expr, ...] | None
    position: Expr
    zero_where: tuple[Expr, ...]
    unread_where: tuple[Expr, ...]
    sizes: Mapping[str, int]
    batch: str = ""
    per_example: int = 1

    @property
    def results(self) -> tuple[Result, ...]:
        return (*self.bodies, *self.values)


def coalesce_indices(
    kernel: Kernel, plan: Plan, split: bool = False, keep_examples: bool = False
) -> CoalescedKernel:
    """The kernel with as few, as long indices as its accesses allow; with `split`, plain ones, with
    `keep_examples` one that counts examples alone."""
    form = _expanded(kernel, plan)
    while split and (divided := _divided(form, kernel)) is not None:
        form = _split(form, *divided)
    form = _outermost_stride_first(form, kernel, plan)
    # Each round joins two, so three indices in a row become one in two rounds.
    apart = form.batch if keep_examples else ""
    while (pair := _coalescible(form, kernel, plan, apart)) is not None:
        form = _coalesce(form, *pair)
    return form


def _expanded(kernel: Kernel, plan: Plan) -> CoalescedKernel:
    """The kernel's equations over the anchor's index names."""
    anchor = kernel.anchor
    space = [i for i in anchor.indices if i.name not in kernel.unrolled]
    position: Expr = literal(0)
    # Horner's rule: the point (i, j) of `over` has the number i * size(j) + j.
    for index in anchor.over:
        position = call("add", call("mul", position, index.size), Idx(index.name))
    bodies, *values = (_results(eq, space, kernel.unrolled, plan) for eq in kernel.equations)
    form = CoalescedKernel(
        kernel.indices,
        anchor.over,
        bodies,
        tuple(r for results in values for r in results),
        anchor.at,
        position,
        kernel.zero_where,
        kernel.unread_where,
        dict(anchor.sizes),
        # one example at a time: there is none that a run may leave out
        "" if kernel.examples in kernel.fixed else kernel.examples,
    )
    in_block = kernel.window is not None or kernel.examples in kernel.fixed
    return _in_block(form, kernel, kernel.window, plan) if in_block else form


def _in_block(
    form: CoalescedKernel, kernel: Kernel, window: Window | None, plan: Plan
) -> CoalescedKernel:
    """The kernel for one block: the row index, if there is one, counts from the block's first row.
    Held tensors have the block alone: in these, fixed indices are 0."""
    tensors = plan.system.tensors
    of_held: dict[str, Expr] = {name: literal(0) for name in kernel.fixed}
    of_all: dict[str, Expr] = {}
    of_row: dict[str, Expr] = {}
    if window is not None:
        inside = f"{window.row} of the block"  # no name of a program, and gone at the end
        of_held[window.row] = Idx(inside)
        of_all[window.row] = call("add", Idx(window.start), Idx(window.row))
        of_row[inside] = Idx(window.row)

    def held(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or not tensors[node.tensor].held:
            return None
        place = tuple(substitute(e, of_held) for e in node.index)
        return Read(node.tensor, place, node.other, node.dtype)

    def moved(expr: Expr) -> Expr:
        return substitute(substitute(rewrite(expr, held), of_all), of_row)

    def results(before: tuple[Result, ...]) -> tuple[Result, ...]:
        # The element is a read, too.
        return tuple(Result(moved(r.element), moved(r.value)) for r in before)  # type: ignore

    sizes = dict(form.sizes)
    if window is not None:
        sizes |= {i.name: window.extent(i) for i in kernel.anchor.domain}
        sizes[window.start] = window.starts
    return replace(
        form,
        bodies=results(form.bodies),
        values=results(form.values),
        zero_where=tuple(map(moved, form.zero_where)),
        unread_where=tuple(map(moved, form.unread_where)),
        sizes=sizes,
    )


def _results(
    eq: Equation, space: list[Index], unrolled: frozenset[str], plan: Plan
) -> tuple[Result, ...]:
    """The equation's values at one point of the iteration space: one for each value of its
    unrolled index."""
    shared = [i for i in eq.indices if i.name not in unrolled]
    names: dict[str, Expr] = {i.name: Idx(b.name) for i, b in zip(shared, space, strict=True)}
    extra = [i for i in eq.indices if i.name in unrolled]
    dtype = plan.system.tensors[eq.target].dtype
    results = []
    # Without an unrolled index there is one empty combination, hence one result.
    for numbers in product(*(range(i.size) for i in extra)):
        constants = {i.name: literal(n) for i, n in zip(extra, numbers, strict=True)}
        index = {**names, **constants}
        point = tuple(index[i.name] for i in eq.indices)
        results.append(Result(Read(eq.target, point, None, dtype), substitute(eq.body, index)))
    return tuple(results)


def _outermost_stride_first(form: CoalescedKernel, kernel: Kernel, plan: Plan) -> CoalescedKernel:
    """Loop interchange of a sum: its indices by descending stride, so that its innermost steps are
    near each other in memory."""
    # The order of argmax's indices is the order of its positions, on which ties depend.
    if kernel.anchor.reduce != "sum" or form.at is not None or len(form.over) < 2:
        return form
    offsets = [a.offset for a in accesses_of(form, plan).values()]

    def stride(index: Index) -> int:
        strides = (offset.coefficients.get(Idx(index.name), 0) for offset in offsets)
        return max(map(abs, strides), default=0)

    return replace(form, over=tuple(sorted(form.over, key=stride, reverse=True)))


def _coalescible(
    form: CoalescedKernel, kernel: Kernel, plan: Plan, apart: str
) -> tuple[Index, Index] | None:
    """The first two neighbouring indices that can become one, neither of them `apart`."""
    # An index in a computation would become a division of the joined one, for each lane.
    values = _used_as_values(form)
    # What a block leaves out must be left out by all its kernels: the bounds must stay.
    bounding = form.zero_where if kernel.window is not None else ()
    values |= {n for e in (*bounding, *form.unread_where) for n in index_names(e)}
    accesses = list(accesses_of(form, plan).values())
    stored = list(store_offsets(form, kernel, plan).values())
    if form.at is not None:
        accesses.append(accumulated_access(form, kernel, plan))
    offsets = [a.offset for a in accesses] + [o for o in stored if o is not None]
    checked = [check for a in accesses for check, _ in a.checks]
    for group in (form.outputs, form.over):
        for i, j in pairwise(group):
            if (
                not {i.name, j.name} & values
                # As the inner one of two, the values of an example would not be side by side.
                and j.name != form.batch
                and i.name != apart
                # One step of `i` is as long as all of `j`, in every access and store.
                and all(_composes(o, i, j) for o in offsets)
                and not any(_mentions(c, i) or _mentions(c, j) for c in checked)
            ):
                return i, j
    return None


def _used_as_values(form: CoalescedKernel) -> set[str]:
    """The indices that are computed with, not only used to address memory."""
    nodes = (e for result in form.results for e in outside_addresses(result.value))
    return {e.name for e in nodes if isinstance(e, Idx)}


def outside_addresses(expr: Expr) -> set[Expr]:
    """The nodes of an expression except those in the indices of reads."""
    seen: set[Expr] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        # What stands in place of an element out of bounds is computed; the indices only address
        # memory.
        if isinstance(node, Read):
            stack += [node.other] if node.other is not None else []
        else:
            stack += node.children
    return seen


def _composes(offset: Affine, i: Index, j: Index) -> bool:
    """Whether i and j step through memory as one index of i.size * j.size."""
    outer, inner = (offset.coefficients.get(Idx(x.name), 0) for x in (i, j))
    # In other atoms, such as a gathered index table[i] or i // 3, an index has no stride.
    compound = Affine({a: c for a, c in offset.coefficients.items() if not isinstance(a, Idx)}, 0)
    return outer == inner * j.size and not _mentions(compound, i) and not _mentions(compound, j)


def _mentions(form: Affine, index: Index) -> bool:
    return any(Idx(index.name) in walk(atom) for atom in form.coefficients)


def _coalesce(form: CoalescedKernel, i: Index, j: Index) -> CoalescedKernel:
    both = Index(f"{i.name}_{j.name}", i.size * j.size)
    # The joined index runs from 0 to i.size * j.size - 1; `linearize` cancels these quotients and
    # remainders where they are addresses: (ij // J) * J + ij % J = ij.
    parts = {
        i.name: call("floordiv", Idx(both.name), j.size),
        j.name: call("mod", Idx(both.name), j.size),
    }

    def joined(group: tuple[Index, ...]) -> tuple[Index, ...]:
        # The joined index takes the place of `i`, and `j` goes.
        return tuple(both if x == i else x for x in group if x != j)

    made = _over(form, joined(form.outputs), joined(form.over), parts)
    if form.batch != i.name:
        return made
    return replace(made, batch=both.name, per_example=form.per_example * j.size)


def _split(form: CoalescedKernel, index: Index, by: int) -> CoalescedKernel:
    outer, inner = (
        Index(free_name(name, form.sizes), size)
        for name, size in ((f"{index.name}_", index.size // by), (f"_{index.name}", by))
    )
    parts = {index.name: Idx(outer.name) * by + Idx(inner.name)}
    place = form.outputs.index(index)
    outputs = (*form.outputs[:place], outer, inner, *form.outputs[place + 1 :])
    made = _over(form, outputs, form.over, parts)
    return replace(made, batch="") if form.batch == index.name else made


def _divided(form: CoalescedKernel, kernel: Kernel) -> tuple[Index, int] | None:
    """An output index of a sum that addresses memory by its quotient, and the divisor."""
    if kernel.anchor.reduce != "sum" or form.at is not None or kernel.window is not None:
        return None
    reading = {r for result in form.results for r in reads(result.value)}
    nodes = {e for read in reading for place in read.index for e in walk(place)}
    quotients = [e for e in nodes if isinstance(e, Apply) and e.fn in ("floordiv", "mod")]
    for index in form.outputs:
        own = [e for e in quotients if Idx(index.name) in walk(e)]
        divisors = {e.args[1].value if isinstance(e.args[1], Const) else 0 for e in own}
        whole = all(affine(e.args[0]).coefficients.get(Idx(index.name)) == 1 for e in own)
        by = divisors.pop() if len(divisors) == 1 else 0
        if isinstance(by, int) and 1 < by < index.size and index.size % by == 0 and whole:
            return index, by
    return None


def _over(
    form: CoalescedKernel,
    outputs: tuple[Index, ...],
    over: tuple[Index, ...],
    parts: Mapping[str, Expr],
) -> CoalescedKernel:
    """The kernel over other indices; what the old ones are of these."""

    def rewritten(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(substitute(e, parts) for e in exprs)

    def moved(results: tuple[Result, ...]) -> tuple[Result, ...]:
        return tuple(
            Result(
                Read(r.element.tensor, rewritten(r.element.index), None, r.element.dtype),
                substitute(r.value, parts),
            )
            for r in results
        )

    return CoalescedKernel(
        outputs=outputs,
        over=over,
        bodies=moved(form.bodies),
        values=moved(form.values),
        at=None if form.at is None else rewritten(form.at),
        position=substitute(form.position, parts),
        zero_where=rewritten(form.zero_where),
        unread_where=rewritten(form.unread_where),
        sizes={**form.sizes, **{i.name: i.size for i in (*outputs, *over)}},
        batch=form.batch,
        per_example=form.per_example,
    )


# --- accesses and stores -------------------------------------------------------------------------


def accesses_of(form: CoalescedKernel, plan: Plan) -> dict[Read, Access]:
    """Every read of memory; reads of the kernel's own results stay in registers."""
    # An epilogue reads the anchor's result at the very element that is computed here.
    computed = {result.element for result in form.results}
    found: dict[Read, Access] = {}
    # a bound may be a size that is read from memory
    bounding = (*form.zero_where, *form.unread_where)
    for expr in (*(form.at or ()), *(result.value for result in form.results), *bounding):
        for read in reads(expr):
            if read not in computed and read not in found:
                found[read] = access_of(read, plan.system.tensors[read.tensor], form.sizes)
    return found


def accumulated_access(form: CoalescedKernel, kernel: Kernel, plan: Plan) -> Access:
    """Where an accumulation (`at`) adds."""
    assert form.at is not None
    tensor = plan.system.tensors[kernel.anchor.target]
    return access_of(Read(tensor.name, form.at, None, tensor.dtype), tensor, form.sizes)


def store_offsets(form: CoalescedKernel, kernel: Kernel, plan: Plan) -> dict[Read, Affine | None]:
    """Where each result is stored; None if it stays in registers."""
    tensors = plan.system.tensors
    return {
        element: None
        # An accumulation is stored through its own access (`accumulated_access`).
        if element.tensor in kernel.local or form.at is not None
        else offset_of(element.index, tensors[element.tensor].strides, form.sizes)
        for element in (result.element for result in form.results)
    }
