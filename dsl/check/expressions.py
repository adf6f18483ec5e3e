"""Name resolution in expressions: every name, index, prime and call of one definition.

Reports E0202, E0203, E0207, E0210, E0212, E0214, E0215 and E0312, and records which names are
read. `definitions.py` declares the names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from ..diagnostics.diagnostic import Note, Report, did_you_mean
from ..diagnostics.foreign_terms import suggest, without_prefix
from ..records import record
from ..syntax import ast as s
from ..syntax.source import Span
from .calls import (
    Invocation,
    check_call,
    check_named_layer,
    help_for_dots,
    invocation,
    names_function,
)
from .names import BUILTINS, CONSTANTS, DISCARDED, JOINING, NO_SIZES, Scope, names_in


@record
class ExprContext:
    """Where an expression stands: the indices it can use and what is around it."""

    indices: frozenset[str] = frozenset()
    indexed: bool = False  # in an equation over indices, or in a reduction
    in_index: bool = False  # between the brackets of a read
    open: bool = False  # any unknown name is an index (the right of `+=`)
    partial: bool = False  # missing arguments are supplied elsewhere
    in_shape: bool = False

    def within(self, axes: Iterable[s.Axis]) -> ExprContext:
        """The context below an equation or a reduction over these axes. Of several `_` none can be
        read."""
        own = [axis.name for axis in axes]
        names = self.indices | set(own) - ({DISCARDED} if own.count(DISCARDED) > 1 else set())
        return replace(self, indices=names, indexed=True, in_shape=False)

    def between_brackets(self) -> ExprContext:
        return replace(self, in_index=True, in_shape=False)


class Symbol(NamedTuple):
    """An entry of a definition's symbol table: a key of `KINDS` and the declaration."""

    kind: str
    span: Span


KINDS = {
    "setting": "a setting",
    "input": "an input",
    "size": "a size",
    "let": "a `let`",
    "param": "a parameter",
    "state": "a state",
    "tensor": "a tensor",
    "layer": "a layer",
}


