"""Interfaces: the arguments of a layer or fn against its declared parameters and shapes.

`bind` assigns arguments to parameters. `unify` matches a declared shape `[..., h, w, c]` with the
shape that is given: a name that has no size yet is bound to it, all else must be equal.
"""

from __future__ import annotations

from ...dsl.check.calls import lacks_input
from ...dsl.check.names import DISCARDED
from ...dsl.diagnostics.diagnostic import Note, did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.dtypes import HALVES, is_float
from .broadcasting import as_declared, materialize
from .context import LETTERS, Context
from .dispatch import size, static, value
from .names import find
from .scopes import BodyScope
from .values import Array, NamedLayer, Poison, Shape, Static, Value, is_static, lift


def bind(
    ctx: Context,
    parameters: tuple[s.Parameter, ...],
    arguments: tuple[s.Argument, ...],
    piped: list[Static | Array],
    name: s.Name,
    span: Span,
    scope: BodyScope,
    fixed: bool = False,
) -> dict[str, Value]:
    """Arguments by parameter, defaults included; `fixed` ones must be compile-time constants.
    E0204 or E0205 if they do not match the parameters."""
    names = [p.name for p in parameters]
    # A piped value is the first input, positional arguments go on after it. What is piped beyond
    # the parameters is dropped.
    given: dict[str, Value] = dict(zip(names, piped, strict=False))
    position = len(piped)
    for argument in arguments:
        target = argument.name
        if target is None:
            if position >= len(names):
                raise ctx.error(
                    "E0204",
                    f"`{name.id}` takes {len(names)} "
                    f"{'setting' if fixed else 'argument'}{'s' * (len(names) != 1)}",
                    argument.span,
                    label="one too many",
                )
            target = names[position]
            position += 1
        elif target not in names:
            raise ctx.error(
                "E0204",
                f"`{name.id}` has no `{target}`",
                argument.span,
                help=did_you_mean(target, names),
            )
        if target in given:
            raise ctx.error(
                "E0204", f"`{target}` is given twice", argument.span, label="again here"
            )
        # Settings decide sizes and structure, so each must be a number or a word by now.
        if fixed:
            advice = (
                "sizes come from shapes, settings and `let`s of them; what is "
                f"computed with stands in a second pair of parentheses: `{name.id}(…)(x)`"
            )
            what = f"`{target}` of `{name.id}`"
            given[target] = static(ctx, argument.value, scope, what, advice)
        else:
            given[target] = value(ctx, argument.value, scope)
    for parameter in parameters:
        if parameter.name in given:
            continue
        if parameter.default is None:
            raise ctx.error(
                "E0205",
                f"`{name.id}` needs `{parameter.name}`",
                span,
                label="it is not given",
                help=f"it is written `{name.id}"
                f"({', '.join(p.name for p in parameters if p.default is None)})`",
            )
        # Defaults see the parameters before them, as in `Conv(k, stride = k)`, and nothing of the
        # caller.
        given[parameter.name] = value(ctx, parameter.default, BodyScope("", dict(given)))
    return given


def name_layer(ctx: Context, node: s.Equation, scope: BodyScope) -> bool:
    """`enc = Dense(8)`: give a layer with its settings a name, if the equation does that."""
    callee = node.value.function if isinstance(node.value, s.Call) else node.value
    (target,) = node.targets
    if target.primed or not isinstance(callee, s.Name):
        return False
    # with a tensor `Dense`, the name alone is that tensor
    if isinstance(node.value, s.Name) and callee.id in scope.names:
        return False
    definition = find(ctx, callee)
    if definition is None or not lacks_input(node.value, definition):
        return False
    written = node.value.arguments if isinstance(node.value, s.Call) else ()
    settings = bind(ctx, definition.settings, written, [], callee, node.span, scope, fixed=True)
    scope.layers[target.id] = NamedLayer(target.id, definition, settings)
    return True


def argument_spans(
    parameters: tuple[s.Parameter, ...], arguments: tuple[s.Argument, ...], piped: int, span: Span
) -> dict[str, Span]:
    """Where each input is given, for messages; `piped` ones are given where the layer is."""
    names = [p.name for p in parameters]
    places = dict.fromkeys(names[:piped], span)
    by_position = [a for a in arguments if a.name is None]
    places.update(zip(names[piped:], (a.span for a in by_position), strict=False))
    places.update({a.name: a.span for a in arguments if a.name is not None})
    return places


