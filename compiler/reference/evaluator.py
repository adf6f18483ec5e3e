"""The reference evaluator: the meaning of a system of equations, in NumPy.

In: a derived `System` (`pipeline.derive`) and an array for every input, param and state. Out: an
array for every tensor. Every pass and every backend must agree with it. It is written to be
obvious, not fast; only a sum of products is computed by `einsum` factor by factor, because a
convolution's whole domain would not fit into memory; one of integers where f64 has it exactly.
Floats are computed in their declared type, but sums in float64, rounded once at the end; with
`wide`, f32 is computed in float64, the reference for machine code and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from itertools import product
from math import prod
from types import MappingProxyType

import numpy as np

from ..ir.affine import affine, inside
from ..ir.dtypes import INTEGERS, NUMPY, is_float
from ..ir.equation import Equation, Index, System, is_recurrent
from ..ir.expr import Apply, Const, Expr, Idx, Read, index_names
from ..ir.functions import TABLE, bf16_halves, int8_bytes
from ..ir.recurrence import plan_recurrence
from ..ir.terms import multiplicands

Arrays = dict[str, np.ndarray]
Types = Mapping[str, type]  # the NumPy type of each dtype
Functions = Mapping[str, Callable]  # the scalar functions to call in place of the table's
Part = Mapping[str, range]  # the values that some indices take; the others take all of theirs
BLOCK = 2**16  # points of an elementwise equation that are computed at a time
WIDE: Types = {**NUMPY, "f32": np.float64}


def evaluate(
    system: System,
    values: Mapping[str, np.ndarray],
    wide: bool = False,
    into: Mapping[str, np.ndarray] = MappingProxyType({}),
    functions: Functions = MappingProxyType({}),
) -> Arrays:
    """All tensors of the system, computed from the given inputs, params and states. Temps are
    written `into` arrays where there are any for them. `functions` compute the same as those of
    the table that they replace.

    Raises ValueError if one of those is missing or of the wrong shape, or if the system still has
    placeholders for gradients.
    """
    if system.gradients:
        raise ValueError(f"{system.name} has gradients that are not expanded: derive it first")
    types = WIDE if wide else NUMPY
    arrays: Arrays = {}
    for tensor in system.tensors.values():
        if tensor.kind == "temp":
            continue
        if tensor.name not in values:
            raise ValueError(f"no value for `{tensor.name}`")
        # With `wide`, the same inputs in float64.
        array: np.ndarray = np.asarray(values[tensor.name], types[tensor.dtype])
        if tensor.storage:
            array = np.asarray(TABLE[tensor.storage].numpy(array), types[tensor.dtype])
        if array.shape != tensor.shape:
            raise ValueError(f"`{tensor.name}` has shape {array.shape}, not {tensor.shape}")
        arrays[tensor.name] = array
    # Infinity and NaN are values, not errors.
    with np.errstate(all="ignore"):
        for component in system.components:
            if is_recurrent(component):
                _run_recurrence(component, system, arrays, types, functions)
            else:
                target = into.get(component[0].target)
                _run_whole(component[0], system, arrays, types, target, functions)
    return arrays


def advance(system: System, values: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
    """One run: all tensors, and the values of params and states for the next run."""
    arrays = evaluate(system, values)
    after = dict(values)
    after.update({name: arrays[following] for name, following in system.updates.items()})
    return arrays, after


def _run_whole(
    eq: Equation,
    system: System,
    arrays: Arrays,
    types: Types,
    into: np.ndarray | None,
    functions: Functions,
) -> None:
    """One equation over its whole domain."""
    if eq.reduce or eq.at is not None or prod(i.size for i in eq.indices) <= BLOCK:
        _run(eq, system, arrays, types, functions)
        if into is not None:
            into[...] = arrays[eq.target]
            arrays[eq.target] = into
        return
    if into is None:
        tensor = system.tensors[eq.target]
        into = np.empty(tensor.shape, types[tensor.dtype])
    arrays[eq.target] = into
    # By blocks, so that the values of subexpressions stay in a cache.
    for part in _blocks(eq.indices):
        _run(eq, system, arrays, types, functions, part)


def _blocks(indices: tuple[Index, ...]) -> Iterator[Part]:
    """A domain in parts of at most `BLOCK` points."""
    # `axis` is the first index of which several values are taken at once.
    axis, row = 0, prod(i.size for i in indices[1:])
    while row > BLOCK:
        axis += 1
        row //= indices[axis].size
    several, (name, size) = BLOCK // row, (indices[axis].name, indices[axis].size)
    for outer in product(*(range(i.size) for i in indices[:axis])):
        fixed = {i.name: v for i, v in zip(indices, outer, strict=False)}
        for start in range(0, size, several):
            yield {**one_value(fixed), name: range(start, min(start + several, size))}


def one_value(fixed: Mapping[str, int]) -> Part:
    """The part of a domain with one value of each of these indices."""
    return {name: range(value, value + 1) for name, value in fixed.items()}


def _run_recurrence(
    component: list[Equation],
    system: System,
    arrays: Arrays,
    types: Types,
    functions: Functions,
) -> None:
    """In the order of `plan_recurrence`: in each step one value of every ordered index, and the
    whole range of the others."""
    # A recurrence reads elements of its own tensors, so all of these exist before the first step.
    for equation in component:
        tensor = system.tensors[equation.target]
        arrays[tensor.name] = np.zeros(tensor.shape, types[tensor.dtype])
    for equation, fixed in plan_recurrence(component).steps():
        _run(equation, system, arrays, types, functions, one_value(fixed))


def _run(
    eq: Equation,
    system: System,
    arrays: Arrays,
    types: Types,
    functions: Functions,
    part: Part = MappingProxyType({}),
) -> None:
    """One equation over its whole domain, or over a part of it."""
    tensor = system.tensors[eq.target]
    dtype = types[tensor.dtype]
    grid = IndexGrid(eq, system, arrays, part, types, functions)
    if eq.at is not None:
        # A scatter-add: terms whose place is outside are dropped, and places may repeat, for which
        # `np.add.at` adds each term, unlike `total[places] += …`.
        total: np.ndarray = np.zeros(tensor.shape, dtype)
        places = tuple(grid.full(e) for e in eq.at)
        within = reduce(
            np.logical_and,
            [(p >= 0) & (p < n) for p, n in zip(places, tensor.shape, strict=True)],
            np.ones(grid.shape, bool),
        )
        np.add.at(total, tuple(p[within] for p in places), grid.full(eq.body)[within])
        arrays[eq.target] = total
        return
    result = grid.reduced(eq)
    shape = grid.shape[: len(eq.indices)]
    if part:
        # A slice keeps the axis, also of an index with one value.
        place = tuple(
            slice(part[i.name].start, part[i.name].stop) if i.name in part else slice(None)
            for i in eq.indices
        )
        arrays[eq.target][place] = result
    else:
        arrays[eq.target] = np.broadcast_to(result, shape).astype(dtype)


EXACT = 2.0**53  # up to here floats in double precision are all whole numbers


def _most(factors: Iterable[tuple[Expr, np.ndarray]], terms: int) -> float:
    """What a sum of so many products, and every part of it, is at most in size."""
    sizes = (float(np.max(np.abs(value.astype(np.float64)), initial=0)) for _, value in factors)
    return terms * prod(sizes)


class IndexGrid:
    """Values over an equation's domain: arrays with one axis per index, broadcast where a value
    does not depend on the index. An index in `part` takes some of its values only.
    """

    def __init__(
        self,
        eq: Equation,
        system: System,
        arrays: Arrays,
        part: Part,
        types: Types = NUMPY,
        functions: Functions = MappingProxyType({}),
    ):
        self.system, self.arrays, self.types, self.sizes = system, arrays, types, eq.sizes
        self.functions = functions
        self.axes = {index.name: axis for axis, index in enumerate(eq.domain)}
        values = [part.get(i.name, range(i.size)) for i in eq.domain]
        self.shape = tuple(map(len, values))
        # As np.ogrid: index n of the domain varies along axis n alone, and broadcasting does the
        # rest.
        self.index_values = {}
        for axis, (index, own) in enumerate(zip(eq.domain, values, strict=True)):
            shape = [1] * len(self.axes)
            shape[axis] = len(own)
            numbers = np.arange(own.start, own.stop, dtype=np.int32)
            self.index_values[index.name] = numbers.reshape(shape)
        self.memo: dict[Expr, np.ndarray] = {}

    def full(self, expr: Expr) -> np.ndarray:
        return np.broadcast_to(self.value(expr), self.shape)

    def value(self, expr: Expr) -> np.ndarray:
        found = self.memo.get(expr)
        if found is None:
            found = self.memo[expr] = self._value(expr)
        return found

    def _value(self, expr: Expr) -> np.ndarray:
        if isinstance(expr, Const):
            return np.asarray(expr.value, self.types[expr.dtype])
        if isinstance(expr, Idx):
            return self.index_values[expr.name]
        if isinstance(expr, Apply):
            dtype = self.types[expr.dtype]
            # `wide` decides what a float type is.
            function = dtype if expr.fn in ("f32", "f64") else self._function(expr.fn)
            return np.asarray(function(*(self.value(a) for a in expr.args)), dtype)
        assert isinstance(expr, Read)
        return self._read(expr)

    def _function(self, name: str) -> Callable:
        return self.functions.get(name) or TABLE[name].numpy

    def _read(self, read: Read) -> np.ndarray:
        array = self.arrays[read.tensor]
        if not read.index:
            return array
        within = np.True_
        places = []
        for expr, size in zip(read.index, array.shape, strict=True):
            place = self._place(expr)
            # Gather in two steps: read at a place that is clipped to the tensor, then replace what
            # was outside. `inside` proves most places, which saves the test.
            if not inside(expr, size, self.sizes):
                within = within & (place >= 0) & (place < size)
                place = np.clip(place, 0, size - 1)
            places.append(place)
        found = array[tuple(places)]
        if within is np.True_:
            return found
        if read.other is not None:
            return np.where(within, found, self.value(read.other))
        # The rule for gathers (see `Read`): NaN makes a wrong index visible.
        return np.where(within, found, array.dtype.type(np.nan if is_float(read.dtype) else 0))

    def _place(self, expr: Expr) -> np.ndarray:
        """An index. Sums and products by constants are in 64 bits, as addresses are."""
        form = affine(expr)
        if form.coefficients == {expr: 1}:
            return self.value(expr)
        place: np.ndarray = np.asarray(form.constant, np.int64)
        for atom, factor in form.coefficients.items():
            place = place + np.int64(factor) * self.value(atom)
        return place

    def reduced(self, eq: Equation) -> np.ndarray:
        """The body reduced over the equation's last axes."""
        kept = len(eq.indices)
        if eq.reduce is None:
            return self.value(eq.body)
        if eq.reduce == "sum" and isinstance(eq.body, Apply) and eq.body.fn == "bf16_dot":
            return self._sum_of_pairs(eq, eq.body)
        if eq.reduce == "sum" and isinstance(eq.body, Apply) and eq.body.fn == "int8_dot":
            return self._sum_of_quads(eq, eq.body)
        # The shortcut of the module's docstring: factor by factor.
        if eq.reduce == "sum" and is_float(eq.body.dtype):
            return self._sum_of_products(eq, [(f, self.value(f)) for f in multiplicands(eq.body)])
        if eq.reduce == "sum" and len(multiplicands(eq.body)) > 1:
            factors = [(f, self.value(f)) for f in multiplicands(eq.body)]
            terms = prod(i.size for i in eq.over)
            if _most(factors, terms) <= min(EXACT, INTEGERS[eq.dtype][1]):
                return self._sum_of_products(eq, factors).astype(self.types[eq.dtype])
        body = self.full(eq.body)
        last = tuple(range(kept, body.ndim))
        if eq.reduce in ("argmax", "argmin"):
            # Row-major over all reduced axes; NumPy gives the first of equal extremes, as the rule
            # says.
            flat = body.reshape(*body.shape[:kept], -1)
            found = np.argmax(flat, -1) if eq.reduce == "argmax" else np.argmin(flat, -1)
            return found.astype(np.int32)
        if eq.reduce in ("sum", "prod"):
            total = np.sum if eq.reduce == "sum" else np.prod
            return total(body, axis=last, dtype=body.dtype)
        return np.max(body, axis=last) if eq.reduce == "max" else np.min(body, axis=last)

    def _sum_of_pairs(self, eq: Equation, body: Apply) -> np.ndarray:
        """The sums of products of lower and of upper halves."""
        halves = [(arg, bf16_halves(self.value(arg))) for arg in body.args]
        dtype = self.types[body.dtype]
        return sum(
            self._sum_of_products(eq, [(arg, half[n].astype(dtype)) for arg, half in halves])
            for n in (0, 1)
        )  # type: ignore[return-value]

    def _sum_of_quads(self, eq: Equation, body: Apply) -> np.ndarray:
        """The sums of products of the four numbers of quads, exactly."""
        p, q = body.args
        left, right = int8_bytes(self.value(p), np.uint8), int8_bytes(self.value(q), np.int8)
        total = sum(
            self._sum_of_products(eq, [(p, x), (q, y)]) for x, y in zip(left, right, strict=True)
        )
        return np.asarray(total).astype(np.int64).astype(np.int32)

    def _sum_of_products(self, eq: Equation, parts: list[tuple[Expr, np.ndarray]]) -> np.ndarray:
        """sum(over) f·g·… with each factor evaluated only over the indices that it depends on."""
        names = [i.name for i in eq.domain]
        operands: list = []
        covered: set[str] = set()
        for factor, found in parts:
            # Only the axes that the factor depends on: [b, i] for x[b, i] in the sum over i of b,
            # i, o.
            own = [n for n in names if n in index_names(factor)]
            extents = [self.shape[self.axes[n]] if n in own else 1 for n in names]
            # In float64, so that a long sum of f32 has the error of one rounding.
            value = np.broadcast_to(np.asarray(found, np.float64), extents)
            operands.append(value.reshape([self.shape[self.axes[n]] for n in own]))
            operands.append([self.axes[n] for n in own])
            covered |= set(own)
        # sum(k) f with f independent of k is size(k) * f.
        repeats = 1
        for index in eq.over:
            if index.name not in covered:
                repeats *= index.size
        out = [self.axes[i.name] for i in eq.indices if i.name in covered]
        # `operands` has two entries per factor: from two factors on, NumPy chooses the order of
        # contraction, and may call a matrix product.
        result = np.einsum(*operands, out, optimize="greedy" if len(operands) > 2 else False)
        result = result * result.dtype.type(repeats)
        # Output axes that no factor depends on have length 1 and are broadcast by the caller.
        shape = [self.shape[self.axes[i.name]] if i.name in covered else 1 for i in eq.indices]
        return result.reshape(shape)
