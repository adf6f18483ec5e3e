"""Index range inference: the extent of every index, and of `...`.

    y[i, j] = sum(k) a[i, k] * b[k, j]        a: [2, 3], b: [3, 4]   →   i < 2, k < 3, j < 4

An index runs as far as it states itself (`i < 5`), as the declared result states, or as the
dimensions where it stands alone; all of these must agree. A recurrence reads tensors whose
equations come later in the body: `lookup` declares such a tensor when it is first read, from the
index ranges of its equation.
"""

from __future__ import annotations

from dataclasses import replace

from ...dsl.check.names import DISCARDED
from ...dsl.diagnostics.diagnostic import Diagnostic, Note
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ...dsl.syntax.source import Span
from ..ir.affine import bounds, is_static
from ..ir.build import call, literal
from ..ir.dtypes import is_float
from ..ir.equation import Index
from ..ir.expr import Expr, Idx
from .broadcasting import distinct
from .context import Abort, Context
from .dispatch import scalar, size, value
from .recurrence_types import recurrence_type
from .scopes import BodyScope, spelled
from .values import Array, Numbers, Poison, Shape, Value, of_numbers

Text = s.Node | tuple[s.Node, ...]  # one or several parts of a program

# --- one index ----------------------------------------------------------------------------------


@record
class _Use:
    """A place that determines the extent of an index: a dimension of `tensor`."""

    size: int
    span: Span
    tensor: str
    shape: Shape = ()
    guarded: bool = False  # may lie outside there

    @property
    def source(self) -> str:
        return f"`{self.tensor}`" if self.shape else self.tensor


def introduce(
    ctx: Context, axes: tuple[s.Axis, ...], body: Text, scope: BodyScope
) -> tuple[BodyScope, tuple[Index, ...], Expr]:
    """The scope inside a reduction, its indices with their sizes, and the condition on which a term
    counts. An index whose name is taken (by the equation, or by the caller of this fn) is renamed.

        sum(t < length[b]) x[b, t]   →   t as far as x goes; t < length[b]
    """
    sizes: dict[str, int] = {}
    renamed: dict[str, str] = {}
    dots: tuple[str, ...] | None = None
    counts: Expr = literal(True)
    # `sum(b, t < length[b]) 1`: a bound, too, says how far the indices go that it reads.
    bounded = [a.bound for a in axes if a.bound is not None]
    body = (*(body if isinstance(body, tuple) else (body,)), *bounded)
    for axis in axes:
        # `sum(...) x[..., j]`: as many indices as the tensors have leading dimensions
        if axis.name == "...":
            dots, extents = ellipsis_range(ctx, body, scope, axis.span)
            sizes.update(zip(dots, extents, strict=True))
            continue
        if axis.name != DISCARDED and (axis.name in sizes or axis.name in renamed):
            raise ctx.error("E0215", f"index `{axis.name}` occurs twice in one list", axis.span)
        inner = scope.inner(sizes, dots, renamed)
        limit = _limit(ctx, axis, inner)
        extent = _extent(ctx, axis, limit, body, inner, scope)
        # Checked here, as a reduction's index need not be a dimension of any tensor.
        if not extent:
            raise nothing_to_run_over(ctx, axis.name, axis.span)
        if extent > ctx.most_elements:
            raise ctx.error(
                "E0311",
                f"`{axis.name}` would run over {extent:,}",
                axis.span,
                label="too far",
                help=f"the limit is {ctx.most_elements:,}",
            )
        # A fn that sums over `i` may be applied in an equation over `i`: the inner one becomes
        # `i2`.
        (own,) = distinct((axis.name,), (*scope.indices, *sizes))
        if own != axis.name:
            renamed[axis.name] = own
        sizes[own] = extent
        if limit is not None:
            counts = call("and", counts, call("lt", Idx(own), limit))
    inner = scope.inner(sizes, dots, renamed).where(counts)
    return inner, tuple(Index(n, size) for n, size in sizes.items()), counts


def _limit(ctx: Context, axis: s.Axis, scope: BodyScope) -> Expr | None:
    """The bound of an index if it is no size, but depends on data or on other indices."""
    if axis.bound is None or not isinstance(value(ctx, axis.bound, scope), Array):
        return None
    return scalar(ctx, axis.bound, scope)


