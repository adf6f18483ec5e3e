"""bf16 numbers and pairs of them by the processor's own instructions (AVX512_BF16).

In: SSA operands, 16 in a vector. Out: the SSA result. These instructions take numbers below 2^-126
for zero, and add the upper product before the lower; `spelling.py` has what all others do.
"""

from __future__ import annotations

from collections.abc import Callable

from .instructions import Arithmetic

LANES = 16
_PAIRS = "<32 x bfloat>"


def rounded(a: Arithmetic, x: str) -> str:
    """A vector of f32, every element the nearest bf16 number, in f32."""
    name, kind, narrow = "llvm.x86.avx512bf16.cvtneps2bf16.512", a.type("f32"), "<16 x bfloat>"
    a.e.declare(f"declare {narrow} @{name}({kind})")
    short = a.e.op(f"call {{T}} @{name}({kind} {{0}})", x, type=narrow)
    return a.e.op(f"fpext {narrow} {{0}} to {{T}}", short, type=kind)


def pair(a: Arithmetic, first: str, second: str) -> str:
    """Two vectors of f32 rounded, each pair of theirs in an i32, the first in its lower half."""
    name, kind = "llvm.x86.avx512bf16.cvtne2ps2bf16.512", a.type("f32")
    a.e.declare(f"declare {_PAIRS} @{name}({kind}, {kind})")
    both = a.e.op(f"call {{T}} @{name}({kind} {{1}}, {kind} {{0}})", first, second, type=_PAIRS)
    order = ", ".join(f"i32 {k}, i32 {k + LANES}" for k in range(LANES))
    mixed = a.e.op(
        f"shufflevector {{T}} {{0}}, {{T}} poison, <{2 * LANES} x i32> <{order}>", both, type=_PAIRS
    )
    return a.e.op(f"bitcast {_PAIRS} {{0}} to {{T}}", mixed, type=a.type("i32"))


def dot(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products of both halves of two vectors of pairs."""
    name, kind = "llvm.x86.avx512bf16.dpbf16ps.512", a.type("f32")
    a.e.declare(f"declare {kind} @{name}({kind}, {_PAIRS}, {_PAIRS})")
    left, right = (
        a.e.op(f"bitcast {a.type('i32')} {{0}} to {{T}}", n, type=_PAIRS) for n in (p, q)
    )
    return a.e.op(
        f"call {{T}} @{name}({{T}} {{0}}, {_PAIRS} {{1}}, {_PAIRS} {{2}})",
        into,
        left,
        right,
        type=kind,
    )


# scalar functions that are instructions
OWN: dict[str, Callable[..., str]] = {"bf16": rounded, "bf16_pair": pair}
