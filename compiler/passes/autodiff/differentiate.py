"""Differentiation: the gradient of an equation is an equation.

In: a system and a number in it (the loss). Out: the same system with `d_x` for every tensor on the
way to what is asked for. For y[i] = sum(r) F(x[a(i, r)], …) the adjoint of x is

    d_x[p] = sum(i, r) [a(i, r) = p] * dF/dx * d_y[i]

and the bracket is eliminated one dimension at a time by solving a(i, r) = p for an index
(`passes/solve.py`). What remains is a gather with an `else 0`; where a place is computed from data
it stays a bracket, or becomes an accumulation. A maximum hands its gradient to the first index that
attains it. Nothing here knows layers; backward equations go through the same passes as all others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.affine import bounds
from ...ir.build import call, cast, literal, substitute
from ...ir.derivatives import DERIVATIVES
from ...ir.dtypes import is_float
from ...ir.equation import REDUCTIONS, Equation, Index, System, Tensor
from ...ir.expr import Apply, Const, Expr, Idx, Read, walk
from .invert_indices import Contribution, scatter


def differentiate(system: System, output: str, wrt: Sequence[str]) -> tuple[System, dict[str, str]]:
    """The system with the gradients of `output`, a tensor without dimensions, added.

    Returns it and the name of the gradient of each tensor of `wrt` that has one: a tensor that
    `output` does not depend on is left out. Raises ValueError if the output has dimensions.
    """
    if system.tensors[output].shape:
        raise ValueError(f"`{output}` is not a single number")
    work = _Backward(system, output, _on_the_way(system, output, wrt))
    for component in reversed(system.components):
        for eq in reversed(component):
            if eq.target in work.needed:
                work.visit(eq)
    work.finish()
    names = {x: f"d_{x}" for x in wrt if f"d_{x}" in work.tensors}
    return system.replace(tensors=work.tensors, equations=tuple(work.equations)).in_order(), names


def _on_the_way(system: System, output: str, wrt: Sequence[str]) -> set[str]:
    """The tensors through which `output` depends, differentiably, on one of `wrt`."""
    sources = {eq.target: _differentiable(eq) for eq in system.equations}
    reached, grew = set(wrt), True
    while grew:
        fresh = {t for t, s in sources.items() if t not in reached and s & reached}
        reached |= fresh
        grew = bool(fresh)
    useful, stack = set(), [output]
    while stack:
        name = stack.pop()
        if name not in useful:
            useful.add(name)
            stack += sources.get(name, ())
    return reached & useful


def _differentiable(eq: Equation) -> set[str]:
    """What the equation's value depends on, other than through `stop`, conditions and indices."""
    if eq.reduce in ("argmax", "argmin") or not is_float(eq.body.dtype):
        return set()
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
        elif isinstance(node, Apply) and node.fn in DERIVATIVES:
            stack += node.args
    return found


ShapeOf = Callable[[str], tuple[int, ...]]


def adjoints(
    eq: Equation, seed: Expr, shape_of: ShapeOf, value: Expr | None = None
) -> dict[Read, Expr]:
    """seed * d body / d read, for every read in the body: one sweep from the root to the leaves.

    Derivatives that speak of the body's own value, such as 1 - tanh(a)^2, say `value` instead."""
    body = eq.body
    total: dict[Expr, Expr] = {body: seed}
    result: dict[Read, Expr] = {}
    for node in reversed(list(walk(body))):
        adjoint = total.get(node)
        if adjoint is None or not is_float(node.dtype):
            continue
        if isinstance(node, Read):
            result[node] = adjoint
            if node.other is not None and not isinstance(node.other, Const):
                beyond = outside(node, shape_of(node.tensor), eq.sizes)
                _add(total, node.other, call("select", beyond, adjoint, 0.0))
        elif isinstance(node, Apply):
            rule = DERIVATIVES.get(node.fn)
            if rule is None:
                continue
            own = value if node is body and value is not None else node
            for child, factor in zip(node.args, rule(own, *node.args), strict=False):
                if factor is not None and is_float(child.dtype):
                    _add(total, child, cast(call("mul", adjoint, factor), child.dtype))
    return result


def _add(total: dict[Expr, Expr], node: Expr, adjoint: Expr) -> None:
    total[node] = call("add", total[node], adjoint) if node in total else adjoint


def outside(read: Read, shape: tuple[int, ...], sizes: Mapping[str, int]) -> Expr:
    """Whether a guarded read falls outside its tensor, as far as its indices leave it open."""
    result: Expr = literal(False)
    for place, size in zip(read.index, shape, strict=True):
        low, high = bounds(place, sizes)
        if low < 0:
            result = call("or", result, call("lt", place, 0))
        if high >= size:
            result = call("or", result, call("ge", place, size))
    return result


_NESTED = re.compile(rf"_({'|'.join((*REDUCTIONS, 'mean'))})(_\d+)?$")
Part = tuple[str, Contribution]  # and the tensor through which it comes


