"""Value ranges: between which bounds a value lies, and whether it can be 0, infinite or NaN.

The result for a tensor is one `Range` for all of its elements; it follows from its equation and
from the ranges of what that reads (interval arithmetic as a forward dataflow analysis).
Differentiation asks it which local derivatives may not be finite:

    1 / (x + 1)   may be infinite: x is any number        exp(x)   may overflow
    1 / (x*x + 1) may not: the divisor is at least 1      exp(x - m), m = max(i) x[i], may not

Real arithmetic is meant: what is given is finite, sums and products do not overflow, products of
positive numbers do not underflow. `exp` alone, and powers with a variable exponent, are taken to
overflow and to underflow, since they do so for numbers of ordinary size; but of several
exponentials in a sum, as in a softmax, one is taken not to, and exponentials of parameters, such
as those of the logarithm of a scale, neither.
Tests: tests/gradients/test_unchosen_branches.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .affine import affine, is_affine
from .build import call, substitute
from .dtypes import is_float
from .equation import Equation, System, is_recurrent
from .expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from .random import UNIFORM_SCALE
from .terms import match

INF = math.inf
F16_LIMIT, F16_LEAST = 65504.0, 2.0**-24  # the greatest number of f16, and the least above 0
EXP_LIMIT = 80.0  # e^±80 is an f32; e^±90 is not


@dataclass(frozen=True)
class Range:
    """low <= value <= high, the bounds included if `below` or `above` says so when they are
    infinite. `nonzero`: never 0. `exponentials`: a sum of so many exponentials, all of which must
    underflow, or be masked, for it to be `low`."""

    low: float = -INF
    high: float = INF
    below: bool = False  # may be -inf
    above: bool = False  # may be +inf
    nan: bool = False
    nonzero: bool = False
    exponentials: int = 0

    @property
    def finite(self) -> bool:
        return not (self.below or self.above or self.nan)

    @property
    def infinite(self) -> bool:
        return self.below or self.above

    @property
    def without_zero(self) -> bool:
        return self.nonzero or self.low > 0 or self.high < 0

    def union(self, other: Range) -> Range:
        return Range(
            min(self.low, other.low),
            max(self.high, other.high),
            self.below or other.below,
            self.above or other.above,
            self.nan or other.nan,
            self.without_zero and other.without_zero,
            min(self.exponentials, other.exponentials),
        )


FINITE = Range()
UNKNOWN = Range(below=True, above=True, nan=True)
OfRead = Callable[[Read], Range]


class Ranges:
    """The ranges of a system's tensors, and of expressions over them; with `overflow` false as if
    no number were too large. Inputs are in the range `given`."""

    def __init__(self, system: System, overflow: bool = True, given: Range = FINITE):
        self.definition, self.overflow = system.definition, overflow
        self.shapes = {name: tensor.shape for name, tensor in system.tensors.items()}
        self.found: dict[str, Range] = {t.name: given for t in system.of_kind("input")}
        # What nothing but parameters is needed for, if what is given is of ordinary size.
        self.learnt = {t.name for t in system.of_kind("param")} if given.finite else set()
        self.memo: dict[Expr, Range] = {}
        known: dict[Hashable, Range] = {}  # by outline
        for component in system.components:
            if not is_recurrent(component):
                eq = component[0]
                if eq.sources and self.learnt.issuperset(eq.sources):
                    self.learnt.add(eq.target)
                outline = self.outline(eq)[0]
                if outline not in known:
                    known[outline] = self._of_target(eq)
                self.found[eq.target] = known[outline]
                continue
            # Induction over the steps: if all are finite given that all earlier ones are, they are.
            targets = [eq.target for eq in component]
            self.found |= dict.fromkeys(targets, FINITE)
            if not all(self._of_target(eq).finite for eq in component):
                self.found |= dict.fromkeys(targets, UNKNOWN)
            # What was derived from the assumption is no longer known.
            self.memo.clear()

    def of(self, expr: Expr) -> Range:
        """The range of an expression, wherever its indices are."""
        found = self.memo.get(expr)
        if found is None:
            for node in walk(expr):
                if node not in self.memo:
                    self.memo[node] = self._of_node(node)
            found = self.memo[expr]
        return found

    def outline(self, eq: Equation) -> tuple[Hashable, tuple[str, ...]]:
        """All that ranges of expressions depend on, if these read what the equation reads and
        computes: equal for equations that differ in names alone. And the names, those of the
        equation's form first."""
        form, names = eq.form
        numbers = {name: n for n, name in enumerate(names)}
        forms: list[Hashable] = [form]
        # Bounds are looked for in what computes them (`is_at_most`), and in what that copies.
        pending = [*names[1:]]
        for name in pending:
            source = self.definition.get(name)
            if source is None or source.at is not None or source.reduce not in (None, "max"):
                continue
            inner, of_source = source.form
            forms += inner, tuple([numbers.setdefault(n, len(numbers)) for n in of_source])
            if source.reduce is None and _may_be_bound(source.body):
                pending += (n for n in of_source[1:] if n not in pending)
        known = tuple(
            (self.found.get(name), self.shapes[name], name in self.learnt) for name in names
        )
        return (tuple(forms), known), tuple(numbers)

    def _of_target(self, eq: Equation) -> Range:
        body = self.of(eq.body)
        if eq.reduce in ("max", "min") and isinstance(eq.body, Read) and self._is_met(eq):
            # A padded window: what stands outside of the tensor never is its maximum.
            return self.found.get(eq.body.tensor, FINITE)
        if eq.reduce in (None, "max", "min"):
            return body
        if eq.reduce in ("argmax", "argmin"):
            return Range(0.0)
        low, high = (0.0 if body.low >= 0 else -INF), (0.0 if body.high <= 0 else INF)
        bounds = Range(low, high, body.below, body.above, body.nan)
        if eq.reduce == "prod":
            return replace(bounds, nonzero=body.without_zero)
        # +inf and -inf in one sum are NaN. Terms of an accumulation may be none at all.
        bounds = replace(bounds, nan=body.nan or (body.below and body.above))
        positive = body.low > 0 or (body.low >= 0 and (body.nonzero or body.exponentials > 0))
        return replace(bounds, nonzero=(positive or body.high < 0) and eq.at is None)

    def _is_met(self, eq: Equation) -> bool:
        """Whether each maximum (minimum) of elements, and -inf (inf) outside of their tensor, is
        that of some element."""
        read = eq.body
        assert isinstance(read, Read)
        worst = Const(-INF if eq.reduce == "max" else INF, read.dtype)
        if read.other is not worst:
            return False
        over = {i.name for i in eq.over}
        used: set[str] = set()
        for place, size in zip(read.index, self.shapes[read.tensor], strict=True):
            form, inner = affine(place), over & index_names(place)
            if not is_affine(place) or used & inner:
                return False
            # One reduced index in two dimensions might be inside of either alone.
            used |= inner
            names = [a.name for a in form.coefficients if isinstance(a, Idx)]
            names.sort(key=lambda name: name in inner)
            places = np.array(form.constant)
            for name in names:
                steps = form.coefficients[Idx(name)] * np.arange(eq.sizes[name])
                places = np.add.outer(places, steps)
            met = (places >= 0) & (places < size)
            axes = tuple(n for n, name in enumerate(names) if name in inner)
            if not met.any(axis=axes).all():
                return False
        return True

    def _of_node(self, node: Expr) -> Range:
        if isinstance(node, Const):
            value = float(node.value)
            if math.isnan(value):
                return UNKNOWN
            return Range(value, value, value == -INF, value == INF, nonzero=value != 0)
        if isinstance(node, Idx):
            return Range(0.0)
        if isinstance(node, Read):
            own = self.found.get(node.tensor, FINITE)
            return own if node.other is None else own.union(self.memo[node.other])
        assert isinstance(node, Apply)
        if not is_float(node.dtype) and node.fn not in ("add", "mul", "max", "abs"):
            return FINITE
        rule = RULES.get(node.fn)
        if node.fn in ("exp", "expm1") and self.is_learnt(node):
            own = self.memo[node.args[0]]
            low, high = max(own.low, -EXP_LIMIT), min(own.high, EXP_LIMIT)
            return RULES[node.fn](replace(own, low=low, high=high))
        if node.fn in ("exp", "expm1") and not self.overflow:
            found = RULES[node.fn](self.memo[node.args[0]])
            return replace(found, above=self.memo[node.args[0]].above)
        if node.fn == "pow" and self.overflow and self.is_variable(node.args[1]):
            # It overflows and underflows as `exp` does.
            found = _power(*(self.memo[a] for a in node.args))
            return replace(found, above=True, nonzero=False)
        if node.fn == "sub" and self.is_at_most(*node.args):
            # A masked score less its row's maximum is -inf, not NaN.
            return Range(-INF, 0.0, below=self.memo[node.args[0]].below)
        if node.fn == "add" and _is_one_at_least(*node.args):
            return replace(_sum(*(self.memo[a] for a in node.args)), low=0.0)
        if node.fn == "mul" and node.args[0] is node.args[1]:
            square = _product(self.memo[node.args[0]], self.memo[node.args[0]])
            return replace(square, low=max(square.low, 0.0), below=False)
        return UNKNOWN if rule is None else rule(*(self.memo[a] for a in node.args))

    def is_learnt(self, expr: Expr) -> bool:
        """Whether it is a function of parameters alone."""
        found = reads(expr)
        return bool(found) and all(read.tensor in self.learnt for read in found)

    def is_variable(self, exponent: Expr) -> bool:
        """Whether values that are computed, and not only indices, can make the exponent large."""
        bounds = self.memo[exponent]
        large = bounds.high > EXP_LIMIT or bounds.low < -EXP_LIMIT
        return large and any(isinstance(node, Read) for node in walk(exponent))

    def is_at_most(self, expr: Expr, bound: Expr) -> bool:
        """Whether the bound is a maximum over all that the expression can be."""
        if expr is bound or (isinstance(expr, Const) and expr.value == -INF):
            return True
        if isinstance(expr, Apply) and expr.fn == "select":
            return all(self.is_at_most(branch, bound) for branch in expr.args[1:])
        if isinstance(bound, Apply) and bound.fn == "stop":
            return self.is_at_most(expr, bound.args[0])
        if isinstance(bound, Apply) and bound.fn == "max":
            return any(self.is_at_most(expr, b) for b in bound.args)
        if not isinstance(bound, Read) or bound.other is not None:
            return False
        eq = self.definition.get(bound.tensor)
        if eq is None or eq.at is not None:
            return False
        places = {i.name: e for i, e in zip(eq.indices, bound.index, strict=True)}
        if eq.reduce == "max":
            return match(eq.body, expr, places) is not None
        # A maximum that is stored under another name, or clamped from below.
        return eq.reduce is None and self.is_at_most(expr, substitute(eq.body, places))


