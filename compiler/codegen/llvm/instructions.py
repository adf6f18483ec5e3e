"""Scalar functions as LLVM instructions.

`SPELLING` has the keys of the table of scalar functions (`ir/functions.py`); each entry takes the
operand types, the result type and SSA operands and returns the SSA result. Floats follow NumPy: NaN
passes through max and min from either side; integers wrap, divide towards minus infinity, and
dividing by zero gives zero instead of a trap. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.dtypes import UNSIGNED, is_float
from . import division, int8_dot
from . import math as elementary
from .arithmetic import LLVM, SUFFIX, Arithmetic, is_constant
from .halves import rounded, rounded_bits
from .threefry import threefry

LOWEST = {"bool": 0, "u8": 0, "i8": -128, "i32": -(2**31), "i64": -(2**63),
          "f32": float("-inf"), "f64": float("-inf")}  # fmt: skip
HIGHEST = {"bool": 1, "u8": 255, "i8": 127, "i32": 2**31 - 1, "i64": 2**63 - 1,
           "f32": float("inf"), "f64": float("inf")}  # fmt: skip


# --- functions: (arithmetic, operand types, result type, operands) → result ----------------------

Spelling = Callable[[Arithmetic, tuple[str, ...], str, list[str]], str]


def _binary(real: str, whole: str) -> Spelling:
    return lambda a, kinds, dtype, x: a.op(real if is_float(dtype) else whole, dtype, *x)


def _math(name: str) -> Spelling:
    return lambda a, kinds, dtype, x: elementary.function(a, name, x, dtype)


def _same_for_integers(name: str) -> Spelling:
    real = _math(name)
    return lambda a, kinds, dtype, x: real(a, kinds, dtype, x) if is_float(dtype) else x[0]


def _compare(real: str, signed: str, unsigned: str) -> Spelling:
    def spell(a, kinds, dtype, x):
        # The operands' type decides; the result is always a bool.
        kind = kinds[0]
        how = real if is_float(kind) else unsigned if kind in UNSIGNED else signed
        return a.compare(how, kind, *x)

    return spell


def _logic(name: str) -> Spelling:
    return lambda a, kinds, dtype, x: a.op(name, "bool", *x)


def _extreme(which: str) -> Spelling:
    return lambda a, kinds, dtype, x: a.extreme(which, dtype, *x)


def _neg(a, kinds, dtype, x):
    if is_float(dtype):
        return a.op("fneg", dtype, x[0])
    return a.op("sub", dtype, a.constant(0, dtype), x[0])


def _abs(a, kinds, dtype, x):
    if is_float(dtype):
        return a.intrinsic("fabs", dtype, x[0])
    return a.intrinsic("abs", dtype, x[0], flag="0")


def _sign(a, kinds, dtype, x):
    """1 or -1; zero and NaN stay what they are."""
    more, less = ("ogt", "olt") if is_float(dtype) else ("sgt", "slt")
    zero, one, minus = (a.constant(v, dtype) for v in (0, 1, -1))
    low = a.select(dtype, a.compare(less, dtype, x[0], zero), minus, x[0])
    return a.select(dtype, a.compare(more, dtype, x[0], zero), one, low)


def _floordiv(a, kinds, dtype, x):
    if is_float(dtype):
        return division.quotient(a, dtype, *x)
    shift = _shift(x[1])
    # An arithmetic shift rounds towards minus infinity: -1 >> 2 = -1 = floor(-1 / 4).
    if shift is not None:
        return a.op("ashr", dtype, x[0], a.constant(shift, dtype))
    # LLVM divides towards zero: 1 less where that is not the floor.
    quotient, remainder, by = _divide(a, dtype, *x)
    down = a.op("sub", dtype, quotient, a.constant(1, dtype))
    floored = a.select(dtype, _rounds_down(a, dtype, remainder, by), down, quotient)
    return _unless_zero(a, dtype, x[1], floored)


def _mod(a, kinds, dtype, x):
    if is_float(dtype):
        return division.remainder(a, dtype, *x)
    shift = _shift(x[1])
    if shift is not None:
        # In two's complement the low bits are the remainder of negative numbers, too.
        return a.op("and", dtype, x[0], a.constant(2**shift - 1, dtype))
    _, remainder, by = _divide(a, dtype, *x)
    up = a.op("add", dtype, remainder, by)
    floored = a.select(dtype, _rounds_down(a, dtype, remainder, by), up, remainder)
    return _unless_zero(a, dtype, x[1], floored)


def _shift(operand: str) -> int | None:
    """n if the operand is the constant 2^n."""
    if not is_constant(operand):
        return None
    # "8", or "splat (i64 8)" for a vector
    value = int(operand.removesuffix(")").split()[-1])
    return value.bit_length() - 1 if value > 0 and value & (value - 1) == 0 else None


def _divide(a, dtype, x, y):
    """Quotient and remainder towards zero, and a divisor that cannot trap."""
    if not is_constant(y):
        zero = a.compare("eq", dtype, y, a.constant(0, dtype))
        # The two traps of a division: by 0, and lowest / -1, which overflows. Divided by 1 instead,
        # the latter is the lowest number again, as wrapping demands; the former is replaced by
        # `_unless_zero`.
        minus = a.compare("eq", dtype, y, a.constant(-1, dtype))
        lowest = a.compare("eq", dtype, x, a.constant(LOWEST[dtype], dtype))
        trap = a.op("or", "bool", zero, a.op("and", "bool", minus, lowest))
        y = a.select(dtype, trap, a.constant(1, dtype), y)
    elif int(y.removesuffix(")").split()[-1]) == 0:
        y = a.constant(1, dtype)
    elif int(y.removesuffix(")").split()[-1]) == -1:
        # The lowest number has no opposite: it wraps, and nothing remains.
        return a.op("sub", dtype, a.constant(0, dtype), x), a.constant(0, dtype), y
    quotient = a.op("sdiv", dtype, x, y)
    return quotient, a.op("sub", dtype, x, a.op("mul", dtype, quotient, y)), y


def _rounds_down(a, dtype, remainder, by):
    """Whether rounding towards zero and towards minus infinity differ: the remainder is not zero
    and has the other sign than the divisor."""
    some = a.compare("ne", dtype, remainder, a.constant(0, dtype))
    sign = a.compare("slt", dtype, a.op("xor", dtype, remainder, by), a.constant(0, dtype))
    return a.op("and", "bool", some, sign)


def _unless_zero(a, dtype, by, value):
    if is_constant(by) and int(by.removesuffix(")").split()[-1]) != 0:
        return value
    zero = a.constant(0, dtype)
    return a.select(dtype, a.compare("eq", dtype, by, zero), zero, value)


def _pow(a, kinds, dtype, x):
    """Integers by squaring, over every bit of the exponent; a negative power is cut to an integer,
    which is 0 unless the base is 1 or -1."""
    if is_float(dtype):
        return elementary.function(a, "pow", x, dtype)
    base, power = x
    one, zero, result = a.constant(1, dtype), a.constant(0, dtype), a.constant(1, dtype)
    # The exponent differs from lane to lane, so every bit is looked at and a factor of 1 is
    # selected where it is 0.
    for bit in range(31 if dtype == "i32" else 63):
        odd = a.op("and", dtype, a.op("lshr", dtype, power, a.constant(bit, dtype)), one)
        factor = a.select(dtype, a.compare("ne", dtype, odd, zero), base, one)
        result = a.op("mul", dtype, result, factor)
        base = a.op("mul", dtype, base, base)
    # Of 1 and -1 the lowest bits of the exponent decide, which negative numbers have, too.
    cut = a.compare("ugt", dtype, a.op("add", dtype, x[0], one), a.constant(2, dtype))
    cut = a.op("or", "bool", cut, a.compare("eq", dtype, x[0], zero))
    cut = a.op("and", "bool", cut, a.compare("slt", dtype, power, zero))
    return a.select(dtype, cut, zero, result)


def _is_finite(a, kinds, dtype, x):
    kind = kinds[0]
    if not is_float(kind):
        return a.constant(1, "bool")
    size = a.intrinsic("fabs", kind, x[0])
    return a.compare("olt", kind, size, a.constant(float("inf"), kind))


def _half(name: str) -> Spelling:
    return lambda a, kinds, dtype, x: rounded(a, name, dtype, x[0])


def _bf16_pair(a, kinds, dtype, x):
    low, high = (rounded_bits(a, "bf16", "f32", n) for n in x)
    return a.op("or", "i32", a.op("lshr", "i32", low, a.constant(16, "i32")), high)


def _bf16_dot(a, kinds, dtype, x):
    return bf16_dot(a, x[0], x[1], a.constant(0, "f32"))


def bf16_dot(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products of both halves of two pairs, the lower first."""
    cut, low = a.constant(-(2**16), "i32"), a.constant(16, "i32")
    # A bf16 number is the upper half of an f32: shifted up, or with the lower half cleared.
    for half in (lambda n: a.op("shl", "i32", n, low), lambda n: a.op("and", "i32", n, cut)):
        x, y = (a.convert("bitcast", "i32", "f32", half(n)) for n in (p, q))
        into = a.intrinsic("fma", "f32", x, y, into)
    return into


