"""How scalar functions, constants and types are spelled in LLVM.

In: a scalar function's name, operand types and SSA operands. Out: the SSA result. `SPELLING` has
the keys of `scalar.TABLE`. Floats follow NumPy: NaN passes through max and min from either side;
integers wrap, divide towards minus infinity, and dividing by zero gives zero instead of a trap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ...ir.dtypes import is_float
from . import math as vectormath
from .function_writer import Emitter

LLVM = {
    "bool": "i1", "u8": "i8", "i32": "i32", "i64": "i64", "f32": "float", "f64": "double",
}  # fmt: skip
SUFFIX = {"bool": "i1", "u8": "i8", "i32": "i32", "i64": "i64", "f32": "f32", "f64": "f64"}
MEMORY = LLVM | {"bool": "i8"}
LOWEST = {"bool": 0, "u8": 0, "i32": -(2**31), "i64": -(2**63),
          "f32": float("-inf"), "f64": float("-inf")}  # fmt: skip
HIGHEST = {"bool": 1, "u8": 255, "i32": 2**31 - 1, "i64": 2**63 - 1,
           "f32": float("inf"), "f64": float("inf")}  # fmt: skip


def type_name(dtype: str, lanes: int = 1) -> str:
    return LLVM[dtype] if lanes == 1 else f"<{lanes} x {LLVM[dtype]}>"


def constant(value: float, dtype: str, lanes: int = 1) -> str:
    """A literal operand. LLVM writes a float as the bits of the double that it equals."""
    if is_float(dtype):
        number = float(value)
        if dtype == "f32":
            number = _single(number)
        text = f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
    else:
        text = str(int(value))
    return text if lanes == 1 else f"splat ({LLVM[dtype]} {text})"


def _single(number: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


@cache
def operation(name: str, operands: int) -> str:
    """The text of an operation for `Emitter.op`, whose operands have the type of the result."""
    return f"{name} {{T}} {', '.join(f'{{{i}}}' for i in range(operands))}"


def is_constant(operand: str) -> bool:
    return not operand.startswith("%")


@dataclass(frozen=True)
class Arithmetic:
    """Operations on `lanes` elements at once."""

    e: Emitter
    lanes: int

    def type(self, dtype: str) -> str:
        return type_name(dtype, self.lanes)

    def constant(self, value: float, dtype: str) -> str:
        return constant(value, dtype, self.lanes)

    def op(self, name: str, dtype: str, *operands: str) -> str:
        return self.e.op(operation(name, len(operands)), *operands, type=self.type(dtype))

    def compare(self, how: str, dtype: str, a: str, b: str) -> str:
        kind = "fcmp" if is_float(dtype) else "icmp"
        return self.e.op(
            f"{kind} {how} {self.type(dtype)} {{0}}, {{1}}", a, b, type=self.type("bool")
        )

    def select(self, dtype: str, condition: str, yes: str, no: str) -> str:
        text = f"select {self.type('bool')} {{0}}, {{T}} {{1}}, {{T}} {{2}}"
        return self.e.op(text, condition, yes, no, type=self.type(dtype))

    def convert(self, how: str, source: str, dtype: str, operand: str) -> str:
        text = f"{how} {self.type(source)} {{0}} to {{T}}"
        return self.e.op(text, operand, type=self.type(dtype))

    def intrinsic(self, name: str, dtype: str, *operands: str, flag: str = "") -> str:
        """`flag` is a trailing i1 argument that some integer intrinsics have."""
        suffix = SUFFIX[dtype] if self.lanes == 1 else f"v{self.lanes}{SUFFIX[dtype]}"
        type = self.type(dtype)
        kinds = [type] * len(operands) + ["i1"] * bool(flag)
        self.e.declare(f"declare {type} @llvm.{name}.{suffix}({', '.join(kinds)})")
        slots = [f"{{T}} {{{i}}}" for i in range(len(operands))] + [f"i1 {flag}"] * bool(flag)
        text = f"call {{T}} @llvm.{name}.{suffix}({', '.join(slots)})"
        return self.e.op(text, *operands, type=type)

    def splat(self, dtype: str, operand: str) -> str:
        """A scalar in every lane."""
        if self.lanes == 1:
            return operand
        kind = LLVM[dtype]
        if is_constant(operand):
            return f"splat ({kind} {operand})"
        one = self.e.op(
            f"insertelement {{T}} poison, {kind} {{0}}, i64 0", operand, type=self.type(dtype)
        )
        return self.e.op(
            f"shufflevector {{T}} {{0}}, {{T}} poison, <{self.lanes} x i32> zeroinitializer",
            one,
            type=self.type(dtype),
        )

    def extreme(self, which: str, dtype: str, a: str, b: str) -> str:
        """The larger (`max`) or smaller (`min`); NaN if either is."""
        if not is_float(dtype):
            sign = "u" if dtype in ("bool", "u8") else "s"
            return self.intrinsic(sign + which, dtype, a, b)
        if is_constant(a):
            a, b = b, a
        less = "ogt" if which == "max" else "olt"
        if is_constant(b):  # select(a < b, b, a) passes a NaN in a: one instruction
            return self.select(dtype, self.compare(less, dtype, b, a), b, a)
        best = self.select(dtype, self.compare(less, dtype, a, b), a, b)
        return self.select(dtype, self.compare("uno", dtype, a, a), a, best)


# --- functions: (arithmetic, operand types, result type, operands) → result ----------------------

Spelling = Callable[[Arithmetic, tuple[str, ...], str, list[str]], str]


def _binary(real: str, whole: str) -> Spelling:
    return lambda a, kinds, dtype, x: a.op(real if is_float(dtype) else whole, dtype, *x)


def _math(name: str) -> Spelling:
    return lambda a, kinds, dtype, x: vectormath.function(a.e, name, x, dtype, a.lanes)


def _same_for_integers(name: str) -> Spelling:
    real = _math(name)
    return lambda a, kinds, dtype, x: real(a, kinds, dtype, x) if is_float(dtype) else x[0]


def _compare(real: str, signed: str, unsigned: str) -> Spelling:
    def spell(a, kinds, dtype, x):
        kind = kinds[0]
        how = real if is_float(kind) else unsigned if kind in ("bool", "u8") else signed
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
        return a.intrinsic("floor", dtype, a.op("fdiv", dtype, *x))
    shift = _shift(x[1])
    if shift is not None:
        return a.op("ashr", dtype, x[0], a.constant(shift, dtype))
    quotient, remainder, by = _divide(a, dtype, *x)
    down = a.op("sub", dtype, quotient, a.constant(1, dtype))
    floored = a.select(dtype, _apart(a, dtype, remainder, by), down, quotient)
    return _unless_zero(a, dtype, x[1], floored)


def _mod(a, kinds, dtype, x):
    if is_float(dtype):
        whole = a.intrinsic("floor", dtype, a.op("fdiv", dtype, *x))
        return a.op("fsub", dtype, x[0], a.op("fmul", dtype, whole, x[1]))
    shift = _shift(x[1])
    if shift is not None:
        return a.op("and", dtype, x[0], a.constant(2**shift - 1, dtype))
    _, remainder, by = _divide(a, dtype, *x)
    up = a.op("add", dtype, remainder, by)
    floored = a.select(dtype, _apart(a, dtype, remainder, by), up, remainder)
    return _unless_zero(a, dtype, x[1], floored)


def _shift(operand: str) -> int | None:
    """n if the operand is the constant 2^n."""
    if not is_constant(operand):
        return None
    value = int(operand.removesuffix(")").split()[-1])
    return value.bit_length() - 1 if value > 0 and value & (value - 1) == 0 else None


def _divide(a, dtype, x, y):
    """Quotient and remainder towards zero, and a divisor that cannot trap."""
    if not is_constant(y):
        zero = a.compare("eq", dtype, y, a.constant(0, dtype))
        minus = a.compare("eq", dtype, y, a.constant(-1, dtype))
        lowest = a.compare("eq", dtype, x, a.constant(LOWEST[dtype], dtype))
        trap = a.op("or", "bool", zero, a.op("and", "bool", minus, lowest))
        y = a.select(dtype, trap, a.constant(1, dtype), y)
    elif int(y.removesuffix(")").split()[-1]) == 0:
        y = a.constant(1, dtype)
    quotient = a.op("sdiv", dtype, x, y)
    return quotient, a.op("sub", dtype, x, a.op("mul", dtype, quotient, y)), y


def _apart(a, dtype, remainder, by):
    """Whether the remainder is not zero and has the other sign than the divisor."""
    some = a.compare("ne", dtype, remainder, a.constant(0, dtype))
    sign = a.compare("slt", dtype, a.op("xor", dtype, remainder, by), a.constant(0, dtype))
    return a.op("and", "bool", some, sign)


def _unless_zero(a, dtype, by, value):
    if is_constant(by) and int(by.removesuffix(")").split()[-1]) != 0:
        return value
    zero = a.constant(0, dtype)
    return a.select(dtype, a.compare("eq", dtype, by, zero), zero, value)


def _pow(a, kinds, dtype, x):
    """Integers by squaring, over every bit of the exponent (taken as not negative)."""
    if is_float(dtype):
        return vectormath.function(a.e, "pow", x, dtype, a.lanes)
    base, power = x
    one, zero, result = a.constant(1, dtype), a.constant(0, dtype), a.constant(1, dtype)
    for bit in range(31 if dtype == "i32" else 63):
        odd = a.op("and", dtype, a.op("lshr", dtype, power, a.constant(bit, dtype)), one)
        factor = a.select(dtype, a.compare("ne", dtype, odd, zero), base, one)
        result = a.op("mul", dtype, result, factor)
        base = a.op("mul", dtype, base, base)
    return result


def _is_finite(a, kinds, dtype, x):
    kind = kinds[0]
    if not is_float(kind):
        return a.constant(1, "bool")
    size = a.intrinsic("fabs", kind, x[0])
    return a.compare("olt", kind, size, a.constant(float("inf"), kind))


def rounded_bits(a: Arithmetic, dtype: str, x: str) -> str:
    """The bits of the nearest number of 8 significant bits, ties to even, as an integer."""
    whole, low = ("i32", 16) if dtype == "f32" else ("i64", 45)
    bits, cut = a.convert("bitcast", dtype, whole, x), a.constant(-(2**low), whole)
    odd = a.op(
        "and", whole, a.op("lshr", whole, bits, a.constant(low, whole)), a.constant(1, whole)
    )
    more = a.op("add", whole, odd, a.constant(2 ** (low - 1) - 1, whole))
    rounded = a.op("and", whole, a.op("add", whole, bits, more), cut)
    number = a.compare("uno", dtype, x, x)  # what is no number stays none
    quiet = a.op("and", whole, a.op("or", whole, bits, a.constant(2 ** (low + 6), whole)), cut)
    return a.select(whole, number, quiet, rounded)


def _bf16(a, kinds, dtype, x):
    whole = "i32" if dtype == "f32" else "i64"
    return a.convert("bitcast", whole, dtype, rounded_bits(a, dtype, x[0]))


def _bf16_pair(a, kinds, dtype, x):
    low, high = (rounded_bits(a, "f32", n) for n in x)
    return a.op("or", "i32", a.op("lshr", "i32", low, a.constant(16, "i32")), high)


def _bf16_dot(a, kinds, dtype, x):
    return bf16_dot(a, x[0], x[1], a.constant(0, "f32"))


def bf16_dot(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products of both halves of two pairs, the lower first."""
    cut, low = a.constant(-(2**16), "i32"), a.constant(16, "i32")
    for half in (lambda n: a.op("shl", "i32", n, low), lambda n: a.op("and", "i32", n, cut)):
        x, y = (a.convert("bitcast", "i32", "f32", half(n)) for n in (p, q))
        into = a.intrinsic("fma", "f32", x, y, into)
    return into


