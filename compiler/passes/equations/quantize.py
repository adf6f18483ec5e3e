"""Quantisation: contractions with parameters in whole numbers of 8 bits, for prediction.

    y[b, o] = sum(i) x[b, i] * w[i, o];   z[b, o] = g[o] * (y[b, o] + c[o])
    →   x_u8[b, i]  = u8(max(min(round(x[b, i] * (1/s)) + p, 255), 0))
        y_i32[b, o] = sum(i) i32(x_u8[b, i]) * i32(w_int8[i, o])
        z[b, o]     = f32(y_i32[b, o]) * y_scale[o] + y_shift[o]

    where, computed once, before the prediction is compiled (the preparation),

        w_scale[o]   = max(i) abs(w[i, o]) / 127
        w_int8[i, o] = i8(round(w[i, o] / w_scale[o]))
        y_scale[o]   = g[o] * w_scale[o] * s
        y_shift[o]   = g[o] * c[o] - y_scale[o] * p * sum(i) w_int8[i, o]

Activations are affine, x = s * (x_u8 - p), by the range that they have over a set of examples;
weights are symmetric, with a scale for each output channel, which is whatever of the result's
indices a weight has dimensions of its own for. A zero of padding is p, exactly. Sums are exact, so
that they are the same in any order and on every processor. What follows a sum and scales it, such
as a batch normalisation, becomes part of its scale and shift. Tables that are only gathered from
have a scale for each row. Recurrences, and sums without a parameter, such as attention's, stay.

Jacob et al. 2018, arXiv:1712.05877; per channel: Krishnamoorthi 2018, arXiv:1806.08342. It changes
values, so that it is no pass of the pipeline. Tests: tests/passes/test_quantize.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ...ir.build import call, cast, literal, rewrite, substitute
from ...ir.dtypes import INTEGERS
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System, Tensor
from ...ir.expr import Const, Expr, Idx, Read, index_names, reads
from ...ir.invariants import invariants, lasting_values
from ...ir.terms import is_zero, multiplicands
from .fold_constants import Line, is_only_read, lines

LEVELS = INTEGERS["i8"][1]  # of a weight, on either side of 0
CODES = INTEGERS["u8"][1]  # the greatest of an activation
Bounds = Mapping[str, tuple[float, float]]  # the least and the greatest value, by tensor


@dataclass(frozen=True)
class Quantized:
    """`system` predicts; its new params are the outputs of `preparation`, by the same names, which
    is given the params and states of training."""

    system: System
    preparation: System


@dataclass(frozen=True)
class Operand:
    """Of a tensor: the outputs that are its least and its greatest value, and whether (1 or 0) one
    of its elements is not finite."""

    least: str
    greatest: str
    broken: str


@dataclass(frozen=True)
class Contraction:
    """A sum of products `factor * x * weight`."""

    eq: Equation
    x: Read
    weight: Read
    factor: float


def contractions(system: System) -> Iterator[Contraction]:
    """The sums that can be quantised."""
    computed = invariants(system)
    known = lasting_values(system) | computed
    for eq in system.equations:
        if eq.target not in computed | system.recurrent | system.blocked:
            found = _contraction(eq, known)
            if found is not None:
                yield found


def _contraction(eq: Equation, known: frozenset[str]) -> Contraction | None:
    if eq.reduce != "sum" or eq.at is not None or eq.body.dtype != "f32":
        return None
    # A sum of products of 8 bits must fit into 32.
    if prod(i.size for i in eq.over) * CODES * (LEVELS + 1) > INTEGERS["i32"][1]:
        return None
    parts = multiplicands(eq.body)
    constants = [p.value for p in parts if isinstance(p, Const)]
    both = [p for p in parts if isinstance(p, Read)]
    if len(both) != 2 or len(constants) + len(both) != len(parts):
        return None
    weights = [p for p in both if p.tensor in known and p.other is None and p.index]
    if len(weights) != 1:
        return None
    (weight,) = weights
    x = both[1 - both.index(weight)]
    # Which weight it is must not depend on data.
    if any(reads(e) for e in weight.index):
        return None
    if x.tensor in known or not x.index or not (x.other is None or is_zero(x.other)):
        return None
    return Contraction(eq, x, weight, prod(constants))


def operands(system: System) -> list[str]:
    """The tensors whose ranges quantisation needs."""
    return list(dict.fromkeys(c.x.tensor for c in contractions(system)))


def with_ranges(system: System) -> tuple[System, dict[str, Operand]]:
    """The system with what is to be known of every operand for outputs, and their names."""
    edit = SystemEdit(system)
    found: dict[str, Operand] = {}
    for name in operands(system):
        read, indices = _whole(edit.tensors[name])
        broken = call("select", call("is_finite", read), literal(0), literal(1))
        found[name] = Operand(
            edit.add(Equation(f"{name}_least", (), read, "min", indices)),
            edit.add(Equation(f"{name}_greatest", (), read, "max", indices)),
            edit.add(Equation(f"{name}_broken", (), broken, "max", indices)),
        )
    outputs = tuple(
        name for one in found.values() for name in (one.least, one.greatest, one.broken)
    )
    return live(edit.result().replace(outputs=outputs, updates={})), found


def quantize(system: System, bounds: Bounds) -> Quantized:
    """The prediction in 8 bits. Contractions with an operand that has no bounds stay."""
    edit, prepared = SystemEdit(system), SystemEdit(system)
    work = _Rewriting(edit, prepared, bounds)
    computed = invariants(system)
    work.known = lasting_values(system) | computed
    for each in contractions(system):
        if each.x.tensor in bounds:
            work.contraction(each)
    for eq in system.equations:
        if (
            eq.target not in computed | system.recurrent | system.blocked
            and eq.target in edit.tensors
        ):
            work.tables(edit[eq.target])
    given = prepared.result()
    outputs = tuple(work.made)
    return Quantized(
        live(edit.result()),
        live(given.replace(outputs=outputs, updates={}, index_inputs=None), inputs=False),
    )


def with_equations_of(system: System, other: System) -> System:
    """The system with the equations of another one for all temps that both have."""
    known = {**system.definition, **other.definition}
    tensors = {**system.tensors, **other.tensors}
    # Of both only what is needed; what the other system no longer has is computed as before.
    both = system.replace(tensors=tensors, equations=tuple(known.values()))
    return live(both).in_order()


def live(system: System, inputs: bool = True) -> System:
    """The system without what its roots do not need, but with all inputs if these are to stay."""
    needed = system.ancestors([*system.roots, *system.updates])
    tensors = {
        n: t for n, t in system.tensors.items() if n in needed or (inputs and t.kind == "input")
    }
    equations = tuple(eq for eq in system.equations if eq.target in needed)
    return system.replace(tensors=tensors, equations=equations)


UNSCALED = Line(literal(1.0), literal(0.0))


@dataclass(frozen=True)
class _End:
    """Where a sum, scaled and shifted by a line, is used: all of the equation of `target`, or
    `node` of its body. `place` has the indices of the sum there; equations of `passed` are done
    with then."""

    target: str
    node: Expr | None
    place: Mapping[str, Idx]
    passed: tuple[str, ...]
    line: Line


class _Rewriting:
    """The edits of a prediction and of its preparation. `made` are the new params."""

    def __init__(self, edit: SystemEdit, prepared: SystemEdit, bounds: Bounds):
        self.edit, self.prepared, self.bounds = edit, prepared, bounds
        self.known: frozenset[str] = frozenset()
        self.made: dict[str, None] = {}

    def param(self, eq: Equation) -> str:
        """A new param with the values that the preparation computes by the equation."""
        name = self.prepared.add(eq)
        self.made[name] = None
        tensor = self.prepared.tensors[name]
        zero = "0.0" if tensor.dtype == "f32" else "0"
        self.edit.tensors[name] = replace(tensor, kind="param", init=f"= {zero}")
        return name

    def contraction(self, each: Contraction) -> None:
        """Rewrites a sum, and what scales it where that alone reads it."""
        total = self.edit[each.eq.target]
        end = self._end(total)
        scale, zero = _affine(self.bounds[each.x.tensor])
        whole, step = self.weight(each.weight, {i.name for i in total.indices})
        own = Read(step, _channels(each.weight, total), None, "f32")
        factor = end.line.scale * (own * literal(each.factor * scale))
        shift = end.line.shift
        weight = replace_tensor(each.weight, whole, "i8")
        if zero:
            shift = shift - cast(self._ones(total, weight), "f32") * literal(float(zero)) * factor
        outside = None if each.x.other is None else literal(zero, "u8")
        codes = Read(self.codes(each.x.tensor, scale, zero), each.x.index, outside, "u8")
        added = self.edit.add(
            replace(total, target=f"{total.target}_i32", body=call("mul", codes, weight))
        )
        value = cast(Read(added, _places(total.indices), None, "i32"), "f32")
        value = value * self._of(total, f"{total.target}_scale", factor)
        if not is_zero(shift):
            value = value + self._of(total, f"{total.target}_shift", shift)
        value = substitute(value, end.place)
        edit, now = self.edit, self.edit[end.target]
        if end.node is None:
            edit.replace(replace(now, body=value, reduce=None, over=()))
        else:
            edit.replace(
                now.with_body(rewrite(now.body, lambda n: value if n is end.node else None))
            )
        self.edit.remove(*(name for name in end.passed if name != end.target))

    def _ones(self, total: Equation, weight: Read) -> Expr:
        """The sum of the weights: what it is of activations that are all 1."""
        indices = tuple(i for i in total.indices if i.name in index_names(weight))
        ones = replace(
            total, target=f"{total.target}_ones", indices=indices, body=cast(weight, "i32")
        )
        return Read(self.prepared.add(ones), _places(indices), None, "i32")

    def _end(self, total: Equation) -> _End:
        """How far what follows a sum scales and shifts it, and nothing else reads it."""
        end = _End(total.target, None, {i.name: Idx(i.name) for i in total.indices}, (), UNSCALED)
        now = total
        while True:
            # What another contraction reads in 8 bits stays a tensor of its own.
            readers = self.edit.system.readers.get(now.target, [])
            if len(readers) != 1 or now.target in self.bounds:
                return end
            own = self.edit[readers[0].target]
            here = [r for r in own.reads if r.tensor == now.target]
            original = self.edit.system.definition[now.target]
            if len(here) != 1 or not is_only_read(original, here[0], readers[0], self.edit.system):
                return end
            found = self._scaled(now, own, here[0], end)
            if found is None:
                return end
            end, now = found, own
            if end.node is not None:
                return end

    def _scaled(self, now: Equation, own: Equation, read: Read, end: _End) -> _End | None:
        """The same with one equation more; None if that does not scale what it reads."""
        names = {e.name: i.name for e, i in zip(read.index, now.indices, strict=True)}  # type: ignore[attr-defined]
        back = {e.name: name for name, e in end.place.items()}  # to the names of the sum's indices
        place = {old: Idx(back[new]) for old, new in names.items()}
        for node, line in lines(own.body, read, self.known):
            if not index_names(line.scale) | index_names(line.shift) <= names.keys():
                continue
            scale, shift = substitute(line.scale, place), substitute(line.shift, place)
            whole = node is own.body and own.reduce is None and own.at is None
            return _End(
                own.target,
                None if whole else node,
                {e.name: Idx(old) for old, e in place.items()},
                (*end.passed, now.target),
                Line(scale * end.line.scale, scale * end.line.shift + shift),
            )
        return None

    def _of(self, total: Equation, name: str, value: Expr) -> Expr:
        """A param with this value, which depends on some of the result's indices."""
        own = tuple(i for i in total.indices if i.name in index_names(value))
        found = self.param(Equation(name, own, value, span=total.span))
        return Read(found, _places(own), None, "f32")

    def weight(self, read: Read, outputs: set[str]) -> tuple[str, str]:
        """The params with a weight in 8 bits and with its scales, for a read of it where these are
        the indices of the result."""
        tensor = self.prepared.tensors[read.tensor]
        channel = [index_names(e) <= outputs for e in read.index]
        whole, indices = _whole(tensor)
        own = tuple(i for i, is_channel in zip(indices, channel, strict=True) if is_channel)
        rest = tuple(i for i, is_channel in zip(indices, channel, strict=True) if not is_channel)
        size = call("abs", whole)
        largest = self.prepared.add(
            Equation(f"{tensor.name}_largest", own, size, "max" if rest else None, rest)
        )
        most = Read(largest, _places(own), None, "f32")
        step = call("select", call("gt", most, 0.0), call("div", most, float(LEVELS)), 1.0)
        scale = self.param(Equation(f"{tensor.name}_scale", own, step, span=tensor.span))
        level = call("round", call("div", whole, Read(scale, _places(own), None, "f32")))
        level = call("max", call("min", level, float(LEVELS)), -float(LEVELS))
        name = self.param(
            Equation(f"{tensor.name}_int8", indices, cast(level, "i8"), span=tensor.span)
        )
        return name, scale

    def codes(self, name: str, scale: float, zero: int) -> str:
        """The tensor in 8 bits."""
        tensor = self.edit.tensors[name]
        read, indices = _whole(tensor)
        level = call("round", read * literal(1 / scale))
        if zero:
            level = level + literal(float(zero))
        level = call("max", call("min", level, float(CODES)), 0.0)
        return self.edit.add(Equation(f"{name}_u8", indices, cast(level, "u8"), span=tensor.span))

    def tables(self, eq: Equation) -> None:
        """Rewrites what the equation gathers from parameters."""
        for read in eq.reads:
            tensor = self.edit.tensors[read.tensor]
            gathered = [bool(reads(e)) for e in read.index]
            is_table = tensor.kind == "param" and tensor.dtype == "f32" and read.other is None
            if not is_table or tensor.name in self.made or not any(gathered) or all(gathered):
                continue
            # A row is what one index chooses: its scale depends on that alone.
            rows = {n for e in read.index if reads(e) for n in index_names(e)}
            if any(index_names(e) <= rows for e in read.index if not reads(e)):
                continue
            whole, step = self.weight(read, rows)
            place = tuple(e for e in read.index if reads(e))
            value = cast(replace_tensor(read, whole, "i8"), "f32") * Read(step, place, None, "f32")
            edit, now = self.edit, self.edit[eq.target]
            edit.replace(
                now.with_body(rewrite(now.body, lambda n, r=read, v=value: v if n is r else None))  # type: ignore[misc]
            )


def _affine(bounds: tuple[float, float]) -> tuple[float, int]:
    """Scale and zero point of the codes of a range, in which 0 is a code."""
    least, greatest = min(bounds[0], 0.0), max(bounds[1], 0.0)
    scale = (greatest - least) / CODES
    return scale, round(-least / scale)


def _whole(tensor: Tensor) -> tuple[Read, tuple[Index, ...]]:
    """A read of every element, and its indices."""
    indices = tuple(Index(f"i{axis}", size) for axis, size in enumerate(tensor.shape))
    return Read(tensor.name, _places(indices), None, tensor.dtype), indices


def _places(indices: Sequence[Index]) -> tuple[Expr, ...]:
    return tuple(Idx(i.name) for i in indices)


def _channels(weight: Read, total: Equation) -> tuple[Expr, ...]:
    """Where the scales of a weight are read."""
    outputs = {i.name for i in total.indices}
    return tuple(e for e in weight.index if index_names(e) <= outputs)


def replace_tensor(read: Read, name: str, dtype: str) -> Read:
    """The same places of another tensor."""
    return Read(name, read.index, None, dtype)
