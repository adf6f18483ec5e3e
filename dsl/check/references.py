"""The expressions of one definition: every name, index, prime and call in them.

In: an expression and the place it stands in. Out: diagnostics E02xx, and which names are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..diagnostics.diagnostic import Note, Report, did_you_mean
from ..diagnostics.foreign_terms import suggest
from ..syntax import ast as s
from ..syntax.source import Span
from .calls import apply_to, groups_of
from .names import BUILTINS, CONSTANTS, OPTIMIZER_NAMES, Visible


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


KINDS = {
    "setting": "a setting",
    "input": "an input",
    "size": "a size",
    "let": "a `let`",
    "param": "a parameter",
    "state": "a state",
    "tensor": "a tensor",
}


@dataclass
class References:
    """What one definition can read. `names` is what it knows: name → (kind, where introduced)."""

    definition: s.Definition
    visible: Visible
    report: Report
    wanted: set[str]  # names that a train block reads
    names: dict[str, tuple[str, Span]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # unknown names, each reported once

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
        definition = self.visible.find(name)
        if definition is not None and not place.partial:
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
        own = [*place.indices, *self.names, *CONSTANTS]
        inputs = [f"`{p.name}`" for p in self.definition.inputs]
        self.report.add(
            "E0202",
            f"unknown name `{name}`",
            node.span,
            label="not defined anywhere",
            help=suggest(name, own)
            or suggest(name, self.visible.names())
            or ("initialisers are `glorot_uniform`, `normal(0, 0.02)`, …" if place.partial else "")
            or (
                f"a size gets its name in the shape of an input: `x: [..., {name}]`"
                if place.size
                else ""
            )
            or (f"the input is called {inputs[0]}" if len(inputs) == 1 else ""),
        )

    def _prime(self, node: s.Name) -> None:
        kind = self.names.get(node.id, ("",))[0]
        fine = kind in ("state", "param") or (
            self.definition.kind == "optimizer" and node.id == "p"
        )
        self.read.add(node.id)
        if not fine:
            what = f"{KINDS[kind]}" if kind else "not defined"
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
                f"`{name}` is {KINDS[local[0]]} and cannot be called",
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
