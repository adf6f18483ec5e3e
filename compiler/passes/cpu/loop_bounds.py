"""Loop bounds: reduction loops stop where a mask makes every further term 0.

    sum(s < 64) (y[t, s] if s <= t else 0) * v[s, a]   →   for s < 64 until t + rows

Below a causal mask half of each product is left. The bounds hold for a whole tile: beyond them
every term of each of its elements is 0; within them some may be, and are added all the same. No
tile is chosen here. (Known as loop bound narrowing, or index set splitting without a remainder.)
Tests: tests/passes/test_skip_masked_terms.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ...ir.affine import Affine
from ...ir.equation import Index
from ...ir.expr import Idx, is_size


@dataclass(frozen=True)
class Bounds:
    """A loop runs from the greatest of `lower` to before the least of `upper`, within its index.
    The forms are of the first elements of a tile."""

    lower: tuple[Affine, ...] = ()
    upper: tuple[Affine, ...] = ()

    def steps(self, size: int, at: Mapping[str, int]) -> int:
        """The elements of an index of that size that are left."""
        # The 0 and the size stand twice, since max and min need two arguments where there are no
        # forms.
        first = max(0, *(_value(form, at) for form in self.lower), 0)
        last = min(size, *(_value(form, at) for form in self.upper), size)
        return max(0, last - first)

    @property
    def names(self) -> set[str]:
        return {
            atom.name
            for form in (*self.lower, *self.upper)
            for atom in form.coefficients
            if isinstance(atom, Idx)
        }


UNBOUNDED = Bounds()


def loop_bounds(
    zero_where: Iterable[Affine], over: Sequence[Index], extents: Mapping[str, int]
) -> dict[str, Bounds]:
    """The bounds by index. Where a form of `zero_where` is 0 or more, a term is 0; `over` are the
    reduced indices, outermost first; `extents` are the elements of each output index in a tile."""
    found: dict[str, Bounds] = {}
    for form in zero_where:
        factors = form.coefficients
        # The longest of the indices that can be bounded saves most.
        index = max(
            (i for i in over if abs(factors.get(Idx(i.name), 0)) == 1), key=lambda i: i.size
        )
        # What must hold for a whole tile: the form is 0 or more even where `rest` is least. So each
        # of the following replaces `rest` by its least value over an index.
        rest = form.without(Idx(index.name))
        for inner in over[over.index(index) + 1 :]:  # it takes all its values meanwhile
            rest = _least(rest, inner.name, inner.size).without(Idx(inner.name))
        for name, extent in extents.items():
            rest = _least(rest, name, extent)
        old = found.get(index.name, UNBOUNDED)
        # s + rest >= 0   →   all terms are 0 from s = -rest on: an upper bound.
        if factors[Idx(index.name)] == 1:
            found[index.name] = Bounds(old.lower, (*old.upper, rest.scaled(-1)))
        else:
            # rest - s >= 0   →   all terms are 0 up to s = rest: the loop starts at rest + 1.
            found[index.name] = Bounds((*old.lower, rest + Affine({}, 1)), old.upper)
    return found


def _least(form: Affine, name: str, extent: int) -> Affine:
    """The least value over so many elements of the index, as a form of the first."""
    # Only a falling form is least at the last element.
    return form + Affine({}, min(0, form.coefficients.get(Idx(name), 0) * (extent - 1)))


def executed_share(
    zero_where: Iterable[Affine],
    outputs: Sequence[Index],
    over: Sequence[Index],
    extents: Mapping[str, int],
    samples: int,
) -> float:
    """The share of all terms that is added, estimated from so many tiles along each index."""
    total = 1.0
    # How much of a size a run has is not known here.
    zero_where = [f for f in zero_where if not any(map(is_size, f.coefficients))]
    # The shares of several indices are multiplied, as if they were independent: an estimate.
    for name, bounds in loop_bounds(zero_where, over, extents).items():
        size = next(i.size for i in over if i.name == name)
        others = [i for i in (*outputs, *over) if i.name in bounds.names]
        steps = [_sample(i, extents.get(i.name, 1), samples) for i in others]
        # All combinations of sampled tiles, of the indices on which these bounds depend.
        points = [dict(zip((i.name for i in others), at, strict=True)) for at in product(*steps)]
        total *= sum(bounds.steps(size, at) for at in points) / (size * len(points))
    return total


def _sample(index: Index, extent: int, samples: int) -> range:
    """First elements of tiles, evenly spread."""
    # Every how many tiles one is taken.
    every = -(-index.size // (extent * samples))
    return range(0, index.size, extent * every)


def _value(form: Affine, at: Mapping[str, int]) -> int:
    terms = ((a.name, c) for a, c in form.coefficients.items() if isinstance(a, Idx))
    return form.constant + sum(factor * at[name] for name, factor in terms)
