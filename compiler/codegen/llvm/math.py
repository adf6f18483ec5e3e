"""Elementary functions as LLVM IR: one emission for every lane count and CPU.

`function` takes the name of a function, SSA operands and their type, and returns the SSA name of
the result. `f32` is computed by polynomials in the vector type itself (1 lane: in
scalars, by the same instructions, hence with the same bits); `f64`, which exists to verify
programs and not to be fast, calls libm for each lane.

Accuracy of f32: the largest error found, in units of the last place, among every third float
(pow: a million pairs); tests/backends/test_vectormath.py holds the functions to a little more.

    exp   1.04   log   0.88   tanh 1.99   sin 1.54   pow 1.13
    expm1 1.53   log1p 1.62   erf  1.27   cos 1.53   sqrt 0.50; floor, ceil, round, abs exact
    sigmoid 2.32  erfc 3.45

Special values are those of C's Annex F: NaN in gives NaN out, infinities and signed zeros are
exact, overflow gives infinity, results below the normal range are rounded, not flushed.
Exception: beyond |x| = 2^50, where neighbouring floats lie 10^7 turns apart, sin is 0 and cos 1.

Where f32 is not enough, f64 is used, or, for processors without it, pairs of f32: single_pairs.py.

What is emitted is target independent: no fast-math flags, fused multiply-adds only where written
(`llvm.fma`; a CPU without them calls libm and is slow, not wrong), round to nearest even assumed.
Two idioms recur. `x + 1.5 * 2^23` puts round(x) into the low bits of the float, so that no
conversion of a NaN (poison in LLVM) is needed. `select(x > c, c, x)` limits x but lets NaN pass.

The tables are derived by tools/minimax.py, which also says on which range and to what error.
Design: reductions and reconstructions are the textbook ones (W. J. Cody, W. Waite, "Software
Manual for the Elementary Functions", 1980; J.-M. Muller, "Elementary Functions", 2016).
"""

from __future__ import annotations

from collections.abc import Callable

from . import single_pairs
from .arithmetic import Arithmetic
from .function_text import called
from .vector import Vector

LN2 = (0.6931472, -1.9046542e-09)
LOG2_E = (1.442695,)
HALF_PI = (1.5707963267948966, 6.123233995736766e-17)
TWO_BY_PI = (0.6366197723675814,)
EXP = (0.49999997, 0.16666539, 0.041667752, 0.008367108, 0.0013836694)
LOG = (0.33333197, -0.2499992, 0.20011434, -0.16674447,
       0.13989732, -0.122669525, 0.14063276, -0.12547024)  # fmt: skip
SIN = (-0.16666655, 0.008332189, -0.00019518283)
COS = (0.041666646, -0.001388731, 2.4432327e-05)
ERF = (0.12837917, -0.37612602, 0.11283256, -0.026839223,
       0.0051602595, -0.00077658053, 7.063542e-05)  # fmt: skip
ERFC = (0.98162955, -1.0291642, 0.758614, -0.39859155,
        0.1451538, -0.034588005, 0.004825396, -0.00029764744)  # fmt: skip
ERFCX = (0.51079136, 0.687161, 0.5589419, 0.14574058, -0.1719755,
         -0.10293463, 0.096739985, 0.046808373, -0.06501674, 0.008690939)  # fmt: skip
LOG2 = (2.8853900817901166, 0.9617966733160096, 0.5770835896254842, 0.41167244039436124,
        0.3407353268529627)  # fmt: skip

ROUND_F32 = 1.5 * 2.0**23  # added to |x| < 2^22: the low mantissa bits hold round(x)
ROUND_F64 = 1.5 * 2.0**52  # the same for |x| < 2^51
INFINITY = float("inf")
NAN = float("nan")


def function(a: Arithmetic, name: str, args: list[str], dtype: str) -> str:
    """The function called `name` of operands of `dtype`; KeyError if unknown."""
    if name in ROUNDINGS:
        return Vector(a, dtype).whole(ROUNDINGS[name], *args)
    if name in INTRINSICS:
        return a.intrinsic(INTRINSICS[name], dtype, *args)
    if dtype == "f64":
        # Exact verification needs libm's accuracy, not speed.
        if name == "sigmoid":
            return _sigmoid(Vector(a, dtype), *args)
        return _library(a, name, args)
    # Of one number, such as the power in a rate that all parameters share, it is a call: a hundred
    # instructions would stand in the kernel of every parameter.
    if name in IN_F64 and (a.lanes == 1 or not a.doubles):
        return called(a, name, args, FUNCTIONS[name])
    return FUNCTIONS[name](Vector(a, dtype), *args)


