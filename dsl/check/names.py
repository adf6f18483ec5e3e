"""The names a program can see, and the walk over a tree that finds those it uses.

In: definitions. Out: lookups. It reports nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..syntax import ast as s

# Functions the compiler knows itself: the least and the greatest number of arguments.
BUILTINS: dict[str, tuple[int, int]] = {
    "exp": (1, 1), "log": (1, 1), "sqrt": (1, 1), "tanh": (1, 1), "sin": (1, 1), "cos": (1, 1),
    "erf": (1, 1), "abs": (1, 1), "floor": (1, 1), "ceil": (1, 1), "round": (1, 1),
    "sign": (1, 1), "log1p": (1, 1), "expm1": (1, 1), "is_finite": (1, 1), "stop": (1, 1),
    "bf16": (1, 1), "after": (2, 2),
    "max": (1, 99), "min": (1, 99), "sum": (1, 1), "prod": (1, 1), "mean": (1, 1),
    "argmax": (1, 1), "argmin": (1, 1), "rank": (1, 1), "count": (1, 1),
    "f32": (1, 1), "f64": (1, 1), "i32": (1, 1), "i64": (1, 1), "u8": (1, 1), "bool": (1, 1),
    "random": (0, 4), "norm": (1, 1),
}  # fmt: skip

CONSTANTS = ("inf", "nan", "pi", "training", "fan_in", "fan_out")

# What an optimizer can read: parameter, gradient, step, and functions of the whole.
OPTIMIZER_NAMES = ("p", "g", "t", "norm")


@dataclass(frozen=True)
class Visible:
    """The definitions that a file can see, its own first."""

    own: Mapping[str, s.Definition]
    used: Mapping[str, s.Definition]
    library: Mapping[str, s.Definition]

    def find(self, name: str) -> s.Definition | None:
        return self.own.get(name) or self.used.get(name) or self.library.get(name)

    def names(self) -> Iterator[str]:
        yield from self.own
        yield from self.used
        yield from self.library
        yield from BUILTINS


def names_in(node: object) -> set[str]:
    return {part.id for part in s.walk(node) if isinstance(part, s.Name)}


def called_names(definition: s.Definition) -> Iterator[str]:
    """Names of functions and layers that a definition cannot do without.

    Not those that its own names hide, nor those that stand in one branch of an `if` alone.
    """
    hidden = {p.name for p in (*definition.settings, *definition.inputs, *definition.results)}
    for statement in s.walk(definition.body):
        match statement:
            case s.Let(name=name) | s.State(name=name):
                hidden.add(name.id)
            case s.Param(names=names) | s.Equation(targets=names):
                hidden |= {name.id for name in names}
    for node in s.walk((definition.body, definition.value), branches=False):
        if isinstance(node, s.Name) and node.id not in hidden:
            yield node.id
