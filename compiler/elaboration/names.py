"""What a name stands for where it is written, and what an expression has to be.

In: syntax and a `Scope`. Out: a value, a size, a scalar; or a message that says what was needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...dsl.check.library import standard_library
from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.expr import Expr, Idx
from .arrays import Arrays
from .builder import Abort, Scope
from .values import Array, Poison, Static, Value, lift, of_scalar

_NUMBERS = {"inf": math.inf, "nan": math.nan, "pi": math.pi}


class Names(Arrays):
    """Adds names to arithmetic."""

    # --- names ---------------------------------------------------------------------------------

    def find(self, name: s.Name) -> s.Definition | None:
        """What a name means where it is written: a file may define a name of the library anew, but
        the library goes on using its own."""
        if name.span.source.library:
            return standard_library().get(name.id)
        return self.definitions.get(name.id)

    def lookup(self, name: str, scope: Scope) -> Value | None:
        """What a name stands for, tensors that are computed later in the body included."""
        return scope.names.get(name)

    def shape_of(self, name: s.Name, scope: Scope) -> Array | None:
        found = self.lookup(name.id + "'" * name.primed, scope)
        return found if isinstance(found, Array) else None

    def name(self, node: s.Name, scope: Scope) -> Static | Array:
        name = node.id + "'" * node.primed
        if name in scope.renamed:
            return of_scalar(Idx(scope.renamed[name]), name)
        if name in scope.indices and name not in scope.hidden:
            return of_scalar(Idx(name), name)
        found = self.lookup(name, scope)
        if isinstance(found, Poison):
            raise Abort()
        if found is not None:
            return found
        if name == "training":
            return self.training
        if name in _NUMBERS:
            return _NUMBERS[name]
        definition = self.find(node)
        if definition is not None:
            kind = definition.kind
            raise self.error(
                "E0312",
                f"`{name}` is a {kind}, not a value",
                node.span,
                help=f"apply it: `{_applied(definition)}`",
            )
        self.unknown(name, node, scope)
        raise Abort()

    def unknown(self, name: str, node: s.Name, scope: Scope) -> None:
        """A name without a value."""
        known = [*scope.names, *scope.indices, *self.definitions, *self.known()]
        self.error(
            "E0202",
            f"unknown name `{name}`",
            node.span,
            label="not defined anywhere",
            help=did_you_mean(name, known),
        )

    def known(self) -> Iterable[str]:
        """More names that the user may have meant."""
        return ()

    # --- what an expression has to be ----------------------------------------------------------

    def values(self, node: s.Node, scope: Scope) -> tuple[Value, ...]:
        """The results of an expression, of which only a call can have several."""
        raise NotImplementedError  # expressions.py

    def value(self, node: s.Node, scope: Scope) -> Static | Array:
        results = self.values(node, scope)
        if len(results) != 1:
            raise self.error(
                "E0317",
                f"this gives {len(results)} results where one is needed",
                node.span,
                help="name them first: `a, b = …`",
            )
        if isinstance(results[0], Poison):
            raise Abort()
        return results[0]

    def static(self, node: s.Node, scope: Scope, what: str, help: str = "") -> Static:
        """A value known when compiling."""
        value = self.value(node, scope)
        if isinstance(value, Array):
            raise self.error(
                "E0308",
                f"{what} must be known when compiling",
                node.span,
                label="this depends on the values of tensors",
                help=help or "sizes come from shapes, settings and `let`s of them",
            )
        return value

    def size(self, node: s.Node, scope: Scope, what: str) -> int:
        """A size: a whole number that is not negative."""
        value = self.static(node, scope, what)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            halves = any(isinstance(n, s.Binary) and n.op == "/" for n in walk(node))
            raise self.error(
                "E0308",
                f"{what} must be a whole number",
                node.span,
                label=f"this is {value!r}",
                help="whole numbers are divided with `//`" if halves else "",
            )
        if value < 0:
            raise self.error(
                "E0309", f"{what} would be {value}", node.span, label="sizes are not negative"
            )
        return value

    def array(self, node: s.Node, scope: Scope) -> Array:
        value = self.value(node, scope)
        if isinstance(value, str):
            raise self.no_number(value, node)
        return lift(value, self.float_type)

    def scalar(self, node: s.Node, scope: Scope) -> Expr:
        """The value at one point of the equation's domain."""
        array = self.array(node, scope)
        if array.rank:
            node, array = self.culprit(node, array, scope)
            name = f"`{node.span.text}`" if isinstance(node, s.Name) else "this"
            raise self.error(
                "E0302",
                f"{name} has {array.rank} dimension{'s' * (array.rank > 1)} here",
                node.span,
                label=f"its shape is {list(array.shape)}",
                help=f"index it: `{node.span.text}[{', '.join(array.axes)}]`"
                if isinstance(node, s.Name)
                else "give it a name in an equation of its own, then index that",
            )
        return array.scalar()

    def culprit(self, node: s.Node, array: Array, scope: Scope) -> tuple[s.Node, Array]:
        """The tensor without an index that gives arithmetic its dimensions."""
        parts = {
            s.Unary: ("operand",),
            s.Binary: ("left", "right"),
            s.If: ("condition", "yes", "no"),
        }
        for part in parts.get(type(node), ()):
            child = getattr(node, part)
            value = self.lookup(child.id, scope) if isinstance(child, s.Name) else None
            if isinstance(value, Array) and value.rank and child.id not in scope.indices:
                return child, value
            found = self.culprit(child, array, scope)
            if found[0] is not child:
                return found
        return node, array

    def named(self, value: Static | Array, node: s.Node, scope: Scope, hint: str = "") -> Array:
        """The value as a tensor with a name, computed by an equation if it has none yet."""
        if isinstance(value, str):
            raise self.no_number(value, node)
        array = lift(value, self.float_type)
        if array.tensor is not None:
            return array
        name = self.unique(scope.prefix + (hint or array.hint))
        return self.materialise(name, array, node.span, scope)

    def no_number(self, word: str, node: s.Node) -> Abort:
        return self.error(
            "E0312",
            f'the word "{word}" cannot be computed with',
            node.span,
            label=f'this is "{word}"',
        )


def _applied(definition: s.Definition) -> str:
    """`cross_entropy(logits, label)`: how a layer or function is applied to what it needs."""
    needed = ", ".join(p.name for p in definition.inputs if p.default is None)
    settings = ", ".join(p.name for p in definition.settings if p.default is None)
    return f"{definition.name}{f'({settings})' if definition.settings else ''}({needed})"
