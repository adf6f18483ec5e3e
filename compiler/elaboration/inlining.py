"""Inlining: the body of a layer, fn or model becomes equations at every application.

Each application is elaborated for its own shapes and gets parameters of its own, whose names begin
with the layer's (`dense1_w`). Equal applications share the work (`repetition.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .applications import Layer, Part
from .context import Abort, Context
from .interfaces import input_value, result, unify
from .repetition import memoized, outline
from .scopes import BodyScope
from .statements import body
from .values import Array, NamedLayer, Shape, Value


def inlined(
    ctx: Context,
    definition: s.Definition,
    settings: Mapping[str, Value],
    inputs: Mapping[str, Value],
    span: Span,
    scope: BodyScope,
    places: Mapping[str, Span] | None = None,
    shapes: tuple[Shape, ...] | None = None,
    layer: NamedLayer | None = None,
) -> tuple[Value, ...]:
    """The results of a body for these inputs, given at `places`. `shapes` are those that the
    results must have, if the context knows them (an initializer's parameter). The applications of a
    `layer` with a name have its parameters and states in common."""
    # reported by the caller
    if definition.kind == "optimizer":
        raise Abort()
    target = definition.name.lower()
    # `Dense` in `Block` in the model: `block1_dense1_`
    if layer is None:
        prefix, shared = ctx.instance(scope.prefix + target) + "_", scope.shared
    else:
        prefix = ctx.named_instance(scope.prefix + layer.name) + "_"
        layer.stem = layer.stem or prefix
        shared = (*scope.shared, (prefix, layer))
    name = _own_stem(prefix, shared)
    if definition.kind != "fn":
        # Before those within it; its results are known afterwards.
        ctx.parts.setdefault(name, Part(name, definition, settings, inputs))

    def elaborate() -> tuple[Value, ...]:
        declared = {r.name: r.type for r in definition.results if r.type}
        # Nothing of the caller is visible but settings and inputs: bodies are closed.
        inner = BodyScope(prefix, dict(settings), target=target, declared=declared, shared=shared)
        # Messages show the sizes that the body has bound so far: `kernel = 9, h = 5`.
        if ctx.calls:
            ctx.calls[-1].names = inner.names
        for parameter in definition.inputs:
            place = (places or {}).get(parameter.name, span)
            given = inputs[parameter.name]
            inner.names[parameter.name] = input_value(ctx, parameter, given, inner, place, scope)
        # The result's shape binds sizes before the body is elaborated, which may read them.
        if shapes is not None:
            for parameter, shape in zip(definition.results, shapes, strict=True):
                unify(ctx, parameter, shape, inner, span)
        body(ctx, definition.body, inner)
        if layer is not None:
            layer.values = inner.names
        return tuple(result(ctx, r, inner) for r in definition.results)

    before = len(ctx.tensors)
    # Inputs without a name cannot be exchanged in a recording.
    seen = outline({**settings, **inputs})
    # What is shared has no name of this application's, by which a recording could be renamed.
    if seen is None or shared:
        results = elaborate()
    else:
        key = (id(definition), seen[0], shapes)
        results = memoized(ctx, key, prefix, seen[1], elaborate)
    if definition.kind == "fn":
        return results
    found = tuple(r.shape if isinstance(r, Array) else () for r in results)
    part = ctx.parts[name]
    ctx.parts[name] = replace(part, shapes=part.shapes or found, results=part.results or results)
    if not scope.prefix:
        ctx.layers.append(Layer(prefix[:-1], tuple(islice(ctx.tensors, before, None)), found))
    return results


def _own_stem(prefix: str, shared: tuple[tuple[str, NamedLayer], ...]) -> str:
    """How the names of an application's parameters begin, which a layer with a name around it may
    have made in an earlier application."""
    for stem, layer in shared:
        if prefix.startswith(stem):
            prefix = layer.stem + prefix.removeprefix(stem)
    return prefix[:-1]