# ---- f32 -----------------------------------------------------------------------------------------


def _exponential(v: Vector, x: str) -> tuple[str, str]:
    """(e^r - 1, n in the low bits of an i32) where x = n ln 2 + r, |r| <= ln(2) / 2.

    x - n hi(ln 2) is exact under fma, since it is a multiple of 2^-25 below 1/2.
    """
    shifted = v.fma(x, LOG2_E[0], ROUND_F32)
    n = v.sub(shifted, ROUND_F32)
    r = v.fma(n, -LN2[1], v.fma(n, -LN2[0], x))
    return v.fma(v.mul(r, r), v.polynomial(r, EXP), r), v.bits(shifted)


def _power_of_two(v: Vector, n: str, offset: int = 0) -> str:
    """2^(n + offset), a normal number, from n in the low 9 bits of an i32."""
    i = v.of("i32")
    return i.convert("bitcast", i.op("shl", i.op("add", n, 127 + offset), 23), v.dtype)


def _scale(v: Vector, a: str, n: str) -> str:
    """a 2^n, n down to -252 and up to 254, rounded once: 2^n itself may be out of range."""
    i = v.of("i32")
    # n = half + (n - half): each power is a normal number though 2^n may not be, and only the last
    # product is rounded.
    half = i.op("ashr", n, 1)  # ROUND_F32's own bits have nine zeros left after halving
    return v.mul(v.mul(a, _power_of_two(v, half)), _power_of_two(v, i.op("sub", n, half)))


def _exp(v: Vector, x: str) -> str:
    """e^x = 2^n (1 + (e^r - 1)); outside [-104, 89] the result is 0 or infinity anyway.

    Below it is 0 before it is scaled: products that are rounded to 0 take several times as long.
    """
    q, n = _exponential(v, v.at_most(v.at_least(x, -104.0), 89.0))
    return _scale(v, v.select(v.compare("olt", x, -104.0), 0.0, v.add(q, 1.0)), n)


def _expm1(v: Vector, x: str) -> str:
    """2^n (e^r - 1) + (2^n - 1), at half size so that 2^128 can be written; tiny x is its own."""
    q, n = _exponential(v, v.at_most(v.at_least(x, -20.0), 89.0))
    half = _power_of_two(v, n, -1)
    result = v.mul(v.fma(q, half, v.sub(half, 0.5)), 2.0)
    return v.select(v.compare("olt", v.intrinsic("fabs", x), 2.0**-25), x, result)


def _tanh(v: Vector, x: str) -> str:
    """With h = (e^2a - 1) / 2, a = |x|: h - h² / (1 + h) up to a = 1/2, then 1 - 1 / (1 + h).

    Both subtract something small, so that the errors of the quotient count little; there is one
    division, its operands are selected. h and 1 + h are each rounded once from 2^n (e^r - 1).
    """
    a = v.at_most(v.intrinsic("fabs", x), 10.0)
    q, n = _exponential(v, v.add(a, a))
    power = _power_of_two(v, n, -1)
    h = v.fma(q, power, v.sub(power, 0.5))
    small = v.compare("olt", a, 0.5)
    quotient = v.div(v.select(small, v.mul(h, h), 1.0), v.fma(q, power, v.add(power, 0.5)))
    return v.intrinsic("copysign", v.sub(v.select(small, h, 1.0), quotient), x)


def _logarithm(v: Vector, f: str, exponent: str) -> str:
    """exponent ln 2 + ln(1 + f), where ln(1 + f) = f + f² (-1/2 + f P(f)) for |f| <= 1/3."""
    tail = v.fma(v.polynomial(f, LOG), f, -0.5)
    tail = v.fma(v.mul(f, f), tail, v.mul(exponent, LN2[1]))
    return v.fma(exponent, LN2[0], v.add(f, tail))


