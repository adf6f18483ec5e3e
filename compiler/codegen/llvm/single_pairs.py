"""Elementary functions of f32 for processors that have no f64: what `math.py` computes in f64 is
computed in pairs of f32 here.

A `Pair` is the unevaluated sum of two f32, of which the second is below half a unit in the last
place of the first: some 48 bits. Nothing here needs a fused multiply-add, since the factors of an
exact product are split in halves. A processor without f64 is a small one, too, so each function is
one of the module, which is called, and not written out wherever it is used.

They are as accurate as in f64, but for angles beyond |x| = 2^22, where neighbouring floats lie half
a radian apart: sin is 0 and cos 1 there. Source: T. J. Dekker, "A floating-point technique for
extending the available precision", 1971; D. E. Knuth, "The Art of Computer Programming" 2, section
4.2.2. Tests: tests/backends/test_vectormath.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .arithmetic import single
from .vector import Vector

# π/2 in parts of 24 bits
HALF_PI = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15,
           1.056299898220315e-23)  # fmt: skip
TWO_BY_PI, LN2 = 0.6366197723675814, 0.6931472
ROUND_F32 = 1.5 * 2.0**23
ROOT_HALF, ONE, MANTISSA = 0x3F3504F3, 0x3F800000, 0x7FFFFF  # bits of √½ and 1
UPPER = -(2**12)  # a mask of the sign, the exponent and 12 bits of the 24
FAR = 2.0**22  # of angles: their quarter turns are counted in the low bits of an f32


class Pair(NamedTuple):
    high: str
    low: str


def two_sum(v: Vector, a: str | float, b: str | float) -> Pair:
    """a + b, exactly."""
    total = v.add(a, b)
    part = v.sub(total, a)
    return Pair(total, v.add(v.sub(a, v.sub(total, part)), v.sub(b, part)))


def _ordered(v: Vector, a: str, b: str) -> Pair:
    """a + b, exactly, for |a| >= |b|."""
    total = v.add(a, b)
    return Pair(total, v.sub(b, v.sub(total, a)))


def _halves(v: Vector, a: str) -> Pair:
    """The upper 12 bits of a, and the lower ones."""
    upper = v.of("i32").op("and", v.bits(a), UPPER)
    high = v.of("i32").convert("bitcast", upper, v.dtype)
    return Pair(high, v.sub(a, high))


def _product(v: Vector, a: str, b: str) -> Pair:
    """a b, but for 2^-34 of it."""
    result, (a1, a2), (b1, b2) = v.mul(a, b), _halves(v, a), _halves(v, b)
    rest = v.add(v.add(v.sub(v.mul(a1, b1), result), v.mul(a1, b2)), v.mul(a2, b1))
    return Pair(result, v.add(rest, v.mul(a2, b2)))


def _times(v: Vector, a: Pair, b: Pair) -> Pair:
    high, low = _product(v, a.high, b.high)
    return _ordered(v, high, v.add(low, v.add(v.mul(a.high, b.low), v.mul(a.low, b.high))))


def _plus(v: Vector, a: Pair, b: Pair) -> Pair:
    high, low = two_sum(v, a.high, b.high)
    return _ordered(v, high, v.add(low, v.add(a.low, b.low)))


def _constant(v: Vector, number: float) -> Pair:
    return Pair(v.value(number), v.value(number - single(number)))


# --- powers ---------------------------------------------------------------------------------------


def log2_pair(v: Vector, a: str, series: Sequence[float]) -> Pair:
    """log2 of a positive f32: n + q P(q²) with q = (m - 1) / (m + 1), as in `math.py`, which has
    the coefficients of P; the first two of them need more than 24 bits."""
    i = v.of("i32")
    denormal = v.compare("olt", a, 2.0**-126)
    shifted = i.op("add", v.bits(v.select(denormal, v.mul(a, 2.0**24), a)), ONE - ROOT_HALF)
    m = i.convert("bitcast", i.op("add", i.op("and", shifted, MANTISSA), ROOT_HALF), v.dtype)
    n = i.op("sub", i.op("lshr", shifted, 23), i.select(denormal, 127 + 24, 127))
    above, below = v.sub(m, 1.0), two_sum(v, m, 1.0)
    first = v.div(above, below.high)
    back = _product(v, first, below.high)
    left = v.sub(v.sub(v.sub(above, back.high), back.low), v.mul(first, below.low))
    q = _ordered(v, first, v.div(left, below.high))
    square = _times(v, q, q)
    first_two, rest = series[:2], series[2:]
    total = Pair(v.mul(square.high, v.polynomial(square.high, rest)), v.value(0.0))
    total = _plus(v, _constant(v, first_two[1]), total)
    total = _plus(v, _constant(v, first_two[0]), _times(v, square, total))
    return _plus(v, Pair(i.convert("sitofp", n, v.dtype), v.value(0.0)), _times(v, q, total))


def exponent(v: Vector, a: str, y: str, series: Sequence[float]) -> tuple[str, str]:
    """(r, n in the low bits of an i32) with a^y = 2^n e^r, |r| <= ln(2) / 2, for a >= 0 or NaN."""
    log = log2_pair(v, a, series)
    high = v.select(v.compare("oeq", a, 0.0), float("-inf"), log.high)
    high = v.select(v.compare("ult", a, float("inf")), high, a)
    high = v.select(v.compare("uno", a, a), float("nan"), high)
    product, low = _product(v, y, high)
    low = v.add(low, v.mul(y, log.low))
    # An infinite product, or one of an infinity, has no rest.
    near = v.compare("olt", v.intrinsic("fabs", product), 160.0)
    low = v.select(near, low, 0.0)
    # Beyond these the power is 0 or infinity in f32.
    product = v.at_most(v.at_least(product, -160.0), 140.0)
    shifted = v.add(product, ROUND_F32)
    above = v.sub(product, v.sub(shifted, ROUND_F32))
    return v.mul(v.add(above, low), LN2), v.bits(shifted)


# --- angles ---------------------------------------------------------------------------------------


def quarter_turns(v: Vector, x: str) -> tuple[str, str]:
    """(r, n in the low bits of an i32) with x = n π/2 + r, |r| <= π/4; 0 for x above `FAR`.

    π/2 has 96 bits here: r may be small, and n takes 22 of them away."""
    near = v.compare("ole", v.intrinsic("fabs", x), FAR)
    rest = Pair(v.select(near, x, v.sub(x, x)), v.value(0.0))
    turns = []
    for _ in range(2):  # what is left of a large angle may be more than half a quarter turn
        shifted = v.add(v.mul(rest.high, TWO_BY_PI), ROUND_F32)
        turns.append(v.bits(shifted))
        minus = v.op("fneg", v.sub(shifted, ROUND_F32))
        for part in HALF_PI:
            rest = _plus(v, rest, _product(v, minus, v.value(part)))
    return v.add(rest.high, rest.low), v.of("i32").op("add", *turns)
