"""Gradients: activity analysis, placeholders, and the adjoints within one equation.

A tensor is varied if it depends differentiably on one of `wrt`, and useful if `of` depends
differentiably on it; both together make it active. Only active tensors have an adjoint (Hascoët and
Pascual 2013, "The Tapenade automatic differentiation tool"). Elaboration needs to know which
parameters those are; the pass `differentiate` uses all of it. Tests: tests/gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .affine import bounds
from .build import call, cast, literal
from .derivatives import DERIVATIVES
from .dtypes import is_float
from .equation import Equation, Gradient, System, Tensor, reachable, unused_name
from .expr import Apply, Const, Expr, Idx, Read, walk


def active_tensors(system: System, of: str, wrt: Iterable[str]) -> set[str]:
    """The tensors through which `of` depends differentiably on one of `wrt`."""
    # Placeholders count as functions of what they name: a loss may contain gradients.
    sources: dict[str, Iterable[str]] = {g.target: (g.of, g.wrt) for g in system.gradients}
    sources |= {eq.target: differentiable_reads(eq) for eq in system.equations}
    # The same edges reversed: forwards from `wrt` (varied), backwards from `of` (useful).
    readers: dict[str, list[str]] = {}
    for target, names in sources.items():
        for name in names:
            readers.setdefault(name, []).append(target)
    varied = reachable(wrt, lambda name: readers.get(name, ()))
    return varied & reachable([of], lambda name: sources.get(name, ()))


def differentiable_reads(eq: Equation) -> set[str]:
    """The tensors that the equation's value depends on other than through `stop`, conditions and
    indices, whose derivative is zero."""
    # Integers, truth values and positions have no derivative.
    if eq.reduce in ("argmax", "argmin") or not is_float(eq.body.dtype):
        return set()
    # Depth-first over the expression, pruned where no derivative passes.
    found, stack, seen = set(), [eq.body], set()
    while stack:
        node = stack.pop()
        if node in seen or not is_float(node.dtype):
            continue
        seen.add(node)
        if isinstance(node, Read):
            found.add(node.tensor)
            if node.other is not None:
                stack.append(node.other)
        # A function outside the table (floor, sign, stop, comparisons) has derivative 0.
        elif isinstance(node, Apply) and node.fn in DERIVATIVES:
            stack += node.args
    return found


ShapeOf = Callable[[str], tuple[int, ...]]


Product = Callable[[Expr, "Expr | float", Apply], Expr]


def adjoints(
    eq: Equation,
    seed: Expr,
    shape_of: ShapeOf,
    value: Expr | None = None,
    product: Product = lambda own, factor, node: call("mul", own, factor),
) -> dict[Read, Expr]:
    """seed * d body / d read, for every read in the body: one sweep from the root to the leaves.

    Derivatives that are expressed by the body's own value, such as 1 - tanh(a)^2, use `value`.
    `product` multiplies the adjoint of a node by one of its local derivatives."""
    body = eq.body
    adjoint: dict[Expr, Expr] = {body: seed}
    result: dict[Read, Expr] = {}

    def accumulate(node: Expr, more: Expr) -> None:
        adjoint[node] = call("add", adjoint[node], more) if node in adjoint else more

    # Parents before children: when a node is reached, all that use it have contributed (reverse
    # topological order of the expression's graph).
    for node in reversed(list(walk(body))):
        own = adjoint.get(node)
        # None: no path of non-zero derivative leads from the root to this node.
        if own is None or not is_float(node.dtype):
            continue
        if isinstance(node, Read):
            result[node] = own
            # `x[…] else other` equals `other` outside the tensor, so its adjoint goes there.
            if node.other is not None and not isinstance(node.other, Const):
                beyond = outside(node, shape_of(node.tensor), eq.sizes)
                accumulate(node.other, call("select", beyond, own, 0.0))
        elif isinstance(node, Apply) and node.fn in DERIVATIVES:
            # Only the value of the root is in memory; reading it saves computing the function
            # again.
            result_of = value if node is body and value is not None else node
            factors = DERIVATIVES[node.fn](result_of, *node.args)
            for child, factor in zip(node.args, factors, strict=False):
                if factor is not None and is_float(child.dtype):
                    accumulate(child, cast(product(own, factor, node), child.dtype))
    return result


def covers(read: Read, shape: tuple[int, ...], sizes: Mapping[str, int]) -> bool:
    """Whether the read, over the ranges of its indices, reads every element of its tensor."""
    names = [e.name for e in read.index if isinstance(e, Idx)]
    extents = tuple(sizes[n] for n in dict.fromkeys(names))
    return len(names) == len(read.index) and extents == shape


def outside(read: Read, shape: tuple[int, ...], sizes: Mapping[str, int]) -> Expr:
    """Whether a read with an `else` falls outside its tensor, where its indices can."""
    result: Expr = literal(False)
    for place, size in zip(read.index, shape, strict=True):
        # Tests only for the ends that the interval of the place exceeds: often one, or none.
        low, high = bounds(place, sizes)
        if low < 0:
            result = call("or", result, call("lt", place, 0))
        if high >= size:
            result = call("or", result, call("ge", place, size))
    return result


def add_gradients(system: System, of: str, wrt: Iterable[str]) -> tuple[System, dict[str, str]]:
    """The system with a placeholder `d_x = grad(of, x)` for each active x of `wrt`, and their names
    by x. A tensor that `of` does not depend on has no gradient. Raises ValueError if `of` has
    dimensions."""
    if system.tensors[of].shape:
        raise ValueError(f"`{of}` is not a single number")
    wrt = list(wrt)
    active = active_tensors(system, of, wrt)
    tensors, gradients, names = dict(system.tensors), list(system.gradients), {}
    # Parameters that `of` does not depend on are left out rather than given a gradient of 0.
    for x in filter(active.__contains__, wrt):
        names[x] = target = unused_name(f"d_{x}", tensors)
        own = tensors[x]
        tensors[target] = Tensor(target, own.shape, own.dtype, "temp", "", own.span)
        gradients.append(Gradient(target, of, x, own.span))
    return system.replace(tensors=tensors, gradients=tuple(gradients)), names