TWO_THIRDS = 0x3F2AAAAB  # bits of 2/3: mantissas are taken from [2/3, 4/3)
ONE = 0x3F800000  # bits of 1


def _mantissa(v: Vector, x: str) -> tuple[str, str]:
    """(m, n) with x = m 2^n, m in [2/3, 4/3), n an i32; for positive normal x."""
    i = v.of("i32")
    shifted = i.op("add", v.bits(x), ONE - TWO_THIRDS)
    mantissa = i.op("add", i.op("and", shifted, 0x7FFFFF), TWO_THIRDS)
    return i.convert("bitcast", mantissa, v.dtype), i.op("sub", i.op("lshr", shifted, 23), 127)


def _log(v: Vector, x: str) -> str:
    """ln m + n ln 2; a denormal is first scaled up by 2^23."""
    i = v.of("i32")
    denormal = v.compare("olt", x, 2.0**-126)
    m, n = _mantissa(v, v.select(denormal, v.mul(x, 2.0**23), x))
    n = i.op("add", n, i.select(denormal, -23, 0))
    result = _logarithm(v, v.sub(m, 1.0), i.convert("sitofp", n, v.dtype))
    return _outside_logarithm(v, x, result, 0.0)


def _log1p(v: Vector, x: str) -> str:
    """With 1 + x = m 2^n, f = x 2^-n + (2^-n - 1) has what the sum 1 + x rounded away.

    From n = 100 on 2^-n gets too small to write, and m - 1 is exact enough. Tiny x is its own.
    """
    i = v.of("i32")
    m, n = _mantissa(v, v.add(x, 1.0))
    power = _power_of_two(v, i.op("sub", 0, n))
    f = v.fma(x, power, v.sub(power, 1.0))
    f = v.select(i.compare("sgt", n, 100), v.sub(m, 1.0), f)
    result = _logarithm(v, f, i.convert("sitofp", n, v.dtype))
    result = v.select(v.compare("olt", v.intrinsic("fabs", x), 2.0**-25), x, result)
    return _outside_logarithm(v, x, result, -1.0)


def _outside_logarithm(v: Vector, x: str, result: str, pole: float) -> str:
    """-infinity at the pole, NaN below it, x itself where x is infinity or NaN."""
    edge = v.select(v.compare("olt", x, pole), NAN, x)
    edge = v.select(v.compare("oeq", x, pole), -INFINITY, edge)
    inside = v.select(v.compare("olt", x, INFINITY), result, x)
    return v.select(v.compare("ogt", x, pole), inside, edge)


def _erf(v: Vector, x: str) -> str:
    """x + x P(x²) up to 9/8, beyond it 1 - e^-x² Q(|x|), which is 1 in f32 from 4 on.

    Where the slope of erf is wanted, too, e^-x² is computed once for both."""
    a, square = v.intrinsic("fabs", x), v.mul(x, x)
    small = v.fma(v.polynomial(square, ERF), x, x)
    bell, rest = _exp(v, v.op("fneg", square)), v.polynomial(v.at_most(a, 4.0), ERFC)
    large = v.intrinsic("copysign", v.fma(v.op("fneg", bell), rest, 1.0), x)
    return v.select(v.compare("olt", a, 1.125), small, large)


def _erfc(v: Vector, x: str) -> str:
    """e^-a² t P(t - 1/2) for a = |x| and t = 1 / (1 + a/2), and 2 less that for negative x.

    The exponential multiplies an error of a² by a² itself, so what rounding took from a² is put
    back, and so is what it took from t, times how steep P(t) t is. From 10.1 on the result is 0."""
    a = v.at_most(v.intrinsic("fabs", x), 10.5)
    square, half = v.mul(a, a), v.fma(a, 0.5, 1.0)
    lost = v.fma(a, a, v.op("fneg", square))
    t = v.div(1.0, half)
    cut = v.fma(a, 0.5, v.op("fneg", v.sub(half, 1.0)))
    rest = v.fma(v.op("fneg", t), cut, v.fma(v.op("fneg", t), half, 1.0))
    scaled = v.mul(v.polynomial(v.sub(t, 0.5), ERFCX), t)
    q, n = _exponential(v, v.op("fneg", square))
    steep = v.fma(t, 1.15, 1.05)
    back = v.fma(rest, steep, v.op("fneg", lost))
    q = v.add(q, v.fma(q, back, back))
    tail = _scale(v, v.fma(q, scaled, scaled), n)
    return v.select(v.compare("olt", x, 0.0), v.sub(2.0, tail), tail)


