"""Nought: where tensors are 0 because a mask in the program says so.

In: a system. Out: for every tensor, conditions on its indices that follow from its equation and
from those of what it reads. A causal mask makes `e` and `y` 0 where s > t:

    score[t, s] = if s > t then -inf else q[t, s]
    e[t, s]     = exp(score[t, s] - m[t])            m[t] = max(s) score[t, s]
    y[t, s]     = e[t, s] / n[t]                     n[t] = sum(s) e[t, s]

if m is not -inf and n is not 0, which masks can bring about, too: those must leave something of
every row. Numbers that are not finite for another reason, such as an overflow, are not thought of:
as everywhere in the compiler, 0 times anything is 0.

A place is given by integer forms, in which the condition is that one of them is 0 or more: s > t is
`s - t - 1`. What is said to be so somewhere is so there; what is said to be possible nowhere else
is possible nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite, isnan

from .affine import Affine, affine, bounds, is_integer_order, positive_form
from .build import literal, substitute
from .dtypes import is_float
from .equation import Equation, Index, System
from .expr import Apply, Const, Expr, Idx, Read, index_names, walk

Places = frozenset[Expr]
NOWHERE: Places = frozenset()
EVERYWHERE: Places = frozenset({literal(0)})


@dataclass(frozen=True)
class Known:
    """Of a value: where it is certainly `zero` and certainly -inf (`low`); and where a mask may
    make it 0 (`zeros`), -inf (`lows`), and infinite otherwise or no number (`wild`)."""

    zero: Places = NOWHERE
    low: Places = NOWHERE
    zeros: Places = NOWHERE
    lows: Places = NOWHERE
    wild: Places = NOWHERE

    @property
    def is_finite(self) -> bool:
        return not self.lows and not self.wild

    def at(self, places: Mapping[str, Expr]) -> Known:
        """The same of what these indices stand for."""
        every = (self.zero, self.low, self.zeros, self.lows, self.wild)
        if not any(every):
            return self
        return Known(
            *(frozenset(_form(affine(substitute(e, places))) for e in some) for some in every)
        )


NUMBER = Known()  # of no mask
ANYTHING = Known(zeros=EVERYWHERE, lows=EVERYWHERE, wild=EVERYWHERE)


def nought(system: System) -> dict[str, Known]:
    """What is known of each tensor that has an equation, over its equation's indices."""
    found: dict[str, Known] = {}
    for eq in system.equations:
        found[eq.target] = of_equation(eq, system, found)
    return found


def of_equation(eq: Equation, system: System, found: Mapping[str, Known]) -> Known:
    """What is known of the equation's target. A tensor that is not yet found is one of a
    recurrence, and can be anything."""
    if eq.at is not None:
        return ANYTHING
    terms = of_terms(eq, system, found)
    if eq.reduce is None:
        return terms
    over = {i.name for i in eq.over}
    zero = frozenset(e for e in terms.zero if over.isdisjoint(index_names(e)))
    finite = NOWHERE if terms.is_finite else EVERYWHERE
    match eq.reduce:
        case "sum":
            return Known(zero, zeros=_of_all(terms.zeros, eq), wild=finite)
        case "max":
            return Known(
                zero,
                zeros=EVERYWHERE if terms.zeros else NOWHERE,
                lows=_of_all(terms.lows, eq),
                wild=EVERYWHERE if terms.wild else NOWHERE,
            )
    return NUMBER if terms == NUMBER else ANYTHING


def of_terms(eq: Equation, system: System, found: Mapping[str, Known]) -> Known:
    """What is known of the equation's body."""
    known: dict[Expr, Known] = {}
    for node in walk(eq.body):
        known[node] = _node(node, known, eq, system, found)
    return known[eq.body]


def _form(form: Affine) -> Expr:
    """The form with its terms in one order, so that equal ones are the same."""
    terms = sorted(form.coefficients.items(), key=lambda term: str(term[0]))
    return Affine(dict(terms), form.constant).expr()


# --- rows of which something is left -------------------------------------------------------------


def _of_all(places: Places, eq: Equation) -> Places:
    """Where all terms may be so: nowhere, if each row certainly has one that is not."""
    return NOWHERE if any(_leaves_some(places, i, eq) for i in eq.over) else EVERYWHERE


def _leaves_some(places: Places, index: Index, eq: Equation) -> bool:
    """Whether for all values of the others there is one of the index outside all places: these say
    from where up and from where down an element is inside them, and there is room between."""
    lower, upper = [Affine({}, 0)], [Affine({}, index.size - 1)]
    for form in map(affine, places):
        factor = form.coefficients.get(Idx(index.name), 0)
        rest = form.without(Idx(index.name))
        if factor == 1:
            upper.append(rest.scaled(-1) + Affine({}, -1))
        elif factor == -1:
            lower.append(rest + Affine({}, 1))
        elif factor or bounds(rest.expr(), eq.sizes)[1] >= 0:
            return False
    return all(
        bounds((u + low.scaled(-1)).expr(), eq.sizes)[0] >= 0 for u in upper for low in lower
    )


# --- one node ------------------------------------------------------------------------------------


def _node(
    node: Expr,
    known: Mapping[Expr, Known],
    eq: Equation,
    system: System,
    found: Mapping[str, Known],
) -> Known:
    if isinstance(node, Const):
        return _constant(node.value)
    if not is_float(node.dtype):
        low, high = bounds(node, eq.sizes) if node.dtype != "bool" else (0, 1)
        return NUMBER if low > 0 or high < 0 else Known(zeros=EVERYWHERE)
    if isinstance(node, Read):
        return _read(node, known, system, found)
    assert isinstance(node, Apply)
    return _apply(node, [known[a] for a in node.args])


