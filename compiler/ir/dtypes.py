"""Data types: what the elements of a tensor are, and how many bytes memory takes for them.

Values are computed in one of `DTYPES`. Memory may hold a float in one of two formats of 16 bits
(`Tensor.storage`):

    f16    1 bit of the sign, 5 of the exponent, 10 of the fraction: binary16 of IEEE 754
    bf16   the upper half of an f32: 1, 8 and 7 bits (Kalamkar et al. 2019, arXiv:1905.12322)

`f16(x)` and `bf16(x)` round a value to them, to nearest and ties to even, and are still of the type
of x: storing such a value loses nothing, and loading widens it. No arithmetic is done in 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

from .lazy_numpy import np

DTYPES = ("bool", "u8", "i8", "i32", "i64", "f32", "f64")  # in order of promotion
UNSIGNED = ("bool", "u8")
SMALL = ("bool", "u8", "i8")  # computed with in i32: these are types of memory
F16_END = 65520  # is rounded to infinity
HALVES = ("f16", "bf16")  # formats that memory may hold a float in
BYTES = {
    "bool": 1,
    "u8": 1,
    "i8": 1,
    "i32": 4,
    "i64": 8,
    "f32": 4,
    "f64": 8,
    "f16": 2,
    "bf16": 2,
}  # in memory
LINE = 64  # bytes of a line of cache
ALIGNED = 8  # elements of bf16 that a GPU copies at once


class _NumpyTypes(Mapping[str, type]):
    """The types of NumPy, by ours."""

    _names: ClassVar = {
        "bool": "bool_",
        "u8": "uint8",
        "i8": "int8",
        "i32": "int32",
        "i64": "int64",
        "f32": "float32",
        "f64": "float64",
        "f16": "float16",
    }

    def __getitem__(self, dtype: str) -> type:
        found: type = getattr(np, self._names[dtype])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


NUMPY = _NumpyTypes()

# the least and the greatest value
INTEGERS = {"bool": (0, 1), "u8": (0, 255), "i8": (-128, 127),
            "i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1)}  # fmt: skip


def fits(value: float, dtype: str) -> bool:
    """Whether a type can hold a number: floats any, f16 and integers those in their range."""
    if dtype == "f16":
        return not math.isfinite(value) or abs(value) < F16_END
    if is_float(dtype):
        return True
    least, greatest = INTEGERS[dtype]
    return least <= value <= greatest


def neutral(reduction: str, dtype: str) -> float:
    """What changes no reduction of this type: 0 for a sum, the least value for a maximum."""
    if reduction in ("sum", "prod"):
        return 0 if reduction == "sum" else 1
    least, greatest = (-math.inf, math.inf) if is_float(dtype) else INTEGERS[dtype]
    return least if reduction in ("max", "argmax") else greatest


def is_float(dtype: str) -> bool:
    return dtype in ("f32", "f64", *HALVES)
