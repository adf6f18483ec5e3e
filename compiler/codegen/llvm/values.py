"""What the parts of the code generator hand to each other: values of indices and of expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from ...ir.expr import Expr

# tensor → its offset in the arena, in bytes, or the function's argument that holds it
Bases = Mapping[str, int | str]


class IndexValue(NamedTuple):
    """The value of an index: `base + offset`, and in a vector `+ lane` if `lanes`.

    `base` is an i64 SSA name, or empty for zero."""

    base: str
    offset: int
    lanes: bool = False


class Value(NamedTuple):
    """The value of an expression: an SSA name, a vector or one scalar for all lanes."""

    name: str
    vector: bool


class Point(Protocol):
    """One copy of the tile, as loads and stores see it: the values of the indices, how many lanes
    are `valid`, the first copy and the number of copies of each index in the tile (`blocks`), and
    the values of expressions there."""

    places: dict[str, IndexValue]
    blocks: dict[str, tuple[int, int]]
    valid: int

    def in_lanes(self, expr: Expr) -> bool: ...
    def value(self, expr: Expr) -> Value: ...
    def vector(self, expr: Expr) -> str: ...
    def spread(self, value: Value, dtype: str) -> str: ...
