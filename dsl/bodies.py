"""The body of one definition: every name, index and prime in it, and what nothing reads.

In: a definition and the names it can see. Out: diagnostics E02xx and warnings W02xx.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from . import syntax as s
from .calls import apply_to, groups_of
from .diagnostics import Note, Report, did_you_mean
from .elsewhere import likely
from .names import BUILTINS, CONSTANTS, OPTIMIZER_NAMES, Visible, names_in, walk
from .source import Span


@dataclass(frozen=True)
class Place:
    """Where an expression stands: the indices it can use and what is around it."""

    indices: frozenset[str] = frozenset()
    indexed: bool = False  # in an equation over indices, or in a reduction
    in_index: bool = False  # between the brackets of a read
    open: bool = False  # any unknown name is an index (the right of `+=`)
    partial: bool = False  # missing arguments come from elsewhere
    size: bool = False  # in a shape

    def within(self, axes: Iterable[s.Axis]) -> Place:
        names = {axis.name for axis in axes}
        return Place(self.indices | names, True, self.in_index, self.open, self.partial)

    def between_brackets(self) -> Place:
        return Place(self.indices, self.indexed, True, self.open, self.partial)


_KINDS = {
    "setting": "a setting",
    "input": "an input",
    "size": "a size",
    "let": "a `let`",
    "param": "a parameter",
    "state": "a state",
    "tensor": "a tensor",
}


@dataclass
class Body:
    """Checks one definition. `names` is what it knows: name → (kind, where introduced)."""

    definition: s.Definition
    visible: Visible
    report: Report
    wanted: set[str]  # names that a train block reads
    names: dict[str, tuple[str, Span]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # unknown names, each reported once

    def check(self) -> None:
        before = len(self.report.errors)
        self._introduce_signature()
        self._introduce_statements(self.definition.body, {})
        self._introduce_results()
        self._check_signature()
        self._check_statements(self.definition.body)
        if self.definition.value is not None:
            self.expression(self.definition.value, Place())
        self._check_results()
        if len(self.report.errors) == before:
            self._warn_unused()
            self._warn_constant_states()

    # what the definition introduces

    def _introduce_signature(self) -> None:
        definition = self.definition
        for kind, group in (("setting", definition.settings), ("input", definition.inputs)):
            for parameter in group:
                if parameter.name in self.names:
                    self._twice(parameter.name, parameter.span)
                self.names.setdefault(parameter.name, (kind, parameter.span))
        for parameter in definition.inputs:
            for element in (parameter.type and parameter.type.shape) or ():
                if isinstance(element, s.Name):
                    self.names.setdefault(element.id, ("size", element.span))
        if definition.kind == "optimizer":
            for name in OPTIMIZER_NAMES:
                self.names.setdefault(name, ("input", definition.name_span))

    def _introduce_results(self) -> None:
        """A size of a result may follow from its equation, or from where it is used."""
        for parameter in self.definition.results:
            for element in (parameter.type and parameter.type.shape) or ():
                if isinstance(element, s.Name):
                    self.names.setdefault(element.id, ("size", element.span))

    def _introduce_statements(self, body: tuple[s.Statement, ...], outer: dict[str, Span]) -> None:
        """Names of a body. A `repeat` body may give outer names their next value."""
        assigned: dict[str, Span] = {}
        for statement in body:
            match statement:
                case s.Let(name=name):
                    self._introduce("let", name, assigned, outer)
                case s.Param(names=names):
                    for name in names:
                        self._introduce("param", name, assigned, outer)
                case s.State(name=name):
                    self._introduce("state", name, assigned, outer)
                case s.Equation(targets=targets, accumulate=accumulate):
                    for name in targets:
                        if accumulate and name.id in self.names:
                            continue
                        self._introduce("tensor", name, assigned, outer)
                case s.Repeat(body=inner):
                    known = {name: place for name, (_, place) in self.names.items()}
                    self._introduce_statements(inner, known)

    def _introduce(
        self, kind: str, name: s.Name, assigned: dict[str, Span], outer: dict[str, Span]
    ) -> None:
        key = name.id + "'" * name.primed
        if name.primed:
            first = assigned.get(key)
        else:
            known = self.names.get(key)
            may_rebind = key in outer and kind == "tensor" and key not in assigned
            first = None if known is None or may_rebind else known[1]
        if first is not None:
            self._twice(key, name.span, first)
        assigned.setdefault(key, name.span)
        if not name.primed:
            self.names.setdefault(key, (kind, name.span))

    def _twice(self, name: str, span: Span, first: Span | None = None) -> None:
        kind, known = self.names.get(name, ("tensor", span))
        what = f"{_KINDS[kind]} already" if kind != "tensor" else "assigned here first"
        self.report.add(
            "E0206",
            f"`{name}` is given a value twice",
            span,
            label="given again here",
            notes=(Note(first or known, what),),
            help="every name has one equation: choose another name",
        )

    # statements

    def _check_signature(self) -> None:
        definition = self.definition
        for parameter in (*definition.settings, *definition.inputs, *definition.results):
            if parameter.default is not None:
                self.expression(parameter.default, Place())
        for parameter in definition.inputs:
            self._type(parameter.type, count=False)
        for parameter in definition.results:
            self._type(parameter.type)

    def _type(self, written: s.Type | None, count: bool = True) -> None:
        """The sizes in a type; without `count` they are not counted as read."""
        if written is None or written.shape is None:
            return
        self._one_ellipsis(written.shape)
        before = set(self.read)
        for element in written.shape:
            if not isinstance(element, s.Ellipsis_):
                self.expression(element, Place(size=True))
        if not count:
            self.read = before

    def _check_statements(self, body: tuple[s.Statement, ...]) -> None:
        for statement in body:
            match statement:
                case s.Let(value=value):
                    self.expression(value, Place())
                case s.Param(names=names, type=written, value=value, drawn=drawn):
                    self._allowed("param", names[0].span)
                    self._type(written)
                    self.expression(value, Place(partial=drawn))
                case s.State(name=name, type=written, value=value):
                    self._allowed("state", name.span)
                    self._type(written)
                    self.expression(value, Place())
                case s.Equation():
                    self._equation(statement)
                case s.Repeat(count=count, body=inner):
                    self._allowed("repeat", count.span)
                    self.expression(count, Place())
                    self._check_statements(inner)

    def _allowed(self, word: str, span: Span) -> None:
        kind = self.definition.kind
        if (kind == "fn" and word != "repeat") or (kind == "optimizer" and word != "state"):
            fix = (
                "make it a `layer`"
                if kind == "fn"
                else "an optimizer has settings and `state`; it is applied to each parameter"
            )
            article = "an" if kind == "optimizer" else "a"
            self.report.add(
                "E0211",
                f"{article} `{kind}` cannot have a `{word}`",
                span,
                label=f"in {kind} `{self.definition.name}`",
                help=fix,
            )

    def _equation(self, equation: s.Equation) -> None:
        for target in equation.targets:
            if target.primed:
                self._prime(target)
        indices = equation.indices
        if indices is None:
            self.expression(equation.value, Place())
            return
        axes = [axis for axis in indices if isinstance(axis, s.Axis)]
        self._distinct(axes)
        place = Place(indexed=True).within(axes)
        for axis in axes:
            if axis.bound is not None:
                self.expression(axis.bound, Place())
        if equation.accumulate:
            place = Place(place.indices, True, open=True)
            for element in indices:
                if not isinstance(element, s.Axis):
                    self.expression(element, place.between_brackets())
        self.expression(equation.value, place)
        self._check_ranges(equation, axes)

    def _check_ranges(self, equation: s.Equation, axes: list[s.Axis]) -> None:
        """An index that nothing on the right uses has no range, unless a shape gives one."""
        target = equation.targets[0].id
        typed = {p.name for p in self.definition.results if p.type}
        kind = self.names.get(target, ("tensor",))[0]
        if equation.accumulate or target in typed or kind != "tensor":
            return
        used = names_in(equation.value)
        for axis in axes:
            if axis.name != "..." and axis.bound is None and axis.name not in used:
                self.report.add(
                    "E0208",
                    f"the range of index `{axis.name}` is not known",
                    axis.span,
                    label="nothing on the right uses it",
                    help=f"say it: `{target}[{axis.name} < n]`",
                )

    def _distinct(self, axes: Iterable[s.Axis]) -> None:
        seen: dict[str, s.Axis] = {}
        for axis in axes:
            first = seen.setdefault(axis.name, axis)
            if first is axis:
                continue
            code, what = (
                ("E0214", "`...`") if axis.name == "..." else ("E0215", f"index `{axis.name}`")
            )
            self.report.add(
                code,
                f"{what} stands twice in one list",
                axis.span,
                label="again here",
                notes=(Note(first.span, "first here"),),
                help="give each index a name of its own"
                if code == "E0215"
                else "keep one `...`: it stands for all leading dimensions",
            )

    def _check_results(self) -> None:
        definition = self.definition
        if definition.value is not None:
            return
        targets = {
            name.id + "'" * name.primed
            for node in walk(definition.body)
            if isinstance(node, s.Equation)
            for name in node.targets
        }
        seen: set[str] = set()
        for result in definition.results:
            if result.name in seen:
                self._twice(result.name, result.span)
            seen.add(result.name)
            if result.name not in targets:
                close = did_you_mean(result.name, targets)
                self.report.add(
                    "E0209",
                    f"result `{result.name}` is never given a value",
                    result.span,
                    label="no equation assigns it",
                    help=close or f"write its equation: `{result.name} = …`",
                )
        if definition.kind == "optimizer" and "p'" not in targets:
            self.report.add(
                "E0209",
                f"optimizer `{definition.name}` never assigns `p'`",
                definition.name_span,
                label="the next value of the parameter is missing",
                help="write its equation: `p' = p - lr * g`",
            )

    def _warn_unused(self) -> None:
        results = {p.name for p in self.definition.results}
        for name, (kind, span) in self.names.items():
            if name in self.read | results | self.wanted or name.startswith("_"):
                continue
            if kind == "input" and self._lends_sizes(name):
                continue
            code = {"param": "W0201", "input": "W0202", "let": "W0203", "tensor": "W0204"}.get(kind)
            if code is None or (kind == "input" and self.definition.kind == "optimizer"):
                continue
            what = {"tensor": "an equation whose result"}.get(kind, f"{_KINDS[kind]} that")
            self.report.add(
                code,
                f"`{name}` is {what} nothing reads",
                span,
                label="never read",
                help=f"remove it, or name it `_{name}` to keep it",
            )

    def _warn_constant_states(self) -> None:
        moved = {name.id for node in walk(self.definition.body) if isinstance(node, s.Equation)
                 for name in node.targets if name.primed}  # fmt: skip
        for name, (kind, span) in self.names.items():
            if kind == "state" and name not in moved and not name.startswith("_"):
                self.report.add(
                    "W0205", f"the state `{name}` never changes", span,
                    label="nothing gives it a next value",
                    help=f"write its equation: `{name}' = …`; what is constant is a `let`",
                )  # fmt: skip

    def _lends_sizes(self, name: str) -> bool:
        """An input that is there for its shape alone is used if its sizes are."""
        written = next((p.type for p in self.definition.inputs if p.name == name), None)
        return bool(names_in(written and written.shape) & self.read)

    # expressions

    def expression(self, node: s.Expr, place: Place) -> None:
        match node:
            case s.Name():
                self._name(node, place)
            case s.Ellipsis_(span):
                self.report.add(
                    "E0214",
                    "`...` stands for leading dimensions, not for a value",
                    span,
                    label="expected a value",
                    help="it belongs in an index list, a shape, or `sum(...) body`",
                )
            case s.Index():
                self._index(node, place)
            case s.Guarded(read=read, other=other):
                self._index(read, place)
                self.expression(other, place)
            case s.Reduce(axes=axes, body=body):
                self._distinct(axes)
                for axis in axes:
                    if axis.bound is not None:
                        self.expression(axis.bound, place)
                self.expression(body, place.within(axes))
            case s.Call():
                self._call(node, place)
            case s.Pipe(value=value, stage=stage):
                self.expression(value, place)
                self._stage(node, stage, place)
            case s.Unary(operand=operand):
                self.expression(operand, place)
            case s.Binary(left=left, right=right):
                self.expression(left, place)
                self.expression(right, place)
            case s.If(condition=condition, yes=yes, no=no):
                for part in (condition, yes, no):
                    self.expression(part, place)
            case s.List(items=items):
                for part in items:
                    self.expression(part, place)

    def _name(self, node: s.Name, place: Place) -> None:
        name = node.id
        if node.primed:
            self._prime(node)
            return
        if name in place.indices:
            return
        if name in self.names:
            self.read.add(name)
            return
        if name in CONSTANTS or name in BUILTINS or self.visible.find(name) is not None:
            return
        results = {p.name for p in self.definition.results}
        if name in results or place.open:
            return  # E0209 has said it; or any name is an index here
        if name in self.told:
            return
        self.told.add(name)
        if place.in_index:
            introduced = sorted(place.indices - {"..."})
            self.report.add(
                "E0207",
                f"nothing introduces the index `{name}`",
                node.span,
                label="used here",
                help=did_you_mean(name, [*introduced, *self.names])
                or f"put it on the left, or reduce over it: `sum({name}) …`",
            )
            return
        known = [*place.indices, *self.names, *CONSTANTS, *self.visible.names()]
        self.report.add(
            "E0202",
            f"unknown name `{name}`",
            node.span,
            label="not defined anywhere",
            help=likely(name, known)
            or ("initialisers are `glorot_uniform`, `normal(0, 0.02)`, …" if place.partial else "")
            or (f"a size gets its name in the shape of an input: `x: [..., {name}]`"
                if place.size else ""),
        )  # fmt: skip

    def _prime(self, node: s.Name) -> None:
        kind = self.names.get(node.id, ("",))[0]
        fine = kind in ("state", "param") or (
            self.definition.kind == "optimizer" and node.id == "p"
        )
        self.read.add(node.id)
        if not fine:
            what = f"{_KINDS[kind]}" if kind else "not defined"
            self.report.add(
                "E0212",
                f"`{node.id}'` is the next value of a state, and `{node.id}` is {what}",
                node.span,
                label="primed here",
                help=f"declare `state {node.id} = 0`, or choose a name without a prime",
            )

    def _index(self, node: s.Index, place: Place) -> None:
        tensor = node.tensor
        if tensor.id in place.indices and tensor.id not in self.names:
            self.report.add("E0202", f"`{tensor.id}` is an index here, not a tensor", tensor.span)
        elif tensor.id not in self.names and self.visible.find(tensor.id) is not None:
            self.report.add(
                "E0203",
                f"`{tensor.id}` is not a tensor",
                tensor.span,
                label=f"this is a {self._kind_of(tensor.id)}",
                help=f"apply it with parentheses: `{tensor.id}(…)`",
            )
        elif tensor.primed or tensor.id in self.names:
            self._name(tensor, Place())
        else:
            self._name(tensor, Place(indices=frozenset()))
        self._one_ellipsis(node.indices)
        for element in node.indices:
            if not isinstance(element, s.Ellipsis_):
                self.expression(element, place.between_brackets())
            elif place.indexed and "..." not in place.indices and not place.open:
                self.report.add(
                    "E0214",
                    "nothing introduces `...` here",
                    element.span,
                    label="leading dimensions of a read",
                    help="put `...` on the left too, or reduce over it: `sum(...) …`",
                )

    def _one_ellipsis(self, elements: tuple[s.Expr, ...]) -> None:
        dots = [e for e in elements if isinstance(e, s.Ellipsis_)]
        self._distinct(s.Axis(e.span, "...") for e in dots)

    def _kind_of(self, name: str) -> str:
        found = self.visible.find(name)
        return found.kind if found else "function"

    # calls

    def _call(self, node: s.Call, place: Place) -> None:
        """`f(x)`, `Flatten(x)` or `Dense(10)(x)`, not at the end of a pipe."""
        groups, callee = groups_of(node)
        if self._reduces_nothing(node, callee, place):
            return
        self._arguments(groups, place)
        if not isinstance(callee, s.Name):
            self.report.add("E0203", "only a name can be called", callee.span)
            return
        self._apply(callee, groups, node.span, place, piped=False)

    def _reduces_nothing(self, node: s.Call, callee: s.Expr, place: Place) -> bool:
        """`sum(i) -x[i]` and `sum(i, x[i])`: an index where a tensor is needed."""
        if not isinstance(callee, s.Name) or callee.id not in s.REDUCTIONS or not node.arguments:
            return False
        first = node.arguments[0].value
        if isinstance(first, s.Name) and first.id in self.told:
            return True
        if not isinstance(first, s.Name) or first.id in self.names or first.id in place.indices:
            return False
        if self.visible.find(first.id) is not None or first.id in CONSTANTS:
            return False
        word, name = callee.id, first.id
        self.told.add(name)
        self.report.add(
            "E0202",
            f"`{name}` is no tensor to take the {word} of",
            first.span,
            label="not defined anywhere",
            help=f"over an index, the body follows: `{word}({name}) x[{name}]`; one with a sign "
            f"is in parentheses: `{word}({name}) (-x[{name}])`",
        )
        return True

    def _stage(self, node: s.Pipe, stage: s.Expr, place: Place) -> None:
        groups, callee = groups_of(stage)
        self._arguments(groups, place)
        if isinstance(callee, s.Name):
            self._apply(callee, groups, stage.span, place, piped=True)
        else:
            self.report.add("E0203", "`|>` passes a value on to a layer or a function", callee.span)

    def _arguments(self, groups: list[tuple[s.Argument, ...]], place: Place) -> None:
        for group in groups:
            for argument in group:
                self.expression(argument.value, place)

    def _apply(
        self,
        callee: s.Name,
        groups: list[tuple[s.Argument, ...]],
        span: Span,
        place: Place,
        piped: bool,
    ) -> None:
        name = callee.id
        local = self.names.get(name)
        if local is not None and name not in (*OPTIMIZER_NAMES, "norm"):
            self.read.add(name)
            given = local[0] == "setting" or (local[0] == "input" and self.definition.kind == "fn")
            self.report.add(
                "E0203",
                f"`{name}` is {_KINDS[local[0]]} and cannot be called",
                callee.span,
                label="a value, not a layer or a function",
                help="layers and functions are called by their own names"
                if given
                else f"read an element with brackets: `{name}[i]`",
            )
            return
        apply_to(callee, groups, span, piped, self.visible, self.report, place.partial)
        found = self.visible.find(name)
        if found is not None and found.kind in ("layer", "model") and place.indexed:
            self.report.add(
                "E0210",
                f"{found.kind} `{name}` is used inside an equation over indices",
                callee.span,
                label="a layer works on whole tensors",
                help=f"give its result a name first: `h = {name}(…)…`, then index `h`",
            )
