"""Scalar expressions as LLVM operations, at one copy of a tile.

In: an expression, and where each index stands. Out: its value, either one scalar for all lanes or
one vector. A value stays scalar as long as nothing in it depends on the lane, so what is common to
a vector is computed once. Memory is `addresses.py`; names of instructions are `spelling.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, walk
from ...passes.cpu.loop_ir import Nest
from . import bf16
from .function_writer import Emitter
from .instructions import SPELLING, Arithmetic, constant
from .memory import Addresses
from .values import Bases, Place, Value


class Body:
    """Computes expressions of one nest."""

    def __init__(self, e: Emitter, nest: Nest, bases: Bases):
        self.e, self.nest = e, nest
        self.scalar = Arithmetic(e, 1)
        self.wide = Arithmetic(e, nest.lanes)
        self.addresses = Addresses(e, nest, bases, self)
        self.places: dict[str, Place] = {}
        self.blocks: dict[str, tuple[int, int]] = {}  # first copy and number of copies of an index
        self.valid = nest.lanes  # lanes that count at this copy
        self.results: dict[Read, Value] = {}  # targets of the nest that are in registers
        self._values: dict[tuple, Value] = {}
        self._here: dict[Expr, Value] = {}  # values at this copy that depend on `results`
        self._own: dict[Expr, bool] = {}
        self._indices: dict[Expr, tuple[str, ...]] = {}

    def at(self, places: Mapping[str, Place], valid: int) -> None:
        """Moves to a copy of the tile."""
        self.places, self.valid = dict(places), valid
        self.results, self._here = {}, {}

    def indices(self, expr: Expr) -> tuple[str, ...]:
        found = self._indices.get(expr)
        if found is None:
            found = self._indices[expr] = tuple(sorted(index_names(expr)))
        return found

    def in_lanes(self, expr: Expr) -> bool:
        """Whether the value differs from lane to lane."""
        return any(self.places[name].lanes for name in self.indices(expr))

    def value(self, expr: Expr) -> Value:
        """The value of the expression here; computed once for equal places."""
        if self._is_own(expr):
            found = self._here.get(expr)
            if found is None:
                found = self._here[expr] = self._value(expr)
            return found
        places = self.places
        key = (expr, self.valid, *[places[name] for name in self.indices(expr)])
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = self._value(expr)
        return found

    def _is_own(self, expr: Expr) -> bool:
        """Whether the value depends on results of the nest that are in registers."""
        found = self._own.get(expr)
        if found is None:
            accesses = self.nest.accesses
            found = any(isinstance(e, Read) and e not in accesses for e in walk(expr))
            self._own[expr] = found
        return found

    def vector(self, expr: Expr) -> str:
        """The value in every lane."""
        return self.spread(self.value(expr), expr.dtype)

    def spread(self, value: Value, dtype: str) -> str:
        return value.name if value.vector else self.wide.splat(dtype, value.name)

    def _value(self, expr: Expr) -> Value:
        if isinstance(expr, Const):
            return Value(constant(expr.value, expr.dtype), False)
        if isinstance(expr, Idx):
            return self._index(self.places[expr.name])
        if isinstance(expr, Read):
            in_memory = expr in self.nest.accesses
            return self.addresses.load(expr) if in_memory else self.results[expr]
        assert isinstance(expr, Apply)
        args = [self.value(a) for a in expr.args]
        kinds = tuple(a.dtype for a in expr.args)
        wide = any(a.vector for a in args)
        names = (
            [self.spread(a, k) for a, k in zip(args, kinds, strict=True)]
            if wide
            else [a.name for a in args]
        )
        how = self.wide if wide else self.scalar
        own = bf16.OWN.get(expr.fn) if self.nest.pairs and expr.dtype != "f64" else None
        if own is not None and how.lanes == bf16.LANES:
            return Value(own(how, *names), wide)
        return Value(SPELLING[expr.fn](how, kinds, expr.dtype, names), wide)

    def _index(self, place: Place) -> Value:
        """An index as data: an i32."""
        if place.base:
            here = self.scalar.convert("trunc", "i64", "i32", place.base)
            if place.offset:
                here = self.scalar.op("add", "i32", here, str(place.offset))
        else:
            here = str(place.offset)
        if not place.lanes:
            return Value(here, False)
        lanes = "<" + ", ".join(f"i32 {k}" for k in range(self.nest.lanes)) + ">"
        return Value(self.wide.op("add", "i32", self.wide.splat("i32", here), lanes), True)
