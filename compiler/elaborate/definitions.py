"""Layers, functions and models: their bodies, each time they are used, as equations.

In: definitions and the values given to them. Out: the values of their results. Every use is
elaborated anew with its own sizes, and with parameters of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ...dsl import syntax as s
from ...dsl.diagnostics import Note, UserError, did_you_mean
from ...dsl.library import standard_library
from ...dsl.source import Span
from ..ir import Equation, Expr, Idx, Index, Tensor, is_float
from ..printer import number
from ..scalar import call, cast, literal
from .builder import Abort, Application, Builder, Scope, fits
from .expressions import POINTWISE, Expressions, nodes
from .values import Array, Poison, Shape, Static, Value, is_static, lift, of_tensor

Later = dict[str, tuple[s.Equation, Mapping[str, s.Type]]]
KEPT = ("stop", "f64", "i64", "u8")  # of a number: has a type that a plain number has not
# of a tensor's shape, known when compiling
FACTS: dict[str, Callable[[Shape], int]] = {"rank": len, "count": math.prod}
MAX_REPEAT = 10_000
MAX_STATEMENTS = 100_000
MAX_DEPTH = 40  # of layers and fns that apply each other


class Definitions(Expressions):
    """Adds calls and statements to expressions."""

    def __init__(self, *args, **more):
        Builder.__init__(self, *args, **more)
        self.pending: list[tuple[dict[str, Value], Later]] = []
        self.inferring: list[str] = []
        self.statements = 0
        self.outermost: Scope | None = None  # of the model, and those results of it that
        self.results: frozenset[str] = frozenset()  # no `repeat` computes anew
        self.repeats = 0  # how many `repeat` blocks are open: they give names their next values
        self.inits: dict[str, tuple[s.Expr, Scope]] = {}

    # --- calls --------------------------------------------------------------------------------

    def call(self, node: s.Call | s.Pipe, scope: Scope) -> tuple[Value, ...]:
        if isinstance(node, s.Pipe):
            piped = self.passed_on(node.value, scope)
            stage = node.stage
            if isinstance(stage, s.Name):
                return self.apply(stage, None, (), [piped], stage.span, scope)
            if isinstance(stage, s.Call) and isinstance(stage.function, s.Name):
                return self.apply(stage.function, stage, (), [piped], stage.span, scope)
            if isinstance(stage, s.Call) and isinstance(stage.function, s.Call):
                settings = stage.function
                assert isinstance(settings.function, s.Name)
                return self.apply(
                    settings.function, settings, stage.arguments, [piped], stage.span, scope
                )
            raise self.error("E0203", "`|>` passes a value on to a layer or a function", stage.span)
        function = node.function
        if isinstance(function, s.Name):
            definition = self.find(function)
            if definition is not None and definition.settings:
                raise self.error(
                    "E0205", f"`{function.id}` is not applied to an input", node.span,
                    help=f"pipe into it: `x |> {node.span.text}`, or `{node.span.text}(x)`",
                )  # fmt: skip
            return self.apply(function, None, node.arguments, [], node.span, scope)
        if isinstance(function, s.Call) and isinstance(function.function, s.Name):
            return self.apply(function.function, function, node.arguments, [], node.span, scope)
        raise self.error("E0203", "only a name can be called", function.span)

    def passed_on(self, node: s.Expr, scope: Scope) -> Static | Array:
        """What a pipeline hands to its next stage: of several results the first (an LSTM's h)."""
        first = self.values(node, scope)[0]
        if isinstance(first, Poison):
            raise Abort()
        return first

    def find(self, name: s.Name) -> s.Definition | None:
        """What a name means where it is written: a file may define a name of the library anew, but
        the library goes on using its own."""
        if name.span.source.library:
            return standard_library().get(name.id)
        return self.definitions.get(name.id)

    def apply(
        self, name: s.Name, settings: s.Call | None, arguments: tuple[s.Argument, ...],
        piped: list[Static | Array], span: Span, scope: Scope,
    ) -> tuple[Value, ...]:  # fmt: skip
        """`name(settings)(piped, arguments)`; a fn has no settings, so they are its arguments."""
        definition = self.find(name)
        if definition is None:
            extra = settings.arguments if settings else ()
            return (self.builtin(name, (*extra, *arguments), piped, span, scope),)
        if definition.kind == "optimizer":
            raise self.error("E0203", f"`{name.id}` is an optimizer", name.span,
                             help="it belongs in a train block: "
                             f"`optimizer = {name.id}(…)`")  # fmt: skip
        given: dict[str, Value] = {}
        written = settings.arguments if settings else ()
        if definition.settings:
            given |= self.bind(definition.settings, written, [], name, span, scope, fixed=True)
        else:
            arguments = (*written, *arguments)
        inputs = self.bind(definition.inputs, arguments, piped, name, span, scope)
        if len(self.calls) >= MAX_DEPTH:
            self.too_deep(name, span)
        self.calls.append(Application(name.id, span, inputs))
        try:
            if definition.value is not None:
                inner = Scope(scope.prefix, inputs, scope.indices, scope.ellipsis, name.id, span,
                              frozenset(scope.indices))  # fmt: skip
                result = self.value(definition.value, inner)
                if isinstance(result, Array) and result.tensor is None:
                    result = Array(result.shape, result.element, result.axes, None, name.id)
                return (result,)
            places = self.argument_places(definition.inputs, arguments, len(piped), span)
            return self.instantiate(definition, given, inputs, span, scope, places=places)
        finally:
            self.calls.pop()

    def too_deep(self, name: s.Name, span: Span) -> None:
        """A definition that goes on applying itself: nothing after it can be known."""
        outermost = next((c for c in self.calls if c.name == name.id), None)
        told, self.calls = self.calls, []
        self.error("E0213", f"`{name.id}` goes on applying itself",
                   outermost.span if outermost else span,
                   label=f"after {MAX_DEPTH} applications within each other there is no end",
                   notes=(Note(span, "it is applied again here"),) if outermost else (),
                   help="stack layers with `repeat`")  # fmt: skip
        self.calls = told
        raise UserError(self.report.diagnostics)

    def argument_places(
        self, parameters: tuple[s.Parameter, ...], arguments: tuple[s.Argument, ...],
        piped: int, span: Span,
    ) -> dict[str, Span]:  # fmt: skip
        """Where each input is given, for messages; `piped` ones are given where the layer is."""
        names = [p.name for p in parameters]
        places = dict.fromkeys(names[:piped], span)
        by_position = [a for a in arguments if a.name is None]
        places.update(zip(names[piped:], (a.span for a in by_position), strict=False))
        places.update({a.name: a.span for a in arguments if a.name is not None})
        return places

    def bind(
        self, parameters: tuple[s.Parameter, ...], arguments: tuple[s.Argument, ...],
        piped: list[Static | Array], name: s.Name, span: Span, scope: Scope, fixed: bool = False,
    ) -> dict[str, Value]:  # fmt: skip
        """Arguments by parameter; `fixed` ones must be known when compiling."""
        names = [p.name for p in parameters]
        given: dict[str, Value] = dict(zip(names, piped, strict=False))
        position = len(piped)
        for argument in arguments:
            if argument.name is None:
                if position >= len(names):
                    raise self.error(
                        "E0204", f"`{name.id}` takes {len(names)} "
                        f"{'setting' if fixed else 'argument'}{'s' * (len(names) != 1)}",
                        argument.span, label="one too many",
                    )  # fmt: skip
                target = names[position]
                position += 1
            else:
                target = argument.name
                if target not in names:
                    raise self.error("E0204", f"`{name.id}` has no `{target}`", argument.span,
                                     help=did_you_mean(target, names))  # fmt: skip
            if target in given:
                raise self.error("E0204", f"`{target}` is given twice", argument.span,
                                 label="again here")  # fmt: skip
            what = f"`{target}` of `{name.id}`"
            given[target] = (
                self.static(argument.value, scope, what)
                if fixed
                else self.value(argument.value, scope)
            )
        for parameter in parameters:
            if parameter.name not in given:
                if parameter.default is None:
                    raise self.error("E0205", f"`{name.id}` needs `{parameter.name}`", span,
                                     label="it is not given")  # fmt: skip
                outer = Scope("", dict(given))
                given[parameter.name] = self.value(parameter.default, outer)
        return given

    # --- builtin functions --------------------------------------------------------------------

    def builtin(
        self, name: s.Name, arguments: tuple[s.Argument, ...], piped: list[Static | Array],
        span: Span, scope: Scope,
    ) -> Static | Array:  # fmt: skip
        fn = name.id
        for argument in arguments:
            if argument.name is not None:
                raise self.error("E0204", f"`{fn}` has no argument called `{argument.name}`",
                                 argument.span)  # fmt: skip
        values = [*piped, *(self.value(a.value, scope) for a in arguments)]
        for value, argument in zip(values[len(piped) :], arguments, strict=True):
            if isinstance(value, str):
                raise self.error("E0312", "a word cannot be computed with", argument.span)
        arrays = [lift(v, self.float_type) for v in values]
        if fn in POINTWISE and len(arrays) == 1:
            result = self.pointwise(fn, arrays, span)
            if all(map(is_static, values)) and fn not in KEPT:
                return self.folded(result)
            return result
        if fn in ("max", "min") and len(arrays) > 1:
            result = arrays[0]
            for other in arrays[1:]:
                result = self.pointwise(fn, [result, other], span)
            return self.folded(result) if all(map(is_static, values)) else result
        if fn in s.REDUCTIONS and len(arrays) == 1:
            return self.whole(fn, arrays[0], span, scope)
        if fn in FACTS and len(arrays) == 1:
            return FACTS[fn](arrays[0].shape)
        if fn == "random" and len(arrays) in (0, 4):
            if arrays:
                return self.as_float(self.pointwise("random", arrays, span), span)
            return self.random(scope, span)
        known = [*POINTWISE, *s.REDUCTIONS, *FACTS, "random", *self.definitions]
        if fn in known:
            raise self.error("E0204", f"`{fn}` does not take {len(arrays)} arguments", span)
        raise self.error("E0203", f"unknown layer or function `{fn}`", name.span,
                         label="not defined here or in the library",
                         help=did_you_mean(fn, known))  # fmt: skip

    def folded(self, array: Array) -> Static | Array:
        expr = array.scalar()
        return expr.value if hasattr(expr, "value") else array

    def as_float(self, array: Array, span: Span) -> Array:
        return self.pointwise("f32", [array], span)

    def random(self, scope: Scope, span: Span) -> Array:
        """A fresh uniform draw for every element of whatever it is used in; the same for the same
        seed, step, place in the file and index, at any time and on any backend."""
        stream = literal(self.streams)
        self.streams += 1
        seed, step = self.scalar_input("seed").scalar(), self.scalar_input("step").scalar()
        own = dict(scope.indices)

        def element(indices, shape: Shape):
            flat: Expr = literal(0)
            places = [*((Idx(n), size) for n, size in own.items()),
                      *zip(indices, shape, strict=True)]  # fmt: skip
            for index, size in places:
                flat = call("add", call("mul", flat, literal(size)), index)
            return cast(call("random", seed, step, stream, flat), self.float_type)

        return Array((), element, (), hint="random")

    # --- a definition in use ------------------------------------------------------------------

    def instantiate(
        self, definition: s.Definition, settings: Mapping[str, Value],
        inputs: Mapping[str, Value], span: Span, scope: Scope,
        results: tuple[Shape, ...] | None = None, places: Mapping[str, Span] | None = None,
    ) -> tuple[Value, ...]:  # fmt: skip
        """The body for these inputs, given at `places`. `results` are shapes that the results must
        have, if the context knows them (an initialiser's parameter)."""
        if definition.kind == "optimizer":
            raise Abort()
        prefix = scope.prefix + self.instance(f"{scope.prefix}{definition.name.lower()}")[
            len(scope.prefix) :
        ] + "_"  # fmt: skip
        inner = Scope(prefix, dict(settings), target=definition.name.lower(), span=span)
        if self.calls:
            self.calls[-1].names = inner.names
        for parameter in definition.inputs:
            value = inputs[parameter.name]
            place = (places or {}).get(parameter.name, span)
            inner.names[parameter.name] = self.fit(parameter, value, inner, place, scope)
        if results is not None:
            for parameter, shape in zip(definition.results, results, strict=True):
                self.unify(parameter, shape, inner, span)
        self.body(definition.body, inner, {r.name: r.type for r in definition.results if r.type})
        return tuple(self.result(r, inner) for r in definition.results)

    def fit(
        self, parameter: s.Parameter, value: Value, inner: Scope, span: Span, scope: Scope
    ) -> Value:
        """An input's value, checked against its declared type, which binds the sizes in it."""
        if parameter.type is None or isinstance(value, Poison | str):
            return value
        array = lift(value, self.float_type)
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
                "E0307", f"{self.input_name(parameter)} takes {wanted}, and this is {found}", span,
                label=f"`{array.hint}` is {found}",
                help=f"convert it: `{wanted}({span.text})`, or declare it {wanted} where it "
                "comes from" if span.text.isidentifier() else "",
            )  # fmt: skip
        return array

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
                "E0301", f"{called} needs {'at least ' * len(dots)}{wanted} "
                f"dimension{'s' * (wanted != 1)}, "
                f"and this has {len(shape)}", span, label=f"its shape is {list(shape)}",
                notes=(declared,), help=self.rank_advice(pattern, shape),
            )  # fmt: skip
        items: list[tuple[s.Node, int]] = []
        if dots:
            place, count = dots[0], len(shape) - len(pattern) + 1
            outer = shape[place : place + count]
            known = scope.names.setdefault("...", outer)  # type: ignore[arg-type]
            origin = scope.origins.setdefault("...", (span, parameter.name))
            if known != outer:
                raise self.error(
                    "E0301", f"the leading dimensions of {called} do not fit", span,
                    label=f"`...` is {list(outer)} here",
                    notes=(Note(origin[0], f"`...` is {list(known)} here (`{origin[1]}`)"),  # type: ignore
                           declared),
                    help="labels are whole numbers, without a dimension for the classes"
                    if parameter.type.dtype == "i32" and outer[:-1] == known else "",
                )  # fmt: skip
            items = [*zip(pattern[:place], shape[:place], strict=True),
                     *zip(pattern[place + 1 :], shape[place + count :], strict=True)]  # fmt: skip
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
                first = (Note(known_at, f"`{text}` is {wanted} here (`{source}`)"),) \
                    if known_at else ()
                says = wanted if text == str(wanted) else f"`{text}` = {wanted}"
                raise self.error(
                    "E0301", f"{called} has shape {list(shape)}", span,
                    label=f"{size} is found where {says} is declared",
                    notes=(*first, declared),
                )  # fmt: skip

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
            raise self.error("E0209", f"result `{parameter.name}` is never given a value",
                             parameter.span)  # fmt: skip
        if isinstance(value, Array) and parameter.type and parameter.type.shape is not None:
            place = scope.awaited.get(parameter.name, parameter.span)
            head = Span(place.source, place.start, place.start + len(parameter.name))
            found = head if head.text == parameter.name else place
            self.unify(parameter, value.shape, scope, found)
        return value

    # --- statements ---------------------------------------------------------------------------

    def body(
        self, statements: tuple[s.Statement, ...], scope: Scope, declared: Mapping[str, s.Type]
    ) -> None:
        """All statements; one that is wrong poisons its names, and the rest is still looked at."""
        later: Later = {}
        for statement in statements:
            scope.awaited |= {n: statement.span for n in self.assigned(statement)}
            if isinstance(statement, s.Equation) and statement.indices is not None:
                for target in statement.targets:
                    later.setdefault(target.id + "'" * target.primed, (statement, declared))
        with self.awaiting(scope, later):
            for statement in statements:
                try:
                    with self.shallow(statement):
                        self.statement(statement, scope, declared)
                except Abort:
                    for name in self.assigned(statement):
                        scope.names.setdefault(name, Poison())

    @contextmanager
    def awaiting(self, scope: Scope, later: Later) -> Iterator[None]:
        self.pending.append((scope.names, later))
        try:
            yield
        finally:
            self.pending.pop()

    @staticmethod
    def assigned(statement: s.Statement) -> list[str]:
        match statement:
            case s.Let(name=name) | s.State(name=name):
                return [name.id]
            case s.Param(names=names):
                return [n.id for n in names]
            case s.Equation(targets=targets):
                return [t.id + "'" * t.primed for t in targets]
        return []

    def statement(
        self, statement: s.Statement, scope: Scope, declared: Mapping[str, s.Type]
    ) -> None:
        self.statements += 1
        if self.statements > MAX_STATEMENTS:
            self.error("E0311", f"the program has more than {MAX_STATEMENTS:,} statements",
                       statement.span, label="with all layers written out",
                       help="is a `repeat` too large?")  # fmt: skip
            raise UserError(self.report.diagnostics)
        match statement:
            case s.Let():
                scope.names[statement.name.id] = self.value(statement.value, scope)
            case s.Param():
                self.param(statement, scope)
            case s.State():
                self.state(statement, scope)
            case s.Repeat():
                count = self.size(statement.count, scope, "how often to repeat")
                if count > MAX_REPEAT:
                    raise self.error(
                        "E0311", f"`repeat {count:,}` is more than {MAX_REPEAT:,}",
                        statement.count.span, label="every block is written out",
                        help="many steps of one thing are a recurrence: `h[t] = … (h[t-1] else 0)`",
                    )  # fmt: skip
                self.repeats += 1
                for _ in range(count):
                    self.body(statement.body, scope, declared)
                self.repeats -= 1
            case s.Equation(accumulate=True):
                self.accumulation(statement, scope)
            case s.Equation():
                self.equation(statement, scope, declared)

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

    def param(self, node: s.Param, scope: Scope) -> None:
        for name in node.names:
            shape = self.shape(node.type, scope, f"`{name.id}`")
            dtype = self.float_for(node.type.dtype)
            init = self.init_text(node.value, node.drawn, dtype, scope)
            full = self.unique(scope.prefix + name.id)
            scope.names[name.id] = self.declare(
                full, shape, dtype, "param", name.span, self.shape_axes(node.type), init
            )
            self.inits[full] = (node.value, scope)

    def init_text(self, value: s.Expr, drawn: bool, dtype: str, scope: Scope) -> str:
        """How a parameter starts, with the numbers filled in: `~ normal(0.0, 0.02)`, `= 0.0`."""
        if not drawn:
            start = self.static(value, scope, "the first value")
            if isinstance(start, str):
                raise self.error("E0312", "a parameter starts from a number", value.span,
                                 label="this is a word",
                                 help="an initialiser follows a `~`: "
                                 "`~ normal(0, 0.02)`")  # fmt: skip
            return f"= {number(self.first_value(start, dtype, value.span), dtype)}"
        if isinstance(value, s.Name):
            return f"~ {value.id}"
        if isinstance(value, s.Call) and isinstance(value.function, s.Name):
            parts = []
            for argument in value.arguments:
                given = self.static(argument.value, scope, "an initialiser's argument")
                text = repr(given).lower() if isinstance(given, bool) else repr(given)
                parts.append(f"{argument.name} = {text}" if argument.name else text)
            return f"~ {value.function.id}({', '.join(parts)})"
        raise self.error("E0312", "after `~` stands an initialiser", value.span,
                         help="like `~ glorot_uniform` or `~ normal(0, 0.02)`")  # fmt: skip

    def first_value(self, start: bool | int | float, dtype: str, span: Span) -> float:
        """A number that its type can hold."""
        if not is_float(dtype) and isinstance(start, float) and not start.is_integer():
            raise self.error("E0307", f"{start!r} is not a value of the type {dtype}", span,
                             label="a real number")  # fmt: skip
        if not fits(start, dtype):
            raise self.error("E0311", f"{start} does not fit {dtype}", span, label="too large")
        return literal(start, dtype).value

    def state(self, node: s.State, scope: Scope) -> None:
        shape: Shape
        if node.type is not None and node.type.shape is not None:
            shape = self.shape(node.type, scope, f"`{node.name.id}`")
        else:
            like = scope.names.get("p")
            shape = like.shape if isinstance(like, Array) else ()
        dtype = self.float_for(node.type.dtype if node.type else None)
        init = self.init_text(node.value, False, dtype, scope)
        name = self.unique(scope.prefix + node.name.id)
        scope.names[node.name.id] = self.declare(name, shape, dtype, "state", node.span, (), init)

    # --- equations ----------------------------------------------------------------------------

    def equation(self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]) -> None:
        names = [t.id + "'" * t.primed for t in node.targets]
        for name, target in zip(names, node.targets, strict=True):
            known = scope.names.get(name)
            if target.primed:
                self.next_of(target, scope)
            elif (
                isinstance(known, Array) and known.tensor and known.tensor.kind != "foreseen"
                and known.tensor.name == name and not (scope.prefix or self.repeats)
            ):  # fmt: skip
                raise self.error("E0206", f"`{name}` is given a value twice", target.span,
                                 help="give the new value a name of its own")  # fmt: skip
        if node.indices is None and len(names) > 1:
            results = self.values(node.value, scope)
            if len(results) != len(names):
                raise self.error(
                    "E0317", f"{len(results)} result{'s' * (len(results) != 1)} for "
                    f"{len(names)} names", node.value.span,
                    label=f"this gives {len(results)}",
                )  # fmt: skip
            scope.names.update(zip(names, results, strict=True))
            return
        name, target = names[0], node.targets[0]
        if node.indices is None and not isinstance(node.value, s.Reduce):
            scope.names[name] = self.assignment(name, target, node, scope, declared)
        else:
            scope.names[name] = self.indexed(name, target, node, scope, declared)
        if target.primed:
            self.finish_next(target, scope)

    def assignment(
        self, name: str, target: s.Name, node: s.Equation, scope: Scope,
        declared: Mapping[str, s.Type],
    ) -> Value:  # fmt: skip
        """`y = …`, all elements at once. A tensor that has a name keeps it."""
        before = scope.target
        scope.target = target.id
        try:
            value = self.value(node.value, scope)
        finally:
            scope.target = before
        if is_static(value) and name not in declared and not target.primed:
            return value
        array = lift(value, self.float_type)  # type: ignore[arg-type]
        type = declared.get(name)
        if type is not None and type.dtype is not None:
            array = self.as_declared(array, self.float_for(type.dtype), node.value.span)
        must_own = target.primed or not scope.prefix
        if array.tensor is not None and not must_own:
            return array
        if target.primed:
            state = scope.names[target.id]
            assert isinstance(state, Array) and state.tensor
            kept = state.tensor.dtype
            array = self.as_declared(array, kept, node.value.span, f"`{target.id}`")
            array = self.broadcast_to(array, state, node.span)
        return self.materialise(self.full_name(target, scope), array, node.span, None)

    def full_name(self, target: s.Name, scope: Scope) -> str:
        """The tensor's name: its own with the layer's before it; a next value is named after the
        state or parameter that it will become."""
        if target.primed:
            state = scope.names[target.id]
            assert isinstance(state, Array) and state.tensor
            return self.unique(state.tensor.name + "'")
        name = scope.prefix + target.id
        if scope is self.outermost and name in self.results and name not in self.tensors:
            return name
        return self.unique(name)

    def as_declared(
        self, array: Array, dtype: str, span: Span, what: str = "the result"
    ) -> Array:  # fmt: skip
        """A result in its declared type."""
        if array.tensor is not None and array.tensor.dtype == dtype:
            return array
        found = array.element([Idx(f"#{n}") for n in range(array.rank)], array.shape).dtype
        self.keeps_values(found, dtype, span, what)
        return replace(self.pointwise(dtype, [array], span), hint=array.hint)

    def keeps_values(
        self, found: str, dtype: str, span: Span, what: str = "the result"
    ) -> None:  # fmt: skip
        """Refuse to round real numbers in passing."""
        if is_float(found) and not is_float(dtype):
            raise self.error(
                "E0307", f"{what} is declared {dtype}, and this is {found}", span,
                label=f"this is {found}", help=f"convert it where that is meant: `{dtype}(…)`",
            )  # fmt: skip

    def broadcast_to(self, array: Array, like: Array, span: Span) -> Array:
        """The array in the shape and type of another (a next value must be like its state)."""
        shape = self.broadcast([array, like], span)
        if shape != like.shape:
            raise self.misfit(shape, like, span)
        dtype = like.tensor.dtype if like.tensor else self.float_type

        def element(indices, outer):
            return cast(array.element(indices, outer), dtype)

        return Array(like.shape, element, like.axes, None, array.hint)

    def misfit(self, shape: Shape, state: Array, span: Span) -> Abort:
        kept = state.tensor.span if state.tensor else None
        return self.error(
            "E0303", f"the next value has shape {list(shape)}", span,
            label=f"the state has shape {list(state.shape)}",
            notes=(Note(kept, "declared here"),) if kept else (),
            help="is a `mean(...)` over the batch missing?" if len(shape) > state.rank else "",
        )  # fmt: skip

    def next_of(self, target: s.Name, scope: Scope) -> None:
        state = scope.names.get(target.id)
        if isinstance(state, Poison):
            raise Abort()
        kept = isinstance(state, Array) and state.tensor is not None
        if not kept or state.tensor.kind not in ("state", "param"):  # type: ignore[union-attr]
            raise self.error(
                "E0212", f"`{target.id}'` is the next value of nothing", target.span,
                label=f"`{target.id}` is not a state",
                help=f"declare it: `state {target.id}: […] = 0`",
            )  # fmt: skip

    def finish_next(self, target: s.Name, scope: Scope) -> None:
        state, following = scope.names[target.id], scope.names[target.id + "'"]
        assert isinstance(state, Array) and state.tensor
        assert isinstance(following, Array) and following.tensor
        self.updates[state.tensor.name] = following.tensor.name

    def indexed(
        self, name: str, target: s.Name, node: s.Equation, scope: Scope,
        declared: Mapping[str, s.Type],
    ) -> Value:  # fmt: skip
        """`y[i, j] = …`, the value at one point."""
        indices, ellipsis = self.left_side(node, scope, declared)
        inner = replace(
            scope, indices={i.name: i.size for i in indices}, ellipsis=ellipsis, target=target.id,
            span=node.span,
        )  # fmt: skip
        if node.indices is not None:
            self.foresee(name, node, scope, declared, indices)
        reduce: str | None = None
        over: tuple[Index, ...] = ()
        if isinstance(node.value, s.Reduce) and node.value.op != "mean":
            reduce, over, body = self.reduced(node.value, inner)
        else:
            body = self.scalar(node.value, inner)
        foreseen = scope.names.get(name)
        if isinstance(foreseen, Array) and foreseen.tensor and foreseen.tensor.kind == "foreseen":
            tensor = foreseen.tensor
            position = reduce in ("argmax", "argmin")
            if position and tensor.dtype != "i32":
                raise self.error(
                    "E0502", f"`{name}` reads itself through `{reduce}`", node.value.span,
                    label=f"`{reduce}` gives whole numbers, and `{name}` is {tensor.dtype}",
                    help="declare it i32, or is a `max` or `min` meant?",
                )  # fmt: skip
            self.tensors[tensor.name] = Tensor(
                tensor.name, tensor.shape, tensor.dtype, "temp", "", node.span
            )
            body = body if position else cast(body, tensor.dtype)
            self.limit(body, node.span)
            self.equations.append(
                Equation(tensor.name, indices, body, reduce, over, None, node.span)
            )
            return of_tensor(self.tensors[tensor.name], self.axes[tensor.name])
        type = declared.get(name)
        if type is not None and type.dtype is not None and reduce not in ("argmax", "argmin"):
            self.keeps_values(body.dtype, self.float_for(type.dtype), node.value.span)
            body = cast(body, self.float_for(type.dtype))
        if target.primed:
            state = scope.names[target.id]
            kept = state.tensor.dtype  # type: ignore[union-attr]
            self.keeps_values(body.dtype, kept, node.value.span, f"`{target.id}`")
            body = cast(body, state.tensor.dtype)  # type: ignore[union-attr]
        array = self.add(self.full_name(target, scope), indices, body, node.span, reduce, over)
        if target.primed and array.shape != state.shape:  # type: ignore[union-attr]
            raise self.misfit(array.shape, state, node.span)  # type: ignore[arg-type]
        return array

    def left_side(
        self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]
    ) -> tuple[tuple[Index, ...], tuple[str, ...] | None]:
        """The indices on the left, each with its size, and what `...` stands for."""
        target = node.targets[0]
        self.inferring.append(target.id + "'" * target.primed)
        try:
            return self.left_indices(node, scope, declared)
        finally:
            self.inferring.pop()

    def left_indices(
        self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]
    ) -> tuple[tuple[Index, ...], tuple[str, ...] | None]:
        items = node.indices or ()
        type = declared.get(node.targets[0].id) if not node.targets[0].primed else None
        dots: tuple[str, ...] | None = None
        indices: list[Index] = []
        sizes = self.declared_sizes(items, type, scope)
        for item, size in zip(items, sizes, strict=True):
            if not isinstance(item, s.Axis):
                raise self.error("E0106", "on the left stand plain indices", item.span,
                                 help="only `+=` can compute the place it adds to")  # fmt: skip
            if item.name == "...":
                dots, extents = self.ellipsis_range(node.value, scope, item.span)
                indices += map(Index, dots, extents)
                continue
            if any(i.name == item.name for i in indices):
                raise self.error("E0215", f"index `{item.name}` stands twice on the left",
                                 item.span)  # fmt: skip
            extent = self.range_of(item, node.value, scope, size)
            if not extent:
                raise self.error("E0309", f"`{item.name}` would run over nothing", item.span,
                                 label="its size here is 0")  # fmt: skip
            indices.append(Index(item.name, extent))
        return tuple(indices), dots

    def declared_sizes(
        self, items: tuple[s.Axis | s.Expr, ...], type: s.Type | None, scope: Scope
    ) -> list[int | None]:
        """The size that the declared result has for each index on the left, if it says."""
        nothing: list[int | None] = [None] * len(items)
        if type is None or type.shape is None or len(type.shape) != len(items):
            return nothing
        result: list[int | None] = []
        for item in type.shape:
            known = all(n.id in scope.names for n in nodes(item) if isinstance(n, s.Name))
            dots = isinstance(item, s.Ellipsis_)
            what = f"the size `{item.span.text}` of the result"
            result.append(self.size(item, scope, what) if known and not dots else None)
        return result

    # --- recurrences --------------------------------------------------------------------------

    def lookup(self, name: str, scope: Scope) -> Value | None:
        """A name; one that an equation further down computes is declared when first read."""
        found = scope.names.get(name)
        later = self.later(scope)
        if found is not None or name not in later or name in self.inferring:
            return found
        node, declared = later[name]
        mistakes = len(self.report.diagnostics)
        try:
            indices, _ = self.left_side(node, scope, declared)
        except Abort:  # its sizes follow from something that is not known yet
            del self.report.diagnostics[mistakes:]
            return None
        self.foresee(name, node, scope, declared, indices, needed=True)
        return scope.names[name]

    def later(self, scope: Scope) -> Later:
        """The equations of this body that have not been reached yet, by what they compute."""
        if self.pending and self.pending[-1][0] is scope.names:
            return self.pending[-1][1]
        return {}

    def foresee(
        self, name: str, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type],
        indices: tuple[Index, ...], needed: bool = False,
    ) -> None:  # fmt: skip
        """Declare a tensor before its equation, if the equation reads it, or reads what is only
        computed further down (a recurrence)."""
        self.later(scope).pop(name, None)
        recurrent = {name, *self.later(scope)}
        reads_itself = any(
            isinstance(n, s.Index) and n.tensor.id + "'" * n.tensor.primed in recurrent
            for n in nodes(node.value)
        )
        known = scope.names.get(name)
        foreseen = isinstance(known, Array) and known.tensor and known.tensor.kind == "foreseen"
        if foreseen or node.targets[0].primed or not (needed or reads_itself):
            return
        if known is not None and not needed and not isinstance(known, Poison):
            return  # a new value computed from an older one of the same name
        type = declared.get(name)
        dtype = self.float_for(type.dtype if type else None)
        scope.names[name] = self.declare(
            self.full_name(node.targets[0], scope), tuple(i.size for i in indices), dtype,
            "foreseen", node.span, tuple(i.name for i in indices),
        )  # fmt: skip

    # --- accumulation -------------------------------------------------------------------------

    def accumulation(self, node: s.Equation, scope: Scope) -> None:
        """`table[token[b] < 65, j < 16] += sum(b < 32, j < 16) body`: every place on the left
        says how far it goes; the right side is a sum over all that is added."""
        name = node.targets[0].id
        if not isinstance(node.value, s.Reduce) or node.value.op != "sum":
            raise self.error("E0315", "after `+=` stands a sum over all that is added", node.span,
                             help="like `count[token[b] < 65] += sum(b < 32) 1.0`")  # fmt: skip
        inner, over = self.introduce(node.value.axes, node.value.body, scope, node.span)
        places, shape = [], []
        for item in node.indices or ():
            place = item.left if isinstance(item, s.Binary) and item.op == "<" else item
            bound = item.right if isinstance(item, s.Binary) and item.op == "<" else (
                item.bound if isinstance(item, s.Axis) else None)  # fmt: skip
            if bound is None:
                raise self.error("E0315", "how far this place goes is not said", item.span,
                                 label=f"a size of `{name}`",
                                 help=f"say it: `{item.span.text} < 10`")  # fmt: skip
            if isinstance(place, s.Axis):
                place = s.Name(place.span, place.name)
            places.append(self.scalar(place, inner))
            shape.append(self.size(bound, scope, "the range of a place"))
        body = self.scalar(node.value.body, inner)
        full = self.unique(scope.prefix + name)
        scope.names[name] = self.declare(full, tuple(shape), body.dtype, "temp", node.span)
        self.equations.append(Equation(full, (), body, "sum", over, tuple(places), node.span))