def _extent(
    ctx: Context, axis: s.Axis, limit: Expr | None, body: Text, inner: BodyScope, scope: BodyScope
) -> int:
    """How far a reduced index goes: as stated, as the furthest of its limits where these follow
    from other indices (`s < t + 1`), and else as its uses say."""
    if limit is None:
        return index_range(ctx, axis, body, scope)
    if is_static(limit) and not is_float(limit.dtype):
        return max(bounds(limit, inner.indices)[1], 0)
    return index_range(ctx, replace(axis, bound=None), body, scope)


def nothing_to_run_over(ctx: Context, index: str, span: Span) -> Abort:
    """E0309: there are no tensors without elements, and no reductions of nothing."""
    text = f"`{index}` would run over nothing"
    return ctx.error("E0309", text, span, label="its size here is 0")


def index_range(
    ctx: Context, axis: s.Axis, body: Text, scope: BodyScope, declared: int | None = None
) -> int:
    """The extent of an index: stated, as `declared`, or from its uses. E0305 if nothing determines
    it, E0304 if two places disagree."""
    # What is stated holds even where it disagrees with the tensors: `y[i < 2] = x[i]` reads a part
    # of x. Whether the reads stay in bounds is checked at each read.
    if axis.bound is not None:
        return size(ctx, axis.bound, scope, f"the range of `{axis.name}`")
    uses = _uses(ctx, axis.name, body, scope)
    # First of the uses, so that a tensor of another size is what the message points at.
    if declared is not None:
        uses = [_Use(declared, axis.span, "the result"), *uses]
    if not uses:
        # a consequence of a mistake that is reported already
        if _reads_poison(body, scope):
            raise Abort()
        raise ctx.error(
            "E0305",
            f"the range of `{axis.name}` is not known",
            axis.span,
            label="it is not used as an index by itself",
            help=f"state it: `{axis.name} < {_likely_size(axis.name, scope)}`",
        )
    # `y[t] = if t < 5 then x[t] else 0` goes as far as y does.
    uses = [use for use in uses if not use.guarded] or uses
    first = uses[0]
    # All are compared with the first, so one exchanged pair of indices is one message.
    for use in uses[1:]:
        if use.size != first.size:
            raise ctx.error(
                "E0304",
                f"sizes of `{axis.name}` disagree",
                use.span,
                label=f"here `{axis.name}` runs over {use.size} (`{use.tensor}`)",
                notes=(
                    Note(first.span, f"here `{axis.name}` runs over {first.size} ({first.source})"),
                ),
                help=f"`{use.tensor}` has shape {list(use.shape)}: are two of its indices "
                "exchanged?"
                if first.size in use.shape
                else "",
            )
    return first.size


def _likely_size(index: str, scope: BodyScope) -> str:
    """`B` for an index b, where there is such a size; else `n`, for whatever it is called."""
    sizes = (n for n, v in scope.names.items() if isinstance(v, int) and n.lower() == index)
    return next(sizes, "n")


def _reads_poison(body: Text, scope: BodyScope) -> bool:
    """Whether it reads a tensor whose definition is wrong, which alone is reported then."""
    return any(
        isinstance(node, s.Index) and isinstance(scope.names.get(node.tensor.id), Poison)
        for node in walk(body)
    )


def _uses(
    ctx: Context, name: str, body: Text, scope: BodyScope, guarded: bool = False
) -> list[_Use]:
    """Where the index stands alone as an index of a tensor whose shape is known; `guarded` if an
    `else` or a condition on the index is around."""
    found: list[_Use] = []
    # The reduction has an index of this name itself; inside it, that one is meant.
    if isinstance(body, s.Reduce) and any(a.name == name for a in body.axes):
        return found
    if isinstance(body, s.Index):
        array = _tensor_of(ctx, body.tensor, scope)
        # With the wrong number of indices nothing is aligned; the read itself reports that later.
        explicit = sum(not isinstance(i, s.Ellipsis_) for i in body.indices)
        if array is not None and explicit <= array.rank:
            written = dimension_syntax(body, array)
            for item, extent in zip(written, array.shape, strict=False):
                # `x[i]` bounds i; `x[i + 1]` or `x[2*i]` does not say how far i is meant to go
                if isinstance(item, s.Name) and item.id == name and not item.primed:
                    found.append(_Use(extent, item.span, body.tensor.id, array.shape, guarded))
    # Not `walk`, which would also enter reductions that hide the name.
    for child in (body,) if isinstance(body, tuple) else vars(body).values():
        for item in child if isinstance(child, tuple) else (child,):
            if isinstance(item, s.Node):
                found += _uses(ctx, name, item, scope, guarded or _guards(body, item, name))
    return found