@dataclass
class ExpressionChecker:
    """Resolves the names in the expressions of one definition."""

    definition: s.Definition
    scope: Scope
    report: Report
    symbols: dict[str, Symbol] = field(default_factory=dict)
    layers: dict[str, s.Definition] = field(default_factory=dict)  # by the names given to them
    read: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)  # unknown names, each reported once
    unclear: set[str] = field(default_factory=set)  # names given to what is called by unknown ones

    def expression(self, node: s.Expr, context: ExprContext) -> None:
        """Check an expression and all within it."""
        match node:
            case s.Name():
                self._name(node, context)
            case s.Ellipsis_(span):
                self.report.add(
                    "E0214",
                    "`...` stands for leading dimensions, not for a value",
                    span,
                    label="expected a value",
                    help="it belongs in an index list, a shape, or `sum(...) body`",
                )
            case s.Index():
                self._index(node, context)
            case s.Guarded(read=read, other=other):
                self._index(read, context)
                self.expression(other, context)
            case s.Reduce(axes=axes, body=body):
                self._distinct(axes)
                # A bound may read the indices before it: `sum(b, t < length[b]) …`.
                for place, axis in enumerate(axes):
                    if axis.bound is not None:
                        self.expression(axis.bound, context.within(axes[:place]))
                self.expression(body, context.within(axes))
            case s.Call():
                call = invocation(node, partial=context.partial)
                # One mistake, not also "unknown name i".
                if not self._reduces_unknown_index(node, call.callee, context):
                    self._call(call, context, "only a name can be called")
            case s.Pipe(value=value, stage=stage):
                self.expression(value, context)
                call = invocation(stage, piped=True, partial=context.partial)
                self._call(call, context, "`|>` passes a value on to a layer or a function")
            case s.Unary(operand=operand):
                self.expression(operand, context)
            case s.Binary(left=left, right=right):
                self.expression(left, context)
                self.expression(right, context)
            case s.If(condition=condition, yes=yes, no=no):
                for part in (condition, yes, no):
                    self.expression(part, context)
            case s.List(items=items):
                for part in items:
                    self.expression(part, context)

    # names

    def _name(self, node: s.Name, context: ExprContext) -> None:
        name = node.id
        if node.primed:
            self._prime(node)
            return
        # Indices hide the definition's names, as in elaboration.
        if name in context.indices:
            return
        if name in self.layers:
            self._layer_as_value(node)
            return
        if "." in name:
            self._part(node)
            return
        if name in self.symbols:
            self.read.add(name)
            return
        definition = self.scope.find(name)
        # `partial`: after `~`, an initialiser's name alone is an application of it.
        if definition is not None and not context.partial:
            needed = ", ".join(p.name for p in definition.inputs if p.default is None)
            settings = "(…)" if definition.settings else ""
            self.report.add(
                "E0312",
                f"`{name}` is a {definition.kind}, not a value",
                node.span,
                label="a name without what it is applied to",
                help=f"apply it: `{name}{settings}({needed})`"
                + f", or to a result: `… |> {name}`" * (definition.kind == "fn"),
            )
            return
        if name in CONSTANTS or name in BUILTINS or definition is not None:
            return
        if context.open or name in {p.name for p in self.definition.results}:
            return  # an index, or a result without a value (E0209)
        # A misspelt name often occurs many times.
        if name not in self.reported:
            self.reported.add(name)
            self._unknown_name(node, context)

    def _part(self, node: s.Name) -> None:
        """`enc.w`: a parameter of the layer that is called `enc`. Which ones it has is known when
        it is applied."""
        owner = node.id.partition(".")[0]
        if owner in self.layers:
            self.read.add(owner)
        elif node.id not in self.reported:
            self.reported.add(node.id)
            self.report.add(
                "E0202",
                f"unknown name `{node.id}`",
                node.span,
                label="not defined anywhere",
                help=help_for_dots(node, self.scope, self.symbols),
            )

    def _layer_as_value(self, node: s.Name) -> None:
        self.read.add(node.id)
        needed = ", ".join(p.name for p in self.layers[node.id].inputs if p.default is None)
        self.report.add(
            "E0312",
            f"`{node.id}` is a layer, not a value",
            node.span,
            label="a name without what it is applied to",
            notes=(Note(self.symbols[node.id].span, "this gives a layer a name"),),
            help=f"apply it: `{node.id}({needed})`",
        )

    def _unknown_name(self, node: s.Name, context: ExprContext) -> None:
        name = node.id
        # `x[j]` without j: most likely a forgotten index
        if context.in_index and name != DISCARDED:
            indices = sorted(context.indices - {"..."})
            self.report.add(
                "E0207",
                f"nothing introduces the index `{name}`",
                node.span,
                label="used here",
                help=did_you_mean(name, [*indices, *self.symbols] if len(name) > 1 else ())
                or f"put it on the left, or reduce over it: `sum({name}) …`",
            )
            return
        if context.in_shape and name in NO_SIZES:
            self.report.add(
                "E0202",
                f"`{name}` is not a size",
                node.span,
                label="expected a name or a number",
                help="a size that is not known yet has a name, such as `B` for the batch",
            )
            return
        if name == DISCARDED:
            self.report.add(
                "E0202",
                "`_` has no value",
                node.span,
                label="read here",
                help="it stands for what is not read: give this one a name",
            )
            return
        # Nearest scope first: a name of the definition is likelier than one of the library.
        near = [*context.indices, *self.symbols, *CONSTANTS]
        # What others call a function is no hint for a size.
        help = did_you_mean(name, near) if context.in_shape else suggest(name, near)
        # A function is no value; after `~` its name is one.
        if not help and context.partial:
            help = suggest(name, self.scope.names())
        if not help and context.partial:
            help = "initialisers are `glorot_uniform`, `normal(0, 0.02)`, …"
        elif not help and context.in_shape:
            help = f"a size gets its name in the shape of an input: `x: [..., {name}]`"
        elif not help:
            help = self._help_for_value(name)
        label = "not defined anywhere"
        self.report.add("E0202", f"unknown name `{name}`", node.span, label=label, help=help)

    @cached_property
    def _names_of_body(self) -> set[str]:
        return names_in(self.definition.body)

    def _help_for_value(self, name: str) -> str:
        """For a name like no other: the input, if nothing reads that, or what declares a name."""
        inputs = [p.name for p in self.definition.inputs]
        if len(inputs) == 1 and inputs[0] not in self._names_of_body:
            return f"the input is called `{inputs[0]}`"
        if self.definition.kind in ("layer", "model"):
            return (
                f"a parameter is declared, `param {name}: [n, m] ~ glorot_uniform`; "
                f"what is computed has an equation, `{name} = …`"
            )
        return ""

    def _prime(self, node: s.Name) -> None:
        """Check that a name with a prime is a state, a parameter or an optimizer's `p`."""
        name = node.id
        kind = self.symbols[name].kind if name in self.symbols else ""
        # Reading or assigning `m'` both use the state m.
        self.read.add(name)
        if kind in ("state", "param") or (self.definition.kind == "optimizer" and name == "p"):
            return
        self.report.add(
            "E0212",
            f"`{name}'` is the next value of a state, and `{name}` is "
            f"{KINDS.get(kind, 'not defined')}",
            node.span,
            label="primed here",
            help=f"declare `state {name} = 0`, or choose a name without a prime",
        )

    # indices

    def _index(self, node: s.Index, context: ExprContext) -> None:
        tensor = node.tensor
        local = tensor.id in self.symbols
        found = self.scope.find(tensor.id)
        # An index and a tensor may share a name (`k[k]`); brackets need the tensor.
        if tensor.id in context.indices and not local:
            self.report.add("E0202", f"`{tensor.id}` is an index here, not a tensor", tensor.span)
        elif tensor.id in self.layers:
            self._layer_as_value(tensor)
        elif found is not None and not local:
            self.report.add(
                "E0203",
                f"`{tensor.id}` is not a tensor",
                tensor.span,
                label=f"this is a {found.kind}",
                help=f"apply it with parentheses: `{tensor.id}(…)`",
            )
        else:
            # An empty context, as the tensor's own name is looked up without the indices.
            self._name(tensor, ExprContext())
        self._one_ellipsis(node.indices)
        for element in node.indices:
            if not isinstance(element, s.Ellipsis_):
                self.expression(element, context.between_brackets())
            # An equation without indices has no list that could introduce it; elaboration decides
            # there.
            elif context.indexed and "..." not in context.indices and not context.open:
                self.report.add(
                    "E0214",
                    "nothing introduces `...` here",
                    element.span,
                    label="leading dimensions of a read",
                    help="put `...` on the left too, or reduce over it: `sum(...) …`",
                )

    def _one_ellipsis(self, elements: tuple[s.Expr, ...]) -> None:
        # as if each `...` were an index of that name, which may occur once
        self._distinct(s.Axis(e.span, "...") for e in elements if isinstance(e, s.Ellipsis_))

    def _distinct(self, axes: Iterable[s.Axis]) -> None:
        seen: dict[str, s.Axis] = {}
        for axis in axes:
            if axis.name == DISCARDED:
                continue
            first = seen.setdefault(axis.name, axis)
            if first is axis:
                continue
            code, what, help = "E0215", f"index `{axis.name}`", "give each index its own name"
            if axis.name == "...":
                code, what = "E0214", "`...`"
                help = "keep one `...`: it stands for all leading dimensions"
            self.report.add(
                code,
                f"{what} appears twice in one list",
                axis.span,
                label="again here",
                notes=(Note(first.span, "first here"),),
                help=help,
            )

    # calls

    def _reduces_unknown_index(self, node: s.Call, callee: s.Expr, context: ExprContext) -> bool:
        """`sum(i) -x[i]` and `sum(i, x[i])`: an index where a tensor is needed."""
        if not isinstance(callee, s.Name) or callee.id not in s.REDUCTIONS or not node.arguments:
            return False
        # Parsed as a call, because a sign or a comma stands where a body would begin.
        first = node.arguments[0].value
        if not isinstance(first, s.Name):
            return False
        word, name = callee.id, first.id
        if name in self.reported:
            return True
        # With a known name it is an ordinary call: `sum(x) - 1`.
        known = name in self.symbols or name in context.indices or name in CONSTANTS
        if known or self.scope.find(name) is not None:
            return False
        self.reported.add(name)
        self.report.add(
            "E0202",
            f"`{word}` needs a tensor, and `{name}` is none",
            first.span,
            label="not defined anywhere",
            help=f"over an index, the body follows: `{word}({name}) x[{name}]`; one with a sign "
            f"is in parentheses: `{word}({name}) (-x[{name}])`",
        )
        return True

    def _names_dimension(self, argument: s.Argument, callee: s.Expr) -> bool:
        """Whether it is `axis = t`, a name that the dimension of a tensor has."""
        if not isinstance(callee, s.Name) or callee.id not in JOINING or argument.name != "axis":
            return False
        return isinstance(argument.value, s.Name) and argument.value.id not in self.symbols

    def _is_known(self, name: str) -> bool:
        return name in self.symbols or self.scope.has_function(name)

    def _call(self, call: Invocation, context: ExprContext, no_name: str) -> None:
        callee = call.callee
        known = not isinstance(callee, s.Name) or self._is_known(callee.id)
        for group in call.groups:
            for argument in group:
                if self._names_dimension(argument, callee):
                    continue
                # `Sequential([Dense(8), relu])`: the mistake is the call, not what it is given
                if known or not names_function(argument.value, self.scope, self.symbols):
                    self.expression(argument.value, context)
        if not isinstance(callee, s.Name):
            self.report.add("E0203", no_name, callee.span)
            return
        name = callee.id
        if "." in name and (name.partition(".")[0] in self.symbols or not without_prefix(name)):
            self._part(callee)
            return
        # Functions and values have names of their own kinds: with a tensor `tanh`, `tanh(x)` still
        # is the function. So no name of the user's can hide what a program applies.
        symbol, found = self.symbols.get(name), self.scope.find(name)
        layer = self.layers.get(name)
        if layer is None and symbol is not None and found is None and name not in BUILTINS:
            self.read.add(name)
            if name in self.unclear:  # `fc = Linear(8)`, a layer or not
                return
            places = ", ".join(a.span.text for a in call.first) or "i"
            fn_input = symbol.kind == "input" and self.definition.kind == "fn"
            self.report.add(
                "E0203",
                f"`{name}` is {KINDS[symbol.kind]} and cannot be called",
                callee.span,
                label="a value, not a layer or a function",
                help="layers and functions are called by their own names"
                if fn_input or symbol.kind == "setting"
                else f"read an element with brackets: `{name}[{places}]`",
            )
            return
        # A layer that the body gave this name is nearer than a definition.
        if layer is not None:
            self.read.add(name)
            check_named_layer(call, callee, layer, self.report)
            found = layer
        else:
            check_call(call, callee, self.scope, self.report)
        # Inside an indexed equation everything is one element; a layer needs the whole tensor.
        if found is not None and found.kind in ("layer", "model") and context.indexed:
            self.report.add(
                "E0210",
                f"{found.kind} `{name}` is used inside an equation over indices",
                callee.span,
                label="a layer works on whole tensors",
                help=f"give its result a name first: `h = {name}(…)…`, then index `h`",
            )
