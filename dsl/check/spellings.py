"""Spellings: how a call that is written as in another framework is written here, from its own
arguments. Where they do not tell, the answer is "", and a general advice stands instead.

    sum(x, axis = 1)              →   y[b] = sum(i) x[b, i]
    einsum("ij,jk->ik", a, b)     →   y[i, k] = sum(j) a[i, j] * b[j, k]
    Sequential([Linear(8, 4), ReLU()])(x)   →   x |> Dense(4) |> relu
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..diagnostics.foreign_terms import counterpart, names_input_size, without_prefix
from ..syntax import ast as s

Groups = Sequence[tuple[s.Argument, ...]]  # the argument lists of a call
Is = Callable[[str], bool]  # whether a function or layer of this name exists

AXES = ("axis", "axes", "dim")


def spelling(name: str, groups: Groups, exists: Is) -> str:
    """Help for the call of a function that does not exist here; "" if it says nothing special."""
    rule = _RULES.get(name)
    return rule(groups, exists) if rule else ""


def reduction(name: str, arguments: tuple[s.Argument, ...]) -> str:
    """`mean(x, dim = 0)`: a reduction over an axis is one over an index."""
    first = arguments[0].value if arguments else None
    x = first.id if isinstance(first, s.Name) and "." not in first.id else "x"
    if name in ("argmax", "argmin"):
        other = f"`y[j] = {name}(i) {x}[i, j]`"
        return f"of the last dimension, `{name}({x})`; over another index, {other}"
    over, left = "i", "b"
    for argument in arguments[1:]:
        if argument.name in (None, *AXES) and argument.value.span.text == "0":
            over, left = "b", "i"
    y = "m" if x == "y" else "y"
    return f"over an index, of a tensor with two: `{y}[{left}] = {name}({over}) {x}[b, i]`"


def without_list(name: str, arguments: Sequence[s.Argument]) -> str:
    """`concat([a, b], axis = 1)`: the tensors as arguments of their own, with `axis`."""
    written = []
    for argument in arguments:
        value = argument.value
        if isinstance(value, s.List):
            written += [item.span.text for item in value.items]
        else:
            named = argument.name in AXES or (argument.name is None and isinstance(value, s.Number))
            written.append(f"axis = {value.span.text}" if named else argument.span.text)
    return f"there are no lists of tensors: `{name}({', '.join(written)})`"


def _einsum(groups: Groups, exists: Is) -> str:
    values = [a.value for a in groups[0]]
    names = [v.span.text for v in values[1:] if isinstance(v, s.Name)]
    if not values or not isinstance(first := values[0], s.String) or len(names) != len(values) - 1:
        return ""
    found = re.fullmatch(r"([a-z]+(?:,[a-z]+)*)->([a-z]*)", first.value.replace(" ", ""))
    if found is None or len(operands := found[1].split(",")) != len(names):
        return ""
    summed = ", ".join(dict.fromkeys(i for i in found[1] if i not in "," + found[2]))
    left = f"y[{', '.join(found[2])}]" if found[2] else "y"
    product = " * ".join(f"{n}[{', '.join(o)}]" for n, o in zip(names, operands, strict=True))
    return f"write the equation itself: `{left} = {f'sum({summed}) ' if summed else ''}{product}`"


def _sequential(groups: Groups, exists: Is) -> str:
    items = [a.value for a in groups[0]]
    if len(items) == 1 and isinstance(items[0], s.List):
        items = list(items[0].items)
    stages = [_stage(item, exists) for item in items]
    if not stages or not all(stages):
        return ""
    value = groups[1][0].value.span.text if len(groups) > 1 and groups[1] else "x"
    return f"layers are joined with `|>`: `{' |> '.join((value, *stages))}`"


def _stage(node: s.Expr, exists: Is) -> str:
    """A layer as a stage of a pipe: `nn.Linear(8, 4)` is `Dense(4)`, `ReLU()` is `relu`."""
    callee = node.function if isinstance(node, s.Call) else node
    if not isinstance(callee, s.Name):
        return ""
    foreign = without_prefix(callee.id) or callee.id
    name = foreign if exists(foreign) else counterpart(foreign)
    if not name:
        return ""
    arguments = node.arguments if isinstance(node, s.Call) else ()
    if any(a.name is not None or not isinstance(a.value, s.Number) for a in arguments):
        return ""
    arguments = arguments[names_input_size(foreign) and len(arguments) > 1 :]
    written = ", ".join(a.span.text for a in arguments)
    return f"{name}({written})" if written else name


def _activation(groups: Groups, exists: Is) -> str:
    first = groups[0][0].value if groups[0] else None
    if isinstance(first, s.String) and (name := activation(first.value, exists)):
        return f"an activation is a function: `… |> {name}`"
    return ""


def activation(word: str, exists: Is) -> str:
    """The function for the name of an activation; "" if there is none."""
    return word if exists(word) else counterpart(word)


_RULES: dict[str, Callable[[Groups, Is], str]] = {
    "einsum": _einsum,
    "Sequential": _sequential,
    "Activation": _activation,
}
