"""Differentiation: expands every placeholder `d_x = grad(y, x)` into equations, in reverse mode.

    y[i] = sum(r) F(x[a(i, r)], …)   →   d_x[p] = sum(i, r) [a(i, r) = p] * dF/dx * d_y[i]

d_y is the adjoint of y: the derivative of the differentiated number with respect to y. Equations
are visited from that number backwards; each adds a contribution to the adjoint of every active
tensor that it reads (activity analysis is in `ir/gradients.py`). `invert_indices` eliminates the
Iverson bracket by solving a(i, r) = p for the indices, one dimension at a time. What remains is a
gather with an `else 0`; where an index is computed from data the bracket stays, or the sum becomes
an accumulation (a scatter). A maximum passes its adjoint to the first index that attains it.

A branch that is not taken, and an element that is not read, adds exactly 0, even where its own
derivative is infinite (`zero_products.py`):

    y[i] = if x[i] > 0 then sqrt(x[i]) else 0   →   d_x[i] = if x[i] > 0 then d_y[i]*(0.5/…) else 0

In products of matrices that is decided for rows instead of pairs (`guard_rows.py`).

One sweep costs a small multiple of the forward equations, however many gradients there are. Its
equations are equations like all others, so that the passes that follow need not know of it, and
gradients of gradients need nothing new: placeholders are expanded innermost first.

Source: Griewank and Walther 2008, "Evaluating Derivatives", chapter 3 (reverse mode); JAX's
`autodidax` (differentiation of a program as a rewrite). Tests: tests/gradients.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ....dsl.syntax.source import Span
from ...ir.build import call, literal, substitute
from ...ir.equation import (
    REDUCTIONS,
    Equation,
    Gradient,
    Index,
    System,
    Tensor,
    copy_equation,
    is_recurrent,
    unused_name,
)
from ...ir.expr import Const, Expr, Idx, Read, reads
from ...ir.gradients import active_tensors, adjoints, covers
from ...ir.value_ranges import Ranges
from .guard_rows import guard_rows
from .invert_indices import Contribution, scatter
from .zero_products import Zero, ZeroProducts


def differentiate(system: System) -> System:
    """The system without placeholders: each replaced by the equations of its gradient.

    Raises ValueError if a placeholder's `of` has dimensions or depends on its own gradient."""
    return guard_rows(adjoint_equations(system))


def adjoint_equations(system: System) -> System:
    """The system with each placeholder replaced, one reverse sweep after the other."""
    while system.gradients:
        system = _expand(system, _innermost(system))
    return system


def _innermost(system: System) -> str:
    """The number to be differentiated next: one that depends on no placeholder."""
    # Placeholders of one number share a reverse sweep; each round expands one number.
    for of in dict.fromkeys(g.of for g in system.gradients):
        # Numbers are 0-dimensional: the adjoint of `of` is 1, and no Jacobian is needed.
        if system.tensors[of].shape:
            raise ValueError(f"`{of}` is not a single number")
        if system.placeholder.keys().isdisjoint(system.ancestors([of])):
            return of
    raise ValueError("a number depends on its own gradient")


def _expand(system: System, of: str) -> System:
    """The system with the gradients of one number as equations. They stand before all that is
    computed for their sake alone."""
    own = [g for g in system.gradients if g.of == of]
    rest = tuple(g for g in system.gradients if g.of != of)
    sweep = _ReverseSweep(system, of, own)
    # `dependent` needs these gradients: an optimizer's step, or a loss with a gradient in it. What
    # the rest needs, such as the forward pass, comes first.
    dependent = system.descendants(g.target for g in own)
    others = [*system.roots, *(name for g in rest for name in (g.of, g.wrt))]
    needed = system.ancestors({of, *others} - dependent)
    before = [eq for eq in system.equations if eq.target in needed]
    after = [eq for eq in system.equations if eq.target not in needed]
    return system.replace(
        tensors=sweep.tensors,
        equations=(*before, *sweep.equations, *after),
        gradients=rest,
        backward=system.backward | {eq.target for eq in sweep.equations},
        adjoints={**system.adjoints, **sweep.of_adjoint},
        contributions={**system.contributions, **sweep.parts},
    ).in_order()


# `a_sum`, `a_mean_2`: the names that elaboration gives to reductions inside of an equation.
_NESTED = re.compile(rf"_({'|'.join((*REDUCTIONS, 'mean'))})(_\d+)?$")


