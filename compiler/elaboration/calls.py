"""Calls: `f(x)`, `Dense(10)(x)` and pipelines `x |> Dense(10)`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from ...dsl.check.names import BUILTINS
from ...dsl.diagnostics.diagnostic import Note, UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .applications import Application
from .builtins import builtin
from .context import Abort, Context
from .dispatch import results, value
from .inlining import inlined
from .interfaces import argument_spans, bind
from .limits import MAX_APPLICATIONS
from .names import find
from .scopes import BodyScope
from .values import Array, NamedLayer, Poison, Static, Value

MAX_DEPTH = 40  # of layers and fns that apply each other


def pipe(ctx: Context, node: s.Pipe, scope: BodyScope) -> tuple[Value, ...]:
    """`x |> f`: of several results of `x` the first is passed on (the h of an LSTM)."""
    piped = results(ctx, node.value, scope)[0]
    if isinstance(piped, Poison):
        raise Abort()
    stage, settings = node.stage, None
    arguments: tuple[s.Argument, ...] = ()
    # `x |> RNN(8)(h0)`: the outer call has further inputs, the inner one the settings
    if isinstance(stage, s.Call) and isinstance(stage.function, s.Call):
        stage, arguments = stage.function, stage.arguments
    function = stage
    if isinstance(stage, s.Call):
        function, settings = stage.function, stage
    if not isinstance(function, s.Name):
        raise ctx.error("E0203", "`|>` passes a value on to a layer or a function", node.stage.span)
    return apply(ctx, function, settings, arguments, [piped], node.stage.span, scope)


def call(ctx: Context, node: s.Call, scope: BodyScope) -> tuple[Value, ...]:
    function = node.function
    # `Dense(10)(x)`: the function of the outer call is the call with the settings
    if isinstance(function, s.Call) and isinstance(function.function, s.Name):
        return apply(ctx, function.function, function, node.arguments, [], node.span, scope)
    if not isinstance(function, s.Name):
        raise ctx.error("E0203", "only a name can be called", function.span)
    definition = None if function.id in scope.layers else find(ctx, function)
    # one pair of parentheses can only be the settings: `Dense(10)`
    if definition is not None and definition.settings:
        raise ctx.error(
            "E0205",
            f"`{function.id}` is not applied to an input",
            node.span,
            help=f"pipe into it: `x |> {node.span.text}`, or `{node.span.text}(x)`",
        )
    return apply(ctx, function, None, node.arguments, [], node.span, scope)


def apply(
    ctx: Context,
    name: s.Name,
    settings: s.Call | None,
    arguments: tuple[s.Argument, ...],
    piped: list[Static | Array],
    span: Span,
    scope: BodyScope,
) -> tuple[Value, ...]:
    """`name(settings)(piped, arguments)`; a fn has no settings, so they are its arguments."""
    written = settings.arguments if settings else ()
    layer = scope.layers.get(name.id)
    if layer is not None:
        return _applied_again(ctx, layer, name, (*written, *arguments), piped, span, scope)
    definition = find(ctx, name)
    if definition is None and name.id in scope.defined_by and name.id not in BUILTINS:
        raise ctx.error(
            "E0218",
            f"`{name.id}` is applied before it has its layer",
            name.span,
            label="not known yet",
            notes=(Note(scope.defined_by[name.id].span, "the layer is named here"),),
            help="move that line up",
        )
    if definition is None:
        found = builtin(ctx, name, (*written, *arguments), piped, span, scope)
        return found if isinstance(found, tuple) else (found,)
    if definition.kind == "optimizer":
        raise ctx.error(
            "E0203",
            f"`{name.id}` is an optimizer",
            name.span,
            help=f"it belongs in a train block: `optimizer = {name.id}(…)`",
        )
    fixed: dict[str, Value] = {}
    if definition.settings:
        fixed = bind(ctx, definition.settings, written, [], name, span, scope, fixed=True)
    else:
        arguments = (*written, *arguments)
    # Arguments are elaborated in the caller's scope, before this application is on the stack: a
    # mistake in them is the caller's.
    inputs = bind(ctx, definition.inputs, arguments, piped, name, span, scope)
    # The checks find definitions that apply themselves always; this is recursion by an `if`.
    if len(ctx.calls) >= MAX_DEPTH:
        raise _too_deep(ctx, name, span)
    ctx.calls.append(Application(name.id, span, inputs))
    try:
        if definition.value is None:
            places = argument_spans(definition.inputs, arguments, len(piped), span)
            return inlined(ctx, definition, fixed, inputs, span, scope, places)
        result = _expression(ctx, definition, inputs, span, scope)
    finally:
        ctx.calls.pop()
    if isinstance(result, Array) and result.tensor is None:
        result = replace(result, hint=name.id)
    # `fn positive(x) = if x > 0 then x else "a limit must be above 0"`: a word without spaces is a
    # value, such as `"same"`, a sentence is a message.
    if isinstance(result, str) and " " in result:
        raise ctx.error("E0320", result, span, label=f"`{name.id}` reports this")
    return (result,)


def _applied_again(
    ctx: Context,
    layer: NamedLayer,
    name: s.Name,
    arguments: tuple[s.Argument, ...],
    piped: list[Static | Array],
    span: Span,
    scope: BodyScope,
) -> tuple[Value, ...]:
    """The application of a layer with a name, for the first time or again."""
    inputs = bind(ctx, layer.definition.inputs, arguments, piped, name, span, scope)
    places = argument_spans(layer.definition.inputs, arguments, len(piped), span)
    ctx.calls.append(Application(name.id, span, inputs))
    try:
        return inlined(
            ctx, layer.definition, layer.settings, inputs, span, scope, places, layer=layer
        )
    finally:
        ctx.calls.pop()


def _expression(
    ctx: Context,
    definition: s.Definition,
    inputs: dict[str, Value],
    span: Span,
    scope: BodyScope,
) -> Static | Array:
    """The value of `fn f(x) = …`, an expression in the caller's equation: its arguments may depend
    on the caller's indices, but its text cannot name them. Computed once for equal arguments."""
    assert definition.value is not None
    key = (
        id(definition),
        tuple(_identity(v) for v in inputs.values()),
        tuple(scope.indices.items()),
        scope.ellipsis,
        scope.conditions,
    )
    if key in ctx.applied:
        return ctx.applied[key]
    ctx.applications += 1
    if ctx.applications > MAX_APPLICATIONS:
        outermost, calls, ctx.calls = ctx.calls[0], ctx.calls, []  # reported at the outermost place
        ctx.error(
            "E0311",
            f"`{outermost.name}` applies functions more than {MAX_APPLICATIONS:,} times",
            outermost.span,
            label="with all functions written out, equal applications counted once",
            notes=(Note(span, f"the last one is of `{definition.name}`, here"),),
            help="does each apply the next several times? Name a part in an equation of its own",
        )
        ctx.calls = calls
        # Not an Abort, after which the next statement would go on to apply functions.
        raise UserError(ctx.report.diagnostics)
    before = len(ctx.tensors), ctx.streams
    hidden = frozenset(scope.indices)
    inner = BodyScope(
        scope.prefix,
        inputs,
        scope.indices,
        scope.ellipsis,
        definition.name,
        hidden=hidden,
        conditions=scope.conditions,
    )
    result = value(ctx, definition.value, inner)
    # A new tensor is named after the place of its first use, and a new draw is another number:
    # only pure expressions are shared.
    if (len(ctx.tensors), ctx.streams) == before:
        ctx.applied[key] = result
    return result


