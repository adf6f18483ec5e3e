"""Calls and pipelines: which definition is meant, and what it is given.

In: `f(x)`, `Dense(10)(x)`, `x |> Dense(10)`. Out: the results of the definition's body.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dsl.diagnostics.diagnostic import Note, UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .builder import Abort, Application, Scope
from .interfaces import Interfaces
from .values import Array, Poison, Shape, Static, Value

MAX_DEPTH = 40  # of layers and fns that apply each other


class Calls(Interfaces):
    """Adds calls to declared inputs and results."""

    def call(self, node: s.Call | s.Pipe, scope: Scope) -> tuple[Value, ...]:
        if isinstance(node, s.Pipe):
            piped = self.passed_on(node.value, scope)
            stage = node.stage
            if isinstance(stage, s.Name):
                return self.apply(stage, None, (), [piped], stage.span, scope)
            if isinstance(stage, s.Call) and isinstance(stage.function, s.Name):
                return self.apply(stage.function, stage, (), [piped], stage.span, scope)
            if isinstance(stage, s.Call) and isinstance(stage.function, s.Call):
                settings = stage.function
                assert isinstance(settings.function, s.Name)
                return self.apply(
                    settings.function, settings, stage.arguments, [piped], stage.span, scope
                )
            raise self.error("E0203", "`|>` passes a value on to a layer or a function", stage.span)
        function = node.function
        if isinstance(function, s.Name):
            definition = self.find(function)
            if definition is not None and definition.settings:
                raise self.error(
                    "E0205",
                    f"`{function.id}` is not applied to an input",
                    node.span,
                    help=f"pipe into it: `x |> {node.span.text}`, or `{node.span.text}(x)`",
                )
            return self.apply(function, None, node.arguments, [], node.span, scope)
        if isinstance(function, s.Call) and isinstance(function.function, s.Name):
            return self.apply(function.function, function, node.arguments, [], node.span, scope)
        raise self.error("E0203", "only a name can be called", function.span)

    def passed_on(self, node: s.Expr, scope: Scope) -> Static | Array:
        """What a pipeline hands to its next stage: of several results the first (an LSTM's h)."""
        first = self.values(node, scope)[0]
        if isinstance(first, Poison):
            raise Abort()
        return first

    def apply(
        self,
        name: s.Name,
        settings: s.Call | None,
        arguments: tuple[s.Argument, ...],
        piped: list[Static | Array],
        span: Span,
        scope: Scope,
    ) -> tuple[Value, ...]:
        """`name(settings)(piped, arguments)`; a fn has no settings, so they are its arguments."""
        definition = self.find(name)
        if definition is None:
            extra = settings.arguments if settings else ()
            return (self.builtin(name, (*extra, *arguments), piped, span, scope),)
        if definition.kind == "optimizer":
            raise self.error(
                "E0203",
                f"`{name.id}` is an optimizer",
                name.span,
                help=f"it belongs in a train block: `optimizer = {name.id}(…)`",
            )
        given: dict[str, Value] = {}
        written = settings.arguments if settings else ()
        if definition.settings:
            given |= self.bind(definition.settings, written, [], name, span, scope, fixed=True)
        else:
            arguments = (*written, *arguments)
        inputs = self.bind(definition.inputs, arguments, piped, name, span, scope)
        if len(self.calls) >= MAX_DEPTH:
            self.too_deep(name, span)
        self.calls.append(Application(name.id, span, inputs))
        try:
            if definition.value is None:
                places = self.argument_places(definition.inputs, arguments, len(piped), span)
                return self.instantiate(definition, given, inputs, span, scope, places=places)
            inner = Scope(
                scope.prefix,
                inputs,
                scope.indices,
                scope.ellipsis,
                name.id,
                span,
                frozenset(scope.indices),
            )
            result = self.value(definition.value, inner)
        finally:
            self.calls.pop()
        if isinstance(result, Array) and result.tensor is None:
            result = Array(result.shape, result.element, result.axes, None, name.id)
        if isinstance(result, str) and " " in result:
            raise self.error("E0320", result, span, label=f"`{name.id}` says so")
        return (result,)

    def too_deep(self, name: s.Name, span: Span) -> None:
        """A definition that goes on applying itself: nothing after it can be known."""
        outermost = next((c for c in self.calls if c.name == name.id), None)
        told, self.calls = self.calls, []
        self.error(
            "E0213",
            f"`{name.id}` goes on applying itself",
            outermost.span if outermost else span,
            label=f"after {MAX_DEPTH} applications within each other there is no end",
            notes=(Note(span, "it is applied again here"),) if outermost else (),
            help="stack layers with `repeat`",
        )
        self.calls = told
        raise UserError(self.report.diagnostics)

    def instantiate(
        self,
        definition: s.Definition,
        settings: Mapping[str, Value],
        inputs: Mapping[str, Value],
        span: Span,
        scope: Scope,
        results: tuple[Shape, ...] | None = None,
        places: Mapping[str, Span] | None = None,
    ) -> tuple[Value, ...]:
        """The results of a definition with a body."""
        raise NotImplementedError  # definitions.py
