"""Attention maps: the tensors of a model that say how much each position attends to each other one.

    w[.., t, s] = e[.., t, s] / n[.., t]            n[.., t] = sum(s) e[.., t, s]
    y[.., t, a] = sum(s) w[.., t, s] * v[.., s, a]

They are found by these equations, whatever computes them: weights that add up to 1 along a key
axis, over which they are then summed with values. Vaswani et al. 2017, arXiv:1706.03762.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.elaboration.selection import WHOLE
from ....compiler.ir.equation import Equation, System
from ....compiler.ir.expr import Apply, Idx, Read, index_names, walk
from ....dsl.diagnostics.diagnostic import fail
from ...data.recorded import Recorded
from ...inference.predict import Given, Inputs, Request, predict
from ...training.executor import Executor
from .attention_page import Text
from .words import gap_of, tokens_of


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention maps [n, …, t, s] of n examples by the names of their tensors, and the inputs
    that they are of."""

    maps: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        return len(next(iter(self.maps.values())))

    def texts(
        self, row: int, recorded: Recorded | None, lengths: np.ndarray | None
    ) -> tuple[Text, ...]:
        """The texts that an example's inputs are."""
        found = []
        for name, array in self.arrays.items():
            vocabulary = recorded.vocabularies.get(name) if recorded else None
            if vocabulary is not None and array.ndim == 2:
                tokens = tokens_of(self.arrays, name, row, lengths, vocabulary)
                found.append(Text(tokens, array.shape[1], gap_of(vocabulary)))
        return tuple(found)


def attention_of(
    executor: Executor, given: Given, origin: str, scale: Mapping[str, float] | None = None
) -> Attention:
    """The attention of all examples. UserError E0750 if the model has none, else as `predict`."""
    names = attention_maps(executor.selected(WHOLE).system)
    if not names:
        raise fail(
            "E0750",
            f"`{executor.definition.name}` has no attention: nothing in it sums values with "
            "weights that add up to 1",
            executor.definition.name_span,
        )
    arrays = Inputs(executor, None).checked(given, origin)
    maps = predict(executor, arrays, origin, Request(tensors=tuple(names)), scale)
    return Attention(maps, arrays)


def attention_maps(system: System) -> list[str]:
    """The tensors [B, …, t, s] of weights of keys s for queries t, in the order of the model."""
    return [eq.target for eq in system.equations if _is_attention(system, eq)]


def _is_attention(system: System, eq: Equation) -> bool:
    if eq.reduce is not None or len(eq.indices) < 3:
        return False
    key = eq.indices[-1].name
    return _is_normalised(system, eq, key) and any(
        _sums_values(reader, eq.target) for reader in system.readers.get(eq.target, ())
    )


def _is_normalised(system: System, eq: Equation, key: str) -> bool:
    """Whether it divides by a sum of its numerator over the key."""
    body = eq.body
    if not isinstance(body, Apply) or body.fn != "div":
        return False
    numerators = {read.tensor for read in _reads(body.args[0]) if key in index_names(read)}
    for read in _reads(body.args[1]):
        total = system.definition.get(read.tensor)
        if key in index_names(read) or total is None or total.reduce != "sum":
            continue
        if any(inner.tensor in numerators for inner in _reads(total.body)):
            return True
    return False


def _reads(body: object) -> Iterator[Read]:
    return (node for node in walk(body) if isinstance(node, Read))  # type: ignore[arg-type]


def _sums_values(reader: Equation, weights: str) -> bool:
    """Whether it sums the weights times something else over their last index."""
    if reader.reduce != "sum":
        return False
    over = {index.name for index in reader.over}
    reads = list(_reads(reader.body))
    for read in reads:
        last = read.index[-1] if read.tensor == weights and read.index else None
        if isinstance(last, Idx) and last.name in over:
            return any(
                other.tensor != weights and last.name in index_names(other) for other in reads
            )
    return False