def _sigmoid(v: Vector, x: str) -> str:
    """With e = e^-|x|, which cannot overflow: 1 / (1 + e), and e / (1 + e) for negative x."""
    minus = v.op("fneg", v.intrinsic("fabs", x))
    e = _exp(v, minus) if v.dtype == "f32" else _library(v.a, "exp", [minus])
    return v.div(v.select(v.compare("olt", x, 0.0), e, 1.0), v.add(e, 1.0))


def _quarter_turns(v: Vector, x: str) -> tuple[str, str]:
    """(r, n as i32 modulo 2^32) with x = n π/2 + r, |r| <= π/4, worked out in f64.

    x - n hi(π/2) is exact and lo adds 53 more bits, so r is as good as its rounding to f32 for
    |x| <= 2^50. Anything larger is taken for 0; x - x makes infinity a NaN.
    """
    if not v.a.doubles:
        return single_pairs.quarter_turns(v, x)
    wide = v.of("f64")
    near = v.compare("ole", v.intrinsic("fabs", x), 2.0**50)
    exact = v.convert("fpext", v.select(near, x, v.sub(x, x)), "f64")
    shifted = wide.fma(exact, TWO_BY_PI[0], ROUND_F64)
    n = wide.sub(shifted, ROUND_F64)
    r = wide.fma(n, -HALF_PI[1], wide.fma(n, -HALF_PI[0], exact))
    turns = v.of("i64").convert("trunc", wide.bits(shifted), "i32")
    return wide.convert("fptrunc", r, "f32"), turns


def _sine(v: Vector, r: str, turns: str) -> str:
    """sin(r + turns π/2): by the parity of turns ± sin r = r + r³ P(r²) or ± cos r."""
    i = v.of("i32")
    square = v.mul(r, r)
    sine = v.fma(v.mul(r, square), v.polynomial(square, SIN), r)
    cosine = v.fma(square, v.polynomial(square, (-0.5, *COS)), 1.0)
    odd = i.compare("ne", i.op("and", turns, 1), 0)
    # Two more quarter turns change the sign: bit 1 of the turns moves to the sign bit.
    sign = i.op("shl", i.op("and", turns, 2), 30)
    return i.convert("bitcast", i.op("xor", v.bits(v.select(odd, cosine, sine)), sign), v.dtype)


def _sin(v: Vector, x: str) -> str:
    """The last select keeps the sign of zero."""
    return v.select(v.compare("oeq", x, 0.0), x, _sine(v, *_quarter_turns(v, x)))


def _cos(v: Vector, x: str) -> str:
    r, turns = _quarter_turns(v, x)
    return _sine(v, r, v.of("i32").op("add", turns, 1))


ONE_F64 = 0x3FF0000000000000
ROOT_HALF = 0x3FE6A09E667F3BCD  # bits of sqrt(1/2): here mantissas are in [√½, √2)
TWO_52 = 0x4330000000000000  # bits of 2^52, whose last mantissa bit is worth 1


def _log2_wide(v: Vector, a: str) -> str:
    """log2 of a positive f32, as f64 with a relative error near 2^-38.

    n + log2 m, where log2 m = q P(q²) with q = (m - 1) / (m + 1). Denormals are normal in f64.
    """
    wide, i = v.of("f64"), v.of("i64")
    shifted = i.op("add", wide.bits(v.convert("fpext", a, "f64")), ONE_F64 - ROOT_HALF)
    m = i.op("add", i.op("and", shifted, 2**52 - 1), ROOT_HALF)
    m = i.convert("bitcast", m, "f64")
    # An integer below 2^52 in the mantissa of 2^52 is 2^52 + n: a conversion without an instruction
    # for it.
    n = i.convert("bitcast", i.op("or", i.op("lshr", shifted, 52), TWO_52), "f64")
    q = wide.div(wide.sub(m, 1.0), wide.add(m, 1.0))
    series = wide.polynomial(wide.mul(q, q), LOG2)
    return wide.fma(q, series, wide.sub(n, 2.0**52 + 1023))


