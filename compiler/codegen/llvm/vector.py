"""Arithmetic on values of one type, scalars or vectors, as LLVM IR: what the functions of
math.py, division.py and threefry.py are written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .arithmetic import Arithmetic


@dataclass(frozen=True)
class Vector:
    """Arithmetic on one type. Numbers among operands are constants."""

    a: Arithmetic
    dtype: str

    def of(self, dtype: str) -> Vector:
        return Vector(self.a, dtype)

    def value(self, operand: str | float) -> str:
        return operand if isinstance(operand, str) else self.a.constant(operand, self.dtype)

    def op(self, name: str, *operands: str | float) -> str:
        return self.a.op(name, self.dtype, *map(self.value, operands))

    def add(self, a: str | float, b: str | float) -> str:
        return self.op("fadd", a, b)

    def sub(self, a: str | float, b: str | float) -> str:
        return self.op("fsub", a, b)

    def mul(self, a: str | float, b: str | float) -> str:
        return self.op("fmul", a, b)

    def div(self, a: str | float, b: str | float) -> str:
        return self.op("fdiv", a, b)

    def fma(self, a: str | float, b: str | float, c: str | float) -> str:
        return self.intrinsic("fma", a, b, c)

    def intrinsic(self, name: str, *operands: str | float) -> str:
        return self.a.intrinsic(name, self.dtype, *map(self.value, operands))

    def whole(self, how: str, x: str) -> str:
        """`rint`, `floor` or `ceil`, for which processors without f64 have no instruction."""
        if self.a.doubles or self.dtype != "f32":
            return self.intrinsic(how, x)
        return self.whole_by_addition(how, x)

    def whole_by_addition(self, how: str, x: str) -> str:
        """`rint`, `floor` or `ceil` by additions: in [2^23, 2^24) the last bit of an f32 is worth
        1, in [2^52, 2^53) that of an f64, and what is beyond is whole."""
        low = {"f32": 2.0**23, "f64": 2.0**52}[self.dtype]
        positive = self.intrinsic("fabs", x)
        whole = self.sub(self.add(positive, low), low)
        whole = self.select(self.compare("olt", positive, low), whole, positive)
        whole = self.intrinsic("copysign", whole, x)
        if how == "rint":
            return whole
        beyond, step = ("ogt", -1.0) if how == "floor" else ("olt", 1.0)
        moved = self.select(self.compare(beyond, whole, x), self.add(whole, step), whole)
        return self.intrinsic("copysign", moved, x)

    def compare(self, predicate: str, a: str | float, b: str | float) -> str:
        return self.a.compare(predicate, self.dtype, self.value(a), self.value(b))

    def select(self, mask: str, a: str | float, b: str | float) -> str:
        return self.a.select(self.dtype, mask, self.value(a), self.value(b))

    def convert(self, instruction: str, a: str, dtype: str) -> str:
        """`a`, of this type, as `dtype` by an LLVM conversion instruction."""
        return self.a.convert(instruction, self.dtype, dtype, a)

    def bits(self, a: str) -> str:
        return self.convert("bitcast", a, "i" + self.dtype[1:])

    def at_least(self, a: str, low: float) -> str:
        return self.select(self.compare("olt", a, low), low, a)

    def at_most(self, a: str, high: float) -> str:
        return self.select(self.compare("ogt", a, high), high, a)

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """c[0] + c[1] x + c[2] x² + … by Horner's rule."""
        result: str | float = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, coefficient)
        return self.value(result)
