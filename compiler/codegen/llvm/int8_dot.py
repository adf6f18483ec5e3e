"""Dot products of four numbers of 8 bits in each lane, on x86.

    int8_dot(p, q) = p0*q0 + p1*q1 + p2*q2 + p3*q3      p unsigned, q signed

VNNI does it in one instruction, with the addition. Where it is missing, the even and the odd bytes
are widened and multiplied by PMADDWD, which adds two products in 32 bits; PMADDUBSW adds them in 16
and saturates. Tests: tests/passes/test_pack_int8_quads.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .arithmetic import Arithmetic
from .narrow_products import INSTRUCTIONS as PAIRS

# vpdpbusd by the lanes of a vector
INSTRUCTIONS = {4: "llvm.x86.avx512.vpdpbusd.128", 8: "llvm.x86.avx512.vpdpbusd.256",
                16: "llvm.x86.avx512.vpdpbusd.512"}  # fmt: skip
BYTE = 8  # bits
LOW_BYTES = 0x00FF00FF
SIZE = 4


class Instructions(Protocol):
    """What the processor has."""

    @property
    def vnni(self) -> bool: ...

    @property
    def i16_pairs(self) -> bool: ...


def added(a: Arithmetic, p: str, q: str, into: str, has: Instructions) -> str:
    """`into` and the products of two quads."""
    if has.vnni and a.lanes in INSTRUCTIONS:
        return dot(a, p, q, into)
    if has.i16_pairs and a.lanes in PAIRS:
        return dot_by_pairs(a, p, q, into)
    return dot_one_by_one(a, p, q, into)


def dot(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products, by VNNI."""
    name, kind = INSTRUCTIONS[a.lanes], a.type("i32")
    a.e.declare(f"declare {kind} @{name}({kind}, {kind}, {kind})")
    text = f"call {{T}} @{name}({{T}} {{0}}, {{T}} {{1}}, {{T}} {{2}})"
    return a.e.op(text, into, p, q, type=kind)


def dot_by_pairs(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products, by multiply-adds of pairs of 16 bits."""
    shift = f"splat (i16 {BYTE})"
    low = a.constant(LOW_BYTES, "i32")
    evens = a.op("and", "i32", p, low), _pairs(a, "ashr", _pairs(a, "shl", q, shift), shift)
    odds = (
        a.op("and", "i32", a.op("lshr", "i32", p, a.constant(BYTE, "i32")), low),
        _pairs(a, "ashr", q, shift),
    )
    for x, y in (evens, odds):
        into = a.op("add", "i32", into, _multiplied(a, x, y))
    return into


def dot_one_by_one(a: Arithmetic, p: str, q: str, into: str) -> str:
    """`into` and the products, on any processor."""
    for number in range(SIZE):
        left = a.op("lshr", "i32", p, a.constant(BYTE * number, "i32"))
        left = a.op("and", "i32", left, a.constant(2**BYTE - 1, "i32"))
        up = a.op("shl", "i32", q, a.constant(BYTE * (SIZE - 1 - number), "i32"))
        right = a.op("ashr", "i32", up, a.constant(BYTE * (SIZE - 1), "i32"))
        into = a.op("add", "i32", into, a.op("mul", "i32", left, right))
    return into


def quad(a: Arithmetic, numbers: Sequence[str]) -> str:
    """Four numbers of 8 bits in 32, the first in the lowest."""
    found = ""
    narrow = "i8" if a.lanes == 1 else f"<{a.lanes} x i8>"
    for number, x in enumerate(numbers):
        wide = a.e.op(f"zext {narrow} {{0}} to {{T}}", x, type=a.type("i32"))
        part = a.op("shl", "i32", wide, a.constant(BYTE * number, "i32")) if number else wide
        found = a.op("or", "i32", found, part) if found else part
    return found


def _type(a: Arithmetic) -> str:
    return f"<{2 * a.lanes} x i16>"


def _pairs(a: Arithmetic, how: str, x: str, by: str) -> str:
    """A shift of all halves of the lanes."""
    halves = a.e.op(f"bitcast {a.type('i32')} {{0}} to {{T}}", x, type=_type(a))
    moved = a.e.op(f"{how} {{T}} {{0}}, {by}", halves, type=_type(a))
    return a.e.op(f"bitcast {_type(a)} {{0}} to {{T}}", moved, type=a.type("i32"))


def _multiplied(a: Arithmetic, x: str, y: str) -> str:
    name, kind = PAIRS[a.lanes], _type(a)
    a.e.declare(f"declare {a.type('i32')} @{name}({kind}, {kind})")
    halves = [a.e.op(f"bitcast {a.type('i32')} {{0}} to {{T}}", n, type=kind) for n in (x, y)]
    text = f"call {{T}} @{name}({kind} {{0}}, {kind} {{1}})"
    return a.e.op(text, *halves, type=a.type("i32"))
