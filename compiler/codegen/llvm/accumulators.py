"""Accumulators: how a reduction starts, takes a value, and joins partial results.

An accumulator is a tuple of SSA names: argmax and argmin carry a position besides the value. The
order in which partial results are joined is fixed by the nest alone, so results do not depend on
the number of threads. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dtypes import UNSIGNED, is_float
from .arithmetic import LLVM, Arithmetic, shuffle
from .instructions import HIGHEST, LOWEST

Accumulator = tuple[str, ...]


def add(a: Arithmetic, dtype: str, x: str, y: str) -> str:
    if dtype == "bool":
        # As in NumPy: whether any is true.
        return a.op("or", dtype, x, y)
    return a.op("fadd" if is_float(dtype) else "add", dtype, x, y)


@dataclass(frozen=True)
class Reduction:
    """The reduction `name` over values of `dtype`."""

    name: str
    dtype: str

    @property
    def positional(self) -> bool:
        return self.name in ("argmax", "argmin")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types that an accumulator holds."""
        return (self.dtype, "i32") if self.positional else (self.dtype,)

    def start(self, a: Arithmetic) -> Accumulator:
        # The neutral element of each reduction.
        worst = {
            "sum": 0,
            "prod": 1,
            "max": LOWEST[self.dtype],
            "argmax": LOWEST[self.dtype],
            "min": HIGHEST[self.dtype],
            "argmin": HIGHEST[self.dtype],
        }
        first = a.constant(worst[self.name], self.dtype)
        # if no value is better than the worst, all are the worst, and the first is at 0
        return (first, a.constant(0, "i32")) if self.positional else (first,)

    def take(
        self, a: Arithmetic, into: Accumulator, value: Accumulator, later: bool = False
    ) -> Accumulator:
        """The accumulator with one more value (and position), or joined with another; `later` if
        the value's position is certainly the later one."""
        # Both may be single values or partial results, as these operations are associative but for
        # rounding.
        match self.name:
            case "sum":
                return (add(a, self.dtype, into[0], value[0]),)
            case "prod":
                how = "and" if self.dtype == "bool" else "fmul" if is_float(self.dtype) else "mul"
                return (a.op(how, self.dtype, into[0], value[0]),)
            case "max" | "min":
                return (a.extreme(self.name, self.dtype, value[0], into[0]),)
        better = self._more(a, into, value) if later else self._better(a, into, value)
        return (
            a.select(self.dtype, better, value[0], into[0]),
            a.select("i32", better, value[1], into[1]),
        )

    def _more(self, a: Arithmetic, into: Accumulator, value: Accumulator) -> str:
        """Whether the value is more extreme than the accumulator's."""
        order = {"argmax": "gt", "argmin": "lt"}[self.name]
        if is_float(self.dtype):
            # NaN counts as most extreme: unordered, and so "beyond", unless the old one is NaN
            # already.
            beyond = a.compare("u" + order, self.dtype, value[0], into[0])  # also if one is NaN
            return a.op("and", "bool", beyond, a.compare("ord", self.dtype, into[0], into[0]))
        sign = "u" if self.dtype in UNSIGNED else "s"
        return a.compare(sign + order, self.dtype, value[0], into[0])

    def _better(self, a: Arithmetic, into: Accumulator, value: Accumulator) -> str:
        """Whether the value replaces the accumulator's: it is more extreme, or equal and earlier.
        NaN counts as the most extreme."""
        dtype = self.dtype
        # Two NaNs are equal here, though no comparison says so.
        same = a.compare("oeq" if is_float(dtype) else "eq", dtype, value[0], into[0])
        if is_float(dtype):
            new, old = (a.compare("uno", dtype, x, x) for x in (value[0], into[0]))
            same = a.op("or", "bool", same, a.op("and", "bool", new, old))
        earlier = a.compare("slt", "i32", value[1], into[1])
        tie = a.op("and", "bool", same, earlier)
        return a.op("or", "bool", self._more(a, into, value), tie)

    def blend(self, a: Arithmetic, mask: str, new: Accumulator, old: Accumulator) -> Accumulator:
        """The new accumulator in the lanes of the mask."""
        return tuple(
            a.select(kind, mask, n, o) for kind, n, o in zip(self.kinds, new, old, strict=True)
        )

    def across(self, a: Arithmetic, accumulator: Accumulator) -> Accumulator:
        """All lanes joined into one scalar: halves are joined until one lane is left."""
        lanes = a.lanes
        # A tree of log2(lanes) steps.
        while lanes > 1:
            half = Arithmetic(a.e, lanes // 2, a.doubles)
            low, high = (
                tuple(
                    _lanes_from(a, kind, name, lanes, start)
                    for kind, name in zip(self.kinds, accumulator, strict=True)
                )
                for start in (0, lanes // 2)
            )
            # Positions of lanes are in no order, so `take` compares them here.
            accumulator = self.take(half, low, high)
            lanes //= 2
        return accumulator


def _lanes_from(a: Arithmetic, kind: str, name: str, lanes: int, start: int) -> str:
    """Half of the lanes, from `start`."""
    if lanes == 2:
        text = f"extractelement <2 x {LLVM[kind]}> {{0}}, i64 {start}"
        return a.e.op(text, name, type=LLVM[kind])
    return shuffle(a.e, LLVM[kind], lanes, name, "poison", range(start, start + lanes // 2))