def _guards(node: Text, child: s.Node, name: str) -> bool:
    """Whether a part of a node may read outside, as far as the index is concerned."""
    match node:
        case s.Guarded(read=read):
            return child is read
        case s.If(condition=condition):
            return child is not condition and any(
                isinstance(n, s.Name) and n.id == name for n in walk(condition)
            )
    return False


def dimension_syntax(node: s.Index, array: Array) -> list[s.Node]:
    """The syntax that stands for each dimension, `...` for several."""
    result: list[s.Node] = []
    for item in node.indices:
        dots = isinstance(item, s.Ellipsis_)
        result += [item] * (array.rank - len(node.indices) + 1 if dots else 1)
    return result


# --- leading dimensions -------------------------------------------------------------------------


def ellipsis_range(
    ctx: Context, body: Text, scope: BodyScope, span: Span
) -> tuple[tuple[str, ...], Shape]:
    """What `...` stands for in an equation: names and sizes, from the tensors that it indexes."""
    found: list[tuple[Shape, tuple[str, ...], s.Index]] = []
    for node in walk(body):
        if isinstance(node, s.Index) and any(isinstance(i, s.Ellipsis_) for i in node.indices):
            array = _tensor_of(ctx, node.tensor, scope)
            if array is not None and array.rank >= len(node.indices) - 1:
                # x: [2, 3, 4] read as x[..., j] → `...` is [2, 3]; as x[i, ...] it is [3, 4]
                dots = [isinstance(i, s.Ellipsis_) for i in node.indices].index(True)
                inside = slice(dots, dots + array.rank - len(node.indices) + 1)
                found.append((array.shape[inside], array.axes[inside], node))
    if not found:
        # `w[..., j] = 1` reads nothing with `...`: it has the layer's leading dimensions
        if scope.leading is not None:
            return _fresh_dots(scope, body, ("b",) * len(scope.leading)), scope.leading
        raise ctx.error(
            "E0305",
            "what `...` stands for is not known",
            span,
            label="no tensor here is indexed with `...`",
        )
    shape, axes, first = found[0]
    for other, _, node in found[1:]:
        if other != shape:
            raise ctx.error(
                "E0304",
                "the dimensions of `...` disagree",
                node.span,
                label=f"here they are {list(other)} (`{node.tensor.id}`)",
                notes=(Note(first.span, f"here they are {list(shape)} (`{first.tensor.id}`)"),),
            )
    return _fresh_dots(scope, body, axes), shape


