"""How scalar functions, constants and types are spelled in CUDA C++.

In: a scalar function's name, operand types and operands as C++ text. Out: C++ text. `SPELLING` has
the keys of `functions.TABLE`. What needs more than an operator or a library function is in
`prelude.cuh`, where its rules stand, too.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isinf, isnan

import numpy as np

from ...ir.dtypes import is_float

MEMORY = {"bool": "u8", "u8": "u8", "i8": "i8", "i32": "i32", "i64": "i64", "f32": "f32",
          "f64": "f64", "f16": "u16", "bf16": "u16"}  # fmt: skip
LOWEST = {"bool": False, "u8": 0, "i8": -128, "i32": -(2**31), "i64": -(2**63),
          "f32": float("-inf"), "f64": float("-inf")}  # fmt: skip
HIGHEST = {"bool": True, "u8": 255, "i8": 127, "i32": 2**31 - 1, "i64": 2**63 - 1,
           "f32": float("inf"), "f64": float("inf")}  # fmt: skip

Spelling = Callable[[tuple[str, ...], str, list[str]], str]


def constant(value: float, dtype: str) -> str:
    """A literal of exactly this value."""
    if dtype == "bool":
        return "true" if value else "false"
    if is_float(dtype):
        return _real(float(value), dtype)
    number = int(value)
    if dtype == "u8":
        return f"(u8){number & 255}"
    if dtype == "i8":
        return f"(i8){number}"
    suffix = "LL" if dtype == "i64" else ""
    # C++ has no negative literals: -2147483648 would be a minus before a number too large for i32
    least = -(2**63) if dtype == "i64" else -(2**31)
    return f"({number + 1}{suffix} - 1)" if number == least else f"{number}{suffix}"


def _real(number: float, dtype: str) -> str:
    if dtype == "f32":
        # the nearest f32, as NumPy rounds a constant
        with np.errstate(over="ignore"):
            number = float(np.float32(number))
    if isnan(number):
        return f"({dtype})NOT_A_NUMBER"
    if isinf(number):
        return f"({dtype})({'-' if number < 0 else ''}INFINITE)"
    ending = "f" if dtype == "f32" else ""
    short = repr(number)
    # `repr` is the shortest text that gives the same f64
    if float(short) == number and dtype == "f64":
        text = short
    else:
        # the shortest text of f32, unless it reads as another number: then in hexadecimal, exactly
        single = str(np.float32(number))
        text = single if float(np.float32(single)) == number else number.hex()
    # `1f` is no literal of C++
    if not any(mark in text for mark in ".epxn"):
        text += ".0"
    return f"({text}{ending})" if number < 0 else text + ending


def _operator(symbol: str, function: str) -> Spelling:
    """The operator for floats; for integers, the prelude's function that wraps."""
    # overflow of signed integers is undefined in C++; NumPy's wrap
    return lambda kinds, dtype, x: (
        f"{x[0]} {symbol} {x[1]}" if is_float(dtype) else f"nn::{function}({x[0]}, {x[1]})"
    )


def _compare(symbol: str) -> Spelling:
    return lambda kinds, dtype, x: f"{x[0]} {symbol} {x[1]}"


def _prelude(name: str) -> Spelling:
    return lambda kinds, dtype, x: f"nn::{name}({', '.join(x)})"


def _math(name: str) -> Spelling:
    # `expf` and not `exp`: the latter would compute in f64
    return lambda kinds, dtype, x: f"{name}{'f' if dtype == 'f32' else ''}({', '.join(x)})"


def _same_for_integers(name: str) -> Spelling:
    # whole numbers are rounded already
    real = _math(name)
    return lambda kinds, dtype, x: real(kinds, dtype, x) if is_float(dtype) else x[0]


def cast(source: str, dtype: str, x: str) -> str:
    """A conversion; floats out of range saturate, integers keep their low bits."""
    if source == dtype:
        return x
    if dtype == "bool":
        return f"{x} != 0"
    # undefined in C++ where the number is out of range
    if is_float(source) and not is_float(dtype):
        return f"nn::to_{dtype}({x})"
    return f"({dtype}){x}"


def _cast(kinds: tuple[str, ...], dtype: str, x: list[str]) -> str:
    return cast(kinds[0], dtype, x[0])


def _is_finite(kinds, dtype, x):
    return f"nn::is_finite({x[0]})" if is_float(kinds[0]) else "true"


SPELLING: dict[str, Spelling] = {
    "add": _operator("+", "add"), "sub": _operator("-", "sub"), "mul": _operator("*", "mul"),
    "div": _compare("/"), "floordiv": _prelude("floordiv"), "mod": _prelude("mod"),
    "pow": _prelude("pow"), "neg": _prelude("neg"), "abs": _prelude("abs"),
    "sign": _prelude("sign"), "max": _prelude("max"), "min": _prelude("min"),
    "exp": _math("exp"), "log": _math("log"), "expm1": _math("expm1"), "log1p": _math("log1p"),
    "sqrt": _math("sqrt"), "tanh": _math("tanh"), "sin": _math("sin"), "cos": _math("cos"),
    "erf": _math("erf"), "erfc": _math("erfc"), "sigmoid": _prelude("sigmoid"),
    "floor": _same_for_integers("floor"),
    "ceil": _same_for_integers("ceil"), "round": _same_for_integers("rint"),
    "is_finite": _is_finite,
    "eq": _compare("=="), "ne": _compare("!="), "lt": _compare("<"), "le": _compare("<="),
    "gt": _compare(">"), "ge": _compare(">="),
    "and": _compare("&&"), "or": _compare("||"), "not": lambda kinds, dtype, x: f"!{x[0]}",
    "select": lambda kinds, dtype, x: f"{x[0]} ? {x[1]} : {x[2]}",
    "bool": _cast, "u8": _cast, "i8": _cast, "i32": _cast, "i64": _cast, "f32": _cast, "f64": _cast,
    "random": _prelude("random"), "f16": _prelude("f16"), "bf16": _prelude("bf16"),
    "bf16_pair": _prelude("bf16_pair"), "bf16_dot": _prelude("bf16_dot"),
    "int8_quad": _prelude("int8_quad"), "int8_dot": _prelude("int8_dot"),
    "stop": lambda kinds, dtype, x: x[0], "after": lambda kinds, dtype, x: x[0],
}  # fmt: skip