def _int8_dot(a, kinds, dtype, x):
    return int8_dot.dot_one_by_one(a, x[0], x[1], a.constant(0, "i32"))


def _not(a, kinds, dtype, x):
    return a.op("xor", "bool", x[0], a.constant(1, "bool"))


def _random(a, kinds, dtype, x):
    return threefry(a, *x)


def cast(a: Arithmetic, source: str, dtype: str, x: str) -> str:
    """A conversion; floats out of range saturate, integers keep their low bits."""
    if source == dtype:
        return x
    if dtype == "bool":
        # NaN is not 0, hence true.
        return a.compare("une" if is_float(source) else "ne", source, x, a.constant(0, source))
    if is_float(source) and is_float(dtype):
        return a.convert("fpext" if dtype == "f64" else "fptrunc", source, dtype, x)
    if is_float(dtype):
        return a.convert("uitofp" if source in UNSIGNED else "sitofp", source, dtype, x)
    if is_float(source):
        return _truncate(a, source, dtype, x)
    if LLVM[source] == LLVM[dtype]:  # u8 and i8: the same bits
        return x
    wider = int(LLVM[dtype][1:]) > int(LLVM[source][1:])
    sign = "z" if source in UNSIGNED else "s"
    return a.convert(f"{sign}ext" if wider else "trunc", source, dtype, x)


