"""Equal kernels: those that are the same up to names of tensors and indices share machine code.

    a1[b, i] = relu(z1[b, i])    a2[n, j] = relu(z2[n, j])   →   one function, called twice

Repeated layers give the same kernels again and again; each is lowered and compiled once, with the
offsets of its tensors as arguments. Cf. LLVM's MergeFunctions. Tests: tests/runtime/test_cache.py.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ...ir.equation import System, Tensor
from ...ir.forms import form_of
from ...ir.structural_hash import StructuralText, layout_text
from .kernel import Kernel, Plan, Scan, Window


@dataclass(frozen=True)
class SharedCode:
    """The `representative` of a kernel, whose code serves both, and the kernel's own `tensors` in
    the order in which the representative has its own."""

    representative: Kernel
    tensors: tuple[str, ...]


def equal_kernels(plan: Plan) -> dict[Kernel, SharedCode]:
    """Every kernel with the first one that equals it up to names."""
    representatives: dict[str, Kernel] = {}
    # By form, the representative, and where the tensors of its signature are among its names.
    known: dict[Hashable, tuple[Kernel, tuple[int, ...]]] = {}
    found = {}
    # `setdefault`: the first kernel with a text represents all that follow with the same one.
    for kernel in plan.kernels:
        form, names = _form(kernel, plan.system)
        if form not in known:
            # Kernels of different forms may be equal up to the names of indices.
            text, tensors = item_signature(kernel, plan.system)
            model = representatives.setdefault(text, kernel)
            known[form] = model, tuple(map(names.index, tensors))
        model, places = known[form]
        found[kernel] = SharedCode(model, tuple(names[place] for place in places))
    return found


def _form(kernel: Kernel, system: System) -> tuple[Hashable, list[str]]:
    """A kernel without the names of its tensors, and these."""
    numbers: dict[str, int] = {}
    conditions = (*kernel.unread_where, *kernel.zero_where)
    forms = [*(eq.form for eq in kernel.equations), *map(form_of, conditions)]
    parts = tuple(
        (form, *[numbers.setdefault(name, len(numbers)) for name in names]) for form, names in forms
    )
    names = list(numbers)
    # All but its name and `reason`, which decide nothing.
    updates = kernel.updates(system)
    own = (kernel.fixed, kernel.unrolled, kernel.window, kernel.examples, updates)
    counts = len(kernel.unread_where), len(kernel.zero_where)
    tensors = tuple(_layout(system.tensors[name], name in kernel.local) for name in names)
    return (parts, counts, own, tensors), names


def _layout(tensor: Tensor, local: bool) -> Hashable:
    types = tensor.dtype, tensor.storage_dtype
    return (types, tensor.shape, tensor.pad_after, tensor.held, tensor.aligned, local)


def item_signature(item: Kernel | Scan, system: System) -> tuple[str, tuple[str, ...]]:
    """The text of a kernel or a whole recurrence with numbers for names, and its tensors in the
    order of their numbers."""
    tensors: dict[str, str] = {}
    indices: dict[str, str] = {}
    # Names become numbers by first occurrence (alpha equivalence): a1[b, i] and a2[n, j] are both
    # t0[i0, i1].
    text = StructuralText(
        lambda name: tensors.setdefault(name, f"t{len(tensors)}"),
        lambda name: indices.setdefault(name, f"i{len(indices)}"),
    )
    local = _write_item(text, item, system)
    # What else the code depends on: shape, strides and type of each tensor, and whether it is
    # stored.
    for name, number in tensors.items():
        text.add(number, layout_text(system.tensors[name]), name in local)
    return str(text), tuple(tensors)


def _write_item(text: StructuralText, item: Kernel | Scan, system: System) -> frozenset[str]:
    """Writes the item; returns the tensors in it that are never stored."""
    if isinstance(item, Scan):
        # "scan" and "end" bracket the items, so that nested loops and neighbouring ones read
        # differently.
        text.add("scan", f"{text.index(item.index.name)}<{item.index.size}", item.reverse)
        text.add("steps", "" if item.steps is None else text.expr(item.steps))
        inner = [_write_item(text, kernel, system) for kernel in item.kernels]
        local = frozenset[str]().union(*inner)
        text.add("end")
        return local
    for equation in item.equations:
        text.equation(equation)
    text.add("fixed", *(text.index(name) for name in item.fixed))
    text.add("examples", text.index(item.examples) if item.examples else "")
    text.add("window", *_window(text, item.window))
    text.add("unread where", *(text.expr(form) for form in item.unread_where))
    text.add("zero where", *(text.expr(form) for form in item.zero_where))
    # A set has no order; sorting its numbers gives it one.
    text.add("unrolled", *sorted(text.index(name) for name in item.unrolled))
    text.add("updates", item.updates(system))
    return item.local


def _window(text: StructuralText, window: Window | None) -> tuple[object, ...]:
    if window is None:
        return ()
    names = (text.index(name) for name in (window.row, window.start, window.column))
    return (*names, window.starts, window.rows)
