"""bf16 storage: round the operands of tensor cores once, where they are computed.

    y[b, o]      = sum(i) bf16(x[b, i]) * bf16(w[i, o])
→
    x_bf16[b, i] = bf16(x[b, i])                            2 bytes an element in memory
    w_bf16[i, o] = bf16(w[i, o])
    y[b, o]      = sum(i) x_bf16[b, i] * w_bf16[i, o]

A tile then goes from memory to shared memory by asynchronous copies of 16 bytes, through no
register, and half as many bytes are moved. The kernel that computes `x` stores `x_bf16` beside it,
or in its place if nothing else reads `x` (kernel fusion); parameters and inputs are converted at
the start of a run. All products that read a tensor share one copy, in either order of its indices,
and so does attention.

A matrix product's operand is stored if a tile would copy it as it lies in memory (asked of
`matmul_tiling` for an H100) and fewer bytes are moved. Attention's operands are stored if all that
one attention multiplies can be (`attention/mma_operands.py`); those whose rows do not lie in memory
along what is summed get a copy in which they do. Elsewhere, and in recurrences, operands are
rounded as they are loaded. No bit of a result depends on it.

Source: mixed-precision training with a half-precision copy of the weights (Micikevicius et al.
2018, arXiv:1710.03740). Tests: tests/passes/test_bf16_storage.py, tests/backends/
test_cuda_rounded.py, test_cuda_attention_cores.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from math import prod

from ...ir.build import call, literal, rewrite, substitute
from ...ir.dtypes import BYTES
from ...ir.equation import (
    Equation,
    Index,
    System,
    Tensor,
    copy_equation,
    free_name,
    is_recurrent,
)
from ...ir.expr import Apply, Const, Expr, Idx, Read, reads, walk
from ...ir.terms import is_rounded, is_zero
from ...targets import GpuTarget
from ..equations.views import views
from ..kernels.kernel import Kernel, Plan
from .attention.flash_attention import fused_attention
from .attention.mma_operands import Contraction, has_bf16_rows, longer_than_one, mma_contractions
from .grid_ir import MatmulTile, Operand
from .lower_kernel import undivided
from .matmul_tiling import matmul_tiling


def bf16_storage(plan: Plan, target: GpuTarget) -> Plan:
    """The plan's system with the copies that pay, and notes why."""
    system = plan.system
    # nothing is multiplied by tensor cores
    if not any(is_rounded(node) for eq in system.equations for node in walk(eq.body)):
        return plan
    # attention fuses many equations into one kernel, which stores nothing else beside its results
    attention = fused_attention(system, target)
    copies = _Copies(system, {t for kernel in attention.kernels for t in kernel.stored}, target)
    rewritten: dict[str, Equation] = {}
    # attention first: its operands get copies in any case, which products may then share
    for each in attention.attentions:
        for one in mma_contractions(each, system).contractions:
            rewritten[one.equation.target] = copies.in_contraction(one)
    loads: Counter[str] = Counter()
    # equations inside an attention kernel are no products of their own
    within = {eq.target for kernel in attention.kernels for eq in kernel.equations}
    products = [eq for eq in _products(system) if eq.target not in within]
    # each product is tried with all copies it could have; how often tiles load decides below
    for eq in products:
        for name, count in copies.loads(eq):
            loads[name] += count  # type: ignore[assignment]
    notes = {
        name: f"in bf16 for tiles that load an element {count:.0f} times"
        for name, count in loads.items()
        # counted over all products: one copy serves all of them
        if copies.bytes_saved(name, count) > 0
    } | {name: "in bf16 for attention's tiles" for name in copies.attended}
    # now with the chosen copies alone
    for eq in products:
        rewritten[eq.target] = copies.in_product(eq, notes)
    found = copies.system(rewritten, notes)
    return replace(plan, system=found, notes={copies.names[n]: text for n, text in notes.items()})


def _products(system: System) -> Iterator[Equation]:
    """Sums that are no part of a recurrence."""
    for component in system.components:
        # in a recurrence operands are rounded as they are loaded
        if not is_recurrent(component):
            (eq,) = component
            if eq.reduce == "sum" and eq.at is None:
                yield eq


