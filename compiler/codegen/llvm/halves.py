"""Numbers of 16 bits, f16 and bf16: rounding to them, and how memory has them.

In: SSA names of values, f32 or f64, or of what memory has: integers of 16 bits. Out: a value that
is rounded and of the same type; or one converted to the other, exactly. f16 has instructions on x86
with AVX2 (F16C) and on ARM; elsewhere LLVM would call a library, so that integer arithmetic does
it. LLVM's conversion of f64 to f16 is a call on all x86, and is not used.
Tests: tests/backends/test_halves.py.
"""

from __future__ import annotations

from .arithmetic import Arithmetic

FRACTION = {"f16": 10, "bf16": 7, "f32": 23, "f64": 52}  # its bits
REBIASED = 2.0**112  # the exponents of f32 count from -127, those of f16 from -15
SHIFT = FRACTION["f32"] - FRACTION["f16"]
INFINITE = {"f16": 0x7C00, "f32": 0x7F800000}  # exponents of ones, as integers
# The exponent of the least number above 0, of which all below `LEAST_NORMAL` are multiples.
UNIT = {"f16": -24, "bf16": -133}
LEAST_NORMAL = {"f16": 2.0**-14, "bf16": 2.0**-126}
TOO_LARGE = {"f16": 65520.0, "bf16": 2.0**128 - 2.0**119}  # half a unit above the largest


def rounded_bits(a: Arithmetic, storage: str, dtype: str, x: str) -> str:
    """The bits of the nearest number with as many bits in its fraction as the format has, ties to
    even, as an integer."""
    whole, fraction = "i32" if dtype == "f32" else "i64", FRACTION[dtype]
    low = fraction - FRACTION[storage]  # bits are dropped
    bits, cut = a.convert("bitcast", dtype, whole, x), a.constant(-(2**low), whole)
    odd = a.op(
        "and", whole, a.op("lshr", whole, bits, a.constant(low, whole)), a.constant(1, whole)
    )
    # Half a unit less one, and one more if the last bit kept is odd: a tie rounds to even. A carry
    # runs into the exponent, as it should.
    more = a.op("add", whole, odd, a.constant(2 ** (low - 1) - 1, whole))
    rounded = a.op("and", whole, a.op("add", whole, bits, more), cut)
    number = a.compare("uno", dtype, x, x)  # NaN stays NaN
    # A NaN whose payload is in the dropped bits would become infinity: the quiet bit is set.
    quiet = a.constant(2 ** (fraction - 1), whole)
    return a.select(whole, number, a.op("and", whole, a.op("or", whole, bits, quiet), cut), rounded)


def rounded(a: Arithmetic, storage: str, dtype: str, x: str) -> str:
    """The nearest number of the format, by integer arithmetic."""
    whole = "i32" if dtype == "f32" else "i64"
    near = a.convert("bitcast", whole, dtype, rounded_bits(a, storage, dtype, x))
    if (storage, dtype) == ("bf16", "f32"):  # their exponents are the same
        return near
    size = a.intrinsic("fabs", dtype, x)
    # An addition rounds to the distance of the numbers there, to nearest and ties to even: in the
    # middle of a power of two, where they are as far apart as the least of the format.
    align = a.constant(1.5 * 2.0 ** (FRACTION[dtype] + UNIT[storage]), dtype)
    small = a.op("fsub", dtype, a.op("fadd", dtype, size, align), align)
    near_size = a.intrinsic("fabs", dtype, near)
    is_small = a.compare("olt", dtype, size, a.constant(LEAST_NORMAL[storage], dtype))
    found = a.select(dtype, is_small, small, near_size)
    is_large = a.compare("oge", dtype, size, a.constant(TOO_LARGE[storage], dtype))
    found = a.select(dtype, is_large, a.constant(float("inf"), dtype), found)
    return a.intrinsic("copysign", dtype, found, x)


def rounded_by_instruction(a: Arithmetic, x: str) -> str:
    """The nearest number of f16, of f32."""
    half, kind = _vector(a, "half"), a.type("f32")
    short = a.e.op(f"fptrunc {kind} {{0}} to {{T}}", x, type=half)
    return a.e.op(f"fpext {half} {{0}} to {{T}}", short, type=kind)


