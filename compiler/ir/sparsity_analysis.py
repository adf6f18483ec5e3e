"""Sparsity analysis: where are values 0 because the program masks them?

The result for a tensor is a set of regions of its index space: where it is certainly 0, where it is
certainly -inf, and where it may be 0, -inf or not finite. They follow from its equation and from
the regions of what it reads (a forward dataflow analysis). A causal mask makes `e` and `y` 0 where
s > t:

    score[t, s] = if s > t then -inf else q[t, s]
    e[t, s]     = exp(score[t, s] - m[t])            m[t] = max(s) score[t, s]
    y[t, s]     = e[t, s] / n[t]                     n[t] = sum(s) e[t, s]

provided m is not -inf and n is not 0: the analysis proves that every row has an element that is not
masked. Values that are infinite for another reason, such as an overflow, are left out of account:
as everywhere in the compiler, 0 times anything is 0.

A region is a union of half-spaces `form >= 0`, form an integer expression: s > t is `s - t - 1`.
Regions of certain properties are never too large, those of possible ones never too small.
Tests: tests/passes/test_skip_masked_terms.py.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite, isnan

from .affine import Affine, affine, bounds, is_integer_order, positive_form
from .build import call, literal, substitute
from .dtypes import is_float
from .equation import Equation, Index, System
from .expr import Apply, Const, Expr, Idx, Read, index_names, reads, walk
from .terms import is_zero

Region = frozenset[Expr]
NOWHERE: Region = frozenset()
# The half-space `0 >= 0` is the whole space; the empty union is the empty set.
EVERYWHERE: Region = frozenset({literal(0)})


@dataclass(frozen=True)
class Sparsity:
    """Where a value is certainly 0 and certainly -inf, and where a mask may make it 0, -inf, or
    another value that is not finite."""

    zero: Region = NOWHERE
    minus_inf: Region = NOWHERE
    maybe_zero: Region = NOWHERE
    maybe_minus_inf: Region = NOWHERE
    maybe_nonfinite: Region = NOWHERE

    @property
    def is_finite(self) -> bool:
        return not self.maybe_minus_inf and not self.maybe_nonfinite

    @property
    def regions(self) -> tuple[Region, ...]:
        return (
            self.zero,
            self.minus_inf,
            self.maybe_zero,
            self.maybe_minus_inf,
            self.maybe_nonfinite,
        )

    def at(self, places: Mapping[str, Expr]) -> Sparsity:
        """The same where each index has the value of an expression."""
        # Most tensors have no masks; nothing is substituted then.
        if not any(self.regions):
            return self
        return Sparsity(
            *(
                frozenset(_form(affine(substitute(e, places))) for e in region)
                for region in self.regions
            )
        )


OfRead = Callable[[Read], Sparsity]
DENSE = Sparsity()  # finite, and 0 only by chance
UNKNOWN = Sparsity(maybe_zero=EVERYWHERE, maybe_minus_inf=EVERYWHERE, maybe_nonfinite=EVERYWHERE)


def vanishes(expr: Expr, zero: Callable[[Expr], bool]) -> bool:
    """Whether the expression is 0 wherever the subexpressions for which `zero` holds are."""
    if zero(expr) or is_zero(expr):
        return True
    if not isinstance(expr, Apply):
        return False
    match expr.fn:
        case "mul" | "bf16_dot" | "int8_dot":
            # 0 times anything is 0, but 0 + x is not: `any` for products, `all` for sums.
            return any(vanishes(a, zero) for a in expr.args)
        case "div" | "neg" | "f16" | "bf16":
            return vanishes(expr.args[0], zero)
        case "add" | "sub":
            return all(vanishes(a, zero) for a in expr.args)
        case "select":
            return all(vanishes(a, zero) for a in expr.args[1:])
    return False


def required_conditions(expr: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Conditions without which the expression is 0, each with the expression where it holds."""
    if isinstance(expr, Apply) and expr.fn == "select" and is_zero(expr.args[2]):
        condition, value, zero = expr.args
        yield condition, value
        # Conditions nest: if a then (if b then v else 0) else 0 yields a, then b with a kept.
        for inner, rest in required_conditions(value):
            yield inner, call("select", condition, rest, zero)


