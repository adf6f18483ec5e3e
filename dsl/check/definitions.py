"""Definitions: the symbol table of one definition, its statements, results and unread names.

Reports E0206 and E0208–E0212, and as warnings W0201–W0205 what nothing reads or changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..diagnostics.diagnostic import Note, did_you_mean
from ..syntax import ast as s
from ..syntax.source import Span
from .calls import check_arguments, invocation, layer_without_input
from .expressions import KINDS, ExprContext, ExpressionChecker, Symbol
from .names import DISCARDED, NO_SIZES, OPTIMIZER_NAMES, names_in

_UNREAD = {"param": "W0201", "input": "W0202", "let": "W0203", "tensor": "W0204", "layer": "W0204"}


@dataclass
class DefinitionChecker(ExpressionChecker):
    """Checks one definition. `read_outside` are the names that its train block reads."""

    read_outside: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Declare every name, then resolve every use: equations may stand in any order."""
        definition, errors = self.definition, len(self.report.errors)
        self._declare_signature()
        self._declare_statements(definition.body, set())
        for result in definition.results:  # a size may follow from the equation or the caller
            # After the statements: in `-> y: [m]` the m may be a `let` of the body.
            self._declare_sizes(result)
        for parameter in (*definition.settings, *definition.inputs, *definition.results):
            if parameter.default is not None:
                self.expression(parameter.default, ExprContext())
        # An input that is there for its sizes counts as read if one of them is (`_warn_unread`).
        # Its own type must not count for that.
        read = set(self.read)
        for parameter in definition.inputs:
            self._type(parameter.type, any_size=True)
        self.read = read  # that an input has a size does not use the size
        for parameter in definition.results:
            self._type(parameter.type, any_size=True)
        self._statements(definition.body)
        if definition.value is not None:
            self.expression(definition.value, ExprContext())
        else:
            self._results()
        # An equation that is wrong may be the one that would have read the name.
        if len(self.report.errors) == errors:
            self._warn_unread()
            self._warn_constant_states()

    # declarations

    def _declare_signature(self) -> None:
        definition = self.definition
        for kind, group in (("setting", definition.settings), ("input", definition.inputs)):
            for parameter in group:
                if parameter.name in self.symbols:
                    self._assigned_twice(parameter.name, parameter.span)
                self.symbols.setdefault(parameter.name, Symbol(kind, parameter.span))
        # After all names of the signature, so `(n, x: [n])` reads the setting n, and binds no size.
        for parameter in definition.inputs:
            self._declare_sizes(parameter)
        if definition.kind == "optimizer":
            for name in OPTIMIZER_NAMES:
                if name in self.symbols:
                    self._reserved(name, self.symbols[name].span)
                self.symbols.setdefault(name, Symbol("input", definition.name_span))

    def _declare_sizes(self, parameter: s.Parameter) -> None:
        for element in (parameter.type and parameter.type.shape) or ():
            # Only a name alone can be bound: `[2*n]` reads n. `[None, 8]` means no name.
            if isinstance(element, s.Name) and element.id not in NO_SIZES:
                self.symbols.setdefault(element.id, Symbol("size", element.span))

    def _is_any_size(self, element: s.Node) -> bool:
        """Whether it is the `_` of `x: [_, n]`. A model's sizes have names, to be bound by."""
        anonymous = isinstance(element, s.Name) and element.id == DISCARDED
        return anonymous and self.definition.kind != "model"

    def _declare_statements(self, body: tuple[s.Statement, ...], outer: set[str]) -> None:
        """The names of a body. That of a `repeat` may assign the next value of `outer` names."""
        assigned: dict[str, Span] = {}
        for statement in s.flatten_remat(body):
            match statement:
                case s.Let(name=name):
                    self._declare("let", name, assigned, outer)
                case s.Param(names=names):
                    for name in names:
                        self._declare("param", name, assigned, outer)
                case s.State(name=name):
                    self._declare("state", name, assigned, outer)
                case s.Equation(targets=(name,), indices=indices, accumulate=sign) if sign:
                    # An accumulation begins at 0: it does not add to what a name stands for, also
                    # not in a `repeat`. `h += x` without an index is reported with the right form.
                    if indices is not None or name.id not in self.symbols:
                        self._declare("tensor", name, assigned, set())
                case s.Equation(targets=(name,), indices=None) if self._names_layer(statement):
                    self._declare("layer", name, assigned, outer)
                case s.Equation(targets=targets):
                    for name in targets:
                        self._declare("tensor", name, assigned, outer)
                case s.Repeat(body=inner):
                    # All names known so far are outer ones, which each iteration may give a next
                    # value.
                    self._declare_statements(inner, set(self.symbols))

    def _names_layer(self, equation: s.Equation) -> bool:
        """Whether it is `enc = Dense(8)`, which gives a layer a name and applies it to nothing."""
        (name,) = equation.targets
        value = equation.value
        callee = value.function if isinstance(value, s.Call) else None
        if isinstance(callee, s.Name) and not self._is_known(callee.id):
            self.unclear.add(name.id)
        # with a tensor `Dense`, the name alone is that tensor
        own = isinstance(value, s.Name) and value.id in self.symbols
        # a result is a tensor: there the input was forgotten
        own |= name.primed or name.id in {p.name for p in self.definition.results}
        layer = None if own else layer_without_input(value, self.scope)
        if layer is not None:
            self.layers[name.id] = layer
        return layer is not None

    def _declare(self, kind: str, name: s.Name, assigned: dict[str, Span], outer: set[str]) -> None:
        if kind in ("tensor", "let") and name.id == DISCARDED:
            return
        if "." in name.id:
            self.report.add(
                "E0206",
                f"`{name.id}` has its value in its layer",
                name.span,
                label="assigned here",
                help="a name without a dot can be given a value",
            )
            return
        key = name.id + "'" * name.primed
        # A primed name is no symbol: a second `m'` is found in `assigned`.
        first = assigned.get(key) if name.primed else None
        # `x = Block()(x)` in a `repeat`; twice in one body it is a mistake even there
        rebinds = kind == "tensor" and key in outer and key not in assigned
        if key in self.symbols and not rebinds:
            first = self.symbols[key].span
        if first is not None:
            self._assigned_twice(key, name.span, first)
        assigned.setdefault(key, name.span)
        if not name.primed:
            self.symbols.setdefault(key, Symbol(kind, name.span))

    def _reserved(self, name: str, span: Span) -> None:
        self.report.add(
            "E0319",
            f"`{name}` has a meaning in every optimizer",
            span,
            label="a setting of this name",
            help="`p` is the parameter, `g` its gradient, `t` the step, `norm` the norm of all "
            "gradients: choose another name",
        )

    def _assigned_twice(self, name: str, span: Span, first: Span | None = None) -> None:
        symbol = self.symbols.get(name, Symbol("tensor", span))
        declared = "assigned here first"
        if symbol.kind != "tensor":
            declared = f"{KINDS[symbol.kind]} already"
        self.report.add(
            "E0206",
            f"`{name}` is assigned twice",
            span,
            label="assigned again here",
            notes=(Note(first or symbol.span, declared),),
            help="every name has one equation: choose another name",
        )

    # statements

    def _type(self, dtype: s.Type | None, any_size: bool = False) -> None:
        """The sizes in a type, which may be `_` if it has `any_size`."""
        if dtype is not None and dtype.shape is not None:
            self._one_ellipsis(dtype.shape)
            # `...` is no expression; how often it occurs was checked above.
            for element in dtype.shape:
                if isinstance(element, s.Ellipsis_) or (any_size and self._is_any_size(element)):
                    continue
                self.expression(element, ExprContext(in_shape=True))

    def _statements(self, body: tuple[s.Statement, ...]) -> None:
        for statement in body:
            match statement:
                case s.Let(value=value):
                    self.expression(value, ExprContext())
                case s.Param(names=names, type=dtype, value=value, drawn=drawn):
                    self._allowed("param", names[0].span)
                    self._type(dtype)
                    # After `~`, `normal` may stand without arguments, or without all of them.
                    self.expression(value, ExprContext(partial=drawn))
                case s.State(name=name, type=dtype, value=value):
                    self._allowed("state", name.span)
                    self._type(dtype)
                    self.expression(value, ExprContext())
                case s.Equation():
                    self._equation(statement)
                case s.Repeat(count=count, body=inner):
                    self._allowed("repeat", count.span)
                    self.expression(count, ExprContext())
                    self._statements(inner)
                case s.Remat(body=inner):
                    self._allowed("remat", statement.span)
                    self._statements(inner)

    def _allowed(self, word: str, span: Span) -> None:
        """Whether this kind of definition can have such a statement."""
        kind = self.definition.kind
        if kind == "fn" and word not in ("repeat", "remat"):
            who, help = "a `fn`", "make it a `layer`"
        elif kind == "optimizer" and word != "state":
            who = "an `optimizer`"
            help = "an optimizer has settings and `state`; it is applied to each parameter"
        else:
            return
        label = f"in {kind} `{self.definition.name}`"
        self.report.add("E0211", f"{who} cannot have a `{word}`", span, label=label, help=help)

    def _equation(self, equation: s.Equation) -> None:
        for target in equation.targets:
            if target.primed:
                self._prime(target)
        layer = self.layers.get(equation.targets[0].id)
        if layer is not None and layer is layer_without_input(equation.value, self.scope):
            call = invocation(equation.value)
            for argument in call.first:
                self.expression(argument.value, ExprContext())
            check_arguments(layer, layer.settings, call.first, call, self.report)
            return
        # Without indices the right side is a whole tensor: layers may be applied there.
        if equation.indices is None:
            self.expression(equation.value, ExprContext())
            return
        axes = [axis for axis in equation.indices if isinstance(axis, s.Axis)]
        self._distinct(axes)
        # The indices of `+=` may be introduced on the right (`table[token[b], j] += sum(b, j) …`),
        # so names on the left cannot be called unknown yet.
        context = ExprContext(open=bool(equation.accumulate)).within(axes)
        for element in equation.indices:
            if not isinstance(element, s.Axis):
                self.expression(element, context.between_brackets())
            # A bound is a size, so it cannot read the indices.
            elif element.bound is not None and not self._varies(equation, element, axes):
                self.expression(element.bound, ExprContext())
        self.expression(equation.value, context)
        self._ranges(equation, axes)

    def _varies(self, equation: s.Equation, axis: s.Axis, axes: list[s.Axis]) -> bool:
        """E0308 for `y[b, t < length[b]] = …`: a result has one size in each dimension."""
        used = names_in(axis.bound)
        other = next((a.name for a in axes if a.name in used and a.name not in self.symbols), None)
        if other is None or axis.bound is None:
            return False
        self.report.add(
            "E0308",
            f"how far `{axis.name}` goes depends on `{other}`",
            axis.span,
            label="a result has one size in each dimension",
            help=f"say what is behind the end: `{equation.targets[0].id}[…, {axis.name}] = "
            f"if {axis.span.text} then … else 0`",
        )
        return True

    def _ranges(self, equation: s.Equation, axes: list[s.Axis]) -> None:
        """An index that is not used on the right needs a bound, unless a shape gives its range."""
        target = equation.targets[0].id
        # A declared result's shape gives the ranges, and so does the state of a next value.
        typed = {p.name for p in self.definition.results if p.type}
        declared = target in self.symbols and self.symbols[target].kind != "tensor"
        if equation.accumulate or target in typed or declared:
            return
        # Whether a use really determines the range is known once there are shapes (E0305).
        used = names_in(equation.value)
        for axis in axes:
            if axis.name != "..." and axis.bound is None and axis.name not in used:
                self.report.add(
                    "E0208",
                    f"the range of index `{axis.name}` is not known",
                    axis.span,
                    label="not used on the right",
                    help=f"declare it: `{target}[{axis.name} < n]`",
                )

    def _results(self) -> None:
        """Definite assignment: every result has an equation, and so has an optimizer's `p'`."""
        definition = self.definition
        equations = [node for node in s.walk(definition.body) if isinstance(node, s.Equation)]
        # Through `repeat` and `remat` alike: an equation anywhere in the body counts.
        targets = {name.id + "'" * name.primed for node in equations for name in node.targets}
        seen: set[str] = set()
        for result in definition.results:
            if result.name in seen:
                self._assigned_twice(result.name, result.span)
            seen.add(result.name)
            if result.name not in targets:
                self.report.add(
                    "E0209",
                    f"result `{result.name}` is never assigned",
                    result.span,
                    label="no equation assigns it",
                    help=self._help_for_result(result.name, targets),
                )
        if definition.kind == "optimizer" and "p'" not in targets:
            self.report.add(
                "E0209",
                f"optimizer `{definition.name}` never assigns `p'`",
                definition.name_span,
                label="the next value of the parameter is missing",
                help="write its equation: `p' = p - lr * g`",
            )

    def _help_for_result(self, name: str, targets: set[str]) -> str:
        if name in self.symbols and self.symbols[name].kind == "let":
            return f"a `let` is known when compiling; a result has an equation: `{name} = …`"
        return did_you_mean(name, targets) or f"write its equation: `{name} = …`"

    # warnings

    def _warn_unread(self) -> None:
        definition = self.definition
        read = self.read | self.read_outside | {p.name for p in definition.results}
        # `like: [n, m]` is there for its n and m
        for parameter in definition.inputs:  # one that only provides a size is used
            if names_in(parameter.type and parameter.type.shape) & self.read:
                read.add(parameter.name)
        for name, (kind, span) in self.symbols.items():
            # sgd does not read `t` and `norm`, which every optimizer gets
            optional = kind == "input" and definition.kind == "optimizer"
            if name in read or name.startswith("_") or kind not in _UNREAD or optional:
                continue
            what = "an equation whose result" if kind == "tensor" else f"{KINDS[kind]} that"
            self.report.add(
                _UNREAD[kind],
                f"`{name}` is {what} nothing reads",
                span,
                label="never read",
                help=f"remove it, or name it `_{name}` to keep it",
            )

    def _warn_constant_states(self) -> None:
        equations = [node for node in s.walk(self.definition.body) if isinstance(node, s.Equation)]
        updated = {name.id for node in equations for name in node.targets if name.primed}
        for name, (kind, span) in self.symbols.items():
            if kind == "state" and name not in updated and not name.startswith("_"):
                self.report.add(
                    "W0205",
                    f"the state `{name}` never changes",
                    span,
                    label="no equation for its next value",
                    help=f"write its equation: `{name}' = …`; what is constant is a `let`",
                )
