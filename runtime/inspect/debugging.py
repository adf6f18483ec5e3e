"""A step that made a value not finite, taken again: the origin of the value and what it reached.

In: the folder of a run that stopped with E0701. Out: a `NonfiniteReport`, by the reference
evaluator: the origin with its operands, the provenance chain to where training saw it, every
tensor that the bad values reached, and the parameters that they would have hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...compiler.ir.dtypes import is_float
from ...compiler.ir.equation import Equation, System
from ...compiler.ir.expr import Expr, Read, reads, walk
from ...compiler.pipeline import derive
from ...compiler.programs import training_step
from ...compiler.reference.evaluator import IndexGrid, evaluate, one_value
from ...compiler.reference.nonfinite_trace import Bad, first_bad
from ...dsl.diagnostics.diagnostic import fail
from ..project import open_project, setup_of, with_batch
from ..training.nonfinite_guard import trace_snapshot
from ..training.run_folder import RunFolder
from ..training.snapshot import SNAPSHOT_NAME, Snapshot, read_snapshot

OPERANDS = 12  # numbers shown of what went into a value


@dataclass(frozen=True)
class Element:
    """A number that an equation read."""

    tensor: str
    index: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class NonfiniteTensor:
    """A tensor in which `count` of `size` elements are not finite; `index` is the first."""

    tensor: str
    equation: Equation
    count: int
    size: int
    index: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class NonfiniteUpdate:
    """A param or state of whose next value `count` of `size` elements would not be finite."""

    name: str
    kind: str
    count: int
    size: int


@dataclass(frozen=True)
class NonfiniteReport:
    """`chain` goes from the origin to where training saw the value; it is empty if the evaluator's
    numbers stay finite, as they may at the very edge of overflow. `operands` are those of the
    origin, `large` are then the largest numbers of the step."""

    snapshot: Snapshot
    losses: Mapping[str, float]
    chain: tuple[Bad, ...]
    operands: tuple[Element, ...]
    reached: tuple[NonfiniteTensor, ...]
    hit: tuple[NonfiniteUpdate, ...]
    safe: tuple[str, ...]
    large: tuple[Element, ...]


def replay(path: RunFolder) -> NonfiniteReport:
    """UserError E0706 if the folder has no snapshot, or one that does not fit its program."""
    snapshot = read_snapshot(path.path)
    project = open_project(path.model)
    # the batch of the bad step, which may be the shorter last one of an epoch
    setup = with_batch(setup_of(project, path.fields, path.settings["examples"]), snapshot.batch)
    setup = replace(setup, turn=project.settings.turn(snapshot.step))
    # no optimisation: every tensor of the program is there to look at
    system = derive(training_step(setup)[0])
    given = _arguments(path, snapshot, system)
    arrays = evaluate(system, given)
    # from the origin forward: the trace goes the other way
    chain = tuple(reversed(trace_snapshot(system, snapshot)))
    reached = tuple(_nonfinite_tensors(system, arrays))
    hits = tuple(_nonfinite_updates(system, arrays))
    # both params and states may have been hit; only params are listed as safe
    names = {hit.name for hit in hits}
    safe = tuple(t.name for t in system.of_kind("param") if t.name not in names)
    return NonfiniteReport(
        snapshot,
        {
            loss.name.id: float(arrays[output])
            for loss, output in zip(setup.train.losses, system.outputs, strict=False)
        },
        chain,
        tuple(operands(system, arrays, chain[0])) if chain else (),
        reached,
        hits,
        safe,
        () if chain else tuple(_largest(system, arrays)),
    )


def _arguments(path: RunFolder, snapshot: Snapshot, system: System) -> dict[str, np.ndarray]:
    """What the step was given. UserError E0706 if it is not of this program."""
    # a snapshot of another program lacks a name, or has it in another shape
    try:
        given = snapshot.arguments(system)
    except KeyError as error:
        raise fail(
            "E0706", f"{path.path / SNAPSHOT_NAME} has no {error}", help="is it of another program?"
        ) from error
    for name, array in given.items():
        wanted = system.tensors[name].shape
        if array.shape != wanted:
            raise fail(
                "E0706",
                f"`{name}` in {path.path / SNAPSHOT_NAME} has shape {list(array.shape)}, "
                f"and in the program {list(wanted)}",
            )
    return given


# --- the origin -----------------------------------------------------------------------------------


def operands(system: System, arrays: Mapping[str, np.ndarray], bad: Bad) -> list[Element]:
    """What the equation read for this element: of a reduction, at the first term that is not
    finite, or if all are at the largest."""
    eq = bad.equation
    # the value was given, so nothing was read to make it
    if eq is None:
        return []
    # a scatter adds from anywhere in its domain; else the element fixes the output indices
    fixed = (
        {}
        if eq.at is not None
        else {i.name: at for i, at in zip(eq.indices, bad.index, strict=True)}
    )
    # overflow and 0/0 are what is looked for here, no reason to warn
    with np.errstate(all="ignore"):
        grid = IndexGrid(eq, system, dict(arrays), one_value(fixed))
        place = _decisive_point(grid, eq, bad.index)
        # a dict as a set that keeps the order: `x * x` reads one element once
        found: dict[Element, None] = {}
        for read in _used(eq.body, grid, place):
            index = tuple(int(grid.full(i)[place]) for i in read.index)
            found[Element(read.tensor, index, float(grid.full(read)[place]))] = None
    return list(found)[:OPERANDS]


def _decisive_point(grid: IndexGrid, eq: Equation, index: tuple[int, ...]) -> tuple[int, ...]:
    """The point of the domain that says most about the element."""
    # at every point of the domain, sums not yet added up
    body = grid.full(eq.body)
    # of a scatter only the points that add to this element
    terms = np.ones(body.shape, bool)
    for at, coordinate in zip(eq.at or (), index, strict=eq.at is not None):
        terms &= grid.full(at) == coordinate
    # not finite beats everything finite; points of other elements never win
    size = np.where(terms, np.where(np.isfinite(body), np.abs(body), np.inf), -1.0)
    return tuple(int(n) for n in np.unravel_index(int(size.argmax()), size.shape))


def _used(body: Expr, grid: IndexGrid, place: tuple[int, ...]) -> list[Read]:
    """The reads of numbers in a body that lie inside their tensors, not those in indices."""
    # `table[token[b], j]`: the token is no operand, but says which row is
    inner = {n for read in reads(body) for at in read.index for n in walk(at)}
    found = []
    for read in reads(body):
        # a guarded read outside its tensor takes the value after `else` and reads nothing
        shape = grid.arrays[read.tensor].shape
        at = [int(grid.full(i)[place]) for i in read.index]
        if read not in inner and all(0 <= a < n for a, n in zip(at, shape, strict=True)):
            found.append(read)
    return found


# --- where it went --------------------------------------------------------------------------------


def _nonfinite_tensors(system: System, arrays: Mapping[str, np.ndarray]) -> list[NonfiniteTensor]:
    """Every tensor with an element that is not finite, in the order of computation, but for those
    that are infinite from numbers written in the program alone, as a mask may be."""
    found = []
    for eq in system.equations:
        array = arrays[eq.target]
        index = first_bad(array)
        # masks that are -inf on purpose are no finding
        if index is None or _written(eq):
            continue
        count = int((~np.isfinite(array)).sum())
        found.append(NonfiniteTensor(eq.target, eq, count, array.size, index, float(array[index])))
    return found


def _written(eq: Equation) -> bool:
    """Whether the equation computes from no real number: an infinity is then meant."""
    # indices and booleans are no real numbers: `if i > j then 0 else -inf` computes from none
    return not any(isinstance(n, Read) and is_float(n.dtype) for n in walk(eq.body))


def _nonfinite_updates(system: System, arrays: Mapping[str, np.ndarray]) -> list[NonfiniteUpdate]:
    found = []
    for name, following in system.updates.items():
        array = arrays[following]
        # `first_bad` is quick where all is finite, which is nearly everywhere
        count = int((~np.isfinite(array)).sum()) if first_bad(array) is not None else 0
        if count:
            found.append(NonfiniteUpdate(name, system.tensors[name].kind, count, array.size))
    return found


def _largest(system: System, arrays: Mapping[str, np.ndarray]) -> list[Element]:
    """The tensors with the largest numbers, and where these are."""
    found = []
    for eq in system.equations:
        array = arrays[eq.target]
        # whole numbers cannot overflow to infinity
        if array.dtype.kind != "f" or not array.size:
            continue
        place = tuple(int(n) for n in np.unravel_index(int(np.abs(array).argmax()), array.shape))
        found.append(Element(eq.target, place, float(array[place])))
    # where the machine has overflowed and the evaluator has not, these came near
    return sorted(found, key=lambda each: -abs(each.value))[:5]
