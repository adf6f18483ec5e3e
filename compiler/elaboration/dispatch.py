"""Evaluation of syntax: the dispatcher over syntax nodes, and the kinds of value a place takes.

`results` applies the rule for a node's class (`rules.py` lists them all). Every module that
evaluates a part of the syntax it is given does so through here, so that no module of rules imports
another that imports it.
"""

from __future__ import annotations

from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.expr import Expr
from .applications import constant_text
from .broadcasting import materialize
from .context import Abort, Context
from .scopes import BodyScope
from .values import Array, Numbers, Poison, Static, Value, lift


def results(ctx: Context, node: s.Node, scope: BodyScope) -> tuple[Value, ...]:
    """The results of an expression; only a call can have several."""
    rule = ctx.rules.get(type(node))
    if rule is None:
        raise ctx.error("E0312", "this cannot stand here", node.span)
    found = rule(ctx, node, scope)
    return found if isinstance(found, tuple) else (found,)


def value(ctx: Context, node: s.Node, scope: BodyScope) -> Static | Array:
    """The result of an expression that has one; E0317 if it has more."""
    found = results(ctx, node, scope)
    if len(found) != 1:
        raise ctx.error(
            "E0317",
            f"this gives {len(found)} results where one is needed",
            node.span,
            help=f"name them first: `h{', _' * (len(found) - 1)} = {node.span.text}`",
        )
    if isinstance(found[0], Poison):
        raise Abort()
    return found[0]


def static(ctx: Context, node: s.Node, scope: BodyScope, what: str, help: str = "") -> Static:
    """A compile-time constant; E0308 if it depends on tensors."""
    found = value(ctx, node, scope)
    if isinstance(found, Array):
        raise ctx.error(
            "E0308",
            f"{what} must be known when compiling",
            node.span,
            label="this depends on the values of tensors",
            help=help or "sizes come from shapes, settings and `let`s of them",
        )
    return found


def size(ctx: Context, node: s.Node, scope: BodyScope, what: str) -> int:
    """A size: an integer (E0308) that is not negative (E0309)."""
    found = static(ctx, node, scope, what)
    # `/` divides as floats: `6 / 2` is 3.0, which is meant as a size
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int):
        text = constant_text(found) if isinstance(found, Numbers) else repr(found)
        divides = any(isinstance(n, s.Binary) and n.op == "/" for n in walk(node))
        raise ctx.error(
            "E0308",
            f"{what} must be a whole number",
            node.span,
            label=f"this is {text}",
            help="whole numbers are divided with `//`"
            if divides
            else "a name has no quotes"
            if isinstance(found, str)
            else "",
        )
    if found < 0:
        raise ctx.error(
            "E0309",
            f"{what} would be {found}",
            node.span,
            label="sizes are not negative",
            # `f32[-1, 8]`, `reshape(-1)`
            help="a size that is not known yet has a name, such as `B` for the batch"
            if node.span.text == "-1"
            else "",
        )
    return found


def array(ctx: Context, node: s.Node, scope: BodyScope) -> Array:
    """A number or tensor; E0312 if it is a word."""
    return as_array(ctx, value(ctx, node, scope), node)


def as_array(ctx: Context, found: Static | Array, node: s.Node) -> Array:
    if isinstance(found, str):
        raise not_a_number(ctx, found, node)
    return lift(found, ctx.float_type)


def scalar(ctx: Context, node: s.Node, scope: BodyScope) -> Expr:
    """The value at one point of the equation's domain; E0302 if it has dimensions."""
    found = array(ctx, node, scope)
    if found.rank:
        # For `x[i] + w` the caret goes to `w`, not to the sum.
        node, found = _tensor_without_index(node, found, scope)
        is_name = isinstance(node, s.Name)
        raise ctx.error(
            "E0302",
            f"{f'`{node.span.text}`' if is_name else 'this'} has "
            f"{found.rank} dimension{'s' * (found.rank > 1)} here",
            node.span,
            label=f"its shape is {list(found.shape)}",
            help=f"index it: `{node.span.text}[{', '.join(found.axes)}]`"
            if is_name
            else "give it a name in an equation of its own, then index that",
        )
    return found.scalar()


def _tensor_without_index(node: s.Node, found: Array, scope: BodyScope) -> tuple[s.Node, Array]:
    """The tensor that gives arithmetic its dimensions."""
    parts = {s.Unary: ("operand",), s.Binary: ("left", "right"), s.If: ("condition", "yes", "no")}
    for part in parts.get(type(node), ()):
        child = getattr(node, part)
        # A name that is also an index of the equation is meant as the index.
        known = scope.names.get(child.id) if isinstance(child, s.Name) else None
        if isinstance(known, Array) and known.rank and child.id not in scope.indices:
            return child, known
        below = _tensor_without_index(child, found, scope)
        if below[0] is not child:
            return below
    return node, found


def tensor(
    ctx: Context, found: Static | Array, node: s.Node, scope: BodyScope, hint: str = ""
) -> Array:
    """The value as a tensor, computed by a new equation if it is none yet."""
    known = as_array(ctx, found, node)
    if known.tensor is not None:
        return known
    name = ctx.unique(scope.prefix + (hint or known.hint))
    return materialize(ctx, name, known, node.span, scope)


def not_a_number(ctx: Context, word: str | Numbers, node: s.Node) -> Abort:
    """E0312: a word or a list where a number is needed."""
    if isinstance(word, Numbers):
        return ctx.error(
            "E0312",
            "a list is not a number",
            node.span,
            label=f"this is {constant_text(word)}",
            help="an element is read by its place: `w[0]`; a tensor is given by its equation: "
            "`w[i < 3] = …`",
        )
    return ctx.error(
        "E0312",
        f'the word "{word}" cannot be computed with',
        node.span,
        label=f'this is "{word}"',
    )
