"""Scalar expressions as LLVM operations, at one copy of a tile.

A value stays scalar as long as nothing in it depends on the lane, so what all lanes of a vector
share is computed once. Loads are `memory.py`; names of instructions are `instructions.py`.
Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, walk
from ...passes.cpu.loop_ir import Nest
from . import bf16
from .arithmetic import Arithmetic, constant, lane_vector
from .function_writer import FunctionWriter
from .halves import rounded, rounded_by_instruction
from .instructions import SPELLING
from .memory import MemoryWriter
from .narrow_products import INSTRUCTIONS, is_narrow_product, narrow_product
from .values import Bases, IndexValue, Value


class ExpressionWriter:
    """Computes the expressions of one nest."""

    def __init__(self, e: FunctionWriter, nest: Nest, bases: Bases):
        self.e, self.nest = e, nest
        self.scalar = Arithmetic(e, 1, nest.doubles)
        self.wide = Arithmetic(e, nest.lanes, nest.doubles)
        self.memory = MemoryWriter(e, nest, bases, self)
        self.places: dict[str, IndexValue] = {}
        self.blocks: dict[str, tuple[int, int]] = {}
        self.valid = nest.lanes
        self.results: dict[Read, Value] = {}  # targets of the nest that are in registers
        self._values: dict[tuple, Value] = {}
        self._local_values: dict[Expr, Value] = {}  # of this copy: they depend on `results`
        self._is_local: dict[Expr, bool] = {}
        self._indices: dict[Expr, tuple[str, ...]] = {}

    def at(self, places: Mapping[str, IndexValue], valid: int) -> None:
        """Moves to a copy of the tile."""
        self.places, self.valid = dict(places), valid
        # Results in registers differ from copy to copy, although their index expressions may look
        # the same.
        self.results, self._local_values = {}, {}

    def indices(self, expr: Expr) -> tuple[str, ...]:
        found = self._indices.get(expr)
        if found is None:
            found = self._indices[expr] = tuple(sorted(index_names(expr)))
        return found

    def in_lanes(self, expr: Expr) -> bool:
        """Whether the value differs from lane to lane."""
        return any(self.places[name].lanes for name in self.indices(expr))

    def value(self, expr: Expr) -> Value:
        """The value of the expression here; computed once for equal values of its indices."""
        # Two caches on top of value numbering, which would still walk the whole expression each
        # time.
        if self._depends_on_results(expr):
            found = self._local_values.get(expr)
            if found is None:
                found = self._local_values[expr] = self._value(expr)
            return found
        places = self.places
        # `valid` is in the key since loads of a last vector are masked.
        key = (expr, self.valid, *[places[name] for name in self.indices(expr)])
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = self._value(expr)
        return found

    def _depends_on_results(self, expr: Expr) -> bool:
        """Whether the value depends on results of the nest that are in registers."""
        found = self._is_local.get(expr)
        if found is None:
            accesses = self.nest.accesses
            found = any(isinstance(e, Read) and e not in accesses for e in walk(expr))
            self._is_local[expr] = found
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
            return self.memory.load(expr) if in_memory else self.results[expr]
        assert isinstance(expr, Apply)
        args = [self.value(a) for a in expr.args]
        kinds = tuple(a.dtype for a in expr.args)
        wide = any(a.vector for a in args)
        names = (
            # One vector among the operands makes all of them vectors.
            [self.spread(a, k) for a, k in zip(args, kinds, strict=True)]
            if wide
            else [a.name for a in args]
        )
        a = self.wide if wide else self.scalar
        native = bf16.INSTRUCTIONS.get(expr.fn) if self.nest.bf16_instructions else None
        # The instructions exist for vectors of 16; scalars are rounded by integer arithmetic.
        if native is not None and expr.dtype != "f64" and a.lanes == bf16.LANES:
            return Value(native(a, *names), wide)
        if expr.fn == "f16" and expr.dtype == "f32" and self.nest.f16_instructions:
            return Value(rounded_by_instruction(a, *names), wide)
        if self.nest.i16_pairs and a.lanes in INSTRUCTIONS and is_narrow_product(expr):
            return Value(narrow_product(a, *names), wide)
        return Value(SPELLING[expr.fn](a, kinds, expr.dtype, names), wide)

    def rounded(self, vector: str) -> str:
        """A vector of f32 rounded to bf16."""
        if self.nest.bf16_instructions and self.wide.lanes == bf16.LANES:
            return bf16.rounded(self.wide, vector)
        return rounded(self.wide, "bf16", "f32", vector)

    def _index(self, place: IndexValue) -> Value:
        """An index as data: an i32."""
        if place.base:
            # Bases are i64 for addresses; as data, indices are i32.
            here = self.scalar.convert("trunc", "i64", "i32", place.base)
            if place.offset:
                here = self.scalar.op("add", "i32", here, str(place.offset))
        else:
            here = str(place.offset)
        if not place.lanes:
            return Value(here, False)
        lanes = lane_vector(range(self.nest.lanes), "i32")
        return Value(self.wide.op("add", "i32", self.wide.splat("i32", here), lanes), True)
