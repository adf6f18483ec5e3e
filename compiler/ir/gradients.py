"""Activity analysis, and placeholders for the gradients that it finds.

A tensor is varied if it depends differentiably on one of `wrt`, and useful if `of` depends
differentiably on it; both together make it active. Only active tensors have an adjoint (Hascoët and
Pascual 2013, "The Tapenade automatic differentiation tool"). Nothing is differentiated here:
elaboration only needs to know which parameters have a gradient. Tests: tests/gradients.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from .derivatives import DERIVATIVES
from .dtypes import is_float
from .equation import Equation, Gradient, System, Tensor, reachable
from .expr import Apply, Read


def active_tensors(system: System, of: str, wrt: Iterable[str]) -> set[str]:
    """The tensors through which `of` depends differentiably on one of `wrt`."""
    sources: dict[str, Iterable[str]] = {g.target: (g.of, g.wrt) for g in system.gradients}
    sources |= {eq.target: differentiable_reads(eq) for eq in system.equations}
    readers: dict[str, list[str]] = {}
    for target, names in sources.items():
        for name in names:
            readers.setdefault(name, []).append(target)
    varied = reachable(wrt, lambda name: readers.get(name, ()))
    return varied & reachable([of], lambda name: sources.get(name, ()))


def differentiable_reads(eq: Equation) -> set[str]:
    """The tensors that the equation's value depends on other than through `stop`, conditions and
    indices, whose derivative is zero."""
    if eq.reduce in ("argmax", "argmin") or not is_float(eq.body.dtype):
        return set()
    found, stack, seen = set(), [eq.body], set()
    while stack:
        node = stack.pop()
        if node in seen or not is_float(node.dtype):
            continue
        seen.add(node)
        if isinstance(node, Read):
            found.add(node.tensor)
            if node.other is not None:
                stack.append(node.other)
        elif isinstance(node, Apply) and node.fn in DERIVATIVES:
            stack += node.args
    return found


def add_gradients(system: System, of: str, wrt: Iterable[str]) -> tuple[System, dict[str, str]]:
    """The system with a placeholder `d_x = grad(of, x)` for each active x of `wrt`, and their names
    by x. A tensor that `of` does not depend on has no gradient. Raises ValueError if `of` has
    dimensions."""
    if system.tensors[of].shape:
        raise ValueError(f"`{of}` is not a single number")
    wrt = list(wrt)
    active = active_tensors(system, of, wrt)
    tensors, gradients, names = dict(system.tensors), list(system.gradients), {}
    for x in filter(active.__contains__, wrt):
        names[x] = target = unused_name(f"d_{x}", tensors)
        own = tensors[x]
        tensors[target] = Tensor(target, own.shape, own.dtype, "temp", "", own.span)
        gradients.append(Gradient(target, of, x, own.span))
    return system.replace(tensors=tensors, gradients=tuple(gradients)), names


def unused_name(name: str, taken: Container[str]) -> str:
    """The name itself, or with the first number from 2 that makes it new."""
    number, full = 1, name
    while full in taken:
        number += 1
        full = f"{name}_{number}"
    return full