class _Copies:
    """The copies that there could be, by the tensor that they are copies of. `apart` are tensors
    whose kernels store nothing else beside them."""

    def __init__(self, source: System, apart: Collection[str], target: GpuTarget):
        self.target = target
        self.source, self.views = source, views(source)
        self.names: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.attended: set[str] = set()
        self.packed: dict[tuple[Expr, tuple[Index, ...]], Equation] = {}
        # kernels that can store a copy beside the value; a scatter has its result only at its end
        self.fusible = {eq.target for eq in source.equations if eq.at is None} - {
            *apart,
            *source.recurrent,
        }

    def system(self, rewritten: Mapping[str, Equation], chosen: Collection[str]) -> System:
        """The system with rewritten equations and those of the chosen tensors' copies."""
        tensors = self.source.tensors
        # parameters, states and inputs have no kernel that computes them
        given = [name for name in chosen if tensors[name].kind != "temp"]
        equations = (
            *map(self._equation, given),  # next to each other: they become one launch
            *(rewritten.get(eq.target, eq) for eq in self.source.equations),
            # after their sources; `in_order` sorts the whole
            *(self._equation(name) for name in chosen if name not in given),
            *self.packed.values(),
        )
        targets = [*(self.names[n] for n in chosen), *(e.target for e in self.packed.values())]
        fresh = {name: self.tensors[name] for name in targets}
        found = self.source.replace(tensors={**tensors, **fresh}, equations=equations)
        return _without_dead_views(found.in_order(), self.views)

    def _equation(self, name: str) -> Equation:
        # named indices like those of the tensor, so that fusion can put it beside the original
        plain = copy_equation(self.source.tensors[name], name, self.names[name])
        return plain.with_body(call("bf16", plain.body))

    def _read(self, value: Expr) -> Read | None:
        """The read of a copy that gives the value rounded; None if there is no such copy."""
        if not isinstance(value, Read) or value.dtype != "f32":
            return None
        # outside its tensor the copy must read 0 as well, which needs no rounding
        if value.other is not None and not is_zero(value.other):
            return None
        read = self._through_views(value)
        if read.tensor not in self.names:
            # made at the first read; whether it is used is decided later
            name = free_name(f"{read.tensor}_bf16", {**self.source.tensors, **self.tensors})
            source = self.source.tensors[read.tensor]
            self.names[read.tensor] = name
            # unpadded: padding is for CPUs; a temp, so nothing of it is kept from run to run
            self.tensors[name] = replace(
                source, name=name, kind="temp", init="", pad_after=0, storage="bf16", aligned=True
            )
        return Read(self.names[read.tensor], read.index, read.other, read.dtype)

    def _through_views(self, read: Read) -> Read:
        """The element of memory that a view shows, so that all views share one copy."""
        # a guarded read's condition is about the view's own shape: it is left alone
        while read.tensor in self.views and read.other is None:
            eq = self.source.definition[read.tensor]
            if not isinstance(eq.body, Read):  # it waits for something
                return read
            # with `v[i, j] = x[j, i]` the read v[a, b] is x[b, a]
            places = {i.name: e for i, e in zip(eq.indices, read.index, strict=True)}
            found = substitute(eq.body, places)
            assert isinstance(found, Read)
            read = found
        return read

    # --- matrix products -----------------------------------------------------------------------

    def in_product(self, eq: Equation, chosen: Collection[str] | None = None) -> Equation:
        """The equation with copies in place of what it rounds: of the chosen tensors, or of all."""

        def change(node: Expr) -> Expr | None:
            if not is_rounded(node) or (copy := self._read(node.args[0])) is None:
                return None
            taken = chosen is None or any(self.names[name] == copy.tensor for name in chosen)
            return copy if taken else None

        return eq.with_body(rewrite(eq.body, change))

    def loads(self, eq: Equation) -> Iterator[tuple[str, float]]:
        """The tensors whose copies a tile of the equation would copy on, and how often the tiles
        would load one element."""
        # the copies make the operands plain reads of bf16, which is what the tiling asks for
        trial = self.in_product(eq)
        # nothing in it is rounded
        if trial.body is eq.body:
            return
        system = self.source.replace(tensors={**self.source.tensors, **self.tensors})
        grid = undivided(Kernel(eq.target, trial), Plan(system, (), {}, 0))
        tiled = matmul_tiling(grid, self.target)
        if tiled is None or not isinstance(tiled.how, MatmulTile) or not tiled.how.tensor_cores:
            return
        how = tiled.how
        origin = {copy: name for name, copy in self.names.items()}

        def of_operand(operand: Operand, tiles: int) -> Iterator[tuple[str, float]]:
            # an operand that is not copied gains nothing from being stored in bf16
            if operand.copy_width:
                assert isinstance(operand.value, Read)
                # elements that all tiles load, over those that the tensor has
                elements = operand.size * grid.points * prod(i.size for i in how.batch) * tiles
                tensor = self.tensors[operand.value.tensor]
                yield origin[tensor.name], elements / tensor.size

        # each tile along the columns loads the whole left operand once, and the other way round
        yield from of_operand(how.left, -(-how.rights[0].size // how.width))
        for right in how.rights:
            yield from of_operand(right, -(-how.left.size // how.height))

    def bytes_saved(self, name: str, loads: float) -> float:
        """Bytes of memory traffic for each element: each load saves the difference; the copy is
        stored and, if no kernel can store it beside the value, the value is read for it."""
        # a load of 4 bytes becomes one of 2, the store of 2 is new
        wide, narrow = BYTES["f32"], BYTES["bf16"]
        # unless the kernel stores both, its f32 value is read back to be rounded
        return loads * (wide - narrow) - narrow - (0 if name in self.fusible else wide)

    # --- attention -----------------------------------------------------------------------------

    def in_contraction(self, one: Contraction) -> Equation:
        """The contraction with copies, of which memory has rows along what is summed."""
        eq = one.equation
        operands: dict[Expr, Expr] = {
            o: self._rows(o.args[0], one.along, eq.sizes) for o in one.operands
        }
        return eq.with_body(rewrite(eq.body, lambda node: operands.get(node)))

    def _rows(self, value: Expr, along: tuple[Index, ...], sizes: Mapping[str, int]) -> Read:
        # an index of one value is 0 and needs no place in memory
        value = substitute(value, {i.name: literal(0) for i in along if i.size == 1})
        along = longer_than_one(along)
        copy = self._read(value)
        # the copy lies so that 8 numbers along the sum are side by side, as `ldmatrix` reads them
        if copy is not None and has_bf16_rows(copy, along, self.tensors[copy.tensor], sizes):
            self.attended |= {name for name, own in self.names.items() if own == copy.tensor}
            return copy
        return self._packed(value, along, sizes)

    def _packed(self, value: Expr, along: tuple[Index, ...], sizes: Mapping[str, int]) -> Read:
        """A copy of its own of a computed value, or of rows that lie otherwise in memory."""
        # what the value depends on: these are the dimensions of the copy, the summed ones last
        places = _places(value, {i.name for i in along}, sizes)
        old = (*places, *(Idx(i.name) for i in along))
        shape = (*places.values(), *(i.size for i in along))
        indices = tuple(Index(f"i{n}", size) for n, size in enumerate(shape))
        # the value as a function of the copy's own indices
        new = dict(zip(old, (Idx(i.name) for i in indices), strict=True))
        body = call("bf16", rewrite(value, lambda node: new.get(node)))
        # equal copies, as of one k in the forward and the backward pass, are made once
        eq = self.packed.get((body, indices))
        if eq is None:
            of = next(r.tensor for r in reads(value))
            name = free_name(f"{of}_bf16", {**self.source.tensors, **self.tensors})
            span = self.source.tensors[of].span
            self.tensors[name] = Tensor(name, shape, "f32", span=span, storage="bf16", aligned=True)
            eq = self.packed[body, indices] = Equation(name, indices, body, span=span)
        return Read(eq.target, old, None, "f32")


def _places(value: Expr, along: Collection[str], sizes: Mapping[str, int]) -> dict[Expr, int]:
    """What a value depends on beside the indices `along`, each with its number of values: indices,
    or an index divided by a constant if that is all that is read of it, as of heads in groups."""
    found: dict[Expr, int] = {}
    stack = [value]
    # depth first, stopping at an index or at an index divided by a constant
    while stack:
        node = stack.pop()
        # heads in groups: `k[h // 4, …]` depends on h // 4, of which there are a quarter as many
        index = node if isinstance(node, Idx) else _quotient_of(node)
        if index is not None and index.name not in along:
            by = 1 if node is index else node.children[1].value  # type: ignore[attr-defined]
            found[node] = -(-sizes[index.name] // by)
        else:
            stack += reversed(node.children)
    # where an index is read in full elsewhere, its quotients are no dimensions of their own
    return {e: n for e, n in found.items() if isinstance(e, Idx) or e.children[0] not in found}


def _quotient_of(node: Expr) -> Idx | None:
    """The index that the node divides by a positive constant; None if it does not."""
    if not isinstance(node, Apply) or node.fn != "floordiv":
        return None
    index, by = node.args
    found = isinstance(index, Idx) and isinstance(by, Const) and by.value > 0
    return index if found else None  # type: ignore[return-value]


def _without_dead_views(system: System, names: Collection[str]) -> System:
    """The system without those of the views that nothing reads any more."""
    kept: list[Equation] = []
    # from the end: readers come after what they read
    read = set(system.roots)
    for eq in reversed(system.equations):
        if eq.target in read or eq.target not in names:
            kept.append(eq)
            read.update(eq.sources)
    left = {eq.target for eq in kept}
    tensors = {n: t for n, t in system.tensors.items() if n in left or n not in names}
    return system.replace(tensors=tensors, equations=tuple(reversed(kept)))
