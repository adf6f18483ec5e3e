"""Types, constants and operations of LLVM on one lane or on a vector of them.

`Arithmetic` writes an operation through a `Writer` (`function_writer.py`) and returns the SSA name
of its result. Operands are SSA names or constants, both plain strings.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from ...ir.dtypes import HALVES, UNSIGNED, is_float

LLVM = {
    "bool": "i1", "u8": "i8", "i8": "i8", "i32": "i32", "i64": "i64", "f32": "float",
    "f64": "double",
}  # fmt: skip
SUFFIX = LLVM | {"f32": "f32", "f64": "f64"}
MEMORY = LLVM | {"bool": "i8"} | dict.fromkeys(HALVES, "i16")


class InstructionWriter(Protocol):
    """Where operations are written."""

    def op(self, text: str, *operands: str, type: str) -> str: ...
    def declare(self, line: str) -> None: ...


def type_name(dtype: str, lanes: int = 1) -> str:
    return LLVM[dtype] if lanes == 1 else f"<{lanes} x {LLVM[dtype]}>"


def constant(value: float, dtype: str, lanes: int = 1) -> str:
    """A literal operand. LLVM writes a float as the bits of the double that it equals."""
    if is_float(dtype):
        number = float(value)
        if dtype == "f32":
            number = single(number)
        # All floats alike, in hexadecimal, so that no digits are lost.
        text = f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
    else:
        text = str(int(value))
    return text if lanes == 1 else f"splat ({LLVM[dtype]} {text})"


def single(number: float) -> float:
    """The nearest f32."""
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def is_constant(operand: str) -> bool:
    return not operand.startswith("%")


def lane_vector(values: Sequence[int], kind: str) -> str:
    """A constant vector of integers of the LLVM type `kind`."""
    return "<" + ", ".join(f"{kind} {value}" for value in values) + ">"


def shuffle(
    e: InstructionWriter, kind: str, lanes: int, a: str, b: str, picked: Sequence[int]
) -> str:
    """The `picked` lanes of two vectors of `lanes` elements of the LLVM type `kind`, counted from
    the first lane of `a`; `b` may be `poison`."""
    source, mask = f"<{lanes} x {kind}>", lane_vector(picked, "i32")
    text = f"shufflevector {source} {{0}}, {source} {{1}}, <{len(picked)} x i32> {mask}"
    return e.op(text, a, b, type=f"<{len(picked)} x {kind}>")


@cache
def _operation(name: str, operands: int) -> str:
    """The text of an operation whose operands have the type of the result."""
    return f"{name} {{T}} {', '.join(f'{{{i}}}' for i in range(operands))}"


@dataclass(frozen=True)
class Arithmetic:
    """Operations on `lanes` elements at once. Without `doubles` nothing on f32 is done in f64."""

    e: InstructionWriter
    lanes: int
    doubles: bool = True

    def type(self, dtype: str) -> str:
        return type_name(dtype, self.lanes)

    def constant(self, value: float, dtype: str) -> str:
        return constant(value, dtype, self.lanes)

    def op(self, name: str, dtype: str, *operands: str) -> str:
        return self.e.op(_operation(name, len(operands)), *operands, type=self.type(dtype))

    def compare(self, how: str, dtype: str, a: str, b: str) -> str:
        kind = "fcmp" if is_float(dtype) else "icmp"
        text = f"{kind} {how} {self.type(dtype)} {{0}}, {{1}}"
        return self.e.op(text, a, b, type=self.type("bool"))

    def select(self, dtype: str, condition: str, yes: str, no: str) -> str:
        text = f"select {self.type('bool')} {{0}}, {{T}} {{1}}, {{T}} {{2}}"
        return self.e.op(text, condition, yes, no, type=self.type(dtype))

    def convert(self, how: str, source: str, dtype: str, operand: str) -> str:
        text = f"{how} {self.type(source)} {{0}} to {{T}}"
        return self.e.op(text, operand, type=self.type(dtype))

    def intrinsic(self, name: str, dtype: str, *operands: str, flag: str = "") -> str:
        """`flag` is a trailing i1 argument that some integer intrinsics have."""
        # The suffix names the type: @llvm.fma.v16f32
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
        kind, type = LLVM[dtype], self.type(dtype)
        if is_constant(operand):
            # A constant vector is an operand of its own and needs no instruction.
            return f"splat ({kind} {operand})"
        # LLVM's idiom for a broadcast: insert into lane 0, then shuffle that lane everywhere.
        one = self.e.op(f"insertelement {{T}} poison, {kind} {{0}}, i64 0", operand, type=type)
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.e.op(f"shufflevector {{T}} {{0}}, {{T}} poison, {zeros}", one, type=type)

    def extreme(self, which: str, dtype: str, a: str, b: str) -> str:
        """The larger (`max`) or smaller (`min`); NaN if either is."""
        if not is_float(dtype):
            sign = "u" if dtype in UNSIGNED else "s"
            return self.intrinsic(sign + which, dtype, a, b)
        if is_constant(a):
            # A constant second operand allows the shorter form below; the order does not matter to
            # the result.
            a, b = b, a
        less = "ogt" if which == "max" else "olt"
        if is_constant(b):  # select(a < b, b, a) passes a NaN in a: one instruction
            return self.select(dtype, self.compare(less, dtype, b, a), b, a)
        # `b` is taken unless a > b holds, hence also where either is NaN: then b if it is NaN. Only
        # a NaN in `a` is lost, and put back by the last select.
        best = self.select(dtype, self.compare(less, dtype, a, b), a, b)
        return self.select(dtype, self.compare("uno", dtype, a, a), a, best)