def _truncate(a, source, dtype, x):
    if dtype in ("u8", "i8") and a.lanes > 1:
        # LLVM saturates vectors element by element. The ends of 8 bits are floats.
        least, most = a.constant(LOWEST[dtype], source), a.constant(HIGHEST[dtype], source)
        zero = a.constant(0, source)
        if dtype == "i8":  # else NaN, which is not above 0, is 0 by the next line
            x = a.select(source, a.compare("ord", source, x, zero), x, zero)
        x = a.select(source, a.compare("ogt", source, x, least), x, least)
        x = a.select(source, a.compare("olt", source, x, most), x, most)
        return a.convert("trunc", "i32", dtype, a.convert("fptosi", source, "i32", x))
    sign = "u" if dtype in UNSIGNED else "s"
    tail = "" if a.lanes == 1 else f"v{a.lanes}"
    name = f"llvm.fpto{sign}i.sat.{tail}{SUFFIX[dtype]}.{tail}{SUFFIX[source]}"
    a.e.declare(f"declare {a.type(dtype)} @{name}({a.type(source)})")
    return a.e.op(f"call {{T}} @{name}({a.type(source)} {{0}})", x, type=a.type(dtype))


def _cast(a, kinds, dtype, x):
    return cast(a, kinds[0], dtype, x[0])


def _select(a, kinds, dtype, x):
    return a.select(dtype, *x)


SPELLING: dict[str, Spelling] = {
    "add": _binary("fadd", "add"), "sub": _binary("fsub", "sub"), "mul": _binary("fmul", "mul"),
    "div": _binary("fdiv", "sdiv"), "floordiv": _floordiv, "mod": _mod, "pow": _pow,
    "neg": _neg, "abs": _abs, "sign": _sign, "max": _extreme("max"), "min": _extreme("min"),
    "exp": _math("exp"), "log": _math("log"), "expm1": _math("expm1"), "log1p": _math("log1p"),
    "sqrt": _math("sqrt"), "tanh": _math("tanh"), "sin": _math("sin"), "cos": _math("cos"),
    "erf": _math("erf"), "erfc": _math("erfc"), "sigmoid": _math("sigmoid"),
    "floor": _same_for_integers("floor"),
    "ceil": _same_for_integers("ceil"), "round": _same_for_integers("round"),
    "is_finite": _is_finite,
    "eq": _compare("oeq", "eq", "eq"), "ne": _compare("une", "ne", "ne"),
    "lt": _compare("olt", "slt", "ult"), "le": _compare("ole", "sle", "ule"),
    "gt": _compare("ogt", "sgt", "ugt"), "ge": _compare("oge", "sge", "uge"),
    "and": _logic("and"), "or": _logic("or"), "not": _not, "select": _select,
    "bool": _cast, "u8": _cast, "i8": _cast, "i32": _cast, "i64": _cast, "f32": _cast, "f64": _cast,
    "random": _random, "f16": _half("f16"), "bf16": _half("bf16"),
    "bf16_pair": _bf16_pair, "bf16_dot": _bf16_dot,
    "int8_quad": lambda a, kinds, dtype, x: int8_dot.quad(a, x),
    "int8_dot": _int8_dot,
    "stop": lambda a, kinds, dtype, x: x[0],
    "after": lambda a, kinds, dtype, x: x[0],
}  # fmt: skip