class SystemSparsity(dict[str, Sparsity]):
    """The sparsity of each tensor that has an equation, over the equation's indices."""

    def __init__(self, system: System):
        super().__init__()
        self._definition = system.definition
        # By the form of an equation and what is known of the tensors that it reads: that of its
        # body, and that of its target.
        self._known: dict[Hashable, tuple[Sparsity, Sparsity]] = {}
        # In dependence order, so sources are known; a recurrence reads temps not found yet.
        for eq in system.equations:
            self[eq.target] = self._of(eq)[1]

    def of_body(self, eq: Equation) -> Sparsity:
        """The sparsity of the equation's body over its whole domain."""
        return self._of(eq)[0]

    def _of(self, eq: Equation) -> tuple[Sparsity, Sparsity]:
        form, (_, *names) = eq.form
        key = form, tuple(map(self._of_tensor, names))
        found = self._known.get(key)
        if found is None:
            body = sparsity_of(eq.body, eq.sizes, self._of_element)
            found = body, _of_target(eq, body)
            # Conditions on data would have to be those of the other equation's data.
            if not any(reads(form) for region in body.regions for form in region):
                self._known[key] = found
        return found

    def _of_tensor(self, name: str) -> tuple[Sparsity, tuple[Index, ...]]:
        """The sparsity of a tensor, over these indices."""
        equation = self._definition.get(name)
        if equation is None:
            # An input, param or state holds any numbers; that one is 0 is by chance, not by a mask.
            return DENSE, ()
        if name not in self or equation.at is not None:
            # A recurrence, or an accumulation.
            return UNKNOWN, ()
        return self[name], equation.indices

    def _of_element(self, read: Read) -> Sparsity:
        own, indices = self._of_tensor(read.tensor)
        if own is DENSE or own is UNKNOWN:
            return own
        # From the source's indices to those of the read: y[t, s + 1] shifts each half-space.
        return own.at(dict(zip((i.name for i in indices), read.index, strict=True)))


def sparsity_of_target(eq: Equation, of_read: OfRead) -> Sparsity:
    """The sparsity of what an equation computes, over its indices."""
    return _of_target(eq, sparsity_of(eq.body, eq.sizes, of_read))


def _of_target(eq: Equation, body: Sparsity) -> Sparsity:
    """The sparsity of what an equation computes, from that of its body."""
    # What is added where depends on data.
    if eq.at is not None:
        return UNKNOWN
    if eq.reduce is None or (body is DENSE and all(i.size for i in eq.over)):
        return body
    over = {i.name for i in eq.over}
    # A row is certainly 0 if all of its terms are: a half-space that does not depend on the summed
    # index holds for the whole row.
    zero = frozenset(e for e in body.zero if over.isdisjoint(index_names(e)))
    match eq.reduce:
        case "sum":
            # One infinite term makes a sum infinite or NaN, so finiteness does not go by rows.
            nonfinite = NOWHERE if body.is_finite else EVERYWHERE
            maybe_zero = _whole_rows(body.maybe_zero, eq)
            return Sparsity(zero, maybe_zero=maybe_zero, maybe_nonfinite=nonfinite)
        case "max":
            return Sparsity(
                zero,
                maybe_zero=EVERYWHERE if body.maybe_zero else NOWHERE,
                maybe_minus_inf=_whole_rows(body.maybe_minus_inf, eq),
                maybe_nonfinite=EVERYWHERE if body.maybe_nonfinite else NOWHERE,
            )
    # argmax, min, prod: masks are not followed through these.
    return DENSE if body == DENSE else UNKNOWN


def sparsity_of(expr: Expr, sizes: Mapping[str, int], of_read: OfRead) -> Sparsity:
    """The sparsity of an expression over the ranges of its indices; `of_read` gives that of the
    elements that a read finds inside its tensor."""
    # Bottom-up; shared nodes are analysed once.
    known: dict[Expr, Sparsity] = {}
    for node in walk(expr):
        known[node] = _of_node(node, known, sizes, of_read)
    return known[expr]


def _form(form: Affine) -> Expr:
    """The form as an expression, its terms in canonical order: equal forms are the same object."""
    terms = sorted(form.coefficients.items(), key=lambda term: str(term[0]))
    return Affine(dict(terms), form.constant).expr()


# --- rows that are not masked as a whole ---------------------------------------------------------


def _whole_rows(region: Region, eq: Equation) -> Region:
    """Where all terms of a reduction may be in the region: nowhere, if each row certainly has one
    that is not."""
    return NOWHERE if any(_leaves_some(region, i, eq) for i in eq.over) else EVERYWHERE


def _leaves_some(region: Region, index: Index, eq: Equation) -> bool:
    """Whether for all values of the other indices there is one of this index outside the region.
    Each form bounds the values outside from above or from below; every lower bound must be at most
    every upper bound."""
    lower, upper = [Affine({}, 0)], [Affine({}, index.size - 1)]
    for form in map(affine, region):
        # The form is factor * i + rest; outside of the region it is negative.
        factor = form.coefficients.get(Idx(index.name), 0)
        rest = form.without(Idx(index.name))
        if factor == 1:
            # i + rest < 0: i <= -rest - 1
            upper.append(rest.scaled(-1) + Affine({}, -1))
        elif factor == -1:
            # -i + rest < 0: i >= rest + 1
            lower.append(rest + Affine({}, 1))
        elif factor or bounds(rest.expr(), eq.sizes)[1] >= 0:
            # A coefficient other than ±1, or a form without i that may be >= 0 for a whole row.
            return False
    return all(bounds((u - low).expr(), eq.sizes)[0] >= 0 for u in upper for low in lower)


