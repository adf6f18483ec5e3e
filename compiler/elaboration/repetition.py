"""Memoized elaboration: equal blocks of a deep model are elaborated once.

`memoized` elaborates a body for the first inputs of its kind and records what that added to the
system: tensors, equations, initial values, next values. For later inputs of equal shapes, types and
settings the recording is replayed under other names, each use with random streams of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from ...dsl.records import record
from ...dsl.syntax import ast as s
from ..ir.build import literal, renamed, rewrite
from ..ir.equation import Equation, Gradient, RematBlock, Tensor
from ..ir.expr import Apply, Const, Expr
from .applications import Application, Part
from .context import RESERVED_INPUTS, Context
from .limits import MAX_EQUATIONS
from .scopes import BodyScope
from .values import Array, Value, is_static, of_tensor


@record
class Recording:
    """What one elaboration added: tensors whose names begin with `stem`, computed from the tensors
    `given`. An origin is None where the parameter belongs to the user's current application."""

    stem: str
    given: tuple[str, ...]
    tensors: tuple[tuple[Tensor, tuple[str, ...]], ...]  # with the names of their dimensions
    equations: tuple[Equation, ...]
    blocks: tuple[RematBlock, ...]
    gradients: tuple[Gradient, ...]
    updates: Mapping[str, str]
    inits: Mapping[str, tuple[s.Expr, BodyScope]]
    origins: Mapping[str, Application | None]
    parts: tuple[Part, ...]
    streams: range
    statements: int
    results: tuple[Value, ...]

    def renaming(self, stem: str, given: Sequence[str]) -> dict[str, str]:
        """The names of a replay with another stem and other given tensors."""
        # `block1_dense1_w` → `block2_dense1_w`: own tensors change their stem, given ones by
        # position
        own = {t.name: stem + t.name[len(self.stem) :] for t, _ in self.tensors}
        return own | dict(zip(self.given, given, strict=True))


def memoized(
    ctx: Context,
    key: Hashable,
    stem: str,
    given: Sequence[str],
    elaborate: Callable[[], tuple[Value, ...]],
) -> tuple[Value, ...]:
    """The results of `elaborate`, which reads the tensors `given` and adds tensors whose names
    begin with `stem`. For equal keys its work must be the same up to these names."""
    # The key is all that elaboration can see, so equal keys have equal equations up to names.
    # Replaying costs a renaming instead of type and range inference.
    known = ctx.recordings.get(key)
    if known is not None:
        names = known.renaming(stem, given)
        if _can_replay(ctx, known, names):
            return replay(ctx, known, names, stem)
    before = _counts(ctx)
    results = elaborate()
    recording = _record(ctx, stem, given, before, results)
    if recording is not None:
        # The first recording is kept even where it could not be replayed (a name was taken).
        ctx.recordings.setdefault(key, recording)
    return results


def outline(values: Mapping[str, Value]) -> tuple[Hashable, tuple[str, ...]] | None:
    """What elaboration can see of named values, and the tensors among them in order of their first
    use; None if one is an expression without a name, which no renaming can replace."""
    seen: dict[str, int] = {}
    parts: list[Hashable] = []
    for name, value in values.items():
        if is_static(value):
            parts.append((name, type(value), repr(value)))  # 0.0 is not -0.0
        elif isinstance(value, Array) and value.tensor is not None:
            tensor = value.tensor
            # Numbers instead of names: f(a, b) and f(c, d) are alike, f(a, a) is another kind.
            number = seen.setdefault(tensor.name, len(seen))
            parts.append((name, number, tensor.shape, tensor.dtype, tensor.kind, value.axes))
        else:
            return None
    return tuple(parts), tuple(seen)


# --- recording ----------------------------------------------------------------------------------


def _counts(ctx: Context) -> tuple[int, ...]:
    # All of these only grow, so a length marks the place where the body's share begins.
    system = (ctx.tensors, ctx.equations, ctx.blocks, ctx.gradients, ctx.updates)
    grown = (*system, ctx.inits, ctx.parts)
    return (*map(len, grown), len(ctx.report.diagnostics), ctx.streams, ctx.statements)