def _pow(v: Vector, x: str, y: str) -> str:
    """|x|^y = 2^(y log2 |x|), the product in f64; then the sign and the cases of C's Annex F."""
    a = v.intrinsic("fabs", x)
    r, n = _exponent(v, a, y) if v.a.doubles else single_pairs.exponent(v, a, y, LOG2)
    q = v.fma(v.mul(r, r), v.polynomial(r, EXP), r)
    result = _scale(v, v.add(q, 1.0), n)
    result = v.select(v.compare("oeq", a, 1.0), 1.0, result)  # also for infinite or NaN y
    result = _pow_negative(v, x, y, result)
    return v.select(v.compare("oeq", y, 0.0), 1.0, v.select(v.compare("oeq", x, 1.0), 1.0, result))


def _exponent(v: Vector, a: str, y: str) -> tuple[str, str]:
    """(r, n in the low bits of an i32) with a^y = 2^n e^r, worked out in f64."""
    wide = v.of("f64")
    # Zero, infinity and NaN have no mantissa and exponent of the usual kind.
    log = wide.select(v.compare("oeq", a, 0.0), -INFINITY, _log2_wide(v, a))
    log = wide.select(v.compare("ult", a, INFINITY), log, v.convert("fpext", a, "f64"))
    log = wide.select(v.compare("uno", a, a), NAN, log)
    product = wide.mul(v.convert("fpext", y, "f64"), log)
    # Beyond these the result is 0 or infinity in f32, and `_scale` takes no n outside.
    product = wide.at_most(wide.at_least(product, -160.0), 140.0)
    shifted = wide.add(product, ROUND_F64)
    r = wide.mul(wide.sub(product, wide.sub(shifted, ROUND_F64)), LN2[0] + LN2[1])
    return wide.convert("fptrunc", r, "f32"), v.of("i64").convert(
        "trunc", wide.bits(shifted), "i32"
    )


def _pow_negative(v: Vector, x: str, y: str, result: str) -> str:
    """For x < 0: NaN unless y is whole, and a sign if y is odd; -0 and -infinity keep the sign."""
    i, b = v.of("i32"), v.of("bool")
    half = v.mul(y, 0.5)
    whole = v.compare("oeq", v.whole("rint", y), y)
    odd = b.op("and", whole, v.compare("one", v.whole("rint", half), half))
    sign = i.select(odd, i.op("and", v.bits(x), -(2**31)), 0)
    result = i.convert("bitcast", i.op("xor", v.bits(result), sign), v.dtype)
    finite = b.op("and", v.compare("olt", x, 0.0), v.compare("ogt", x, -INFINITY))
    fraction = b.op("and", finite, b.op("xor", whole, 1))
    return v.select(fraction, NAN, result)


FUNCTIONS: dict[str, Callable[..., str]] = {
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "pow": _pow,
    "tanh": _tanh,
    "erf": _erf,
    "erfc": _erfc,
    "sigmoid": _sigmoid,
    "sin": _sin,
    "cos": _cos,
}

# What needs more than f32 inside, and gets long without f64.
IN_F64 = ("pow", "sin", "cos")

# Both element types. rint is round half to even in the rounding mode that programs run in.
ROUNDINGS = {"floor": "floor", "ceil": "ceil", "round": "rint"}
INTRINSICS = {"sqrt": "sqrt", "abs": "fabs"}


# ---- f64 -----------------------------------------------------------------------------------------


def _library(a: Arithmetic, name: str, args: list[str]) -> str:
    """Calls C's double function of that name for each lane."""
    e, vector = a.e, a.type("f64")
    e.declare(f"declare double @{name}({', '.join(['double'] * len(args))})")
    call = f"call {{T}} @{name}({', '.join(f'{{T}} {{{i}}}' for i in range(len(args)))})"
    if a.lanes == 1:
        return e.op(call, *args, type="double")
    result = "poison"
    for lane in range(a.lanes):
        parts = [e.op(f"extractelement {vector} {{0}}, i64 {lane}", x, type="double") for x in args]
        value = e.op(call, *parts, type="double")
        insert = f"insertelement {{T}} {{0}}, double {{1}}, i64 {lane}"
        result = e.op(insert, result, value, type=vector)
    return result
