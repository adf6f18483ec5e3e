"""Random systems over integers, for which every backend must give what the evaluator gives, to the
bit: all arithmetic, comparisons, conversions, reductions, gathers and scatters, on values at the
ends of every type, zero divisors, negative powers, infinities and NaN.

A system has several inputs of each type and a chain of equations, of which each is an output.
"""

from __future__ import annotations

from random import Random

import numpy as np

from nnc.compiler.ir.affine import inside, is_static
from nnc.compiler.ir.build import call, literal
from nnc.compiler.ir.dtypes import INTEGERS, NUMPY, SMALL, is_float
from nnc.compiler.ir.equation import Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Expr, Idx, Read

SIZES = (1, 2, 3, 5, 8, 17, 33)
WHOLE = ("i32", "i32", "i32", "i64", "u8", "i8", "bool")
ARITHMETIC = ("add", "sub", "mul", "floordiv", "floordiv", "mod", "mod", "pow", "max", "min")
ONE = ("neg", "abs", "sign", "floor", "round")
ORDER = ("eq", "ne", "lt", "le", "gt", "ge")
REDUCTIONS = ("sum", "prod", "max", "min", "argmax", "argmin")
NUMBERS = (0, 1, -1, 2, -2, 3, -3, 7, 31, 64, -8, 255, 256, 65536, 2**31 - 1, -(2**31))
REALS = (0.0, -0.5, 0.5, 255.5, -1.0, 2.0**31, -(2.0**31), 3e9, -3e9, 1e19, np.inf, -np.inf, np.nan)


def converted(expr: Expr, dtype: str) -> Expr:
    """In another type, by a conversion that says so: constants are not retyped without a look."""
    return expr if expr.dtype == dtype else call(dtype, expr)