def input_value(
    ctx: Context,
    parameter: s.Parameter,
    given: Value,
    inner: BodyScope,
    span: Span,
    scope: BodyScope,
) -> Value:
    """An input in the body's scope `inner`: a tensor, unless it is a number whose type is not
    declared. Its declared shape binds sizes there. E0301 or E0307 if it does not fit."""
    type = parameter.type
    # GRU's `length = inf` has no type: it may be one number or a tensor with one for each sequence
    if type is None or isinstance(given, Poison | str):
        return given
    array = lift(given, ctx.float_type)
    if type.shape is not None:
        # `RNN(8)(x)` with `h0: [..., units] = 0`: the default stands for a tensor of zeros
        if is_static(given) and parameter.default is not None:
            array = _filled(ctx, type, array, inner, parameter.name)
        unify(ctx, parameter, array.shape, inner, span)
    elif is_static(given) and type.dtype is None:
        return given
    if type.dtype in HALVES:
        array = as_declared(ctx, array, type.dtype, span)
    # The body indexes its inputs, possibly often: the expression is computed once, by an equation.
    if array.tensor is None:
        array = materialize(ctx, ctx.unique(scope.prefix + array.hint), array, span, scope)
    assert array.tensor is not None
    # Integers convert to floats where they are used; only the lossy direction is an error.
    wanted, found = type.dtype, array.tensor.dtype
    if wanted and not is_float(wanted) and is_float(found):
        raise ctx.error(
            "E0307",
            f"{_input_name(ctx, parameter)} takes {wanted}, and this is {found}",
            span,
            label=f"`{array.hint}` is {found}",
            help=_exchanged(ctx, parameter)
            or (
                f"convert it: `{wanted}({span.text})`, or declare it {wanted} where it comes from"
                if span.text.isidentifier()
                else f"declare `{array.hint}` {wanted} where it comes from"
            ),
        )
    return array


def _exchanged(ctx: Context, parameter: s.Parameter) -> str:
    """`cross_entropy(label, y)`: real numbers where whole ones are declared, and whole numbers are
    given for the input before. Help with the two exchanged, "" if that is not the mistake."""
    declared = parameter.type.dtype if parameter.type else None
    if not ctx.calls or not declared or is_float(declared):
        return ""
    given = [(n, v) for n, v in ctx.calls[-1].given.items() if isinstance(v, Array) and v.tensor]
    names = [n for n, _ in given]
    if parameter.name not in names[1:]:
        return ""
    place = names.index(parameter.name)
    own, other = given[place][1].tensor, given[place - 1][1].tensor
    assert own is not None and other is not None
    if not is_float(own.dtype) or is_float(other.dtype):
        return ""
    order = [own.name, other.name]
    return f"in the other order: `{ctx.calls[-1].name}({', '.join(order)})`" if place == 1 else ""


def _filled(ctx: Context, type: s.Type, number: Array, inner: BodyScope, name: str) -> Array:
    """A number for an input whose default is one: it fills the declared shape."""
    shape, items = declared_shape(ctx, type, inner, f"`{name}`"), type.shape or ()
    # the number of dimensions that `...` stands for
    outer = len(shape) - sum(not isinstance(i, s.Ellipsis_) for i in items)
    axes = ("b",) * outer + LETTERS[: len(shape) - outer]
    return Array(shape, lambda places, outside: number.scalar(), axes, hint=name)


def _input_name(ctx: Context, parameter: s.Parameter) -> str:
    """The input `label` of `cross_entropy`, as messages call it."""
    return f"`{parameter.name}`" + (f" of `{ctx.calls[-1].name}`" if ctx.calls else "")


def result(ctx: Context, parameter: s.Parameter, scope: BodyScope) -> Value:
    """The value of a declared result; E0209 if the body gives it none."""
    found = scope.names.get(parameter.name)
    if found is None:
        raise ctx.error(
            "E0209", f"result `{parameter.name}` is never given a value", parameter.span
        )
    if isinstance(found, Array) and parameter.type and parameter.type.shape is not None:
        # The caret goes to the name in the equation that computes it, not to the whole equation.
        place = scope.defined_by.get(parameter.name, parameter).span
        head = Span(place.source, place.start, place.start + len(parameter.name))
        unify(ctx, parameter, found.shape, scope, head if head.text == parameter.name else place)
    return found


# --- declared shapes ----------------------------------------------------------------------------


