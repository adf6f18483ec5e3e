"""What each layer of a model has to learn and to do, with the layers in it.

In: a `Structure`, and a derived training step if the model is trained. Out: `LayerRow`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from ...compiler.ir.equation import Equation, System
from ...compiler.ir.work import flops
from .profiling import stages_of
from .structure import Block, Path, Structure


@dataclass(frozen=True)
class LayerRow:
    """One layer instance and how the program writes it: the shape of its result, its parameters
    (numbers learnt), and the operations of its sums of products for one batch, forward and, None
    without training, backward. `within` are the layers in it, which these numbers include."""

    name: str
    shape: tuple[int, ...]
    parameters: int = 0
    flops: int = 0
    backward: int | None = None
    title: str = ""
    within: tuple[LayerRow, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, LayerRow]]:
        """This one and those within it, outermost first, each with its depth."""
        yield depth, self
        for row in self.within:
            yield from row.walk(depth + 1)


@dataclass
class _Work:
    parameters: int = 0
    flops: int = 0
    backward: int = 0


def layer_rows(
    found: Structure, step: System | None = None, derived: System | None = None
) -> tuple[LayerRow, ...]:
    """A row for each layer that the model applies itself, in order, and one for what it computes
    without a layer, if that is any work. `derived` is the training step with its gradients."""
    system = found.system
    work: dict[str, _Work] = {"": _Work()}

    def owners(place: Path) -> list[_Work]:
        """Of the layers around a tensor, or of the model itself."""
        return [work.setdefault(name, _Work()) for name in place or ("",)]

    for tensor in system.of_kind("param"):
        for owner in owners(found.place(tensor.name)):
            owner.parameters += tensor.size
    for eq in system.equations:
        for owner in owners(found.place(eq.target)):
            owner.flops += flops(eq, system)
    if step is not None and derived is not None:
        for place, count in _backward(found, step, derived):
            for owner in owners(place):
                owner.backward += count
    trained = derived is not None
    rows = [_row(block, work, trained) for block in found.blocks]
    # what is computed without a layer comes last
    own = work[""]
    if own.flops or own.parameters or own.backward:
        shape = system.tensors[system.outputs[0]].shape
        backward = own.backward if trained else None
        rows.append(LayerRow(system.name, shape, own.parameters, own.flops, backward))
    return tuple(rows)


def _row(block: Block, work: Mapping[str, _Work], trained: bool) -> LayerRow:
    own = work.get(block.name, _Work())
    return LayerRow(
        block.name,
        block.shapes[0] if block.shapes else (),
        own.parameters,
        own.flops,
        own.backward if trained else None,
        block.title,
        tuple(_row(inner, work, trained) for inner in block.blocks),
    )


def _backward(found: Structure, step: System, derived: System) -> Iterator[tuple[Path, int]]:
    """The operations of each backward equation, and the layer that it differentiates."""
    stages = stages_of(step, derived)
    for eq in derived.equations:
        if stages.get(eq.target) == "backward" and (count := flops(eq, derived)):
            yield _place(eq, found), count


def _place(eq: Equation, found: Structure) -> Path:
    """The layer of a product in the gradient of a layer: that of the parameter that is read or
    whose gradient it is, else the innermost one around all that it works with. The gradient of
    `dense1_w` is called `d_dense1_w`, a part of it `d_dense1_w_via_…`."""
    names = [n.removeprefix("d_").partition("_via_")[0] for n in (eq.target, *eq.sources)]
    known = [found.system.tensors[name] for name in names if name in found.system.tensors]
    learnt = [tensor for tensor in known if tensor.kind == "param"]
    if learnt:
        return found.place(learnt[0].name)
    places = [found.place(tensor.name) for tensor in known]
    common = takewhile(lambda names: len(set(names)) == 1, zip(*places, strict=False))
    return tuple(names[0] for names in common)
