"""Dynamic batch size: a program for `n` examples computes any smaller number of them.

    parallel for i_o < 8192    →    parallel for i_o < 8192 until 256 * examples

In a system with a `batch` every input has one entry for each example along its first dimension.
Where no equation joins examples, each tensor that depends on an input has such a dimension, too,
and what is computed of one example is read for that example alone. So the loops over examples may
end after those of a run; whatever else is computed, nobody reads. Known as dynamic shapes in
inference engines, there of any dimension. Tests: tests/passes/test_dynamic_batch.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.equation import CHECK, Equation, System
from ...ir.expr import Idx, reads
from .kernel import Item, Kernel, Plan


def dynamic_batch(plan: Plan) -> Plan:
    """The plan with the index of examples marked in its kernels, if the system has a batch."""
    dimensions = example_dimensions(plan.system)
    if dimensions is None:
        return plan

    def marked(item: Item) -> Item:
        if isinstance(item, Kernel):
            return replace(item, examples=_index_of_examples(item, dimensions))
        return replace(item, kernels=tuple(map(marked, item.kernels)))  # type: ignore[arg-type]

    return replace(plan, items=tuple(map(marked, plan.items)))


def example_dimensions(system: System) -> Mapping[str, int] | None:
    """The dimension of each tensor that counts examples, of those that have one; None if the system
    has no batch or its examples depend on each other."""
    if not system.batch or system.gradients or system.updates:
        return None
    found: dict[str, int] = {}
    # Statistics of a batch are still there where nothing reads them, as those of training.
    needed = system.ancestors(system.outputs)
    for tensor in system.of_kind("input"):
        if tensor.shape:
            if tensor.shape[0] != system.batch:
                return None
            found[tensor.name] = 0
    # A recurrence reads results of equations that follow: their dimensions are known in the second
    # round, in which all must be as in the first.
    for _ in range(2):
        for eq in (eq for eq in system.equations if eq.target in needed):
            if eq.target.startswith(CHECK):
                # Of the whole batch, whose inputs are like those of a run where it has none.
                if any(system.tensors[name].kind == "temp" for name in eq.sources):
                    return None
                continue
            try:
                dimension = _example_dimension(eq, found, system)
            except _Joined:
                return None
            if dimension is None:
                if eq.target in found:
                    return None
            elif found.setdefault(eq.target, dimension) != dimension:
                return None
    results = (name for name in system.outputs if name != CHECK)
    return found if all(name in found for name in results) else None


class _Joined(Exception):
    """An equation that reads other examples than its own."""


def _example_dimension(eq: Equation, dimensions: Mapping[str, int], system: System) -> int | None:
    """The dimension of the target that counts examples; None if it depends on no example. Raises
    _Joined."""
    names = set()
    for read in eq.reads:
        # A place that was computed is only in range for examples that were computed.
        if any(system.tensors[r.tensor].kind == "temp" for e in read.index for r in reads(e)):
            raise _Joined
        if read.tensor in dimensions:
            place = read.index[dimensions[read.tensor]]
            if not isinstance(place, Idx):
                raise _Joined
            names.add(place.name)
    if not names:
        return None
    own = [n for n, e in enumerate(eq.place) if isinstance(e, Idx) and e.name in names]
    if len(names) > 1 or len(own) != 1 or system.tensors[eq.target].shape[own[0]] != system.batch:
        raise _Joined
    return own[0]


def _index_of_examples(kernel: Kernel, dimensions: Mapping[str, int]) -> str:
    """The output index of a kernel that counts examples; empty if it has none."""
    places = {dimensions.get(name) for name in kernel.stored}
    place = places.pop() if len(places) == 1 else None
    # What is accumulated starts from zero as a whole.
    if place is None or kernel.anchor.at is not None:
        return ""
    name = kernel.anchor.indices[place].name
    in_blocks = kernel.window is not None and name not in kernel.fixed
    return "" if name in kernel.unrolled or in_blocks else name