def unify(ctx: Context, parameter: s.Parameter, shape: Shape, scope: BodyScope, span: Span) -> None:
    """Bind the names in a declared shape to the sizes of `shape`; E0301 where they disagree."""
    assert parameter.type is not None and parameter.type.shape is not None
    pattern, given = parameter.type.shape, shape
    dots = [n for n, p in enumerate(pattern) if isinstance(p, s.Ellipsis_)]
    called = _input_name(ctx, parameter)
    declared = Note(parameter.span, "declared here")
    # `...` may stand for no dimension at all
    if len(shape) < len(pattern) - 1 if dots else len(shape) != len(pattern):
        wanted = len(pattern) - len(dots)
        raise ctx.error(
            "E0301",
            f"{called} needs {'at least ' * len(dots)}{wanted} dimension{'s' * (wanted != 1)}, "
            f"and this has {len(shape)}",
            span,
            label=f"its shape is {list(shape)}",
            notes=(declared,),
            help=_rank_advice(ctx, parameter.name, pattern, shape),
        )
    if dots:
        # [..., h, w, c] against (8, 28, 28, 1): `...` is (8,); the rest is compared one by one
        place, count = dots[0], len(shape) - len(pattern) + 1
        _unify_leading(ctx, parameter, shape[place : place + count], scope, span)
        pattern = pattern[:place] + pattern[place + 1 :]
        shape = shape[:place] + shape[place + count :]
    for item, extent in zip(pattern, shape, strict=True):
        # `_` is any size; not a model's, which is one that is bound from outside
        if isinstance(item, s.Name) and item.id == DISCARDED and DISCARDED not in scope.names:
            continue
        # First occurrence of a size binds it; `origins` remembers where, for a later disagreement.
        if isinstance(item, s.Name) and item.id not in scope.names:
            scope.names[item.id] = extent
            scope.origins[item.id] = span, parameter.name
            continue
        text = item.span.text
        # A known name, a number, or arithmetic on known names: `[n, 2*n]`.
        wanted = size(ctx, item, scope, f"the size `{text}` of {called}")
        if wanted != extent:
            known_at, source = scope.origins.get(text, (None, ""))
            first = (Note(known_at, f"`{text}` is {wanted} here (`{source}`)"),) if known_at else ()
            # `784` alone instead of "`784` = 784"
            says = wanted if text == str(wanted) else f"`{text}` = {wanted}"
            raise ctx.error(
                "E0301",
                f"{called} has shape {list(given)}",
                span,
                label=f"{extent} is found where {says} is declared",
                notes=(*first, declared),
            )


def _unify_leading(
    ctx: Context, parameter: s.Parameter, outer: Shape, scope: BodyScope, span: Span
) -> None:
    """Bind `...` to the leading dimensions, or compare them with what it is bound to."""
    # All inputs of a layer share one `...`; the first binds it.
    known = scope.leading = outer if scope.leading is None else scope.leading
    place, source = scope.origins.setdefault("...", (span, parameter.name))
    if known != outer:
        assert parameter.type is not None
        raise ctx.error(
            "E0301",
            f"the leading dimensions of {_input_name(ctx, parameter)} do not fit",
            span,
            label=f"`...` is {list(outer)} here",
            notes=(
                Note(place, f"`...` is {list(known)} here (`{source}`)"),
                Note(parameter.span, "declared here"),
            ),
            help=_exchanged(ctx, parameter)
            or (
                "labels are whole numbers, without a dimension for the classes"
                # [32, 10] where [32] is meant: one-hot labels
                if parameter.type.dtype == "i32" and outer[:-1] == known
                else ""
            ),
        )


def _rank_advice(ctx: Context, name: str, pattern: tuple[s.Expr, ...], shape: Shape) -> str:
    """What is likely to be missing where the number of dimensions is wrong."""
    if [p.id for p in pattern if isinstance(p, s.Name)] == ["h", "w", "c"]:
        return "images are [batch, height, width, channels]"
    if not ctx.calls and not any(isinstance(p, s.Ellipsis_) for p in pattern):
        if len(shape) == 4:
            return "is a `Flatten` missing before the last layers?"
        # `y = x |> Dense(1)` for y: [B]
        if len(shape) == len(pattern) + 1 and shape[-1] == 1:
            places = ", ".join(LETTERS[: len(pattern)])
            read = f"h[{places}, 0]" if places else "h[0]"
            return f"name it `h = …`, and drop its last dimension: `{name}[{places}] = {read}`"
        # x: [8] for y: [B, 8]
        if len(shape) == len(pattern) - 1 and not isinstance(pattern[0], s.Number):
            sizes = ", ".join(map(str, ("B", *shape)))
            return f"is the batch missing in the shape of an input, `f32[{sizes}]`?"
        # the steps of a recurrent layer, where the last one is meant
        if (len(shape), len(pattern)) == (3, 2):
            return "of all steps of a sequence, `… |> last` takes the last one"
    if not shape and ctx.calls:
        return "it takes a whole tensor: apply it in an equation without indices, then index"
    return ""


def declared_shape(ctx: Context, type: s.Type, scope: BodyScope, what: str) -> Shape:
    """The shape that a type states, in a scope where its sizes are known."""
    sizes: list[int] = []
    for item in type.shape or ():
        if isinstance(item, s.Ellipsis_):
            sizes += scope.leading or ()
        else:
            sizes.append(size(ctx, item, scope, f"the size `{item.span.text}` of {what}"))
    return tuple(sizes)
