"""Calls: whether an application of a layer, function or optimizer has the arguments that it needs.

Reports E0203, E0204 and E0205. The expressions in the arguments are checked where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..diagnostics.diagnostic import Note, Report, did_you_mean
from ..diagnostics.foreign_terms import suggest, suggest_setting
from ..syntax import ast as s
from ..syntax.source import Span
from .library import standard_library
from .names import BUILTINS, JOINING, MANY, Scope

Arguments = tuple[s.Argument, ...]


@dataclass(frozen=True)
class Invocation:
    """`f(a)(b)` or, at the end of a pipe, `x |> f(a)`: the callee and its argument lists.

    With `piped` the first input comes from the pipe. With `partial` missing arguments are
    supplied elsewhere: an optimizer's parameter, the step of a schedule."""

    callee: s.Expr
    groups: Sequence[Arguments]
    span: Span
    piped: bool = False
    partial: bool = False

    @property
    def first(self) -> Arguments:
        return self.groups[0] if self.groups else ()


def invocation(node: s.Expr, piped: bool = False, partial: bool = False) -> Invocation:
    """An expression as a call: one that is no `Call` has no argument lists."""
    span = node.span
    groups: list[Arguments] = []
    # f(a)(b) is Call(Call(f, a), b): the outermost list is the last one
    while isinstance(node, s.Call):
        groups.insert(0, node.arguments)
        node = node.function
    return Invocation(node, groups, span, piped, partial)


def layer_without_input(node: s.Expr, scope: Scope) -> s.Definition | None:
    """The layer or model that an expression names and does not apply: `Dense(8)`, `LayerNorm`."""
    callee = node.function if isinstance(node, s.Call) else node
    found = scope.find(callee.id) if isinstance(callee, s.Name) else None
    return found if found is not None and lacks_input(node, found) else None


def lacks_input(node: s.Expr, found: s.Definition) -> bool:
    """Whether an expression with this callee is a layer or model without its input."""
    if found.kind not in ("layer", "model"):
        return False
    # `Flatten(x)`: of a layer without settings the parentheses hold the input, if there is any
    needs_input = any(p.default is None for p in found.inputs)
    return (
        bool(found.settings) or not isinstance(node, s.Call) or (not node.arguments and needs_input)
    )


def check_named_layer(
    call: Invocation, callee: s.Name, layer: s.Definition, report: Report
) -> None:
    """Check the application of a layer that has a name, and its settings, already."""
    if len(call.groups) > 1:
        report.add(
            "E0204",
            f"`{callee.id}` has its settings where it is named",
            call.span,
            label="given again here",
            help=f"apply it to an input: `{callee.id}(x)`",
        )
    else:
        check_arguments(layer, layer.inputs, call.first, call, report)


def check_call(call: Invocation, callee: s.Name, scope: Scope, report: Report) -> None:
    """Check that the `callee`, which must be a name, exists and has the right arguments."""
    name = callee.id
    found = scope.find(name)
    if found is None:
        if name in BUILTINS:
            _check_builtin(call, name, report)
        else:
            report.add(
                "E0203",
                f"unknown layer or function `{name}`",
                callee.span,
                label="not defined here or in the library",
                help=suggest(name, scope.names()),
            )
    elif found.kind == "optimizer":
        report.add(
            "E0203",
            f"`{name}` is an optimizer and cannot be applied",
            callee.span,
            help="name it in a `train` block: `optimizer = …`",
        )
    # Without settings there is one pair of parentheses, with the inputs: `softmax(x)`,
    # `Flatten(x)`.
    elif found.kind == "fn" or not found.settings:
        # `Net()(x)`: no settings are given
        if found.kind != "fn" and len(call.groups) == 2 and not call.first:
            call = replace(call, groups=call.groups[1:])
        if len(call.groups) > 1:
            report.add(
                "E0204",
                f"`{name}` takes one pair of parentheses",
                call.span,
                notes=(Note(found.name_span, "defined here"),),
            )
        elif not call.piped and not call.groups:
            report.add("E0205", f"`{name}` is not applied to anything", call.span)
        else:
            check_arguments(found, found.inputs, call.first, call, report)
    else:
        # Settings, then inputs: `Dense(10)(x)`. A pipe gives the first input, never a setting.
        check_arguments(found, found.settings, call.first, call, report, piped=False)
        if len(call.groups) > 1 or call.piped:
            inputs = call.groups[1] if len(call.groups) > 1 else ()
            check_arguments(found, found.inputs, inputs, call, report)
        else:
            report.add(
                "E0205",
                f"{found.kind} `{name}` is not applied to an input",
                call.span,
                label="only its settings are given",
                help=f"write `x |> {name}(…)` or `{name}(…)(x)`",
            )