def _record(
    ctx: Context,
    stem: str,
    given: Sequence[str],
    before: tuple[int, ...],
    results: tuple[Value, ...],
) -> Recording | None:
    """What was added since `before`; None if there were mistakes, or if it cannot be renamed."""
    tensors, equations, blocks, gradients, updates, inits, parts = before[:7]
    mistakes, streams, statements = before[7:]
    added = [n for n in islice(ctx.tensors, tensors, None) if n not in RESERVED_INPUTS]
    named = all(is_static(v) or (isinstance(v, Array) and v.tensor is not None) for v in results)
    # With mistakes nothing is recorded: a replay would skip reporting them at the second place. A
    # name outside the stem, or a result without a tensor, could not be renamed.
    if (
        len(ctx.report.diagnostics) != mistakes
        or not named
        or not all(n.startswith(stem) for n in added)
    ):
        return None
    # An origin that is the application itself is left open (None), for each replay has its own.
    use = ctx.user_call()
    origins = {n: ctx.origins[n] for n in added if n in ctx.origins}
    return Recording(
        stem,
        tuple(given),
        tuple((ctx.tensors[n], ctx.axes[n]) for n in added),
        tuple(ctx.equations[equations:]),
        tuple(ctx.blocks[blocks:]),
        tuple(ctx.gradients[gradients:]),
        dict(islice(ctx.updates.items(), updates, None)),
        dict(islice(ctx.inits.items(), inits, None)),
        {n: None if origin is use else origin for n, origin in origins.items()},
        tuple(islice(ctx.parts.values(), parts, None)),
        range(streams, ctx.streams),
        ctx.statements - statements,
        results,
    )


# --- replaying ----------------------------------------------------------------------------------


def _can_replay(ctx: Context, known: Recording, names: Mapping[str, str]) -> bool:
    """Whether the new names are free, and no limit is so near that it would be reported."""
    # At a limit, or where a name is taken (`x_2` written in the file), elaborating anew decides.
    new = [names[t.name] for t, _ in known.tensors]
    return (
        not any(name in ctx.tensors or name in ctx.reserved for name in new)
        and len(ctx.equations) + len(known.equations) < MAX_EQUATIONS
    )


def replay(
    ctx: Context, known: Recording, names: Mapping[str, str], stem: str
) -> tuple[Value, ...]:
    """Add the recording under other names, with random streams of its own."""
    # Two dropout layers must not draw the same numbers: their streams are shifted past all others.
    use, shift = ctx.user_call(), ctx.streams - known.streams.start
    for tensor, axes in known.tensors:
        name = names[tensor.name]
        init = tensor.init.removeprefix("= ")  # `= w`: a state that begins as a parameter
        copied = f"= {names[init]}" if init in names else tensor.init
        ctx.tensors[name] = replace(tensor, name=name, init=copied)
        ctx.axes[name] = axes
    for name, origin in known.origins.items():
        application = origin or use
        if application is not None:
            ctx.origins[names[name]] = application
    # `init` keeps the first use's scope: initializers depend on sizes and settings, which are
    # equal.
    ctx.inits |= {names[n]: init for n, init in known.inits.items()}
    ctx.updates |= {names[n]: names[following] for n, following in known.updates.items()}
    _replay_parts(ctx, known, stem, names)

    def change(expr: Expr) -> Expr:
        return _with_streams(renamed(expr, names), known.streams, shift)

    for eq in known.equations:
        at = None if eq.at is None else tuple(map(change, eq.at))
        target, body = names[eq.target], change(eq.body)
        ctx.equations.append(Equation(target, eq.indices, body, eq.reduce, eq.over, at, eq.span))
    for block in known.blocks:
        targets = tuple(names.get(t, t) for t in block.targets)
        ctx.blocks.append(replace(block, targets=targets))
    for g in known.gradients:
        of, wrt = names.get(g.of, g.of), names.get(g.wrt, g.wrt)
        ctx.gradients.append(replace(g, target=names[g.target], of=of, wrt=wrt))
    ctx.streams += len(known.streams)
    # Replayed statements count towards the limit as elaborated ones do.
    ctx.statements += known.statements
    return tuple(_renamed_result(ctx, value, names) for value in known.results)


def _replay_parts(ctx: Context, known: Recording, stem: str, names: Mapping[str, str]) -> None:
    for part in known.parts:
        if part.name.startswith(known.stem):
            name = stem + part.name[len(known.stem) :]
            inputs = {n: _renamed_result(ctx, v, names) for n, v in part.inputs.items()}
            results = tuple(_renamed_result(ctx, v, names) for v in part.results)
            found = replace(part, name=name, inputs=inputs, results=results)
            ctx.parts.setdefault(name, found)


def _with_streams(expr: Expr, streams: range, shift: int) -> Expr:
    """The expression with its random draws from other streams."""
    if not streams or not shift:
        return expr

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply) or node.fn != "random":
            return None
        seed, step, stream, place = node.args
        # Only streams that were handed out during the recording move.
        if not isinstance(stream, Const) or stream.value not in streams:
            return None
        return Apply(node.fn, (seed, step, literal(int(stream.value) + shift), place), node.dtype)

    return rewrite(expr, change)


def _renamed_result(ctx: Context, value: Value, names: Mapping[str, str]) -> Value:
    if not isinstance(value, Array) or value.tensor is None:
        return value
    name = value.tensor.name
    found = of_tensor(ctx.tensors[names.get(name, name)], value.axes)
    return found if value.hint == name else replace(found, hint=value.hint)