# --- one node ------------------------------------------------------------------------------------


def _of_node(
    node: Expr,
    known: Mapping[Expr, Sparsity],
    sizes: Mapping[str, int],
    of_read: OfRead,
) -> Sparsity:
    if isinstance(node, Const):
        return _of_constant(node.value)
    # Integers are finite; they matter as divisors and factors that may be 0.
    if not is_float(node.dtype):
        low, high = bounds(node, sizes) if node.dtype != "bool" else (0, 1)
        return DENSE if low > 0 or high < 0 else Sparsity(maybe_zero=EVERYWHERE)
    if isinstance(node, Read):
        return _inside_or(node, of_read(node), known)
    assert isinstance(node, Apply)
    return _of_apply(node, [known[a] for a in node.args])


def _of_constant(value: float) -> Sparsity:
    if value == 0:
        return Sparsity(zero=EVERYWHERE, maybe_zero=EVERYWHERE)
    if isnan(value) or value == float("inf"):
        return Sparsity(maybe_nonfinite=EVERYWHERE)
    return DENSE if isfinite(value) else Sparsity(minus_inf=EVERYWHERE, maybe_minus_inf=EVERYWHERE)


def _inside_or(read: Read, own: Sparsity, known: Mapping[Expr, Sparsity]) -> Sparsity:
    """The sparsity of a read whose elements have `own` inside the tensor."""
    if read.other is None:
        return own
    other = known[read.other]
    # Inside or outside the tensor is not distinguished: both values must have the property.
    return Sparsity(
        _intersection(own.zero, other.zero),
        _intersection(own.minus_inf, other.minus_inf),
        own.maybe_zero | other.maybe_zero,
        own.maybe_minus_inf | other.maybe_minus_inf,
        own.maybe_nonfinite | other.maybe_nonfinite,
    )


def _of_apply(node: Apply, parts: list[Sparsity]) -> Sparsity:
    # Most values have no mask anywhere, and only a condition begins one.
    if node.fn != "select" and all(part is DENSE for part in parts):
        return DENSE
    a, b = parts[0], parts[-1]
    every = Sparsity(
        maybe_zero=_union(p.maybe_zero for p in parts),
        maybe_minus_inf=_union(p.maybe_minus_inf for p in parts),
        maybe_nonfinite=_union(p.maybe_nonfinite for p in parts),
    )
    nonfinite = every.maybe_nonfinite | every.maybe_minus_inf
    match node.fn:
        case "select":
            return _of_select(node.args[0], parts[1], parts[2])
        # Scaling by a positive constant keeps 0, -inf and everything else.
        case "mul" | "div" if _is_positive(node.args[1]):
            return a
        case "mul" if _is_positive(node.args[0]):
            return b
        case "mul":
            # 0 * inf is NaN: a factor's zeros count only if the other factor is finite.
            zero = (a.zero if b.is_finite else NOWHERE) | (b.zero if a.is_finite else NOWHERE)
            return Sparsity(zero, maybe_zero=every.maybe_zero, maybe_nonfinite=nonfinite)
        case "div":
            # 0 / 0 is NaN, so the divisor must not be 0.
            zero = a.zero if b.is_finite and not b.maybe_zero else NOWHERE
            return Sparsity(zero, maybe_zero=a.maybe_zero, maybe_nonfinite=nonfinite | b.maybe_zero)
        case "add":
            return Sparsity(
                _intersection(a.zero, b.zero),
                # -inf plus anything but +inf or NaN is -inf.
                _union(x.minus_inf for x, y in ((a, b), (b, a)) if not y.maybe_nonfinite),
                # Masked to 0 where both are; by chance elsewhere, which is not counted.
                _enclosing(a.maybe_zero, b.maybe_zero),
                every.maybe_minus_inf,
                every.maybe_nonfinite,
            )
        case "sub":
            return Sparsity(
                _intersection(a.zero, b.zero),
                # -inf - (-inf) is NaN: b must be finite. And -(-inf) is +inf, which counts as
                # nonfinite.
                a.minus_inf if b.is_finite else NOWHERE,
                _enclosing(a.maybe_zero, b.maybe_zero),
                a.maybe_minus_inf,
                every.maybe_nonfinite | b.maybe_minus_inf,
            )
        case "max":
            # max(x, c) with c > 0 is never 0: the clamped divisor of a norm.
            zeros = NOWHERE if any(map(_is_positive, node.args)) else every.maybe_zero
            return Sparsity(
                _intersection(a.zero, b.zero),
                _intersection(a.minus_inf, b.minus_inf),
                zeros,
                _enclosing(a.maybe_minus_inf, b.maybe_minus_inf),
                every.maybe_nonfinite,
            )
        case "exp":
            # exp(-inf) = 0: this is how a mask of scores becomes zeros of weights.
            return Sparsity(
                a.minus_inf, maybe_zero=a.maybe_minus_inf, maybe_nonfinite=a.maybe_nonfinite
            )
        case "f32" | "f64" | "bf16" | "stop" | "after":
            return a if is_float(node.args[0].dtype) else Sparsity(a.zero, maybe_zero=a.maybe_zero)
        case "f16":  # what is small becomes 0, what is large infinite
            return Sparsity(a.zero, maybe_zero=EVERYWHERE, maybe_nonfinite=EVERYWHERE)
        case "neg" | "abs" | "sqrt" | "tanh" | "erf":
            # f(0) = 0 for each of these; -inf may become +inf or NaN.
            return Sparsity(a.zero, maybe_zero=a.maybe_zero, maybe_nonfinite=nonfinite)
        case "random":
            return DENSE
    # Nothing certain is kept. Any function: 0 may give infinity (log), or infinity 0.
    return replace(
        every,
        maybe_zero=every.maybe_zero | nonfinite,
        maybe_minus_inf=NOWHERE,
        maybe_nonfinite=nonfinite | every.maybe_zero,
    )


