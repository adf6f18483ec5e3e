"""Operands of tensor cores that lie in memory as bf16, rounded once where they are computed.

In: a system whose contractions round their operands (`precision.py`), and the kernels that are made
of some of its equations already. Out: an equal system, for a GPU:

    y[b, o]      = sum(i) bf16(x[b, i]) * bf16(w[i, o])

    x_bf16[b, i] = bf16(x[b, i])
    w_bf16[i, o] = bf16(w[i, o])
    y[b, o]      = sum(i) x_bf16[b, i] * w_bf16[i, o]

So that tiles copy them to shared memory, 16 bytes at once, and need no registers for it. The kernel
that computes `x` stores `x_bf16` beside it, or alone if nobody else reads `x` (`fuse.py`); params
and inputs are rounded at the beginning of a run. All products that read a tensor read the same
copy, whatever their order of indices. Where a copy cannot be had so or does not pay, and in
recurrences, operands are rounded as they are loaded. What tiles there would be is asked of
`contract.py`, for an H100.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

from ...ir.build import call, rewrite, substitute
from ...ir.dtypes import BYTES
from ...ir.equation import (
    Equation,
    System,
    Tensor,
    copy_equation,
    free_name,
    is_recurrent,
)
from ...ir.expr import Expr, Read
from ...ir.terms import is_rounded, is_zero
from ...targets import GpuTarget
from ..equations.views import views
from ..kernels.kernel import Kernel, Plan
from .grid_ir import Operand, Tile
from .lower import undivided
from .matmul_tiling import matmul_tiling


def bf16_storage(plan: Plan) -> Plan:
    """The plan's system with the copies that pay; kernels that it has already stay as they are."""
    system, ready = plan.system, tuple(plan.kernels)
    within = {eq.target for kernel in ready for eq in kernel.equations}
    products = [
        eq
        for part in system.components
        if not is_recurrent(part)
        for eq in part
        if eq.target not in within and eq.reduce == "sum" and eq.at is None
    ]
    made = _Made(system, ready)
    uses: dict[str, float] = {}
    for eq in products:
        for name, count in made.uses(eq):
            uses[name] = uses.get(name, 0) + count
    chosen = {name: count for name, count in uses.items() if made.saved(name, count) > 0}
    if not chosen:
        return plan
    targets = {eq.target for eq in products}
    equations = [
        made.reading(eq, chosen) if eq.target in targets else eq for eq in system.equations
    ]
    given = [name for name in chosen if system.tensors[name].kind != "temp"]  # these in one launch
    equations = [
        *map(made.equation, given),
        *equations,
        *(made.equation(name) for name in chosen if name not in given),
    ]
    tensors = {**system.tensors, **{made.names[n]: made.tensors[made.names[n]] for n in chosen}}
    notes = {
        made.names[name]: f"in bf16 for tiles that load an element {count:.0f} times"
        for name, count in chosen.items()
    }
    found = system.replace(tensors=tensors, equations=tuple(equations)).in_order()
    asked = {s for kernel in ready for eq in kernel.equations for s in eq.sources}
    stored = _without_views(found, made.views, asked | set(system.roots))
    return replace(plan, system=stored, notes={**plan.notes, **notes})


def _without_views(system: System, names: Collection[str], read: set[str]) -> System:
    """The system without those of the views that nobody reads any more; `read` are those that
    somebody besides its equations does."""
    kept: list[Equation] = []
    for eq in reversed(system.equations):
        if eq.target in read or eq.target not in names:
            kept.append(eq)
            read.update(eq.sources)
    left = {eq.target for eq in kept}
    tensors = {n: t for n, t in system.tensors.items() if n in left or n not in names}
    return system.replace(tensors=tensors, equations=tuple(reversed(kept)))


class _Made:
    """The copies that there could be. `at_hand` is what a kernel computes that may store the copy,
    too."""

    def __init__(self, system: System, ready: Sequence[Kernel]):
        self.system, self.views = system, views(system)
        self.names: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        apart = {t for kernel in ready for t in kernel.stored} | system.recurrent
        self.at_hand = {eq.target for eq in system.equations if eq.at is None} - apart

    def reading(self, eq: Equation, names: Mapping[str, float] | None = None) -> Equation:
        """The equation with copies in place of what it rounds: of these tensors, or of all."""

        def change(node: Expr) -> Expr | None:
            read = node.args[0] if is_rounded(node) else None
            if not isinstance(read, Read) or read.dtype != "f32":
                return None
            if read.other is not None and not is_zero(read.other):
                return None
            read = self._source(read)
            if names is not None and read.tensor not in names:
                return None
            return Read(self._name(read.tensor), read.index, read.other, read.dtype)

        return eq.with_body(rewrite(eq.body, change))

    def uses(self, eq: Equation) -> Iterator[tuple[str, float]]:
        """The tensors whose copies tiles of the equation would copy on, and how often they would
        load an element."""
        trial = self.reading(eq)
        if trial.body is eq.body:
            return
        system = self.system.replace(tensors={**self.system.tensors, **self.tensors})
        grid = undivided(Kernel(eq.target, trial), Plan(system, (), {}, 0))
        tiled = matmul_tiling(grid, GpuTarget())
        if tiled is None or not isinstance(tiled.how, Tile) or not tiled.how.tensor_cores:
            return
        how = tiled.how
        origin = {copy: name for name, copy in self.names.items()}

        def loads(operand: Operand, tiles: int) -> Iterator[tuple[str, float]]:
            if operand.copied:
                assert isinstance(operand.part, Read)
                elements = operand.size * grid.points * prod(i.size for i in how.batch) * tiles
                tensor = self.tensors[operand.part.tensor]
                yield origin[tensor.name], elements / tensor.size

        yield from loads(how.left, -(-how.rights[0].size // how.width))
        for right in how.rights:
            yield from loads(right, -(-how.left.size // how.height))

    def saved(self, name: str, uses: float) -> float:
        """Bytes of memory, for each element: a copy is stored and, where no kernel has the elements
        at hand, they are read for it."""
        wide, narrow = BYTES["f32"], BYTES["bf16"]
        return uses * (wide - narrow) - narrow - (0 if name in self.at_hand else wide)

    def equation(self, name: str) -> Equation:
        """The one that makes the copy."""
        plain = copy_equation(self.system.tensors[name], name, self.names[name])
        return plain.with_body(call("bf16", plain.body))

    def _source(self, read: Read) -> Read:
        """What a view stands for, so that there is one copy for all."""
        while read.tensor in self.views and read.other is None:
            eq = self.system.definition[read.tensor]
            if not isinstance(eq.body, Read):  # it waits for something
                return read
            places = {i.name: e for i, e in zip(eq.indices, read.index, strict=True)}
            found = substitute(eq.body, places)
            assert isinstance(found, Read)
            read = found
        return read

    def _name(self, name: str) -> str:
        """Of the copy of a tensor, which is declared when it is asked for."""
        if name not in self.names:
            fresh = free_name(f"{name}_bf16", {**self.system.tensors, **self.tensors})
            source = self.system.tensors[name]
            self.names[name] = fresh
            self.tensors[fresh] = replace(
                source, name=fresh, kind="temp", init="", pad_after=0, rounded=True
            )
        return self.names[name]
