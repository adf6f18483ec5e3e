"""Scopes: the names that are visible in one body of a definition, and where they stand for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.expr import Expr
from ..ir.implications import Condition, facts
from .values import Array, NamedLayer, Shape, Static, Value


@dataclass
class BodyScope:
    """The names visible in one body, and the indices of its current equation, outermost first.

    Copies made for the inside of an equation share `names` and what else is known of the body.
    """

    prefix: str  # of the names of the body's tensors
    names: dict[str, Value]
    indices: dict[str, int] = field(default_factory=dict)
    ellipsis: tuple[str, ...] | None = None  # the indices that `...` stands for in the equation
    target: str = "value"  # the name after which intermediate results are called
    hidden: frozenset[str] = frozenset()  # indices of the caller that an argument's name hides
    conditions: tuple[Condition, ...] = ()  # that hold here, as `t > 0` in a branch of an `if`
    leading: Shape | None = None  # the sizes that `...` stands for in declared shapes
    declared: Mapping[str, s.Type] = field(default_factory=dict)  # types of the body's results
    defined_by: dict[str, s.Statement] = field(default_factory=dict)
    later: dict[str, s.Equation] = field(default_factory=dict)  # indexed equations not yet reached
    origins: dict[str, tuple[Span, str]] = field(default_factory=dict)  # where sizes were bound
    renamed: Mapping[str, str] = field(default_factory=dict)  # indices, where a name was taken
    takes_fields: bool = False  # a train block: unknown names may be fields of the data
    layers: dict[str, NamedLayer] = field(default_factory=dict)  # `enc = Dense(8)`
    states: dict[str, Array] = field(default_factory=dict)  # where their names have later values
    shared: tuple[tuple[str, NamedLayer], ...] = ()  # around the body, and the stems of names there
    parameter: Array | None = None  # that an optimizer's body is elaborated for
    words: Mapping[str, Static | Array] = field(
        default_factory=dict
    )  # `t`, …: where nothing else has them

    def state(self, name: str) -> Array:
        """The state, or the parameter, whose next value is `name'`."""
        found = self.states.get(name) or self.names[name]
        assert isinstance(found, Array)
        return found

    def inner(
        self,
        indices: Mapping[str, int],
        ellipsis: tuple[str, ...] | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> BodyScope:
        """The same scope with more indices; `renamed` maps those whose own names were taken."""
        return replace(
            self,
            indices={**self.indices, **indices},
            ellipsis=self.ellipsis if ellipsis is None else ellipsis,
            hidden=self.hidden - indices.keys(),
            renamed={
                **{k: v for k, v in self.renamed.items() if k not in indices},
                **(renamed or {}),
            },
        )

    def where(self, condition: Expr, truth: bool = True) -> BodyScope:
        """The same scope where a condition on the indices has this truth value."""
        if not facts(condition, truth, self.indices):
            return self  # it says nothing of indices
        return replace(self, conditions=(*self.conditions, (condition, truth)))


def spelled(name: s.Name) -> str:
    """The name as it is written: `p'` for a next value."""
    return name.id + "'" * name.primed
