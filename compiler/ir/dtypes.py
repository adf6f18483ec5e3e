"""Data types: what each element of a tensor is, and how many bytes it takes."""

from __future__ import annotations

import numpy as np

DTYPES = ("bool", "u8", "i32", "i64", "f32", "f64")  # in order of promotion
NUMPY = {
    "bool": np.bool_,
    "u8": np.uint8,
    "i32": np.int32,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
}
BYTES = {"bool": 1, "u8": 1, "i32": 4, "i64": 8, "f32": 4, "f64": 8, "bf16": 2}  # in memory
LINE = 64  # bytes of a line of cache
ALIGNED = 8  # elements of bf16 that a GPU copies at once


def is_float(dtype: str) -> bool:
    return dtype in ("f32", "f64")
