"""The table of scalar functions: one record for each.

A record has the function's arity, its type rule, its meaning in NumPy and its operator symbol, if
it has one. Derivatives are in `derivatives.py`, spellings in LLVM and CUDA in tables with the same
keys in `codegen/`; tests walk all of them. `build.call` applies a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

from ...dsl.records import record
from .dtypes import DTYPES, is_float
from .lazy_numpy import np
from .random import threefry_numpy

# --- type rules --------------------------------------------------------------------------------


@cache
def promote(*dtypes: str) -> str:
    """The common type of values of these types; arithmetic on small integers is in i32."""
    best = max(dtypes, key=DTYPES.index)
    return best if DTYPES.index(best) >= DTYPES.index("i32") else "i32"


_arithmetic = promote


def _floating(*dtypes: str) -> str:
    best = promote(*dtypes)
    return best if is_float(best) else "f32"


def _truth(*dtypes: str) -> str:
    return "bool"


def _choice(condition: str, yes: str, no: str) -> str:
    return yes if yes == no else promote(yes, no)


# --- the table ---------------------------------------------------------------------------------


@record
class Scalar:
    """A scalar function. `type` gives its result's type from its operands' types; `meaning` is a
    function of arrays, or the name of NumPy's; `symbol` is the operator written between the
    operands; `cost` is what it takes, in multiplications."""

    name: str
    arity: int
    type: Callable[..., str]
    meaning: Callable | str
    symbol: str = ""
    cost: int = 1

    @cached_property
    def numpy(self) -> Any:
        """What it computes of arrays."""
        function: Any = self.meaning
        return getattr(np, function) if isinstance(function, str) else function


def _floordiv(x, y):
    """Integers: rounded down, and 0 where y is 0. Floats: the greatest whole number n with
    n y <= x for y > 0; where rounding lifts x / y to a whole number, that is one less."""
    if np.result_type(x, y).kind != "f":
        return np.floor_divide(x, y)
    n, rest = np.floor(np.divide(x, y)), np.mod(x, y)
    below = np.rint(np.divide(np.subtract(x, rest), y))
    return np.where(np.isfinite(n) & np.isfinite(rest) & (below < n), below, n)


def _pow(x, y):
    """A negative power of an integer is cut to an integer, as a quotient would be: 2^-1 is 0."""
    if np.result_type(x, y).kind == "f":
        return np.power(x, y)
    x, y = np.broadcast_arrays(x, y)
    cut = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y & 1), 0))
    return np.where(y < 0, cut, np.power(x, np.maximum(y, 0)))


def _whole(name: str) -> Callable:
    """A conversion to an integer type. A float is cut towards zero, to the nearest end of the range
    where it lies beyond, and NaN to 0; an integer keeps its low bits."""

    def convert(x):
        x, kind = np.asarray(x), getattr(np, name)
        if x.dtype.kind != "f":
            return x.astype(kind)
        # What lies beyond is not converted by NumPy, whose result there differs by machine.
        # 2^31 and 2^63 are floats, the greatest integers below them are not.
        least, greatest = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        below, above = x < least, x >= float(greatest + 1)
        cut: np.ndarray = np.where(below | above | np.isnan(x), 0, x).astype(kind)
        return np.where(below, kind(least), np.where(above, kind(greatest), cut))

    return convert


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.asarray(x).dtype])(x)


def _erfc(x):
    return np.vectorize(math.erfc, otypes=[np.asarray(x).dtype])(x)


def _sigmoid(x):
    e = np.exp(-np.abs(x))  # cannot overflow
    return np.where(np.less(x, 0), e, np.ones_like(e)) / (1 + e)


def _bf16(x):
    """The nearest bfloat16 (8 significant bits), ties to even. NaN and infinity stay; a number
    beyond the largest bfloat16 becomes infinite."""
    x = np.asarray(x)
    # Bits to drop: bf16 keeps 7 of the 23 bits of an f32's fraction, or of the 52 of an f64's.
    whole, low = (np.uint32, 16) if x.dtype == np.float32 else (np.uint64, 45)
    bits = x.view(whole)
    odd = (bits >> whole(low)) & whole(1)
    # Adding half of the last kept bit less one, plus one if that bit is odd, carries exactly if the
    # dropped bits are more than half, or half beside an odd bit: ties to even.
    bits = (bits + odd + whole(2 ** (low - 1) - 1)) >> whole(low) << whole(low)
    found = np.where(np.isfinite(x), bits.view(x.dtype), x)
    if x.dtype == np.float32:
        return found
    # f64 has more exponents. Around 2^-81 its numbers are 2^-133 apart, as the least of bf16 are:
    # an addition rounds to these.
    size, align = np.abs(x), 1.5 * 2.0**-81
    found = np.where(size < 2.0**-126, np.copysign((size + align) - align, x), found)
    return np.where(size >= 2.0**128 - 2.0**119, np.copysign(np.inf, x), found)


def _f16(x):
    """The nearest number of f16 (11 significant bits, of at least 2^-24), ties to even; from 65,520
    on it is infinite."""
    x = np.asarray(x)
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


def halves(values: np.ndarray, storage: str) -> np.ndarray:
    """Values rounded to a format of 16 bits, as memory has them: an array of u16."""
    if storage == "f16":
        return _f16(values).astype(np.float16).view(np.uint16)
    if values.dtype == np.float32 and not np.isnan(values).any():
        return _bf16_bits(values)
    rounded = _bf16(values).astype(np.float32)  # exact
    return (np.ascontiguousarray(rounded).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _bf16_bits(values: np.ndarray) -> np.ndarray:
    """The upper halves of numbers of f32, rounded as in `_bf16`, with few passes over memory."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    more = bits >> np.uint32(16)
    more &= np.uint32(1)
    more += np.uint32(0x7FFF)
    more += bits
    more >>= np.uint32(16)
    return more.astype(np.uint16)


