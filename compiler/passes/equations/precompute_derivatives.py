"""Precompute derivatives: an activation's derivative is computed where its value is.

    g[i] = y[i] * erf(y[i])                    g[i] = y[i] * erf(y[i])
                                               f[i] = erf(y[i]) + y[i] * exp(-y[i]^2)
    …                                    →     …
    d[i] = e[i] * erf(y[i])                    d[i] = e[i] * f[i]
         + e[i] * (y[i] * exp(-y[i]^2))

The backward pass needs the derivative of an activation at a value y that the forward pass stores
for it, and computes the same long functions a second time. Storing the derivative f instead takes
no more memory, and y stays in registers (fusion). Applies where all later readers of y use it only
through one f(y), which shares a long function with a reader fused to y: otherwise work would only
be moved from the backward pass to the forward pass.
Tests: tests/passes/test_precompute_derivatives.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import mul

from ...ir.build import substitute
from ...ir.dtypes import is_float
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, System, is_identity
from ...ir.expr import Apply, Const, Expr, Idx, Read, reads, walk
from ...ir.functions import TABLE
from ...ir.terms import terms, total
from ...ir.work import cost
from ...targets import Target
from .views import views


def precompute_derivatives(system: System, target: Target) -> System:
    """The system with f(y) stored in place of y, where later equations read y only through it."""
    # Positions in the order of computation.
    number = {eq.target: n for n, eq in enumerate(system.equations)}
    seen = views(system)
    # Outputs must be stored anyway, steps of a recurrence run one by one, and a view needs its
    # source in memory.
    fixed = {*system.roots, *system.recurrent, *seen, *seen.values()}
    edit = SystemEdit(system)
    for eq in system.equations:
        if eq.target in fixed or eq.at is not None or not is_float(eq.body.dtype):
            continue
        readers = system.readers.get(eq.target, [])
        # Readers that can be computed while y is in registers: element by element, and from nothing
        # that is computed after y.
        fused = [
            r
            for r in readers
            if _is_elementwise(r, eq)
            and all(number.get(s, -1) <= number[eq.target] for s in r.sources)
        ]
        # Asked first, as nearly all equations end here.
        if not any(_long_functions(r.body, target) for r in fused):
            continue
        # As already rewritten for another y: one equation may read several derivatives.
        later = [edit[r.target] for r in readers if r not in fused]
        if not later or any(r.target in system.recurrent for r in readers):
            continue
        uses = [_use_of(eq, r) for r in later]
        derivative = uses[0].derivative if uses[0] else None
        # Two different functions of y would take twice the memory of y.
        if derivative is None or any(u is None or u.derivative is not derivative for u in uses):
            continue
        # In the names of y's indices, so that equal subexpressions are the same objects.
        bodies = [substitute(r.body, _indices_of(r, eq)) for r in fused]
        if _is_worthwhile(eq, derivative, bodies, target):
            # f reads y element by element, so it joins the kernel of y, and y need not be stored.
            stored = Equation(f"{eq.target}_slope", eq.indices, derivative, span=eq.span)
            name = edit.add(stored)
            edit.replace(*(u.reading(name) for u in uses if u))
    return edit.result()


def _long_functions(expr: Expr, target: Target) -> set[Expr]:
    least = target.equations.long_function
    return {n for n in walk(expr) if isinstance(n, Apply) and TABLE[n.fn].cost >= least}


def _is_elementwise(reader: Equation, eq: Equation) -> bool:
    same_sizes = [i.size for i in reader.indices] == [i.size for i in eq.indices]
    own = [r for r in reader.reads if r.tensor == eq.target]
    pointwise = reader.reduce is None and reader.at is None
    return pointwise and same_sizes and all(is_identity(r, reader) for r in own)


def _indices_of(reader: Equation, eq: Equation) -> dict[str, Expr]:
    """The index names of the equation for those of an elementwise reader."""
    return {a.name: Idx(b.name) for a, b in zip(reader.indices, eq.indices, strict=True)}


def _is_worthwhile(eq: Equation, derivative: Expr, fused: list[Expr], target: Target) -> bool:
    """Whether the derivative shares a long function with the bodies fused to the equation, and fits
    into one kernel with them."""
    long = _long_functions(derivative, target)
    shared = any(long & _long_functions(body, target) for body in fused)
    whole = cost(eq.body) + cost(derivative) + sum(map(cost, fused))
    return shared and derivative.dtype == eq.dtype and whole <= target.fusion.max_epilogue


@dataclass(frozen=True)
class _DerivativeUse:
    """A reader's body as `factor * derivative + rest`; the derivative, at the value's own indices,
    depends on nothing but the value, the factor and the rest do not depend on it."""

    reader: Equation
    read: Read
    derivative: Expr
    factors: tuple[Expr, ...]
    rest: tuple[Expr, ...]

    def reading(self, name: str) -> Equation:
        """The reader with the derivative read from the tensor of that name."""
        stored = Read(name, self.read.index, None, self.read.dtype)
        return self.reader.with_body(total([reduce(mul, (*self.factors, stored)), *self.rest]))


def _use_of(eq: Equation, reader: Equation) -> _DerivativeUse | None:
    """How the reader uses the equation's value, if it is in that form and reads all of it, each
    dimension by an index of its own."""
    found = [r for r in reader.reads if r.tensor == eq.target]
    # A read in an index (a gather by y) or in several places is no factor.
    if len(found) != 1 or found[0] not in reads(reader.body):
        return None
    (read,) = found
    names = [e.name for e in read.index if isinstance(e, Idx)]
    # A slice, a diagonal or a window reads only part of y.
    whole = [reader.sizes[n] for n in names] == [i.size for i in eq.indices]
    if read.other is not None or len(set(names)) != len(read.index) or not whole:
        return None
    derivatives, factors, rest = [], set(), []
    for term in terms(reader.body):
        if read not in reads(term):
            rest.append(term)
            continue
        number, of_value, others = _split(term, read)
        if of_value is None or any(read in reads(f) for f in others):
            return None
        derivatives.append(number * of_value)
        # Sorted, so that a*b and b*a are the same factors.
        factors.add(tuple(sorted(others, key=str)))
    # factor * (f1 + f2) is one derivative only if all terms share the other factors.
    if len(factors) != 1:
        return None
    # From the reader's index names to those of y, in which the derivative is stored.
    own = dict(zip(names, (Idx(i.name) for i in eq.indices), strict=True))
    derivative = substitute(total(derivatives), own)
    return _DerivativeUse(reader, read, derivative, factors.pop(), tuple(rest))


def _split(term: Expr, read: Read) -> tuple[float, Expr | None, tuple[Expr, ...]]:
    """A term as a number, times what depends on the read alone, times other factors. The second
    keeps its form, so that nothing overflows in it that did not before."""
    if isinstance(term, Const):
        return term.value, None, ()
    if isinstance(term, Apply) and term.fn == "neg":
        number, of_value, others = _split(term.args[0], read)
        return -number, of_value, others
    if isinstance(term, Apply) and term.fn == "mul":
        # Numbers multiply, parts of f(y) multiply, and other factors are collected.
        (m, a, others), (n, b, more) = (_split(x, read) for x in term.args)
        return m * n, b if a is None else a if b is None else a * b, (*others, *more)
    # A divisor that depends on y alone is a part of f(y), and stays a divisor there.
    if isinstance(term, Apply) and term.fn == "div" and _depends_on_alone(term.args[1], read):
        number, of_value, others = _split(term.args[0], read)
        return number, (1.0 if of_value is None else of_value) / term.args[1], others
    if _depends_on_alone(term, read):
        return 1.0, term, ()
    return 1.0, None, (term,)


def _depends_on_alone(expr: Expr, read: Read) -> bool:
    """Whether nothing varies in the expression but the read."""
    if isinstance(expr, Apply):
        # Each evaluation of `random` counts as a value of its own, so it is no function of y.
        return expr.fn != "random" and all(_depends_on_alone(x, read) for x in expr.args)
    return expr is read or isinstance(expr, Const)
