"""bf16 by the processor's own instructions (AVX512_BF16): rounding, packing pairs, dot products.

Operands are SSA names of 16 lanes. These instructions flush numbers below 2^-126 to zero, and
add the upper product before the lower; `instructions.py` has what other processors do.
Tests: tests/passes/test_pack_bf16_pairs.py.
"""

from __future__ import annotations

from collections.abc import Callable

from .arithmetic import Arithmetic, shuffle

LANES = 16
_PAIRS = "<32 x bfloat>"


def rounded(a: Arithmetic, x: str) -> str:
    """A vector of f32, every element the nearest bf16 number, in f32."""
    name, kind, narrow = "llvm.x86.avx512bf16.cvtneps2bf16.512", a.type("f32"), "<16 x bfloat>"
    a.e.declare(f"declare {narrow} @{name}({kind})")
    short = a.e.op(f"call {{T}} @{name}({kind} {{0}})", x, type=narrow)
    return a.e.op(f"fpext {narrow} {{0}} to {{T}}", short, type=kind)


def pair(a: Arithmetic, first: str, second: str) -> str:
    """Two vectors of f32 rounded and packed into one of i32, the first in the lower halves."""
    name, kind = "llvm.x86.avx512bf16.cvtne2ps2bf16.512", a.type("f32")
    a.e.declare(f"declare {_PAIRS} @{name}({kind}, {kind})")
    # The instruction puts its second operand into the lower half of the result.
    both = a.e.op(f"call {{T}} @{name}({kind} {{1}}, {kind} {{0}})", first, second, type=_PAIRS)
    # a0 … a15 b0 … b15   →   a0 b0 a1 b1 …: each pair in 32 bits
    interleaved = [lane for k in range(LANES) for lane in (k, k + LANES)]
    mixed = shuffle(a.e, "bfloat", 2 * LANES, both, "poison", interleaved)
    return a.e.op(f"bitcast {_PAIRS} {{0}} to {{T}}", mixed, type=a.type("i32"))


def dot(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products of both halves of two vectors of pairs."""
    name, kind = "llvm.x86.avx512bf16.dpbf16ps.512", a.type("f32")
    a.e.declare(f"declare {kind} @{name}({kind}, {_PAIRS}, {_PAIRS})")
    cast = f"bitcast {a.type('i32')} {{0}} to {{T}}"
    left, right = (a.e.op(cast, n, type=_PAIRS) for n in (p, q))
    text = f"call {{T}} @{name}({{T}} {{0}}, {_PAIRS} {{1}}, {_PAIRS} {{2}})"
    return a.e.op(text, into, left, right, type=kind)


# scalar functions that are instructions
INSTRUCTIONS: dict[str, Callable[..., str]] = {"bf16": rounded, "bf16_pair": pair}