@dataclass
class _Backward:
    """Collects what every equation contributes to the adjoints of the tensors it reads."""

    system: System
    output: str
    needed: set[str]

    def __post_init__(self) -> None:
        self.tensors: dict[str, Tensor] = dict(self.system.tensors)
        self.equations: list[Equation] = list(self.system.equations)
        self.parts: dict[str, list[Part]] = {}

    def visit(self, eq: Equation) -> None:
        """What one equation adds to the adjoints of what it reads."""
        found = adjoints(eq, self.seed(eq), self.shape_of, self.value(eq))
        for read, adjoint in found.items():
            if read.tensor not in self.needed:
                continue
            if isinstance(adjoint, Const) and adjoint.value == 0:
                continue
            shape = self.system.tensors[read.tensor].shape
            part = scatter(eq, read, adjoint, shape, self.shape_of)
            self.parts.setdefault(read.tensor, []).append((eq.target, part))

    def value(self, eq: Equation) -> Expr | None:
        """The value of the equation's body, where it is stored."""
        if eq.reduce or eq.at is not None:
            return None
        return Read(eq.target, tuple(Idx(i.name) for i in eq.indices), None, eq.body.dtype)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor or of a gradient that is still to be made."""
        if name in self.tensors:
            return self.tensors[name].shape
        return self.tensors[name.removeprefix("d_")].shape

    def seed(self, eq: Equation) -> Expr:
        """The adjoint of the reduction's body at one point of the whole domain."""
        dtype = self.system.tensors[eq.target].dtype
        if eq.target == self.output:
            dy: Expr = literal(1.0, dtype)
        else:
            place = eq.at if eq.at is not None else tuple(Idx(i.name) for i in eq.indices)
            # what an accumulation adds outside its target is dropped, and has no gradient
            other = None if eq.at is None else literal(0.0, dtype)
            dy = Read(f"d_{eq.target}", place, other, dtype)
        if eq.reduce in ("max", "min"):
            return call("select", self.attains(eq), dy, literal(0.0, dtype))
        if eq.reduce == "prod":
            return call("mul", dy, self.others(eq))
        return dy

    def attains(self, eq: Equation) -> Expr:
        """Whether this point is the first at which the extreme value is attained."""
        name = f"{eq.target}_at"
        if name not in self.tensors:
            arg = replace(eq, target=name, reduce=f"arg{eq.reduce}")
            self.add(arg, tuple(i.size for i in eq.indices), "i32")
        at = Read(name, tuple(Idx(i.name) for i in eq.indices), None, "i32")
        flat: Expr = literal(0)
        for index in eq.over:
            flat = call("add", call("mul", flat, literal(index.size)), Idx(index.name))
        return call("eq", at, flat)

    def others(self, eq: Equation) -> Expr:
        """The product of all factors but this one, so that a zero factor has a gradient too."""
        name = f"{eq.target}_others"
        renamed = {i.name: Idx(i.name + "_") for i in eq.over}
        same: Expr = literal(True)
        for old, new in renamed.items():
            same = call("and", same, call("eq", Idx(old), new))
        body = call("select", same, 1.0, substitute(eq.body, renamed))
        over = tuple(Index(i.name + "_", i.size) for i in eq.over)
        others = Equation(name, eq.domain, body, "prod", over, None, eq.span)
        self.add(others, tuple(i.size for i in eq.domain), eq.body.dtype)
        return Read(name, tuple(Idx(i.name) for i in eq.domain), None, eq.body.dtype)

    # --- putting the contributions together ---------------------------------------------------

    def finish(self) -> None:
        for name in list(self.parts):
            self.combine(name, self.parts[name])

    def combine(self, name: str, parts: list[Part]) -> None:
        """d_x as one equation: the parts without a sum of their own are added in place."""
        dtype, shape = self.system.tensors[name].dtype, self.system.tensors[name].shape
        if len(parts) == 1:
            self.add(parts[0][1].equation(f"d_{name}"), shape, dtype)
            return
        indices = _named_apart([part for _, part in parts], shape)
        places = tuple(Idx(i.name) for i in indices)
        total: Expr = literal(0.0, dtype)
        for through, part in parts:
            if part.over or part.at is not None:
                own_name = self.via(name, through)
                own: Expr = Read(own_name, places, None, dtype)
                self.add(part.equation(own_name), shape, dtype)
            else:
                olds = (old.name for old in part.indices)
                own = substitute(part.body, dict(zip(olds, places, strict=True)))
            total = call("add", total, own)
        span = parts[0][1].span
        self.add(Equation(f"d_{name}", indices, total, span=span), shape, dtype)

    def via(self, name: str, through: str) -> str:
        """d_x_via_y: what the gradient of y adds to that of x, said without the layer twice."""
        *layers, _ = name.split("_")
        *others, last = self.written(through).split("_")
        shared = next(
            (n for n, (a, b) in enumerate(zip(layers, others, strict=False)) if a != b),
            min(len(layers), len(others)),
        )
        full = f"d_{name}_via_{'_'.join([*others[shared:], last])}"
        number = next(n for n in range(1, 10**6) if _numbered(full, n) not in self.tensors)
        return _numbered(full, number)

    def written(self, name: str) -> str:
        """The equation of the source that a nested reduction, such as `a_sum`, is part of."""
        base = _NESTED.sub("", name)
        whole = self.system.definition.get(base)
        return base if whole is not None and name in whole.sources else name

    def add(self, eq: Equation, shape: tuple[int, ...], dtype: str) -> None:
        self.tensors[eq.target] = Tensor(eq.target, shape, dtype, "temp", "", eq.span)
        self.equations.append(eq)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _named_apart(parts: list[Contribution], shape: tuple[int, ...]) -> tuple[Index, ...]:
    """Index names for the sum of the parts: those of the first part that has some."""
    for part in parts:
        if part.at is None:
            return tuple(Index(i.name, n) for i, n in zip(part.indices, shape, strict=True))
    return tuple(Index(f"p{axis}", n) for axis, n in enumerate(shape))
