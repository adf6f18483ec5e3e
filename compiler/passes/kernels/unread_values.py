"""Unread values: what lies beyond the sizes of a run is not computed.

    y[b < 8, t < 512] = tanh(h[b, t])    # not computed where t >= T!

In a system for any values of a size (`ir/dynamic_sizes.py`) tensors have the greatest size, and
only what lies before the size of a run is read from the results. Backwards through the equations
follows how far each dimension of a tensor is read (a backward dataflow analysis, as of liveness).
Loops over outputs end there, recurrences take so many steps. Tests:
tests/passes/test_dynamic_sizes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from ...ir.affine import Affine, affine, is_integer_order, positive_form
from ...ir.dtypes import is_float
from ...ir.equation import Equation, System
from ...ir.expr import Apply, Expr, Idx, Read, is_size, reads
from .kernel import Blocks, Item, Kernel, Plan, Scan

Limits = Mapping[str, Affine]  # by index: how many of its values count


def unread_values(plan: Plan) -> Plan:
    """The plan with the conditions under which values of its kernels are not read."""
    if not plan.system.sized:
        return plan
    needs = needed(plan.system)
    return replace(plan, items=tuple(_item(item, plan.system, needs) for item in plan.items))


class _Needs:
    """How many places of each dimension of the tensors are read."""

    def __init__(self, system: System):
        self.system = system
        self.found: dict[str, list[Affine]] = {}

    def add(self, name: str, axis: int, limit: Affine) -> None:
        """So many places of a dimension are read, among others."""
        shape = self.system.tensors[name].shape
        own = self.found.setdefault(name, [Affine({}, 0)] * len(shape))
        own[axis] = _most(own[axis], limit, shape[axis])

    def add_all(self, name: str) -> None:
        for axis, size in enumerate(self.system.tensors[name].shape):
            self.add(name, axis, Affine({}, size))

    def read(self, body: Expr, limits: Limits, indices: Mapping[str, int]) -> None:
        """What an expression reads, where its indices have so many values."""
        stack, seen = [(body, limits)], set()
        while stack:
            node, here = stack.pop()
            key = node, tuple(sorted((n, str(f.expr())) for n, f in here.items()))
            if key in seen:
                continue
            seen.add(key)
            if isinstance(node, Apply) and node.fn == "select":
                condition, yes, no = node.args
                stack += [(condition, here), (yes, _where(condition, here)), (no, here)]
                continue
            if isinstance(node, Read):
                for axis, place in enumerate(node.index):
                    size = self.system.tensors[node.tensor].shape[axis]
                    self.add(node.tensor, axis, _reach(place, here, size))
                    for read in reads(place):
                        self.add_all(read.tensor)  # a place is in range where it was computed
            stack += [(child, here) for child in node.children]


def needed(system: System) -> Mapping[str, list[Affine]]:
    """How many places of each dimension of its tensors are read, in forms of sizes."""
    needs = _Needs(system)
    for name in system.roots:
        forms = system.sized.get(name, {}) if name in system.outputs else {}
        for axis, size in enumerate(system.tensors[name].shape):
            needs.add(name, axis, forms.get(axis, Affine({}, size)))
    for component in reversed(system.components):
        for number in count():
            before = {eq.target: list(needs.found.get(eq.target, ())) for eq in component}
            for eq in reversed(component):
                # What a recurrence reads ever further ahead is all.
                endless = number > len(component)
                # Of whole numbers all are in their range only if all are computed.
                if endless or not is_float(system.tensors[eq.target].dtype):
                    needs.add_all(eq.target)
                _follow(eq, needs)
            if all(before[t] == list(needs.found.get(t, ())) for t in before):
                break
    return needs.found


def _follow(eq: Equation, needs: _Needs) -> None:
    if eq.target not in needs.found and needs.system.tensors[eq.target].shape:
        return  # not read so far
    limits = {i.name: Affine({}, i.size) for i in eq.domain}
    if eq.at is None:
        own = needs.found.get(eq.target, ())
        limits |= {i.name: form for i, form in zip(eq.indices, own, strict=False)}
    for expr in (eq.body, *(eq.at or ())):
        needs.read(expr, limits, eq.sizes)


def _most(a: Affine, b: Affine, size: int) -> Affine:
    """The greater of two limits where that is certain, else the size."""
    difference = b - a
    if not a.coefficients and a.constant == 0:
        return b
    if not difference.coefficients:
        return b if difference.constant > 0 else a
    return Affine({}, size)


def _where(condition: Expr, limits: Limits) -> Limits:
    """The limits where a condition holds."""
    if isinstance(condition, Apply) and condition.fn == "and":
        return _where(condition.args[1], _where(condition.args[0], limits))
    if not is_integer_order(condition):
        return limits
    found, form = dict(limits), positive_form(condition)
    for atom, factor in form.coefficients.items():
        # -t + rest > 0   →   t < rest
        rest = form.without(atom)
        sizes = rest.coefficients and all(map(is_size, rest.coefficients))
        if isinstance(atom, Idx) and factor == -1 and sizes and atom.name in found:
            found[atom.name] = rest
    return found


def _reach(place: Expr, limits: Limits, size: int) -> Affine:
    """Before which place a dimension is read."""
    form = affine(place)
    reach = Affine({}, form.constant + 1)
    for atom, factor in form.coefficients.items():
        if isinstance(atom, Idx) and atom.name in limits:
            if factor > 0:
                reach += (limits[atom.name] + Affine({}, -1)).scaled(factor)
        elif is_size(atom):
            reach += Affine({atom: factor}, 0)
        else:
            return Affine({}, size)
    if any(factor < 0 for factor in reach.coefficients.values()):
        return Affine({}, size)
    return reach if reach.coefficients else Affine({}, min(size, max(reach.constant, 1)))


# --- kernels --------------------------------------------------------------------------------------


def _item(item: Item, system: System, needs: Mapping[str, list[Affine]]) -> Item:
    if isinstance(item, Kernel):
        limits = _limits(item, needs)
        unread = tuple((Affine({Idx(n): 1}, 0) - form).expr() for n, form in limits.items())
        # Of a block its columns are limited by what its sums read.
        return replace(item, unread_where=unread) if unread and item.window is None else item
    if isinstance(item, Scan):
        inner: Any = tuple(_item(k, system, needs) for k in item.kernels)
        return replace(item, kernels=inner, steps=_common(item, item.index.name, needs))
    assert item.row is not None
    return replace(item, extent=_common(item, item.row.name, needs))


def _common(item: Scan | Blocks, name: str, needs: Mapping[str, list[Affine]]) -> Expr | None:
    """How many values of an index around its kernels are read of all of them."""
    forms = [_limits(kernel, needs, name).get(name) for kernel in item.every]
    first = forms[0]
    return first.expr() if first is not None and all(form == first for form in forms) else None


def _limits(
    kernel: Kernel, needs: Mapping[str, list[Affine]], fixed: str = ""
) -> dict[str, Affine]:
    """How many values of its indices are read of any tensor that a kernel computes: of its loops,
    or of the `fixed` index."""
    if kernel.anchor.at is not None:
        return {}
    space = [i for i in kernel.anchor.indices if i.name not in kernel.unrolled]
    found: dict[str, Affine] = {}
    for eq in kernel.equations:
        forms = zip(eq.indices, needs.get(eq.target, ()), strict=False)
        own = [(i, form) for i, form in forms if i.name not in kernel.unrolled]
        if len(own) != len(space):
            return {}
        for index, (_, form) in zip(space, own, strict=True):
            before = found.get(index.name, Affine({}, 0))
            found[index.name] = _most(before, form, index.size)
    chosen = {fixed} if fixed else {i.name for i in kernel.indices}
    return {n: form for n, form in found.items() if n in chosen and form.coefficients}
