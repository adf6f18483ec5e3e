"""Layers and fns that are applied: where, to what, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...dsl.records import record
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .values import Numbers, Shape, Static, Value


@dataclass
class Application:
    """A layer or fn that is being inlined: where it is applied, the names of its body, which are
    its inputs first, and the inputs as they were given."""

    name: str
    span: Span
    names: Mapping[str, Value]

    def __post_init__(self) -> None:
        self.given = self.names

    @property
    def settings(self) -> str:
        """`filters = 4, kernel = 9, h = 5`: what its sizes follow from."""
        known = [(n, v) for n, v in self.names.items() if isinstance(v, int | str | Numbers)]
        return ", ".join(f"{n} = {constant_text(v)}" for n, v in known[:9])


@record
class Layer:
    """A layer that the model applies itself: its name (`conv1`), the tensors that it has, and the
    shapes of its results."""

    name: str
    tensors: tuple[str, ...]
    shapes: tuple[Shape, ...]


@record(eq=False)
class Part:
    """A layer or model that is applied somewhere in the model: its name (`decoder1`,
    `encoder1_dense2`), with which the names of its parameters and states begin, its settings, the
    inputs that it was first given, its results then, and their shapes."""

    name: str
    definition: s.Definition
    settings: Mapping[str, Value]
    inputs: Mapping[str, Value]
    shapes: tuple[Shape, ...] = ()
    results: tuple[Value, ...] = ()


def constant_text(value: Static) -> str:
    """A constant as a program writes it: `"same"`, `true`, `[3, 5]`."""
    if isinstance(value, Numbers):
        return f"[{', '.join(map(constant_text, value.items))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
