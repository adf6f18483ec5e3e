"""What makes two systems, or two kernels, the same: texts that are equal exactly if they are.

In: a `System` or a `Plan`. Out: `system_signature`, a text with everything that decides what is
computed (the key of a cache, not for reading), and `alike`, which tells the kernels of a plan apart
from those that are equal up to the names of tensors and indices, and so share their machine code;
`item_signature` is the text for a kernel or a whole recurrence.

An expression is written node by node, each once and after its children, so the text is as long as
the graph and not as long as the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.equation import Equation, Index, System, Tensor
from ...ir.expr import Apply, Const, Expr, Idx, Read, walk
from .kernel import Kernel, Plan, Scan

Rename = Callable[[str], str]


class _Text:
    """Equations as lines; `tensor` and `index` say how names are written."""

    def __init__(self, tensor: Rename, index: Rename):
        self.tensor, self.index = tensor, index
        self.lines: list[str] = []
        self._numbers: dict[Expr, int] = {}

    def equation(self, equation: Equation) -> None:
        self.add("equation", self.tensor(equation.target))
        self.indices(equation.indices)
        self.add(equation.reduce or "")
        self.indices(equation.over)
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
        children = [self._numbers[c] for c in node.children]
        match node:
            case Const(value=value, dtype=dtype):
                return ("const", dtype, repr(value))
            case Idx(name=name):
                return ("index", self.index(name))
            case Read(tensor=tensor, other=other, dtype=dtype):
                return ("read", dtype, self.tensor(tensor), other is not None, *children)
            case Apply(fn=fn, dtype=dtype):
                return ("apply", dtype, fn, *children)
        raise AssertionError(node)

    def add(self, *parts: object) -> None:
        self.lines.append(" ".join(map(str, parts)))


def system_signature(system: System) -> str:
    """The whole system, names and order included; spans and initial values left out."""
    text = _Text(str, str)
    for tensor in system.tensors.values():
        text.add(tensor.name, _type(tensor), tensor.kind)
    for equation in system.equations:
        text.equation(equation)
    text.add("outputs", *system.outputs)
    for name, following in system.updates.items():
        text.add(name, following)
    return "\n".join(text.lines)


def _type(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}/{tensor.apart}/{tensor.memory}"


# --- kernels --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alike:
    """A kernel's `model`, whose loops serve it, too, and its own `tensors` in the order in which
    the model has its own."""

    model: Kernel
    tensors: tuple[str, ...]


def alike(plan: Plan) -> dict[Kernel, Alike]:
    """Every kernel with the first one that equals it up to names."""
    models: dict[str, Kernel] = {}
    found = {}
    for kernel in plan.kernels:
        text, tensors = item_signature(kernel, plan.system)
        found[kernel] = Alike(models.setdefault(text, kernel), tensors)
    return found


def item_signature(item: Kernel | Scan, system: System) -> tuple[str, tuple[str, ...]]:
    """The kernel or recurrence with numbers for names, and the tensors in their numbers' order."""
    tensors: dict[str, str] = {}
    indices: dict[str, str] = {}
    text = _Text(
        lambda name: tensors.setdefault(name, f"t{len(tensors)}"),
        lambda name: indices.setdefault(name, f"i{len(indices)}"),
    )
    local = _item(text, item)
    for name, number in tensors.items():
        text.add(number, _type(system.tensors[name]), name in local)
    return "\n".join(text.lines), tuple(tensors)


def _item(text: _Text, item: Kernel | Scan) -> frozenset[str]:
    """Writes the item; the tensors in it that are never stored."""
    if isinstance(item, Scan):
        text.add("scan", f"{text.index(item.index.name)}<{item.index.size}", item.reverse)
        local = frozenset[str]().union(*[_item(text, inner) for inner in item.kernels])
        text.add("end")
        return local
    for equation in item.equations:
        text.equation(equation)
    text.add("fixed", *(text.index(name) for name in item.fixed))
    text.add("ends", *(text.expr(form) for form in item.ends))
    text.add("unrolled", *sorted(text.index(name) for name in item.unrolled))
    return item.local
