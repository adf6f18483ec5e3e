"""What the parts of the code generator hand to each other: places of indices, and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# tensor → its offset in the arena, in bytes, or the argument that holds it
Bases = Mapping[str, int | str]


class Place(NamedTuple):
    """The value of an index: `base + offset`, and in a vector `+ lane` if `lanes`.

    `base` is an i64 SSA name, or empty for zero."""

    base: str
    offset: int
    lanes: bool = False


class Value(NamedTuple):
    name: str
    vector: bool