def _not(a, kinds, dtype, x):
    return a.op("xor", "bool", x[0], a.constant(1, "bool"))


def _random(a, kinds, dtype, x):
    seed, step, stream, index = x
    return vectormath.threefry(a.e, seed, step, stream, index, a.lanes)


def cast(a: Arithmetic, source: str, dtype: str, x: str) -> str:
    """A conversion as NumPy does it; floats out of range saturate."""
    if source == dtype:
        return x
    if dtype == "bool":
        return a.compare("une" if is_float(source) else "ne", source, x, a.constant(0, source))
    if is_float(source) and is_float(dtype):
        return a.convert("fpext" if dtype == "f64" else "fptrunc", source, dtype, x)
    if is_float(dtype):
        return a.convert("uitofp" if source in ("bool", "u8") else "sitofp", source, dtype, x)
    if is_float(source):
        return _truncate(a, source, dtype, x)
    wider = tuple(LOWEST).index(dtype) > tuple(LOWEST).index(source)
    unsigned = source in ("bool", "u8")
    return a.convert(("zext" if unsigned else "sext") if wider else "trunc", source, dtype, x)


def _truncate(a, source, dtype, x):
    whole = "i32" if dtype == "u8" else dtype
    tail = "" if a.lanes == 1 else f"v{a.lanes}"
    name = f"llvm.fptosi.sat.{tail}{SUFFIX[whole]}.{tail}{SUFFIX[source]}"
    a.e.declare(f"declare {a.type(whole)} @{name}({a.type(source)})")
    result = a.e.op(f"call {{T}} @{name}({a.type(source)} {{0}})", x, type=a.type(whole))
    return result if whole == dtype else a.convert("trunc", whole, dtype, result)


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
    "erf": _math("erf"), "floor": _same_for_integers("floor"),
    "ceil": _same_for_integers("ceil"), "round": _same_for_integers("round"),
    "is_finite": _is_finite,
    "eq": _compare("oeq", "eq", "eq"), "ne": _compare("une", "ne", "ne"),
    "lt": _compare("olt", "slt", "ult"), "le": _compare("ole", "sle", "ule"),
    "gt": _compare("ogt", "sgt", "ugt"), "ge": _compare("oge", "sge", "uge"),
    "and": _logic("and"), "or": _logic("or"), "not": _not, "select": _select,
    "bool": _cast, "u8": _cast, "i32": _cast, "i64": _cast, "f32": _cast, "f64": _cast,
    "random": _random, "bf16": _bf16,
    "bf16_pair": _bf16_pair, "bf16_dot": _bf16_dot, "stop": lambda a, kinds, dtype, x: x[0],
    "after": lambda a, kinds, dtype, x: x[0],
}  # fmt: skip