def _identity(given: Value) -> Hashable:
    """Equal for arguments for which a fn has the same value."""
    if isinstance(given, Array):
        return given.identity, given.hint
    return type(given), repr(given)  # 0.0 is not -0.0, and 1 is neither 1.0 nor true


def _too_deep(ctx: Context, name: s.Name, span: Span) -> UserError:
    """Applications within each other beyond the limit: of a definition that applies itself without
    end, E0213, or of a long chain, E0110. Nothing after it can be known."""
    repeated = next((c for c in ctx.calls if c.name == name.id), None)
    calls, ctx.calls = ctx.calls, []  # so that the mistake is reported at the outermost place
    if repeated:
        ctx.error(
            "E0213",
            f"`{name.id}` applies itself without end",
            repeated.span,
            label=f"after {MAX_DEPTH} applications within each other there is no end",
            notes=(Note(span, "it is applied again here"),),
            help="stack layers with `repeat`",
        )
    else:
        ctx.error(
            "E0110",
            f"layers and functions apply each other more than {MAX_DEPTH} levels deep",
            calls[0].span,
            label=f"this applies `{calls[0].name}`, that `{calls[1].name}`, and so on",
            notes=(Note(span, f"level {MAX_DEPTH + 1} is here"),),
            help="write some of them out where they are applied",
        )
    ctx.calls = calls
    return UserError(ctx.report.diagnostics)
