"""Structural hashing: texts that are equal exactly if two systems, or parts of them, are.

`system_signature` contains everything that decides what a system computes (the key of a cache, not
for reading). `StructuralText` writes equations with names replaced by a mapping, so that what is
equal up to names has equal text.

An expression is written node by node, each once and after its children, so the text is as long as
the expression's graph, not its tree. Tests: tests/runtime/test_cache.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .equation import Equation, Index, System, Tensor
from .expr import Apply, Const, Expr, Idx, Read, walk

Rename = Callable[[str], str]


class StructuralText:
    """Equations as lines; `tensor` and `index` rename what is written."""

    def __init__(self, tensor: Rename, index: Rename):
        self.tensor, self.index = tensor, index
        self.lines: list[str] = []
        # The line on which each node is written, so that parents refer to children by number.
        # `walk` goes by structure alone: equal graphs get equal numbers.
        self._numbers: dict[Expr, int] = {}

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def add(self, *parts: object) -> None:
        self.lines.append(" ".join(map(str, parts)))

    def equation(self, equation: Equation) -> None:
        self.add("equation", self.tensor(equation.target))
        self.indices(equation.indices)
        self.add(equation.reduce or "")
        self.indices(equation.over)
        # `at = ()`, an accumulation into a number, differs from no `at`.
        places = [] if equation.at is None else [self.expr(e) for e in equation.at]
        self.add("at" if equation.at is not None else "", *places)
        self.add("body", self.expr(equation.body))

    def indices(self, indices: tuple[Index, ...]) -> None:
        self.add(*(f"{self.index(i.name)}<{i.size}" for i in indices))

    def expr(self, expr: Expr) -> int:
        """The number of the expression's line."""
        for node in walk(expr):
            if node not in self._numbers:
                self.add(*self._node(node))
                self._numbers[node] = len(self.lines) - 1
        return self._numbers[expr]

    def _node(self, node: Expr) -> tuple[object, ...]:
        # Children come before their parents in `walk`, so all of them have numbers.
        children = [self._numbers[c] for c in node.children]
        match node:
            case Const(value=value, dtype=dtype):
                return ("const", dtype, repr(value))
            case Idx(name=name):
                return ("index", self.index(name))
            case Read(tensor=tensor, other=other, dtype=dtype):
                # Without the flag, an index and an `else` could not be told apart among the
                # children.
                return ("read", dtype, self.tensor(tensor), other is not None, *children)
            case Apply(fn=fn, dtype=dtype):
                return ("apply", dtype, fn, *children)
        raise AssertionError(node)


def system_signature(system: System) -> str:
    """The whole system, names and order included; spans and initial values left out."""
    # Names are kept: the arrays of a compiled system are found by name.
    text = StructuralText(str, str)
    for tensor in system.tensors.values():
        text.add(tensor.name, layout_text(tensor), tensor.kind)
    for equation in system.equations:
        text.equation(equation)
    for gradient in system.gradients:
        text.add("gradient", gradient.target, gradient.of, gradient.wrt)
    if system.clipping:
        text.add("clipping", str(replace(system.clipping, span=None)))
    for block in system.remat:
        text.add("remat", *block.targets)
    text.add("precision", system.precision)
    text.add("indices", str(system.index_inputs))
    text.add("batch", system.batch)
    for name, forms in system.sized.items():
        text.add("sized", name, *(f"{axis}:{form.expr()}" for axis, form in forms.items()))
    text.add("outputs", *system.outputs)
    for name, following in system.updates.items():
        text.add(name, following)
    return str(text)


def layout_text(tensor: Tensor) -> str:
    """Type, shape and layout in memory."""
    layout = f"{tensor.dtype}{list(tensor.shape)}/{tensor.pad_after}/{tensor.storage_dtype}"
    return f"{layout}/{tensor.held}" if tensor.held else layout