def of_halves(bits: np.ndarray, storage: str) -> np.ndarray:
    """What memory has in a format of 16 bits, in f32."""
    if storage == "f16":
        with np.errstate(invalid="ignore"):  # a signalling NaN is one, too
            return np.ascontiguousarray(bits).view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _bf16_pair(x, y):
    """Each number is rounded once, from its own type: one in f64 does not pass through f32."""
    both = np.broadcast_arrays(x, y)
    low, high = (_bf16(n).astype(np.float32).view(np.uint32) for n in both)
    return (low >> np.uint32(16) | high & np.uint32(0xFFFF0000)).view(np.int32)


def bf16_halves(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both numbers of every `bf16_pair`, in f32: the lower half's, then the upper half's."""
    bits = np.ascontiguousarray(pairs, np.int32).view(np.uint32)
    return (bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _bf16_dot(p, q):
    # Products of two 8-bit significands are exact in float64.
    (a, b), (c, d) = bf16_halves(p), bf16_halves(q)
    return a.astype(np.float64) * c + b.astype(np.float64) * d


def _int8_quad(*numbers):
    rows = np.broadcast_arrays(*numbers)
    found = np.zeros(rows[0].shape, np.uint32)
    for place, x in enumerate(rows):
        found |= x.astype(np.uint8).astype(np.uint32) << np.uint32(8 * place)
    return found.view(np.int32)


def int8_bytes(quads: np.ndarray, kind: type) -> list[np.ndarray]:
    """The four numbers of every `int8_quad`, the lowest first, as numbers of 8 bits of a kind."""
    bits = np.asarray(quads, np.int32).view(np.uint32)
    return [(bits >> np.uint32(8 * place)).astype(np.uint8).view(kind) for place in range(4)]


def _int8_dot(p, q):
    pairs = zip(int8_bytes(p, np.uint8), int8_bytes(q, np.int8), strict=True)
    return sum(x.astype(np.int32) * y.astype(np.int32) for x, y in pairs)


_ROWS = [
    #      name       arity type            numpy            symbol
    Scalar("add",       2, _arithmetic,     "add",           "+"),
    Scalar("sub",       2, _arithmetic,     "subtract",      "-"),
    Scalar("mul",       2, _arithmetic,     "multiply",      "*"),
    Scalar("div",       2, _floating,       "divide",        "/", cost=6),
    Scalar("floordiv",  2, _arithmetic,     _floordiv,       "//"),
    Scalar("mod",       2, _arithmetic,     "mod",           "%"),
    Scalar("pow",       2, _arithmetic,     _pow,            "^", cost=30),
    Scalar("neg",       1, _arithmetic,     "negative"),
    Scalar("max",       2, _arithmetic,     "maximum"),
    Scalar("min",       2, _arithmetic,     "minimum"),
    Scalar("abs",       1, _arithmetic,     "abs"),
    Scalar("sign",      1, _arithmetic,     "sign"),
    Scalar("exp",       1, _floating,       "exp", cost=10),
    Scalar("log",       1, _floating,       "log", cost=12),
    Scalar("expm1",     1, _floating,       "expm1", cost=10),
    Scalar("log1p",     1, _floating,       "log1p", cost=12),
    Scalar("sqrt",      1, _floating,       "sqrt", cost=6),
    Scalar("tanh",      1, _floating,       "tanh", cost=12),
    Scalar("sin",       1, _floating,       "sin", cost=15),
    Scalar("cos",       1, _floating,       "cos", cost=15),
    Scalar("erf",       1, _floating,       _erf, cost=15),
    Scalar("erfc",      1, _floating,       _erfc, cost=20),
    Scalar("sigmoid",   1, _floating,       _sigmoid, cost=12),
    Scalar("floor",     1, _floating,       "floor"),
    Scalar("ceil",      1, _floating,       "ceil"),
    Scalar("round",     1, _floating,       "rint"),
    Scalar("is_finite", 1, _truth,          "isfinite"),
    Scalar("eq",        2, _truth,          "equal",          "=="),
    Scalar("ne",        2, _truth,          "not_equal",      "!="),
    Scalar("lt",        2, _truth,          "less",           "<"),
    Scalar("le",        2, _truth,          "less_equal",     "<="),
    Scalar("gt",        2, _truth,          "greater",        ">"),
    Scalar("ge",        2, _truth,          "greater_equal", ">="),
    Scalar("and",       2, _truth,          "logical_and",    "and"),
    Scalar("or",        2, _truth,          "logical_or",     "or"),
    Scalar("not",       1, _truth,          "logical_not"),
    Scalar("select",    3, _choice,         "where"),
    Scalar("bool",      1, lambda x: "bool", "bool_"),
    Scalar("u8",        1, lambda x: "u8",  _whole("uint8")),
    Scalar("i8",        1, lambda x: "i8",  _whole("int8")),
    Scalar("i32",       1, lambda x: "i32", _whole("int32")),
    Scalar("i64",       1, lambda x: "i64", _whole("int64")),
    Scalar("f32",       1, lambda x: "f32", "float32"),
    Scalar("f64",       1, lambda x: "f64", "float64"),
    # x rounded to the nearest number of the format, in the type of x
    Scalar("f16",       1, _floating,       _f16, cost=5),
    Scalar("bf16",      1, _floating,       _bf16, cost=5),
    # two numbers rounded so in 32 bits, the first in the lower half, and the sum of the products
    # of two such pairs
    Scalar("bf16_pair", 2, lambda *x: "i32", _bf16_pair),
    Scalar("bf16_dot",  2, lambda *x: "f32", _bf16_dot),
    # four numbers of 8 bits in 32, the first in the lowest bits, and the sum of the products of two
    # such quads, the first of u8, the second of i8
    Scalar("int8_quad", 4, lambda *x: "i32", _int8_quad),
    Scalar("int8_dot",  2, lambda *x: "i32", _int8_dot),
    # stop(x): x, but a constant to differentiation
    Scalar("stop",      1, lambda x: x,     "positive", cost=0),
    # after(x, y): x, computed no earlier than y
    Scalar("after",     2, lambda x, y: x,  lambda x, y: np.broadcast_arrays(x, y)[0], cost=0),
    # random(seed, step, stream, index): uniform in [0, 1), the same bits on every backend
    Scalar("random",    4, lambda *x: "f32", threefry_numpy, cost=40),
]  # fmt: skip

TABLE = {row.name: row for row in _ROWS}
CASTS = frozenset(DTYPES)