@dataclass(frozen=True)
class _Share:
    """What an equation contributes to the adjoint of a tensor that it reads, why that may be 0, and
    whether equations before must reckon with an infinite one."""

    tensor: str
    part: Contribution
    zero: Zero
    spreads: bool

    def renamed(self, names: Mapping[str, str], span: Span | None) -> _Share:
        return replace(self, tensor=names[self.tensor], part=self.part.renamed(names, span))


@dataclass
class _ReverseSweep:
    """The adjoints of one number `of`: their `equations`, and the system's `tensors` with theirs.

    `contributions` collects, for each tensor, what the equations that read it add to its adjoint,
    with the targets of those equations."""

    system: System
    of: str
    gradients: Sequence[Gradient]
    equations: list[Equation] = field(default_factory=list)

    def __post_init__(self) -> None:
        wrt = dict.fromkeys(g.wrt for g in self.gradients)
        active = self.active = active_tensors(self.system, self.of, wrt)
        self.ranges, self.real = Ranges(self.system), Ranges(self.system, overflow=False)
        # Why the adjoints of tensors may be 0, and the tensors whose adjoints may be infinite.
        self.zeros = {self.of: Zero.NEVER}
        self.infinite: set[str] = set()
        self.tensors: dict[str, Tensor] = dict(self.system.tensors)
        self.contributions: dict[str, list[tuple[str, Contribution]]] = {}
        self.attained: dict[str, str] = {}
        self.recurrent = self.system.recurrent
        self.shared: dict[Hashable, tuple[tuple[str, ...], list[_Share]]] = {}
        # Reversed, so that the first of several placeholders for one tensor gives the name, and
        # `fill` copies it for the others.
        self.names = {g.wrt: g.target for g in self.gradients[::-1]}  # of adjoints, by tensor
        self.taken = set(self.tensors)
        # Adjoints have names before they have equations. So an equation may read the adjoint of its
        # target while contributions to that are still missing, as is the case in a recurrence; all
        # are summed up once the sweep has seen every reader.
        for name in self.system.tensors:
            if name in active and name not in self.names:
                self.names[name] = self.new_name(f"d_{name}")
        self.parts: dict[str, str] = {}  # the tensors whose adjoints have contributions by name
        self.of_adjoint = {adjoint: name for name, adjoint in self.names.items()}
        # The number of the strongly connected component of each temp; what is given has none.
        self.component = dict.fromkeys(self.tensors, -1)
        for number, component in enumerate(self.system.components):
            self.component |= {eq.target: number for eq in component}
        for component in reversed(self.system.components):
            own = [eq for eq in reversed(component) if eq.target in active]
            # The adjoints of a recurrence are read before all that they are made of is known.
            if is_recurrent(component) and any(map(self.has_pole, own)):
                self.infinite |= {eq.target for eq in own}
            for eq in own:
                self.visit(eq)
        for name, parts in list(self.contributions.items()):
            self.combine(name, parts)
        self.fill()

    def new_name(self, name: str) -> str:
        found = unused_name(name, self.taken)
        self.taken.add(found)
        return found

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, or of an adjoint that has no equation yet."""
        return self.tensors[self.of_adjoint.get(name, name)].shape

    def add(self, eq: Equation, shape: tuple[int, ...], dtype: str) -> None:
        self.tensors[eq.target] = Tensor(eq.target, shape, dtype, "temp", "", eq.span)
        self.equations.append(eq)

    def visit(self, eq: Equation) -> None:
        """Add what one equation contributes to the adjoints of what it reads."""
        for share in self.shares(eq):
            # What one equation adds for certain, others do not take away.
            known = self.zeros.get(share.tensor, Zero.MASKED)
            self.zeros[share.tensor] = min(share.zero, known)
            if share.spreads:
                self.infinite.add(share.tensor)
            parts = self.contributions.setdefault(share.tensor, [])
            parts.append((eq.target, share.part))

    def shares(self, eq: Equation) -> Iterable[_Share]:
        """What one equation contributes: found once for all equations that differ in names."""
        # Extreme values and products of many take equations of their own.
        if eq.reduce in ("max", "min", "prod") or eq.target in self.recurrent:
            return self.computed_shares(eq)
        outline, names = self.outline(eq)
        known = self.shared.get(outline)
        if known is None:
            found = list(self.computed_shares(eq))
            self.shared[outline] = names, found
            return found
        renaming = dict(zip(known[0], names, strict=True))
        return [share.renamed(renaming, eq.span) for share in known[1]]

    def outline(self, eq: Equation) -> tuple[Hashable, tuple[str, ...]]:
        """All that its shares depend on, without names, and the names."""
        ranges, names = self.ranges.outline(eq)
        own = self.system.tensors[eq.target]
        zero, infinite = self.zeros.get(eq.target, Zero.MASKED), eq.target in self.infinite
        sources = tuple((self.real.found.get(name), name in self.active) for name in eq.form[1])
        outline = (ranges, sources, zero, infinite, own.dtype, eq.target == self.of)
        return outline, (*names, self.names[eq.target])

    def computed_shares(self, eq: Equation) -> Iterator[_Share]:
        product = self.products(eq)
        found = adjoints(eq, self.seed(eq), self.shape_of, _stored_value(eq), product)
        for read, adjoint in found.items():
            # An active equation may read inactive tensors (data, constants); nothing wants their
            # adjoints.
            is_zero = isinstance(adjoint, Const) and adjoint.value == 0
            if read.tensor not in self.active or is_zero:
                continue
            shape = self.system.tensors[read.tensor].shape
            zero = product.zero(adjoint) if covers(read, shape, eq.sizes) else Zero.MASKED
            if zero == Zero.CHANCE and any(r.tensor == read.tensor for r in reads(adjoint)):
                zero = Zero.OWN
            spreads = product.spreads(adjoint)
            in_steps = self.component[read.tensor] == self.component[eq.target]
            part = scatter(eq, read, adjoint, shape, self.shape_of, self.is_finite, in_steps)
            yield _Share(read.tensor, part, zero, spreads)

    def products(self, eq: Equation) -> ZeroProducts:
        return ZeroProducts(eq, self.ranges, self.real, self.zero_of, self.is_infinite)

    def has_pole(self, eq: Equation) -> bool:
        """Whether a derivative of the equation may be infinite of finite numbers."""
        product = self.products(eq)
        found = adjoints(eq, literal(1.0, eq.body.dtype), self.shape_of, None, product)
        return any(map(product.may_be_infinite, found.values()))

    def is_infinite(self, read: Read) -> bool:
        return self.of_adjoint.get(read.tensor) in self.infinite

    def is_finite(self, factor: Expr) -> bool:
        return self.ranges.of(factor).finite

    def zero_of(self, read: Read) -> Zero:
        """Why an adjoint may be 0; a value that no parameter moves is a mask."""
        tensor = self.of_adjoint.get(read.tensor)
        if tensor is None:
            return Zero.CHANCE if read.tensor in self.active else Zero.MASKED
        return self.zeros.get(tensor, Zero.MASKED)

    def seed(self, eq: Equation) -> Expr:
        """The adjoint of the reduction's body at one point of the whole domain."""
        dtype = self.system.tensors[eq.target].dtype
        # d of / d of = 1 at the only point that a number has.
        if eq.target == self.of:
            dy: Expr = literal(1.0, dtype)
        else:
            place = eq.at if eq.at is not None else tuple(Idx(i.name) for i in eq.indices)
            # what an accumulation adds outside its target is dropped, and has no gradient
            other = None if eq.at is None else literal(0.0, dtype)
            dy = Read(self.names[eq.target], place, other, dtype)
        if eq.reduce in ("max", "min"):
            # The derivative of a maximum is 1 at the element that attains it and 0 at the others.
            # With ties, taking the first gives a subgradient, and exactly one element gets the
            # adjoint.
            return call("select", self.attains(eq), dy, literal(0.0, dtype))
        if eq.reduce == "prod":
            # d(product)/d(factor) is the product of the other factors.
            return call("mul", dy, self.product_of_others(eq))
        return dy

    def attains(self, eq: Equation) -> Expr:
        """Whether this point is the first at which the extreme value is attained."""
        # One argmax per equation, though an equation may be asked for each of its reads.
        if eq.target not in self.attained:
            name = self.attained[eq.target] = self.new_name(f"{eq.target}_at")
            arg = replace(eq, target=name, reduce=f"arg{eq.reduce}")
            self.add(arg, tuple(i.size for i in eq.indices), "i32")
        # The row-major position in `over`, which is what argmax stores: (k, l) → k * size(l) + l.
        place = tuple(Idx(i.name) for i in eq.indices)
        flat: Expr = literal(0)
        for index in eq.over:
            flat = call("add", call("mul", flat, literal(index.size)), Idx(index.name))
        return call("eq", Read(self.attained[eq.target], place, None, "i32"), flat)

    def product_of_others(self, eq: Equation) -> Expr:
        """The product of all factors but this one; a quotient would fail for a factor of zero."""
        name = self.new_name(f"{eq.target}_others")
        # A second copy of the reduction's indices, k_, runs over all factors; where k_ = k the
        # factor is 1. Quadratic in the length of the reduction.
        renamed = {i.name: Idx(i.name + "_") for i in eq.over}
        same: Expr = literal(True)
        for old, new in renamed.items():
            same = call("and", same, call("eq", Idx(old), new))
        body = call("select", same, 1.0, substitute(eq.body, renamed))
        over = tuple(Index(i.name + "_", i.size) for i in eq.over)
        others = Equation(name, eq.domain, body, "prod", over, None, eq.span)
        self.add(others, tuple(i.size for i in eq.domain), eq.body.dtype)
        return Read(name, tuple(Idx(i.name) for i in eq.domain), None, eq.body.dtype)

    # --- the sum of the contributions ---------------------------------------------------------

    def combine(self, name: str, parts: list[tuple[str, Contribution]]) -> None:
        """d_x as one equation; contributions with a sum of their own are tensors `d_x_via_y`."""
        dtype, shape = self.system.tensors[name].dtype, self.system.tensors[name].shape
        # The only contribution is the adjoint itself; its indices keep the names it was found with.
        if len(parts) == 1:
            self.add(parts[0][1].equation(self.names[name]), shape, dtype)
            return
        indices = _common_indices([part for _, part in parts], shape)
        places = tuple(Idx(i.name) for i in indices)
        total: Expr = literal(0.0, dtype)
        # A sum needs an equation of its own (at most one reduction each); so does an accumulation.
        # A pointwise part becomes a term of the total.
        for through, part in parts:
            if part.over or part.at is not None:
                own_name = self.new_name(self.via(name, through))
                self.parts[own_name] = name
                own: Expr = Read(own_name, places, None, dtype)
                self.add(part.equation(own_name), shape, dtype)
            else:
                olds = (old.name for old in part.indices)
                own = substitute(part.body, dict(zip(olds, places, strict=True)))
            total = call("add", total, own)
        span = parts[0][1].span
        self.add(Equation(self.names[name], indices, total, span=span), shape, dtype)

    def via(self, name: str, through: str) -> str:
        """d_x_via_y: what the gradient of y adds to that of x. The layers that both names begin
        with are written once."""
        # `block1_attn_q` and `block1_attn_scores` → d_block1_attn_q_via_scores
        *layers, _ = name.split("_")
        *others, last = self.source_equation(through).split("_")
        shared = next(
            (n for n, (a, b) in enumerate(zip(layers, others, strict=False)) if a != b),
            min(len(layers), len(others)),
        )
        return f"d_{name}_via_{'_'.join([*others[shared:], last])}"

    def source_equation(self, name: str) -> str:
        """The equation of the source that a nested reduction, such as `a_sum`, is part of."""
        base = _NESTED.sub("", name)
        whole = self.system.definition.get(base)
        return base if whole is not None and name in whole.sources else name

    def fill(self) -> None:
        """Adjoints to which nothing contributes: 1 for the number itself, 0 for the others."""
        # Adjoints that are read, or asked for, must have an equation even if no path contributed.
        read = {source for eq in self.equations for source in eq.sources}
        for name, adjoint in self.names.items():
            wanted = adjoint in read or adjoint in self.system.placeholder
            if wanted and name not in self.contributions:
                tensor = self.system.tensors[name]
                indices = tuple(Index(f"p{axis}", n) for axis, n in enumerate(tensor.shape))
                one = literal(float(name == self.of), tensor.dtype)
                eq = Equation(adjoint, indices, one, span=tensor.span)
                self.add(eq, tensor.shape, tensor.dtype)
        for g in self.gradients:
            # The second placeholder `d2 = grad(y, x)` of the same tensor is a copy of the first.
            if g.target != self.names[g.wrt]:  # asked for twice
                self.equations.append(
                    copy_equation(self.tensors[g.target], self.names[g.wrt], g.target)
                )


def _stored_value(eq: Equation) -> Expr | None:
    """The value of the equation's body, where that is what it stores."""
    if eq.reduce or eq.at is not None:
        return None
    return Read(eq.target, tuple(Idx(i.name) for i in eq.indices), None, eq.body.dtype)


def _common_indices(parts: list[Contribution], shape: tuple[int, ...]) -> tuple[Index, ...]:
    """Index names for the sum of the parts: those of the first part that has some."""
    for part in parts:
        if part.at is None:
            return tuple(Index(i.name, n) for i, n in zip(part.indices, shape, strict=True))
    return tuple(Index(f"p{axis}", n) for axis, n in enumerate(shape))
