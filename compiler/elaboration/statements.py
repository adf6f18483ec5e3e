"""Bodies: the statements of a layer, model or optimizer, in order.

A statement that is wrong poisons the names that it defines, and elaboration goes on, so that all
mistakes of a body are reported.
"""

from __future__ import annotations

from ...dsl.check.names import DISCARDED
from ...dsl.diagnostics.diagnostic import UserError
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.equation import RematBlock
from .context import Abort, Context
from .dispatch import size, value
from .scopes import BodyScope, spelled
from .values import Poison

MAX_REPEAT = 10_000  # copies of a block, of all `repeat` around it together
MAX_STATEMENTS = 20_000


def body(ctx: Context, statements: tuple[s.Statement, ...], scope: BodyScope) -> None:
    """All statements of a body, or of one iteration of a `repeat`."""
    # A first look at all statements: equations with indices can be read before they are reached
    # (recurrences), all others are known by name, for messages. `remat` opens no scope.
    later: dict[str, s.Equation] = {}
    for statement in s.flatten_remat(statements):
        scope.defined_by |= dict.fromkeys(_defined(statement), statement)
        if isinstance(statement, s.Equation) and statement.indices is not None:
            for target in statement.targets:
                later.setdefault(spelled(target), statement)
    # A `repeat` inside has equations of its own to come.
    around, scope.later = scope.later, later
    try:
        _run(ctx, statements, scope)
    finally:
        scope.later = around


def _run(ctx: Context, statements: tuple[s.Statement, ...], scope: BodyScope) -> None:
    for statement in statements:
        try:
            with ctx.recursion_limit(statement):
                _statement(ctx, statement, scope)
        except Abort:
            # An earlier value of the name, as in a `repeat`, is good enough to go on with.
            for name in _defined(statement):
                scope.names.setdefault(name, Poison())


def _defined(statement: s.Statement) -> list[str]:
    """The names that a statement gives a value."""
    match statement:
        case s.Let(name=name) | s.State(name=name):
            return [name.id]
        case s.Param(names=names):
            return [n.id for n in names]
        case s.Equation(targets=targets):
            return [spelled(t) for t in targets]
    return []


def _statement(ctx: Context, statement: s.Statement, scope: BodyScope) -> None:
    ctx.statements += 1
    if ctx.statements > MAX_STATEMENTS:
        ctx.error(
            "E0311",
            f"the program has more than {MAX_STATEMENTS:,} statements",
            statement.span,
            label="with all layers written out",
            help="is a `repeat` too large?",
        )
        # Not an Abort, after which `_run` would go on to the next statement.
        raise UserError(ctx.report.diagnostics)
    ctx.rules[type(statement)](ctx, statement, scope)


def let(ctx: Context, node: s.Let, scope: BodyScope) -> None:
    found = value(ctx, node.value, scope)
    if node.name.id != DISCARDED:
        scope.names[node.name.id] = found


def repeat(ctx: Context, node: s.Repeat, scope: BodyScope) -> None:
    """`repeat n { … }`, unrolled; names of the block are new in every iteration."""
    count = size(ctx, node.count, scope, "how often to repeat")
    copies = ctx.copies * count if node.body else count  # nothing is not written out
    if copies > MAX_REPEAT:
        within = f" within another makes {copies:,} copies, which" if ctx.copies > 1 else ""
        raise ctx.error(
            "E0311",
            f"`repeat {count:,}`{within} is more than {MAX_REPEAT:,}",
            node.count.span,
            label="every block is written out",
            help="many steps of one thing are a recurrence: `h[t] = … (h[t-1] else 0)`",
        )
    # Names from outside carry a value from one iteration to the next (`x = Block()(x)`); what the
    # block itself introduces begins anew.
    outer = set(scope.names)
    ctx.repeats += 1
    around, ctx.copies = ctx.copies, copies
    for _ in range(count if node.body else 0):
        for own in scope.names.keys() - outer:
            del scope.names[own]
        body(ctx, node.body, scope)
    ctx.repeats, ctx.copies = ctx.repeats - 1, around


def remat(ctx: Context, node: s.Remat, scope: BodyScope) -> None:
    """`remat { … }`: the block's temps are computed again for the gradient, not stored."""
    # Whatever the block adds belongs to it, equations of inlined layers included.
    before = len(ctx.equations)
    _run(ctx, node.body, scope)
    targets = tuple(eq.target for eq in ctx.equations[before:])
    word = Span(node.span.source, node.span.start, node.span.start + len("remat"))
    ctx.blocks.append(RematBlock(targets, word))