def _is_positive(expr: Expr) -> bool:
    return isinstance(expr, Const) and isfinite(expr.value) and expr.value > 0


def _union(regions: Iterable[Region]) -> Region:
    return NOWHERE.union(*regions)


def _intersection(a: Region, b: Region) -> Region:
    """The intersection of two regions, as far as it is certain."""
    return b if a == EVERYWHERE else a if b == EVERYWHERE else a & b


def _enclosing(a: Region, b: Region) -> Region:
    """A region that holds the intersection of two: the smaller of them."""
    # Unions of half-spaces have no exact intersection here; either of the two encloses it.
    return a if not a or b >= EVERYWHERE else b


# --- conditions ----------------------------------------------------------------------------------


def _of_select(condition: Expr, yes: Sparsity, no: Sparsity) -> Sparsity:
    # Each a pair: where the condition certainly has the truth value, where it may have it.
    true, false = (_truth(condition, truth) for truth in (True, False))

    def certain(a: Region, b: Region) -> Region:
        """Where each branch has the property or is not selected."""
        return _intersection(_simplified(false[0] | a), _simplified(true[0] | b))

    def possible(a: Region, b: Region) -> Region:
        return _enclosing(true[1], a) | _enclosing(false[1], b)

    return Sparsity(
        certain(yes.zero, no.zero),
        certain(yes.minus_inf, no.minus_inf),
        possible(yes.maybe_zero, no.maybe_zero),
        possible(yes.maybe_minus_inf, no.maybe_minus_inf),
        possible(yes.maybe_nonfinite, no.maybe_nonfinite),
    )


def _simplified(region: Region) -> Region:
    return EVERYWHERE if region >= EVERYWHERE else region


def _truth(condition: Expr, truth: bool) -> tuple[Region, Region]:
    """Where the condition certainly has this truth value, and where it may have it."""
    if isinstance(condition, Const):
        return (EVERYWHERE, EVERYWHERE) if bool(condition.value) == truth else (NOWHERE, NOWHERE)
    if not isinstance(condition, Apply):
        return NOWHERE, EVERYWHERE
    args = condition.args
    if condition.fn == "not":
        return _truth(args[0], not truth)
    if condition.fn in ("and", "or"):
        (a, may_a), (b, may_b) = (_truth(x, truth) for x in args)
        # De Morgan: `or` is true, and `and` false, where either part is: a union.
        if (condition.fn == "or") == truth:
            return _simplified(a | b), _simplified(may_a | may_b)
        return _intersection(a, b), _enclosing(may_a, may_b)
    if is_integer_order(condition):
        # A positive integer form is >= 1, so `form - 1 >= 0`.
        region = frozenset({_form(positive_form(condition, truth) + Affine({}, -1))})
        return region, region
    if condition.fn in ("eq", "ne") and args[0].dtype == "i32":
        # a == b is two inequalities at once, no union of half-spaces: a >= b encloses it. a != b
        # is: a - b - 1 >= 0 or b - a - 1 >= 0.
        above = affine(args[0]) - affine(args[1])
        if (condition.fn == "eq") == truth:
            return NOWHERE, frozenset({_form(above)})
        region = frozenset(_form(above.scaled(sign) + Affine({}, -1)) for sign in (1, -1))
        return region, region
    return NOWHERE, EVERYWHERE