def _is_one_at_least(a: Expr, b: Expr) -> bool:
    """Whether a + b is exp(x - m) + expm1(-m) with m = max(x, 0), as in a softplus: one of the two
    exponentials is 1."""
    match a, b:
        case (
            Apply(fn="exp", args=(Apply(fn="sub", args=(x, m)),)),
            Apply(fn="expm1", args=(Apply(fn="neg", args=(same,)),)),
        ) if m is same:
            greatest = m.args[0] if isinstance(m, Apply) and m.fn == "stop" else m
            zero = Const(0.0, x.dtype)
            return greatest in (call("max", x, zero), call("max", zero, x))
    return False


def _may_be_bound(body: Expr) -> bool:
    """Whether what it reads may be looked up as a bound in its place."""
    return isinstance(body, Read) or (isinstance(body, Apply) and body.fn in ("stop", "max"))


# --- one function ---------------------------------------------------------------------------------


def _times(a: float, b: float) -> float:
    """a * b where 0 times a bound that is not attained is 0."""
    return 0.0 if a == 0 or b == 0 else a * b


def _product(a: Range, b: Range) -> Range:
    ends = [_times(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    low, high = min(ends), max(ends)
    infinite = a.infinite or b.infinite
    return Range(
        low,
        high,
        infinite and low < 0,
        infinite and high > 0,
        a.nan
        or b.nan
        or (a.infinite and not b.without_zero)
        or (b.infinite and not a.without_zero),
        a.without_zero and b.without_zero,
        a.exponentials * (b.low > 0) or b.exponentials * (a.low > 0),
    )


def _reciprocal(a: Range) -> Range:
    if a.low < 0:
        if a.high <= 0:
            return _negative(_reciprocal(_negative(a)))
        pole = not a.nonzero
        return Range(below=pole, above=pole, nan=a.nan, nonzero=not a.infinite)
    pole = not a.without_zero
    high = 1 / a.low if a.low > 0 else INF
    return Range(0.0, high, above=pole, nan=a.nan, nonzero=not a.infinite)


def _sum(a: Range, b: Range) -> Range:
    same_sign = (a.low >= 0 and b.low >= 0) or (a.high <= 0 and b.high <= 0)
    low, exponentials = a.low + b.low, a.exponentials + b.exponentials
    return Range(
        low,
        a.high + b.high,
        a.below or b.below,
        a.above or b.above,
        a.nan or b.nan or (a.above and b.below) or (a.below and b.above),
        (same_sign and (a.without_zero or b.without_zero)) or (low >= 0 and exponentials > 1),
        exponentials,
    )


def _negative(a: Range) -> Range:
    return Range(-a.high, -a.low, a.above, a.below, a.nan, a.nonzero)


def _larger(a: Range, b: Range) -> Range:
    low = max(a.low, b.low)
    return Range(
        low,
        max(a.high, b.high),
        a.below and b.below,
        a.above or b.above,
        a.nan or b.nan,
        low > 0 or (a.without_zero and b.without_zero),
    )


def _smaller(a: Range, b: Range) -> Range:
    return _negative(_larger(_negative(a), _negative(b)))


def _absolute(a: Range) -> Range:
    low = max(a.low, -a.high, 0.0)
    return Range(low, max(-a.low, a.high), above=a.infinite, nan=a.nan, nonzero=a.without_zero)


def _exp(a: Range) -> Range:
    above = a.above or a.high > EXP_LIMIT
    nonzero = not a.below and a.low >= -EXP_LIMIT
    high = INF if above else math.exp(a.high)
    return Range(0.0, high, above=above, nan=a.nan, nonzero=nonzero, exponentials=1)


def _expm1(a: Range) -> Range:
    above = a.above or a.high > EXP_LIMIT
    high = INF if above else math.expm1(a.high)
    return Range(-1.0, high, above=above, nan=a.nan, exponentials=1)


def _log(a: Range) -> Range:
    return Range(
        math.log(a.low) if a.low > 0 else -INF,
        math.log(a.high) if 0 < a.high < INF else INF,
        below=not (a.low >= 0 and a.without_zero),
        above=a.above,
        nan=a.nan or a.low < 0,
    )


def _root(a: Range) -> Range:
    high = INF if a.high == INF else math.sqrt(max(a.high, 0.0))
    low = math.sqrt(max(a.low, 0.0))
    nonzero = a.low >= 0 and a.without_zero
    return Range(low, high, above=a.above, nan=a.nan or a.low < 0, nonzero=nonzero)


def _power(a: Range, b: Range) -> Range:
    positive = a.low >= 0
    # 0 to a negative power is infinite, a negative number to a broken one not a number.
    bounded = a.finite and b.finite and (a.low > 0 or b.low >= 0)
    return Range(
        0.0 if positive else -INF,
        INF,
        below=not (bounded or positive),
        above=not bounded,
        nan=a.nan or b.nan or not positive,
        nonzero=positive and a.without_zero,
    )


def _wave(a: Range) -> Range:
    return Range(-1.0, 1.0, nan=not a.finite)


def _saturating(a: Range) -> Range:
    return Range(-1.0, 1.0, nan=a.nan)


def _rounded(a: Range) -> Range:
    return replace(a, low=a.low - 1, high=a.high + 1, nonzero=False, exponentials=0)


def _of_f16(a: Range) -> Range:
    # Numbers of ordinary size are too large for it, and small ones become 0.
    return Range(
        -INF if a.low < 0 else 0.0,
        INF if a.high > 0 else 0.0,
        a.below or a.low < -F16_LIMIT,
        a.above or a.high > F16_LIMIT,
        a.nan,
        nonzero=max(a.low, -a.high) >= F16_LEAST,
    )


def _modulo(a: Range, b: Range) -> Range:
    return Range(nan=not (a.finite and b.finite and b.without_zero))


def _truth(*args: Range) -> Range:
    return Range(0.0, 1.0)


RULES: Mapping[str, Callable[..., Range]] = {
    "add": _sum,
    "sub": lambda a, b: _sum(a, _negative(b)),
    "mul": _product,
    "div": lambda a, b: _product(a, _reciprocal(b)),
    "neg": _negative,
    "max": _larger,
    "min": _smaller,
    "abs": _absolute,
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": lambda a: _log(_sum(a, Range(1.0, 1.0, nonzero=True))),
    "sqrt": _root,
    "pow": _power,
    "tanh": _saturating,
    "erf": _saturating,
    "erfc": lambda a: Range(0.0, 2.0, nan=a.nan),
    "sigmoid": lambda a: Range(0.0, 1.0, nan=a.nan),
    "sign": _saturating,
    "sin": _wave,
    "cos": _wave,
    "floor": _rounded,
    "ceil": _rounded,
    "round": _rounded,
    "floordiv": lambda a, b: _rounded(_product(a, _reciprocal(b))),
    "mod": _modulo,
    "select": lambda c, a, b: a.union(b),
    "f32": lambda a: a,
    "f64": lambda a: a,
    "f16": _of_f16,
    "bf16": lambda a: a,
    "stop": lambda a: a,
    "after": lambda a, b: a,
    "random": lambda *args: Range(0.0, 1 - UNIFORM_SCALE),
}
