"""Integer checks: a run says whether every index was inside and every integer had a result.

    y[b] = table[p[b]]   →   check[] = max(b) if p[b] < 0 or p[b] >= 4 then 1 else 0
                             y[b] = table[p[b]]
    s[b] = sum(i) k[b, i]   →   s_wide[b] = sum(i) i64(k[b, i]);   s[b] = i32(s_wide[b])
                                check[] = max(b) if s_wide[b] < -2^31 or … then 1 else 0

Backends read NaN or 0 outside, let sums wrap and give 0 where there is no result, so that every
operation has a value; none of these is one that a user means. What interval analysis proves
(`ir/integer_ranges.py`) needs no check, which is nearly everything: indices, positions of maxima,
labels and tokens of the data, which are looked at once. Of a float that is clamped to 8 bits only
NaN is looked for, unless it comes of no input but numbers of 8 bits (`ir/value_ranges.py`). A
branch that is not taken is not checked, nor are gradients, whose indices are those of the forward
pass. `reference/integer_trace.py` finds the place when a check has failed.
Tests: tests/passes/test_integer_checks.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

from ...ir.affine import is_static
from ...ir.build import call, cast, literal
from ...ir.dtypes import INTEGERS, SMALL, fits, is_float
from ...ir.equation import CHECK, Equation, Index, System, Tensor
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, walk
from ...ir.integer_ranges import expression_range, integer_ranges, result_range
from ...ir.terms import is_zero
from ...ir.value_ranges import UNKNOWN, Ranges

WIDE = "!wide"  # behind the name of a sum: the same in 64 bits

TRUE = literal(True)


@dataclass(frozen=True)
class Obligation:
    """Something that must not happen: `wrong` at a point of `domain`.

    `node` is the operation of `eq`, or the read or accumulation whose `index` must be below `size`.
    Of a reduction it is the body, and `wider` the equation whose results `wrong` is about."""

    eq: Equation
    domain: tuple[Index, ...]
    node: Expr
    wrong: Expr
    index: Expr | None = None
    size: int = 0
    wider: Equation | None = None


def integer_checks(system: System) -> System:
    """The system with `CHECK` among its outputs, if anything in it has to be checked."""
    found = [] if system.index_inputs is None else obligations(system)
    if not found or CHECK in system.tensors:
        return system
    tensors = dict(system.tensors)
    equations: dict[str, tuple[Equation, ...]] = {eq.target: (eq,) for eq in system.equations}
    # One flag for all that an equation must not do.
    flags: dict[tuple[str, tuple[Index, ...]], Expr] = {}
    for each in found:
        if each.wider is not None:
            wide, (own,) = each.wider, equations[each.eq.target]
            tensors[wide.target] = replace(
                tensors[own.target], name=wide.target, dtype=wide.dtype, span=None
            )
            if wide.dtype == "i64":  # it is added up once
                place = tuple(Idx(i.name) for i in each.domain)
                result = cast(Read(wide.target, place, None, "i64"), own.dtype)
                own = Equation(own.target, each.domain, result, span=own.span)
            equations[own.target] = (wide, own)
        key = (each.eq.target, each.domain)
        flags[key] = call("or", flags.get(key, literal(False)), each.wrong)
    last: list[Equation] = []
    total: Expr | None = None
    for number, ((target, domain), wrong) in enumerate(flags.items()):
        name = f"{CHECK}{number}"
        over = tuple(i for i in domain if i.name in index_names(wrong))
        flag = call("select", wrong, literal(1), literal(0))
        span = system.definition[target].span
        last.append(Equation(name, (), flag, "max" if over else None, over, span=span))
        one = Read(name, (), None, "i32")
        total = one if total is None else call("max", total, one)
    assert total is not None
    last.append(Equation(CHECK, (), total))
    tensors |= {eq.target: Tensor(eq.target, (), "i32") for eq in last}
    return system.replace(
        tensors=tensors,
        equations=(*(eq for part in equations.values() for eq in part), *last),
        outputs=(*system.outputs, CHECK),
    )


# --- what must not happen -------------------------------------------------------------------------


class _Ranges:
    """What is known of the numbers of a system."""

    def __init__(self, system: System):
        self.system, self.integers = system, integer_ranges(system)

    def integer(self, expr: Expr, sizes: Mapping[str, int]) -> tuple[int, int]:
        return expression_range(expr, sizes, self.integers)

    @cached_property
    def floats(self) -> Ranges:
        """Of floats, where inputs may be anything; few systems convert any."""
        return Ranges(self.system, given=UNKNOWN)


def obligations(system: System) -> list[Obligation]:
    """All that is not proven, in the order of the equations."""
    known = _Ranges(system)
    found: list[Obligation] = []
    plain: dict[Hashable, bool] = {}  # by form
    for eq in system.equations:
        if eq.target in system.backward:
            continue
        form = eq.form[0]
        if form not in plain:
            plain[form] = _is_plain(eq)
        if not plain[form]:
            found += _of_equation(eq, system, known)
    return found


def _is_plain(eq: Equation) -> bool:
    """Whether it computes no integers and has no index from data, as most equations."""
    if eq.at is not None or not is_float(eq.dtype):
        return False
    return not any(
        (isinstance(node, Read) and not all(map(is_static, node.index)))
        or (isinstance(node, Apply) and node.dtype in INTEGERS and node.dtype != "bool")
        for node in walk(eq.body)
    )


def _of_equation(eq: Equation, system: System, known: _Ranges) -> Iterator[Obligation]:
    roots = [*(eq.at or ()), eq.body]
    nodes = list(dict.fromkeys(n for root in roots for n in walk(root)))
    wrongs = [(n, w) for n in nodes for w in _wrong(n, eq.sizes, system, known)]
    if wrongs:
        reached = _reached(roots, nodes, system)
        for node, (wrong, index, size) in wrongs:
            if node in reached:
                condition = call("and", reached[node], wrong)
                yield Obligation(eq, eq.domain, node, condition, index, size)
    # The place of an accumulation that the program writes; an adjoint's is that of its gather.
    for place, size in zip(eq.at or (), system.tensors[eq.target].shape, strict=eq.at is not None):
        outside = _outside(place, size, eq.sizes, known)
        if outside is not None:
            yield Obligation(eq, eq.domain, place, outside, place, size)
    if eq.reduce in ("sum", "prod") and not is_float(eq.dtype):
        low, high = result_range(eq, known.integers)
        if not fits(low, eq.dtype) or not fits(high, eq.dtype):
            yield _of_reduction(eq, system)


def _of_reduction(eq: Equation, system: System) -> Obligation:
    """A sum is added up in 64 bits; what is larger, and a product, in f64 besides."""
    dtype = "i64" if eq.reduce == "sum" and eq.dtype == "i32" else "f64"
    wide = replace(eq, target=eq.target + WIDE, body=cast(eq.body, dtype))
    axes = tuple(Index(f"i{n}", s) for n, s in enumerate(system.tensors[eq.target].shape))
    domain = eq.indices if eq.at is None else axes
    wide_read = Read(wide.target, tuple(Idx(i.name) for i in domain), None, dtype)
    return Obligation(eq, domain, eq.body, _beyond(wide_read, eq.dtype), wider=wide)


def _reached(roots: list[Expr], nodes: list[Expr], system: System) -> dict[Expr, Expr]:
    """Every node with the condition under which its value counts."""
    reached: dict[Expr, Expr] = dict.fromkeys(roots, TRUE)
    # A node comes after its operands, so that backwards all of its readers come first.
    for node in reversed(nodes):
        here = reached.get(node)
        if here is None:
            continue
        for child, condition in _branches(node, system):
            both = call("and", here, condition)
            reached[child] = call("or", reached[child], both) if child in reached else both
    return reached


def _branches(node: Expr, system: System) -> Iterator[tuple[Expr, Expr]]:
    """The operands, each with the condition under which the node takes its value."""
    if isinstance(node, Apply) and node.fn == "select":
        condition, yes, no = node.args
        yield condition, TRUE
        yield yes, condition
        yield no, call("not", condition)
    elif isinstance(node, Apply) and node.fn in ("and", "or"):
        first, second = node.args
        yield first, TRUE
        yield second, first if node.fn == "and" else call("not", first)
    elif isinstance(node, Read) and node.other is not None:
        shape = system.tensors[node.tensor].shape
        outside: Expr = literal(False)
        for place, size in zip(node.index, shape, strict=True):
            yield place, TRUE
            beyond = call("or", call("lt", place, 0), call("ge", place, size))
            outside = call("or", outside, beyond)
        yield node.other, outside
    else:
        for child in node.children:
            yield child, TRUE


Wrong = tuple[Expr, Expr | None, int]


def _wrong(node: Expr, sizes: Mapping[str, int], system: System, known: _Ranges) -> Iterator[Wrong]:
    """Where this node has no result."""
    if isinstance(node, Read) and node.other is None:
        shape = system.tensors[node.tensor].shape
        for place, size in zip(node.index, shape, strict=True):
            outside = _outside(place, size, sizes, known)
            if outside is not None:
                yield outside, place, size
    if isinstance(node, Apply) and node.dtype in INTEGERS and node.dtype != "bool":
        wrong = _without_result(node, sizes, known)
        if wrong is not None:
            yield wrong, None, 0


def _outside(place: Expr, size: int, sizes: Mapping[str, int], known: _Ranges) -> Expr | None:
    if is_static(place):  # proven when the equation was made
        return None
    low, high = known.integer(place, sizes)
    below = call("lt", place, 0) if low < 0 else literal(False)
    above = call("ge", place, size) if high >= size else literal(False)
    wrong = call("or", below, above)
    return None if wrong is literal(False) else wrong


def _without_result(node: Apply, sizes: Mapping[str, int], known: _Ranges) -> Expr | None:
    """Where an operation has no result in its type; None if it always has one."""
    fn, args, dtype = node.fn, node.args, node.dtype
    least, greatest = INTEGERS[dtype]
    if fn in INTEGERS:
        return _cast(args[0], dtype, sizes, known)
    if fn in ("floordiv", "mod"):
        low, high = known.integer(args[1], sizes)
        wrong = call("eq", args[1], 0) if low <= 0 <= high else literal(False)
        lowest = known.integer(args[0], sizes)[0] <= least
        if fn == "floordiv" and lowest and low <= -1 <= high:
            corner = call("and", call("eq", args[0], least), call("eq", args[1], -1))
            wrong = call("or", wrong, corner)
        return None if wrong is literal(False) else wrong
    low, high = known.integer(node, sizes)
    if fn not in ("add", "sub", "mul", "neg", "abs", "pow"):
        return None
    exponent = known.integer(args[1], sizes)[0] if fn == "pow" else 0
    if low >= least and high <= greatest and exponent >= 0:
        return None
    if fn in ("neg", "abs"):
        return call("eq", args[0], literal(least, dtype))
    if fn == "pow":
        return _power(args[0], args[1], dtype)
    # Exact in the wider type: i64, or for i64 a float that is right but at the very ends.
    wider = "i64" if dtype != "i64" else "f64"
    return _beyond(call(fn, *(cast(a, wider) for a in args)), dtype)


def _cast(x: Expr, dtype: str, sizes: Mapping[str, int], known: _Ranges) -> Expr | None:
    if is_float(x.dtype):
        if dtype not in SMALL:
            return _beyond(cast(x, "f64"), dtype)
        found = known.floats.of(x)
        least, greatest = INTEGERS[dtype]
        if found.infinite or found.low < least or found.high > greatest:
            return _beyond(cast(x, "f64"), dtype)
        return call("ne", inner := _unclamped(x), inner) if found.nan else None
    low, high = known.integer(x, sizes)
    if fits(low, dtype) and fits(high, dtype):
        return None
    return _beyond(x, dtype)


def _unclamped(x: Expr) -> Expr:
    """What is NaN where a number is that is clamped, rounded or a product with a constant."""
    while isinstance(x, Apply) and x.fn in ("max", "min", "round", "add", "mul"):
        rest = [a for a in x.args if not isinstance(a, Const)]
        finite = [a for a in x.args if isinstance(a, Const) and a.value and isfinite(a.value)]
        zero = x.fn != "mul" and any(is_zero(a) for a in x.args)
        if len(rest) != 1 or (x.fn != "round" and not finite and not zero):
            return x
        (x,) = rest
    return x


def _beyond(x: Expr, dtype: str) -> Expr:
    """Whether a number does not fit, cut to an integer; NaN does not."""
    least, greatest = INTEGERS[dtype]
    if is_float(x.dtype):
        # A float below 2^31 is cut to an integer that fits; so is one above -2^31 - 1.
        below = float(least) if dtype == "i64" else float(least - 1)
        lower = call("ge" if dtype == "i64" else "gt", x, literal(below, x.dtype))
        return call("not", call("and", lower, call("lt", x, literal(float(greatest + 1), x.dtype))))
    return call(
        "or",
        call("lt", x, literal(least, x.dtype)),
        call("gt", x, literal(greatest, x.dtype)),
    )


def _power(base: Expr, power: Expr, dtype: str) -> Expr:
    """A negative power of anything but 1 and -1 is no integer; a large one does not fit."""
    plain = call("or", call("eq", base, 1), call("eq", base, -1))
    size = call("round", call("pow", call("abs", cast(base, "f64")), cast(power, "f64")))
    odd = call("and", call("lt", base, 0), call("eq", call("mod", power, 2), 1))
    large = _beyond(call("select", odd, -size, size), dtype)
    return call("and", call("not", plain), call("or", call("lt", power, 0), large))
