"""Names: what the language predefines, what a file can see, and which names a tree uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..syntax import ast as s

MANY = 99  # no limit on the number of arguments

# Functions that the compiler implements: the least and the greatest number of arguments.
BUILTINS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(
        ("exp", "log", "sqrt", "tanh", "sin", "cos", "erf", "abs", "floor", "ceil", "round"), (1, 1)
    ),
    **dict.fromkeys(("sign", "log1p", "expm1", "is_finite", "stop", "bf16", "norm"), (1, 1)),
    **dict.fromkeys(("sum", "prod", "mean", "argmax", "argmin", "rank", "count"), (1, 1)),
    **dict.fromkeys(("f32", "f64", "i32", "i64", "u8", "bool"), (1, 1)),
    **dict.fromkeys(("max", "min"), (1, MANY)),
    "after": (2, 2),
    "random": (0, 4),
}

# `fan_in` and `fan_out` have values only while a parameter is drawn.
CONSTANTS = ("inf", "nan", "pi", "training", "fan_in", "fan_out")

# What an optimizer can read: parameter, gradient, step, and the norm of all gradients.
OPTIMIZER_NAMES = ("p", "g", "t", "norm")


@dataclass(frozen=True)
class Scope:
    """The definitions that a file can see: its own, those of used files, the library's."""

    own: Mapping[str, s.Definition]
    used: Mapping[str, s.Definition]
    library: Mapping[str, s.Definition]

    def find(self, name: str) -> s.Definition | None:
        """The definition of a name; an inner one shadows an outer one."""
        return self.own.get(name) or self.used.get(name) or self.library.get(name)

    def names(self) -> Iterator[str]:
        for names in (self.own, self.used, self.library, BUILTINS):
            yield from names


def names_in(node: object) -> set[str]:
    """Every name that a tree uses."""
    return {part.id for part in s.walk(node) if isinstance(part, s.Name)}


def called_names(definition: s.Definition) -> Iterator[str]:
    """Names of functions and layers that a definition always needs: not those that its own names
    shadow, nor those in only one branch of an `if`."""
    # Collected first, over the whole body: a name is shadowed above its declaration, too.
    shadowed = {p.name for p in (*definition.settings, *definition.inputs, *definition.results)}
    for statement in s.walk(definition.body):
        match statement:
            case s.Let(name=name) | s.State(name=name):
                shadowed.add(name.id)
            case s.Param(names=names) | s.Equation(targets=names):
                shadowed |= {name.id for name in names}
    # Recursion that an `if` on a constant ends is sound: `tower(n) = if n > 0 then … tower(n - 1)`.
    for node in s.walk((definition.body, definition.value), branches=False):
        if isinstance(node, s.Name) and node.id not in shadowed:
            yield node.id
