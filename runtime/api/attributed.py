"""`Model.attribute`: maps as arrays, with what says how far they can be trusted.

In: a model's parameters, examples, a wish. Out: `Attributions`, or attention maps by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..inference.given_files import Given
from ..inference.meanings import meanings
from ..inspect.attribution.attention import attention_of
from ..inspect.attribution.attribute import Attributor, Wish
from ..inspect.attribution.checks import curves as curves_of
from ..inspect.attribution.checks import randomised
from ..inspect.attribution.methods import Options, find_method
from .errors import warn
from .files import recorded_of
from .state import Trained


@dataclass(frozen=True, eq=False)
class Attributions:
    """The attributions of n examples. `values` [n, …] has a map for each, in the shape of an
    example, or of the tensor that was named; of tokens one number each.

    `of` is what each map explains: a class by its name, or the place in the result; `scores` [n]
    are those numbers of the model, `baseline_scores` [n] the same of the baseline. `gaps` [n] are
    by how much each map fails to add up to their difference, as a share of it; None for a method
    that does not promise that. `randomised` has, by layer from the last to the first, the rank
    correlation with the maps of a model whose weights were drawn anew down to this layer; empty
    unless it was asked for.

    `deletion` and `insertion` [n] are the areas under the curves of the probability, or of the
    score where there is none, while what a map marks is replaced by the baseline, the strongest
    first, and while it comes back (Petsiuk et al. 2018, arXiv:1806.07421): small and large where
    the map is right. None unless they were asked for, NaN of a map that has no such curves. NumPy
    takes attributions for their `values`."""

    method: str
    values: np.ndarray
    of: tuple[str, ...]
    scores: np.ndarray
    baseline_scores: np.ndarray
    gaps: np.ndarray | None
    randomised: Mapping[str, float | None]
    deletion: np.ndarray | None = None
    insertion: np.ndarray | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=True if copy is None else copy)

    def __len__(self) -> int:
        return len(self.values)


def attributions(
    trained: Trained, given: Given, wish: Wish, randomise: bool, curves: bool
) -> Attributions | dict[str, np.ndarray]:
    """The maps of the examples. UserError as `Attributor`."""
    method = find_method(wish.method)
    if method.attention:
        attention = attention_of(trained.executor, given.arrays, given.origin, given.scale)
        return dict(attention.maps)
    kinds = meanings(trained.project)
    attributor = Attributor(
        trained.executor,
        given.arrays,
        given.origin,
        wish,
        kinds,
        recorded_of(trained),
        given.scale,
        given.lengths,
    )
    found = list(attributor.maps())
    warn(each for each in attributor.warnings(found))
    gaps = [one.gap for one in found]
    areas: list[np.ndarray | None] = [None, None]
    if curves:
        kind = kinds.get(attributor.target.result)
        each = [curves_of(attributor, row, one, kind) for row, one in enumerate(found)]
        pairs = [(c.deletion, c.insertion) if c else (np.nan, np.nan) for c in each]
        areas = [np.array(column) for column in zip(*pairs, strict=True)]
    return Attributions(
        method.name,
        np.stack([one.values for one in found]),
        tuple(one.target for one in found),
        np.array([one.score for one in found]),
        np.array([one.baseline_score for one in found]),
        np.array(gaps) if method.adds_up else None,
        {r.layer: r.correlation for r in randomised(attributor, found)} if randomise else {},
        *areas,
    )


def sizes(value: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """A window or stride: one number, or one for each dimension."""
    if value is None:
        return None
    return (int(value),) if isinstance(value, int | np.integer) else tuple(map(int, value))


def wish_of(
    method: str,
    of: str | int | None,
    at: str | None,
    baseline: Any,
    options: Options,
    result: str | None,
    position: int | None,
    features: Any,
    seed: int | None,
) -> Wish:
    """The arguments of the call as a `Wish`."""
    groups = None if features is None else np.asarray(features)
    return Wish(method, of, at, baseline, options, result, position, groups, seed)
