"""Ends: where the loops of a sum start and stop if the terms beyond are nought.

In: the forms of which each being 0 or more makes a term nought, and the extents of a tile. Out: for
the loops over reduced indices, bounds that hold for a whole tile: beyond them every term of each of
its elements is nought; within, some may be, and are added all the same. It decides no tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ...ir.affine import Affine
from ...ir.equation import Index
from ...ir.expr import Idx

SAMPLES = 64  # tiles along an index that are looked at to know how long a loop is


@dataclass(frozen=True)
class Limits:
    """A loop goes from the greatest of `starts` until before the least of `stops`, within its
    index. The forms are over the first elements of a tile."""

    starts: tuple[Affine, ...] = ()
    stops: tuple[Affine, ...] = ()

    def steps(self, size: int, at: Mapping[str, int]) -> int:
        """The elements of an index of that size that are left."""
        first = max(0, *(_value(form, at) for form in self.starts), 0)
        last = min(size, *(_value(form, at) for form in self.stops), size)
        return max(0, last - first)

    @property
    def names(self) -> set[str]:
        return {
            a.name
            for form in (*self.starts, *self.stops)
            for a in form.coefficients
            if isinstance(a, Idx)
        }


WHOLE = Limits()


def limits(
    ends: Iterable[Affine], over: Sequence[Index], extents: Mapping[str, int]
) -> dict[str, Limits]:
    """The limits by index; `over` are the reduced ones, outermost first, and a tile has so many
    elements of each output index, or one."""
    found: dict[str, Limits] = {}
    for form in ends:
        factors = form.coefficients
        index = max(
            (i for i in over if abs(factors.get(Idx(i.name), 0)) == 1), key=lambda i: i.size
        )
        inner = over[over.index(index) + 1 :]
        rest = form.without(Idx(index.name))
        for other in inner:  # it runs through all its values meanwhile
            rest = _least(rest, other.name, other.size).without(Idx(other.name))
        for name, extent in extents.items():
            rest = _least(rest, name, extent)
        old = found.get(index.name, WHOLE)
        if factors[Idx(index.name)] == 1:
            found[index.name] = Limits(old.starts, (*old.stops, rest.scaled(-1)))
        else:
            found[index.name] = Limits((*old.starts, rest + Affine({}, 1)), old.stops)
    return found


def _least(form: Affine, name: str, extent: int) -> Affine:
    """The least value over so many elements of the index, as a form of the first."""
    return form + Affine({}, min(0, form.coefficients.get(Idx(name), 0) * (extent - 1)))


def share(
    ends: Iterable[Affine],
    outputs: Sequence[Index],
    over: Sequence[Index],
    extents: Mapping[str, int],
) -> float:
    """The part of all terms that is added."""
    total = 1.0
    for name, found in limits(ends, over, extents).items():
        size = next(i.size for i in over if i.name == name)
        others = [i for i in (*outputs, *over) if i.name in found.names]
        steps = [_sample(i, extents.get(i.name, 1)) for i in others]
        points = [dict(zip((i.name for i in others), at, strict=True)) for at in product(*steps)]
        total *= sum(found.steps(size, at) for at in points) / (size * len(points))
    return total


def _sample(index: Index, extent: int) -> range:
    """First elements of tiles, evenly spread."""
    every = -(-index.size // (extent * SAMPLES))
    return range(0, index.size, extent * every)


def _value(form: Affine, at: Mapping[str, int]) -> int:
    terms = ((a.name, c) for a, c in form.coefficients.items() if isinstance(a, Idx))
    return form.constant + sum(factor * at[name] for name, factor in terms)
