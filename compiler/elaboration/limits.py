"""Limits of a system: what no later stage could take."""

from __future__ import annotations

from ..ir.dtypes import fits
from ..ir.expr import Const, Expr, walk

# offsets and indices are i32 in generated code
MAX_ELEMENTS = 2**31 - 1
UNLIMITED = 2**63 - 1
MAX_EQUATIONS = 10_000
MAX_LEVELS = 120  # nesting of one equation's body: later stages recurse through it
MAX_PARTS = 20_000  # nodes of one equation's body as a tree
MAX_APPLICATIONS = 20_000  # of fns to different arguments


def number_that_does_not_fit(body: Expr) -> Const | None:
    """A constant beyond the numbers of its type."""
    constants = (node for node in walk(body) if isinstance(node, Const))
    return next((c for c in constants if not fits(c.value, c.dtype)), None)


def excess(body: Expr) -> str:
    """What there is too much of in a body, as the end of a sentence, or nothing.

    An expression is a DAG: `y = x*x; z = y*y; …` shares nodes. Parts are counted as in a tree,
    because passes and code generators may expand it."""
    levels: dict[Expr, int] = {}
    parts: dict[Expr, int] = {}
    for node in walk(body):  # children come before parents
        levels[node] = 1 + max((levels[c] for c in node.children), default=0)
        parts[node] = 1 + sum(parts[c] for c in node.children)
    if levels[body] > MAX_LEVELS:
        return f"is nested more than {MAX_LEVELS} levels deep"
    return f"has more than {MAX_PARTS:,} parts" if parts[body] > MAX_PARTS else ""