def _check_builtin(call: Invocation, name: str, report: Report) -> None:
    least, most = BUILTINS[name]
    arguments = [argument for group in call.groups for argument in group]
    named = [argument for argument in arguments if argument.name is not None]
    count = call.piped + len(arguments)
    # `sum(i, x[i])` is the usual misunderstanding
    help = f"over an index: `y[b] = {name}(i) x[b, i]`" if name in s.REDUCTIONS else ""
    named = [a for a in named if a.name not in JOINING.get(name, ())]
    count -= len(arguments) - len([a for a in arguments if a.name is None])
    if name in ("concat", "stack") and any(isinstance(a.value, s.List) for a in arguments):
        help = f"there are no lists of tensors: `{name}(a, b)`"
        report.add("E0204", f"`{name}` takes tensors", call.span, help=help)
    elif named:
        help = did_you_mean(str(named[0].name), JOINING.get(name, ())) or help
        message = f"`{name}` has no argument called `{named[0].name}`"
        report.add("E0204", message, named[0].span, help=help)
    elif not least <= count <= most:
        takes = _plural(least, "argument")
        if least < most:
            takes = f"at least {takes}" if most == MANY else f"{least} to {most} arguments"
        message = f"`{name}` takes {takes}, and {count} are given"
        report.add("E0204", message, call.span, help=help)


def check_arguments(
    definition: s.Definition,
    parameters: tuple[s.Parameter, ...],
    arguments: Arguments,
    call: Invocation,
    report: Report,
    piped: bool | None = None,
) -> None:
    """Match the arguments of one list with the parameters: by position, then by name."""
    piped = call.piped if piped is None else piped
    name = definition.name
    names = [p.name for p in parameters]
    defined = (Note(definition.name_span, "defined here"),)
    # A piped value takes the first parameter, so positions begin after it.
    given = set(names[:1]) if piped else set()
    position = int(piped)
    by_name = False
    unknown = 0  # arguments with unknown names, each probably meant for a missing one
    for argument in arguments:
        if argument.name is None:
            if by_name:
                report.add(
                    "E0204",
                    "an argument by position follows one by name",
                    argument.span,
                    help="put the named ones last",
                )
                return
            if position >= len(names):
                takes = f"{_plural(len(names), 'argument')} here ({', '.join(names) or 'none'})"
                # `Dense(784, 10)`, `Dense(10, relu)`: settings that other frameworks have
                of_layer = definition.kind == "layer" and parameters is definition.settings
                report.add(
                    "E0204",
                    f"`{name}` takes {takes}, and more are given",
                    argument.span,
                    label="one too many",
                    notes=defined,
                    help=_extra_setting_hint(argument.value) if of_layer else "",
                )
                return
            given.add(names[position])
            position += 1
            continue
        by_name = True
        if argument.name not in names:
            unknown += 1
            report.add(
                "E0204",
                f"`{name}` has no setting `{argument.name}`",
                argument.span,
                label=f"it has {', '.join(names)}" if names else "it has none",
                notes=defined,
                help=suggest_setting(argument.name, names),
            )
        elif argument.name in given:
            message = f"`{argument.name}` is given twice"
            report.add("E0204", message, argument.span, label="again here")
        given.add(argument.name)
    missing = [p.name for p in parameters if p.default is None and p.name not in given]
    # A misspelt name leaves its parameter missing; one message is enough for the two.
    if len(missing) > unknown and not call.partial:
        help = f"add it: `{name}({', '.join(f'{m} = …' for m in missing)})`"
        # `concat([a, b])`: other languages pass a list
        if any(isinstance(a.value, s.List) for a in arguments):
            help = f"there are no lists of tensors: `{name}({', '.join(names)})`"
        listed = ", ".join(f"`{m}`" for m in missing)
        report.add("E0205", f"`{name}` is missing {listed}", call.span, notes=defined, help=help)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _extra_setting_hint(value: s.Expr) -> str:
    """For a setting that a layer does not have: an activation, or the size of the input."""
    if isinstance(value, s.Name) and value.id in standard_library():
        return f"apply it to the result: `… |> {value.id}`"
    return "the sizes of the input follow from the input"
