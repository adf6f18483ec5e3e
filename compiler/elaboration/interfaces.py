"""What a layer or function declares of its inputs and results, against what it is given.

In: parameters and values. Out: the values as tensors, with the sizes in the declaration bound.
"""

from __future__ import annotations

from ...dsl.diagnostics.diagnostic import Note, did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.dtypes import is_float
from .builder import Scope
from .builtins import Builtins
from .values import Array, Poison, Shape, Static, Value, is_static, lift


class Interfaces(Builtins):
    """Adds declared shapes and types to expressions."""

    def bind(
        self,
        parameters: tuple[s.Parameter, ...],
        arguments: tuple[s.Argument, ...],
        piped: list[Static | Array],
        name: s.Name,
        span: Span,
        scope: Scope,
        fixed: bool = False,
    ) -> dict[str, Value]:
        """Arguments by parameter; `fixed` ones must be known when compiling."""
        names = [p.name for p in parameters]
        given: dict[str, Value] = dict(zip(names, piped, strict=False))
        position = len(piped)
        for argument in arguments:
            if argument.name is None:
                if position >= len(names):
                    raise self.error(
                        "E0204",
                        f"`{name.id}` takes {len(names)} "
                        f"{'setting' if fixed else 'argument'}{'s' * (len(names) != 1)}",
                        argument.span,
                        label="one too many",
                    )
                target = names[position]
                position += 1
            else:
                target = argument.name
                if target not in names:
                    raise self.error(
                        "E0204",
                        f"`{name.id}` has no `{target}`",
                        argument.span,
                        help=did_you_mean(target, names),
                    )
            if target in given:
                raise self.error(
                    "E0204", f"`{target}` is given twice", argument.span, label="again here"
                )
            what = f"`{target}` of `{name.id}`"
            given[target] = (
                self.static(
                    argument.value,
                    scope,
                    what,
                    "sizes come from shapes, settings and `let`s of them; what is "
                    f"computed with stands in a second pair of parentheses: `{name.id}(…)(x)`",
                )
                if fixed
                else self.value(argument.value, scope)
            )
        for parameter in parameters:
            if parameter.name not in given:
                if parameter.default is None:
                    raise self.error(
                        "E0205",
                        f"`{name.id}` needs `{parameter.name}`",
                        span,
                        label="it is not given",
                    )
                outer = Scope("", dict(given))
                given[parameter.name] = self.value(parameter.default, outer)
        return given

    def argument_places(
        self,
        parameters: tuple[s.Parameter, ...],
        arguments: tuple[s.Argument, ...],
        piped: int,
        span: Span,
    ) -> dict[str, Span]:
        """Where each input is given, for messages; `piped` ones are given where the layer is."""
        names = [p.name for p in parameters]
        places = dict.fromkeys(names[:piped], span)
        by_position = [a for a in arguments if a.name is None]
        places.update(zip(names[piped:], (a.span for a in by_position), strict=False))
        places.update({a.name: a.span for a in arguments if a.name is not None})
        return places

    def fit(
        self, parameter: s.Parameter, value: Value, inner: Scope, span: Span, scope: Scope
    ) -> Value:
        """An input's value, checked against its declared type, which binds the sizes in it."""
        if parameter.type is None or isinstance(value, Poison | str):
            return value
        array = lift(value, self.float_type)
        if is_static(value) and parameter.default is not None and parameter.type.shape is not None:
            array = self.filled(parameter.type, array, inner, parameter.name)
        wanted = parameter.type.dtype
        if parameter.type.shape is not None:
            self.unify(parameter, array.shape, inner, span)
        if parameter.type.shape is None and is_static(value) and wanted is None:
            return value
        if array.tensor is None:
            name = self.unique(scope.prefix + array.hint)
            array = self.materialise(name, array, span, scope)
        assert array.tensor is not None
        found = array.tensor.dtype
        if wanted and not is_float(wanted) and is_float(found):
            raise self.error(
                "E0307",
                f"{self.input_name(parameter)} takes {wanted}, and this is {found}",
                span,
                label=f"`{array.hint}` is {found}",
                help=f"convert it: `{wanted}({span.text})`, or declare it {wanted} where it "
                "comes from"
                if span.text.isidentifier()
                else f"declare `{array.hint}` {wanted} where it comes from",
            )
        return array

    def filled(self, type: s.Type, number: Array, inner: Scope, name: str) -> Array:
        """A number for an input whose default is one: it fills the declared shape."""
        shape, items = self.shape(type, inner, f"`{name}`"), type.shape or ()
        outer = len(shape) - sum(not isinstance(i, s.Ellipsis_) for i in items)
        axes = ("b",) * outer + self.fresh_axes(shape[outer:])
        return Array(shape, lambda places, outside: number.scalar(), axes, hint=name)

    def input_name(self, parameter: s.Parameter) -> str:
        """The input `label` of `cross_entropy`, as messages call it."""
        return f"`{parameter.name}`" + (f" of `{self.calls[-1].name}`" if self.calls else "")

    def unify(self, parameter: s.Parameter, shape: Shape, scope: Scope, span: Span) -> None:
        """Bind the names in a declared shape to the sizes found, and check all else."""
        assert parameter.type is not None and parameter.type.shape is not None
        pattern = parameter.type.shape
        dots = [n for n, p in enumerate(pattern) if isinstance(p, s.Ellipsis_)]
        wrong = len(shape) < len(pattern) - 1 if dots else len(shape) != len(pattern)
        called = self.input_name(parameter)
        declared = Note(parameter.span, "declared here")
        if wrong:
            wanted = len(pattern) - len(dots)
            raise self.error(
                "E0301",
                f"{called} needs {'at least ' * len(dots)}{wanted} "
                f"dimension{'s' * (wanted != 1)}, "
                f"and this has {len(shape)}",
                span,
                label=f"its shape is {list(shape)}",
                notes=(declared,),
                help=self.rank_advice(pattern, shape),
            )
        items: list[tuple[s.Node, int]] = []
        if dots:
            place, count = dots[0], len(shape) - len(pattern) + 1
            outer = shape[place : place + count]
            known = scope.names.setdefault("...", outer)  # type: ignore[arg-type]
            origin = scope.origins.setdefault("...", (span, parameter.name))
            if known != outer:
                raise self.error(
                    "E0301",
                    f"the leading dimensions of {called} do not fit",
                    span,
                    label=f"`...` is {list(outer)} here",
                    notes=(
                        Note(origin[0], f"`...` is {list(known)} here (`{origin[1]}`)"),  # type: ignore
                        declared,
                    ),
                    help="labels are whole numbers, without a dimension for the classes"
                    if parameter.type.dtype == "i32" and outer[:-1] == known
                    else "",
                )
            items = [
                *zip(pattern[:place], shape[:place], strict=True),
                *zip(pattern[place + 1 :], shape[place + count :], strict=True),
            ]
        else:
            items = list(zip(pattern, shape, strict=True))
        for item, size in items:
            if isinstance(item, s.Name) and item.id not in scope.names:
                scope.names[item.id] = size
                scope.origins[item.id] = span, parameter.name
                continue
            wanted = self.size(item, scope, f"the size `{item.span.text}` of {called}")
            if wanted != size:
                text = item.span.text
                known_at, source = scope.origins.get(text, (None, ""))
                first = (
                    (Note(known_at, f"`{text}` is {wanted} here (`{source}`)"),) if known_at else ()
                )
                says = wanted if text == str(wanted) else f"`{text}` = {wanted}"
                raise self.error(
                    "E0301",
                    f"{called} has shape {list(shape)}",
                    span,
                    label=f"{size} is found where {says} is declared",
                    notes=(*first, declared),
                )

    def rank_advice(self, pattern: tuple[s.Expr, ...], shape: Shape) -> str:
        """What is likely to be missing where the number of dimensions is wrong."""
        if [p.id for p in pattern if isinstance(p, s.Name)] == ["h", "w", "c"]:
            return "images are [batch, height, width, channels]"
        if len(shape) == 4 and not self.calls:
            return "is a `Flatten` missing before the last layers?"
        if not shape and self.calls:
            return "it takes a whole tensor: apply it in an equation without indices, then index"
        return ""

    def result(self, parameter: s.Parameter, scope: Scope) -> Value:
        value = scope.names.get(parameter.name)
        if value is None:
            raise self.error(
                "E0209", f"result `{parameter.name}` is never given a value", parameter.span
            )
        if isinstance(value, Array) and parameter.type and parameter.type.shape is not None:
            place = scope.awaited.get(parameter.name, parameter).span
            head = Span(place.source, place.start, place.start + len(parameter.name))
            found = head if head.text == parameter.name else place
            self.unify(parameter, value.shape, scope, found)
        return value

    # --- declared shapes -----------------------------------------------------------------------

    def shape(self, type: s.Type, scope: Scope, what: str) -> Shape:
        result: list[int] = []
        for item in type.shape or ():
            if isinstance(item, s.Ellipsis_):
                result += scope.names.get("...", ())  # type: ignore[arg-type]
            else:
                result.append(self.size(item, scope, f"the size `{item.span.text}` of {what}"))
        return tuple(result)

    def shape_axes(self, type: s.Type) -> tuple[str, ...]:
        """Names for dimensions declared with simple names: `[n, units]`; else none."""
        names = [i.id.lower() for i in type.shape or () if isinstance(i, s.Name)]
        if len(names) != len(type.shape or ()) or len(set(names)) != len(names):
            return ()
        return tuple(n[0] for n in names) if len({n[0] for n in names}) == len(names) else ()