class IntegerSystems:
    """Draws systems: one `Random` decides everything. Half of the reads of an `unguarded` one have
    no `else`; its constants are small."""

    def __init__(self, seed: int, unguarded: bool = False):
        self.random = Random(seed)
        self.unguarded = unguarded
        self.tensors: dict[str, Tensor] = {}
        self.equations: list[Equation] = []

    def system(self, equations: int) -> System:
        for kind in ("i32", "i32", "i64", "u8", "i8", "bool", "f32", "f64"):
            shape = tuple(self._pick(SIZES) for _ in range(self.random.randint(0, 2)))
            name = f"x{len(self.tensors)}"
            self.tensors[name] = Tensor(name, shape, kind, "input")
        for number in range(equations):
            self._equation(f"y{number}")
        outputs = tuple(eq.target for eq in self.equations)
        return System("integers", self.tensors, tuple(self.equations), outputs)

    def _pick(self, choices):
        return choices[self.random.randrange(len(choices))]

    def _indices(self, names: str, least: int) -> tuple[Index, ...]:
        count = self.random.randint(least, 2)
        return tuple(Index(name, self._pick(SIZES)) for name in names[:count])

    def _equation(self, target: str) -> None:
        reduce = self._pick((None, None, None, *REDUCTIONS))
        indices = self._indices("ij", 0)
        over = self._indices("uv", 1) if reduce else ()
        domain = indices + over
        body = self._expr(domain, 3, self._pick(WHOLE))
        if reduce in ("sum", "prod") and body.dtype in SMALL:
            body = converted(body, "i32")
        if reduce is None and self._pick((0, 0, 0, 1)):
            body = converted(body, self._pick(("f32", "f64", "u8", "i8", "bool", "i64", "i32")))
        at = None
        shape = tuple(i.size for i in indices)
        if reduce == "sum" and self._pick((0, 0, 1)):
            shape = (self._pick(SIZES),)
            at, indices, over = (self._expr(domain, 1, "i32"),), (), domain
        dtype = "i32" if reduce in ("argmax", "argmin") else body.dtype
        self.tensors[target] = Tensor(target, shape, dtype)
        self.equations.append(Equation(target, indices, body, reduce, over, at))

    def _expr(self, domain: tuple[Index, ...], depth: int, dtype: str) -> Expr:
        """An expression of an integer type, or bool."""
        if depth == 0 or self.random.random() < 0.15:
            return self._leaf(domain, depth, dtype)
        if dtype == "bool":
            kind = self._pick(("i32", "i32", "i64", "u8", "i8"))
            a, b = (self._expr(domain, depth - 1, kind) for _ in range(2))
            return call(self._pick(ORDER), a, b)
        way = self.random.randrange(8)
        if way == 0:
            condition = self._expr(domain, depth - 1, "bool")
            a, b = (self._expr(domain, depth - 1, dtype) for _ in range(2))
            return converted(call("select", condition, a, b), dtype)
        if way == 1:
            return converted(call(self._pick(ONE), self._expr(domain, depth - 1, dtype)), dtype)
        if way == 2:
            return converted(self._expr(domain, depth - 1, self._pick(WHOLE)), dtype)
        if way == 3:
            return converted(self._real(domain), dtype)
        a, b = (self._expr(domain, depth - 1, dtype) for _ in range(2))
        return converted(call(self._pick(ARITHMETIC), a, b), dtype)

    def _real(self, domain: tuple[Index, ...]) -> Expr:
        """A float, possibly divided."""
        found = self._read(domain, 0, self._pick(("f32", "f64")))
        if self._pick((0, 0, 1)):
            return call("floordiv", found, self._pick((2.0, -0.5, 0.0, 3)))
        return found

    def _leaf(self, domain: tuple[Index, ...], depth: int, dtype: str) -> Expr:
        way = self.random.randrange(4)
        if way == 0:
            number = self._pick(NUMBERS[:8] if self.unguarded else NUMBERS)
            least, greatest = INTEGERS[dtype]
            return literal(min(max(number, least), greatest), dtype)
        if way == 1 and domain and dtype != "bool":
            return converted(Idx(self._pick(domain).name), dtype)
        return self._read(domain, depth, dtype)

    def _read(self, domain: tuple[Index, ...], depth: int, dtype: str) -> Expr:
        own = [t for t in self.tensors.values() if t.dtype == dtype]
        tensor = self._pick(own or [t for t in self.tensors.values() if t.dtype == "i32"])
        index = []
        for size in tensor.shape:
            if domain and self.random.random() < 0.6:
                index.append(Idx(self._pick(domain).name))
            elif depth:
                index.append(self._expr(domain, depth - 1, self._pick(("i32", "i32", "i64"))))
            else:
                index.append(literal(self.random.randrange(size)))
        other = None if self.unguarded and self._pick((0, 1)) else literal(self._pick((0, 1)))
        if other is None:
            # What the rules of a system demand: an index that no data decides is inside.
            sizes = {i.name: i.size for i in domain}
            places = zip(index, tensor.shape, strict=True)
            if any(is_static(p) and not inside(p, n, sizes) for p, n in places):
                other = literal(0)
        read = Read(
            tensor.name,
            tuple(index),
            None if other is None else converted(other, tensor.dtype),
            tensor.dtype,
        )
        return converted(read, dtype)


def integers(system: System, seed: int, extreme: float = 0.4) -> dict[str, np.ndarray]:
    """Values of all inputs: small ones, and with this probability at the ends of their types."""
    rng = np.random.default_rng(seed)
    found = {}
    for tensor in system.of_kind("input"):
        if is_float(tensor.dtype):
            mild = rng.uniform(-4, 4, tensor.shape)
            ends = rng.choice(REALS, tensor.shape)
            values = np.where(rng.random(tensor.shape) < 2 * extreme, ends, mild)
        else:
            least, greatest = INTEGERS[tensor.dtype]
            ends = [n for n in (*NUMBERS, least, greatest) if least <= n <= greatest]
            small = rng.integers(max(least, -3), min(greatest, 9), tensor.shape, endpoint=True)
            values = np.where(
                rng.random(tensor.shape) < extreme, rng.choice(ends, tensor.shape), small
            )
        found[tensor.name] = values.astype(NUMPY[tensor.dtype])
    return found