def _constant(value: float) -> Known:
    if value == 0:
        return Known(zero=EVERYWHERE, zeros=EVERYWHERE)
    if isnan(value) or value == float("inf"):
        return Known(wild=EVERYWHERE)
    return NUMBER if isfinite(value) else Known(low=EVERYWHERE, lows=EVERYWHERE)


def _read(
    read: Read, known: Mapping[Expr, Known], system: System, found: Mapping[str, Known]
) -> Known:
    maker = system.definition.get(read.tensor)
    if maker is None:
        own = NUMBER
    elif read.tensor in found and maker.at is None:
        names = (i.name for i in maker.indices)
        own = found[read.tensor].at(dict(zip(names, read.index, strict=True)))
    else:
        own = ANYTHING
    if read.other is None:
        return own
    other = known[read.other]  # outside
    return Known(
        _both(own.zero, other.zero),
        _both(own.low, other.low),
        own.zeros | other.zeros,
        own.lows | other.lows,
        own.wild | other.wild,
    )


def _apply(node: Apply, parts: list[Known]) -> Known:
    a, b = parts[0], parts[-1]
    every = Known(
        zeros=_any(p.zeros for p in parts),
        lows=_any(p.lows for p in parts),
        wild=_any(p.wild for p in parts),
    )
    wild = every.wild | every.lows
    match node.fn:
        case "select":
            return _select(node.args[0], parts[1], parts[2])
        case "mul" | "div" if _is_positive(node.args[1]):
            return a
        case "mul" if _is_positive(node.args[0]):
            return b
        case "mul":
            zero = (a.zero if b.is_finite else NOWHERE) | (b.zero if a.is_finite else NOWHERE)
            return Known(zero, zeros=every.zeros, wild=wild)
        case "div":
            zero = a.zero if b.is_finite and not b.zeros else NOWHERE
            return Known(zero, zeros=a.zeros, wild=wild | b.zeros)
        case "add":
            return Known(
                _both(a.zero, b.zero),
                _any(x.low for x, y in ((a, b), (b, a)) if not y.wild),
                _where_both(a.zeros, b.zeros),
                every.lows,
                every.wild,
            )
        case "sub":
            return Known(
                _both(a.zero, b.zero),
                a.low if b.is_finite else NOWHERE,
                _where_both(a.zeros, b.zeros),
                a.lows,
                every.wild | b.lows,
            )
        case "max":
            zeros = NOWHERE if any(map(_is_positive, node.args)) else every.zeros
            return Known(
                _both(a.zero, b.zero),
                _both(a.low, b.low),
                zeros,
                _where_both(a.lows, b.lows),
                every.wild,
            )
        case "exp":
            return Known(a.low, zeros=a.lows, wild=a.wild)
        case "f32" | "f64" | "bf16" | "stop" | "after":
            return a if is_float(node.args[0].dtype) else Known(a.zero, zeros=a.zeros)
        case "neg" | "abs" | "sqrt" | "tanh" | "erf":
            return Known(a.zero, zeros=a.zeros, wild=wild)
        case "random":
            return NUMBER
    return replace(every, zeros=every.zeros | wild, lows=NOWHERE, wild=wild | every.zeros)


def _is_positive(expr: Expr) -> bool:
    return isinstance(expr, Const) and isfinite(expr.value) and expr.value > 0


def _any(places: Iterable[Places]) -> Places:
    return NOWHERE.union(*places)


def _both(a: Places, b: Places) -> Places:
    """Where certainly both are so."""
    return b if a == EVERYWHERE else a if b == EVERYWHERE else a & b


def _where_both(a: Places, b: Places) -> Places:
    """Where both may be so: where one may, whichever says more."""
    return a if not a or b >= EVERYWHERE else b


# --- conditions ----------------------------------------------------------------------------------


def _select(condition: Expr, yes: Known, no: Known) -> Known:
    true, false = (_truth(condition, truth) for truth in (True, False))

    def certain(a: Places, b: Places) -> Places:
        """Not where the other is chosen, or there that one is so, too."""
        return _both(_all_of(false[0] | a), _all_of(true[0] | b))

    def possible(a: Places, b: Places) -> Places:
        return _where_both(true[1], a) | _where_both(false[1], b)

    return Known(
        certain(yes.zero, no.zero),
        certain(yes.low, no.low),
        possible(yes.zeros, no.zeros),
        possible(yes.lows, no.lows),
        possible(yes.wild, no.wild),
    )


def _all_of(places: Places) -> Places:
    return EVERYWHERE if places >= EVERYWHERE else places


def _truth(condition: Expr, truth: bool) -> tuple[Places, Places]:
    """Where the condition certainly has this truth, and where it may have it."""
    if isinstance(condition, Const):
        return (EVERYWHERE, EVERYWHERE) if bool(condition.value) == truth else (NOWHERE, NOWHERE)
    if not isinstance(condition, Apply):
        return NOWHERE, EVERYWHERE
    args = condition.args
    if condition.fn == "not":
        return _truth(args[0], not truth)
    if condition.fn in ("and", "or"):
        (a, may_a), (b, may_b) = (_truth(x, truth) for x in args)
        if (condition.fn == "or") == truth:
            return _all_of(a | b), _all_of(may_a | may_b)
        return _both(a, b), _where_both(may_a, may_b)
    if is_integer_order(condition):
        places = frozenset({_form(positive_form(condition, truth) + Affine({}, -1))})
        return places, places
    if condition.fn in ("eq", "ne") and args[0].dtype == "i32":
        above = affine(args[0]) - affine(args[1])
        if (condition.fn == "eq") == truth:
            return NOWHERE, frozenset({_form(above)})
        places = frozenset(_form(above.scaled(sign) + Affine({}, -1)) for sign in (1, -1))
        return places, places
    return NOWHERE, EVERYWHERE
