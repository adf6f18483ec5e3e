"""Name resolution: what a name stands for where it is written.

Indices of the equation come first, then names of the body, then `training` and constants. Layers
and functions are looked up in the scope of the text that names them: a file may define a name of
the library anew, and the library and used files go on using their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...dsl.check.names import BUILTINS, seen_from
from ...dsl.diagnostics.diagnostic import Note, did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.expr import Idx
from .context import Abort, Context
from .ranges import lookup, range_mistakes
from .scopes import BodyScope, spelled
from .values import Array, Poison, Static, of_scalar

_NUMBERS = {"inf": math.inf, "nan": math.nan, "pi": math.pi}


def find(ctx: Context, name: s.Name) -> s.Definition | None:
    """The layer, fn, model or optimizer of this name."""
    return seen_from(ctx.definitions, name.span.source).get(name.id)


def own_initializers(model: Context) -> tuple[str, ...]:
    """The text of every function of the program's own that draws a parameter, and of those that
    these apply, in the order in which they are met."""
    found: dict[str, str] = {}
    worklist: list[s.Node] = [node for node, _ in model.inits.values()]
    while worklist:
        for part in walk(worklist.pop(0)):
            definition = find(model, part) if isinstance(part, s.Name) else None
            if definition and definition.name not in found and not definition.span.source.library:
                found[definition.name] = definition.span.text
                worklist.append(definition)
    return tuple(found.values())


def name(ctx: Context, node: s.Name, scope: BodyScope) -> Static | Array:
    """The value of a name, an index of the equation included."""
    text = spelled(node)
    # Innermost first: an index that a reduction had to rename hides all others of its name.
    if text in scope.renamed:
        return of_scalar(Idx(scope.renamed[text]), text)
    # `hidden`: in a fn's body, the caller's indices are present in the arguments, but have no name.
    if text in scope.indices and text not in scope.hidden:
        return of_scalar(Idx(text), text)
    return variable(ctx, node, scope)


def variable(ctx: Context, node: s.Name, scope: BodyScope) -> Static | Array:
    """The value of a name that is not an index. E0312 for a layer or fn that is not applied, E0202,
    E0218 or E0409 if there is no value."""
    text = spelled(node)
    if "." in text:
        return _part(ctx, node, scope)
    found = lookup(ctx, text, scope)
    # its definition is wrong, and reported
    if isinstance(found, Poison):
        raise Abort()
    if found is not None:
        return found
    # After the body's own names, which may redefine `t`, `training` or `pi`.
    if text in scope.words:
        return scope.words[text]
    if text in ("training", "fullness"):
        ctx.phased = True
        return ctx.training if text == "training" else ctx.fullness
    if text in _NUMBERS:
        return _NUMBERS[text]
    if text in scope.layers:
        raise ctx.error(
            "E0312",
            f"`{text}` is a layer, not a value",
            node.span,
            help=f"apply it: `{text}(…)`, or read one of its parameters: `{text}.w`",
        )
    definition = find(ctx, node)
    if definition is not None:
        raise ctx.error(
            "E0312",
            f"`{text}` is a {definition.kind}, not a value",
            node.span,
            help=f"apply it: `{_application(definition)}`",
        )
    _report_unknown(ctx, node, scope)
    raise Abort()


def _part(ctx: Context, node: s.Name, scope: BodyScope) -> Array:
    """`enc.w`: a parameter or state of the layer that the body calls `enc`; of a layer inside it,
    `enc.dense1.w`."""
    owner, _, part = node.id.partition(".")
    tensors = scope.layers[owner].tensors if owner in scope.layers else {}
    found = tensors.get(part.replace(".", "_"))
    if found is not None:
        return found
    if tensors:
        raise ctx.error(
            "E0202",
            f"`{owner}` has no `{part}`",
            node.span,
            label=f"it has {', '.join(f'`{owner}.{n}`' for n in tensors)}",
            help=did_you_mean(part, tensors),
        )
    raise ctx.error(
        "E0218",
        f"`{node.id}` is read before `{owner}` is applied",
        node.span,
        label="the sizes of its parameters follow from an input",
        help=f"apply it first: `h = {owner}(…)`",
    )


def _application(definition: s.Definition) -> str:
    """`cross_entropy(logits, label)`: how a layer or fn is applied to what it needs."""
    needed = ", ".join(p.name for p in definition.inputs if p.default is None)
    settings = ", ".join(p.name for p in definition.settings if p.default is None)
    return f"{definition.name}{f'({settings})' if definition.settings else ''}({needed})"


# --- names without a value ----------------------------------------------------------------------


def _report_unknown(ctx: Context, node: s.Name, scope: BodyScope) -> None:
    text = spelled(node)
    if text in scope.defined_by:
        _report_read_before_computed(ctx, text, node, scope)
    # The length of a run, where neither the block nor the data say it.
    elif text == "steps" and scope.takes_fields:
        ctx.error(
            "E0409" if ctx.fields is None else "E0202",
            "the number of steps is not known" + " without the data" * (ctx.fields is None),
            node.span,
            label="those of the whole run",
            help="say it in the train block: `steps = 1000`",
        )
    # No data given: the name may well be a column of them, so "unknown" would be wrong.
    elif ctx.fields is None and scope.takes_fields:
        ctx.error(
            "E0409",
            f"the type of `{node.id}` is not known without the data",
            node.span,
            label="a field of the data?",
            help=f"declare it in the train block: `input {node.id}: i32[B]`, or `f32[B]`",
        )
    else:
        known = [*scope.names, *scope.indices, *ctx.definitions, *(ctx.fields or ())]
        ctx.error(
            "E0202",
            f"unknown name `{text}`",
            node.span,
            label="not defined anywhere",
            # `exp^x`: a function that is not applied
            help=f"apply it: `{text}(x)`" if text in BUILTINS else did_you_mean(text, known),
        )


def _report_read_before_computed(ctx: Context, text: str, node: s.Name, scope: BodyScope) -> None:
    """E0218, or what is wrong with the index ranges of the equation that computes the name."""
    # Often the equation further down has a mistake in its ranges; that is the cause to show.
    if wrong := range_mistakes(ctx, text, scope):
        ctx.report.extend(wrong)
        return
    statement = scope.defined_by[text]
    # `y = y + 1` reads itself, which is no matter of order.
    inside = _covers(statement, node)
    ctx.error(
        "E0218",
        f"`{text}` is read before it is computed",
        node.span,
        label="its own value is not known yet" if inside else "not known yet",
        notes=() if inside else (Note(statement.span, "computed here"),),
        help="a recurrence has indices and a start: `y[t] = … (y[t-1] else 0)`"
        if inside
        else _ordering_advice(text, node, scope.defined_by),
    )


def _ordering_advice(text: str, node: s.Name, defined_by: Mapping[str, s.Statement]) -> str:
    """How a name can be read where its equation comes later."""
    # Only equations with indices can be read ahead (`ranges.lookup`).
    indexed = defined_by[text].span.text.startswith(f"{text}[")
    reader = next((n for n, other in defined_by.items() if _covers(other, node)), None)
    if reader is None or reader not in _dependencies(text, defined_by):
        return "move its equation up" + (
            ", or, in a recurrence, state the ranges of its indices, as in `y[t < 9] = …`" * indexed
        )
    if indexed:
        return "in a recurrence, state the ranges of its indices, as in `y[t < 9] = …`"
    return (
        f"`{text}` needs `{reader}`, and so itself: in a recurrence every equation has indices, as "
        f"in `{text}[t] = … {reader}[t]`"
    )


def _dependencies(text: str, defined_by: Mapping[str, s.Statement]) -> set[str]:
    """The names of this body that one is computed from, directly or not."""
    found: set[str] = set()
    fresh = {text}
    # transitive closure over the body's equations, breadth first
    while fresh:
        read = {
            spelled(n) for one in fresh for n in walk(defined_by[one]) if isinstance(n, s.Name)
        } & defined_by.keys()
        fresh = read - found - {text}
        found |= fresh
    return found


def _covers(statement: s.Statement, node: s.Name) -> bool:
    around, own = statement.span, node.span
    return around.source is own.source and around.start <= own.start and own.end <= around.end