def widened(a: Arithmetic, storage: str, dtype: str, bits: str, instructions: bool) -> str:
    """What memory has in a format, as a value; `instructions` of the processor convert f16."""
    short = _vector(a, "i16")
    if storage == "f16" and instructions:
        half = a.e.op(f"bitcast {short} {{0}} to {{T}}", bits, type=_vector(a, "half"))
        value = a.e.op(f"fpext {_vector(a, 'half')} {{0}} to {{T}}", half, type=a.type("f32"))
    else:
        wide = a.e.op(f"zext {short} {{0}} to {{T}}", bits, type=a.type("i32"))
        value = _widened_f16(a, wide) if storage == "f16" else _widened_bf16(a, wide)
    return value if dtype == "f32" else a.convert("fpext", "f32", dtype, value)


def narrowed(a: Arithmetic, storage: str, dtype: str, x: str, instructions: bool) -> str:
    """A value that is rounded to a format already, as memory has it."""
    short = _vector(a, "i16")
    x = x if dtype == "f32" else a.convert("fptrunc", dtype, "f32", x)
    # LLVM would join two conversions to one of f64 to f16, which is a call.
    if storage == "f16" and instructions and dtype == "f32":
        half = a.e.op(f"fptrunc {a.type('f32')} {{0}} to {{T}}", x, type=_vector(a, "half"))
        return a.e.op(f"bitcast {_vector(a, 'half')} {{0}} to {{T}}", half, type=short)
    bits = a.convert("bitcast", "f32", "i32", x)
    own = _narrowed_f16(a, bits) if storage == "f16" else _shifted(a, "lshr", bits, 16)
    return a.e.op(f"trunc {a.type('i32')} {{0}} to {{T}}", own, type=short)


def _vector(a: Arithmetic, kind: str) -> str:
    return kind if a.lanes == 1 else f"<{a.lanes} x {kind}>"


def _shifted(a: Arithmetic, how: str, bits: str, by: int) -> str:
    return a.op(how, "i32", bits, a.constant(by, "i32"))


def _masked(a: Arithmetic, bits: str, mask: int) -> str:
    return a.op("and", "i32", bits, a.constant(mask, "i32"))


def _widened_bf16(a: Arithmetic, bits: str) -> str:
    return a.convert("bitcast", "i32", "f32", _shifted(a, "shl", bits, 16))


def _widened_f16(a: Arithmetic, bits: str) -> str:
    # The fraction and the exponent where f32 has them, and the bias by a multiplication, which
    # makes ordinary numbers of subnormal ones, too.
    size = _masked(a, bits, 0x7FFF)
    moved = a.convert("bitcast", "i32", "f32", _shifted(a, "shl", size, SHIFT))
    value = a.op("fmul", "f32", moved, a.constant(REBIASED, "f32"))
    special = a.compare("uge", "i32", size, a.constant(INFINITE["f16"], "i32"))
    endless = _shifted(a, "shl", size, SHIFT)
    endless = a.op("or", "i32", endless, a.constant(INFINITE["f32"], "i32"))
    found = a.select("i32", special, endless, a.convert("bitcast", "f32", "i32", value))
    sign = _shifted(a, "shl", _masked(a, bits, 0x8000), 16)
    return a.convert("bitcast", "i32", "f32", a.op("or", "i32", found, sign))


def _narrowed_f16(a: Arithmetic, bits: str) -> str:
    size = _masked(a, bits, 0x7FFFFFFF)
    value = a.convert("bitcast", "i32", "f32", size)
    moved = a.op("fmul", "f32", value, a.constant(1 / REBIASED, "f32"))  # exact
    found = _shifted(a, "lshr", a.convert("bitcast", "f32", "i32", moved), SHIFT)
    special = a.compare("uge", "i32", size, a.constant(INFINITE["f32"], "i32"))
    endless = _masked(a, _shifted(a, "lshr", size, SHIFT), 0x7FFF)
    found = a.select("i32", special, endless, found)
    return a.op("or", "i32", found, _masked(a, _shifted(a, "lshr", bits, 16), 0x8000))
