"""Layers, functions and models: their bodies, each time they are used, as equations.

In: definitions and the values given to them. Out: the values of their results. Every use is
elaborated anew with its own sizes, and with parameters of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dsl.diagnostics.diagnostic import UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .builder import Abort, Block, Scope
from .equations import Equations
from .recurrences import Later
from .repetition import Repetition, outline
from .values import Poison, Shape, Value

MAX_REPEAT = 10_000
MAX_STATEMENTS = 20_000


class Definitions(Equations, Repetition):
    """Adds statements and bodies: everything a program is made of."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.statements = 0

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
        """The body for these inputs, given at `places`. `results` are shapes that the results must
        have, if the context knows them (an initialiser's parameter)."""
        if definition.kind == "optimizer":
            raise Abort()
        prefix = (
            scope.prefix
            + self.instance(f"{scope.prefix}{definition.name.lower()}")[len(scope.prefix) :]
            + "_"
        )

        def fresh() -> tuple[Value, ...]:
            return self.instance_of(
                definition, settings, inputs, span, scope, prefix, results, places or {}
            )

        seen = outline({**settings, **inputs})
        if seen is None:
            return fresh()
        key = (id(definition), seen[0], results)
        return self.once(key, prefix, seen[1], fresh)

    def instance_of(
        self,
        definition: s.Definition,
        settings: Mapping[str, Value],
        inputs: Mapping[str, Value],
        span: Span,
        scope: Scope,
        prefix: str,
        results: tuple[Shape, ...] | None,
        places: Mapping[str, Span],
    ) -> tuple[Value, ...]:
        """The body, with `prefix` before the names of its tensors."""
        inner = Scope(prefix, dict(settings), target=definition.name.lower(), span=span)
        if self.calls:
            self.calls[-1].names = inner.names
        for parameter in definition.inputs:
            value = inputs[parameter.name]
            place = places.get(parameter.name, span)
            inner.names[parameter.name] = self.fit(parameter, value, inner, place, scope)
        if results is not None:
            for parameter, shape in zip(definition.results, results, strict=True):
                self.unify(parameter, shape, inner, span)
        self.body(definition.body, inner, {r.name: r.type for r in definition.results if r.type})
        return tuple(self.result(r, inner) for r in definition.results)

    # --- statements ----------------------------------------------------------------------------

    def body(
        self, statements: tuple[s.Statement, ...], scope: Scope, declared: Mapping[str, s.Type]
    ) -> None:
        """All statements; one that is wrong poisons its names, and the rest is still looked at."""
        later: Later = {}
        for statement in s.flatten_remat(statements):
            scope.awaited |= dict.fromkeys(self.assigned(statement), statement)
            if isinstance(statement, s.Equation) and statement.indices is not None:
                for target in statement.targets:
                    later.setdefault(target.id + "'" * target.primed, (statement, declared))
        with self.awaiting(scope, later):
            self.run_all(statements, scope, declared)

    def run_all(
        self, statements: tuple[s.Statement, ...], scope: Scope, declared: Mapping[str, s.Type]
    ) -> None:
        for statement in statements:
            try:
                with self.shallow(statement):
                    self.statement(statement, scope, declared)
            except Abort:
                for name in self.assigned(statement):
                    scope.names.setdefault(name, Poison())

    @staticmethod
    def assigned(statement: s.Statement) -> list[str]:
        match statement:
            case s.Let(name=name) | s.State(name=name):
                return [name.id]
            case s.Param(names=names):
                return [n.id for n in names]
            case s.Equation(targets=targets):
                return [t.id + "'" * t.primed for t in targets]
        return []

    def statement(
        self, statement: s.Statement, scope: Scope, declared: Mapping[str, s.Type]
    ) -> None:
        self.statements += 1
        if self.statements > MAX_STATEMENTS:
            self.error(
                "E0311",
                f"the program has more than {MAX_STATEMENTS:,} statements",
                statement.span,
                label="with all layers written out",
                help="is a `repeat` too large?",
            )
            raise UserError(self.report.diagnostics)
        match statement:
            case s.Let():
                scope.names[statement.name.id] = self.value(statement.value, scope)
            case s.Param():
                self.param(statement, scope)
            case s.State():
                self.state(statement, scope)
            case s.Repeat():
                count = self.size(statement.count, scope, "how often to repeat")
                if count > MAX_REPEAT:
                    raise self.error(
                        "E0311",
                        f"`repeat {count:,}` is more than {MAX_REPEAT:,}",
                        statement.count.span,
                        label="every block is written out",
                        help="many steps of one thing are a recurrence: `h[t] = … (h[t-1] else 0)`",
                    )
                outer = set(scope.names)
                self.repeats += 1
                for _ in range(count if statement.body else 0):
                    for own in scope.names.keys() - outer:  # each time anew, as the first time
                        del scope.names[own]
                    self.body(statement.body, scope, declared)
                self.repeats -= 1
            case s.Remat():
                before = len(self.equations)
                self.run_all(statement.body, scope, declared)
                targets = tuple(eq.target for eq in self.equations[before:])
                self.blocks.append(Block(_word(statement), targets))
            case s.Equation(accumulate=True):
                self.accumulation(statement, scope)
            case s.Equation():
                self.equation(statement, scope, declared)


def _word(node: s.Remat) -> Span:
    """The word that a block begins with."""
    return Span(node.span.source, node.span.start, node.span.start + len("remat"))
