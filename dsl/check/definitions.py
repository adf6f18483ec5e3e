"""The body of one definition: every name, index and prime in it, and what nothing reads.

In: a definition and the names it can see. Out: diagnostics E02xx and warnings W02xx.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..diagnostics.diagnostic import Note, did_you_mean
from ..syntax import ast as s
from ..syntax.source import Span
from .names import OPTIMIZER_NAMES, names_in
from .references import KINDS, Place, References


@dataclass
class Body(References):
    """Checks one definition: what it introduces, its statements and its results."""

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
        for statement in s.flatten_remat(body):
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
        what = f"{KINDS[kind]} already" if kind != "tensor" else "assigned here first"
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
                case s.Remat(body=inner):
                    self._allowed("remat", statement.span)
                    self._check_statements(inner)

    def _allowed(self, word: str, span: Span) -> None:
        kind = self.definition.kind
        fits = {"fn": ("repeat", "remat"), "optimizer": ("state",)}.get(kind)
        if fits is not None and word not in fits:
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

    def _check_results(self) -> None:
        definition = self.definition
        if definition.value is not None:
            return
        targets = {
            name.id + "'" * name.primed
            for node in s.walk(definition.body)
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
            what = {"tensor": "an equation whose result"}.get(kind, f"{KINDS[kind]} that")
            self.report.add(
                code,
                f"`{name}` is {what} nothing reads",
                span,
                label="never read",
                help=f"remove it, or name it `_{name}` to keep it",
            )

    def _warn_constant_states(self) -> None:
        moved = {
            name.id
            for node in s.walk(self.definition.body)
            if isinstance(node, s.Equation)
            for name in node.targets
            if name.primed
        }
        for name, (kind, span) in self.names.items():
            if kind == "state" and name not in moved and not name.startswith("_"):
                self.report.add(
                    "W0205",
                    f"the state `{name}` never changes",
                    span,
                    label="nothing gives it a next value",
                    help=f"write its equation: `{name}' = …`; what is constant is a `let`",
                )

    def _lends_sizes(self, name: str) -> bool:
        """An input that is there for its shape alone is used if its sizes are."""
        written = next((p.type for p in self.definition.inputs if p.name == name), None)
        return bool(names_in(written and written.shape) & self.read)