def _fresh_dots(scope: BodyScope, body: Text, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Names for the indices behind `...` that nothing in the equation uses."""
    # A tensor's own name is no index: `b[..., i]` leaves `b` free as the name of one.
    heads = {id(n.tensor) for n in walk(body) if isinstance(n, s.Index)}
    taken = {n.id for n in walk(body) if isinstance(n, s.Name) and id(n) not in heads}
    taken |= {a.name for n in walk(body) if isinstance(n, s.Reduce) for a in n.axes}
    return distinct(axes, (*taken, *scope.indices))


# --- the left side of an equation ---------------------------------------------------------------


def left_side(
    ctx: Context, node: s.Equation, scope: BodyScope
) -> tuple[tuple[Index, ...], tuple[str, ...] | None]:
    """The indices on the left, each with its extent, and the indices that `...` stands for."""
    target, items = node.targets[0], node.indices or ()
    # The declared type is that of the result, not of a next value `y'`.
    type = scope.declared.get(target.id) if not target.primed else None
    dots: tuple[str, ...] | None = None
    indices: list[Index] = []
    # While its ranges are inferred, `lookup` must not infer them again: a recurrence reads itself.
    ctx.inferring.append(spelled(target))
    try:
        sizes = _declared_sizes(ctx, items, type, scope)
        for item, declared in zip(items, sizes, strict=True):
            if not isinstance(item, s.Axis):
                raise ctx.error(
                    "E0106",
                    "the indices on the left are plain names",
                    item.span,
                    help="only `+=` can compute the place it adds to",
                )
            if item.name == "...":
                dots, extents = ellipsis_range(ctx, node.value, scope, item.span)
                indices += map(Index, dots, extents)
                continue
            name = item.name
            if name == DISCARDED:
                names = [i.name for i in items if isinstance(i, s.Axis) and i is not item]
                (name,) = distinct((name,), (*names, *(i.name for i in indices)))
            if any(i.name == name for i in indices):
                raise ctx.error("E0215", f"index `{item.name}` occurs twice on the left", item.span)
            extent = index_range(ctx, item, node.value, scope, declared)
            if not extent:
                raise nothing_to_run_over(ctx, item.name, item.span)
            indices.append(Index(name, extent))
    finally:
        ctx.inferring.pop()
    return tuple(indices), dots


def _declared_sizes(
    ctx: Context, items: tuple[s.Axis | s.Expr, ...], type: s.Type | None, scope: BodyScope
) -> list[int | None]:
    """The extent that the declared result has for each index on the left, where it is known."""
    if type is None or type.shape is None or len(type.shape) != len(items):
        return [None] * len(items)
    result: list[int | None] = []
    for item in type.shape:
        # A result may bind a new size: `-> y: [m]` with m first known from this equation.
        known = all(n.id in scope.names for n in walk(item) if isinstance(n, s.Name))
        dots = isinstance(item, s.Ellipsis_)
        what = f"the size `{item.span.text}` of the result"
        result.append(size(ctx, item, scope, what) if known and not dots else None)
    return result


# --- tensors that are read before their equations -----------------------------------------------


def lookup(ctx: Context, name: str, scope: BodyScope) -> Value | None:
    """The value of a name; a tensor whose equation comes later is declared when first read."""
    # `ctx.inferring`: the ranges of this tensor are being inferred higher up the stack.
    found = scope.names.get(name)
    if found is not None or name not in scope.later or name in ctx.inferring:
        return found
    node = scope.later[name]
    indices, _ = early_left_side(ctx, node, scope)
    if indices is None:
        return None
    declare_ahead(ctx, node, scope, indices, needed=True)
    return scope.names[name]


def _tensor_of(ctx: Context, name: s.Name, scope: BodyScope) -> Array | None:
    found = lookup(ctx, spelled(name), scope)
    if isinstance(found, Numbers):
        return of_numbers(found, ctx.float_type)
    return found if isinstance(found, Array) else None


def early_left_side(
    ctx: Context, node: s.Equation, scope: BodyScope
) -> tuple[tuple[Index, ...] | None, list[Diagnostic]]:
    """The indices of an equation that is not reached yet, or what is wrong with them so far."""
    mistakes = len(ctx.report.diagnostics)
    try:
        return left_side(ctx, node, scope)[0], []
    except Abort:
        # Not reported yet: what is missing may be known once the equation is reached.
        return None, ctx.report.withdraw(mistakes)


def range_mistakes(ctx: Context, name: str, scope: BodyScope) -> list[Diagnostic]:
    """What is wrong with the indices of an equation that is not reached yet, and stays wrong once
    all that it reads is known."""
    node = scope.later.get(name)
    if node is None:
        return []
    _, found = early_left_side(ctx, node, scope)
    others = [n.tensor for n in walk(node.value) if isinstance(n, s.Index) and n.tensor.id != name]
    # E0305 ("range not known") may only mean that another tensor of the equation has no shape yet;
    # E0218 ("read before computed") is what the caller reports itself.
    waits = any(_tensor_of(ctx, tensor, scope) is None for tensor in others)
    return [d for d in found if d.code != "E0218" and not (waits and d.code == "E0305")]


def declare_ahead(
    ctx: Context,
    node: s.Equation,
    scope: BodyScope,
    indices: tuple[Index, ...],
    needed: bool = False,
) -> None:
    """Declare the target of a recurrence before its equation: if it is `needed`, or if the equation
    reads its own result or one that is computed later."""
    target = node.targets[0]
    name = spelled(target)
    scope.later.pop(name, None)
    # Reading a later equation's result counts, too: h and c of an LSTM read each other.
    recurrent = {name, *scope.later}
    reads_itself = any(
        isinstance(n, s.Index) and spelled(n.tensor) in recurrent for n in walk(node.value)
    )
    known = scope.names.get(name)
    if is_ahead(known) or target.primed or not (needed or reads_itself):
        return
    if known is not None and not needed and not isinstance(known, Poison):
        return  # a new value that is computed from an older one of the same name
    # The kind "ahead" lasts until the equation is elaborated and makes it a temp. The type must be
    # fixed now, before the body is known.
    dtype = recurrence_type(ctx, node, scope)
    scope.names[name] = ctx.declare(
        ctx.target_name(target, scope),
        tuple(i.size for i in indices),
        dtype,
        "ahead",
        node.span,
        tuple(i.name for i in indices),
    )


def is_ahead(found: Value | None) -> bool:
    """Whether the value is a tensor that is declared before its equation."""
    return isinstance(found, Array) and found.tensor is not None and found.tensor.kind == "ahead"
