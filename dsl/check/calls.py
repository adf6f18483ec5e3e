"""Calls: whether an application of a layer, function or optimizer has the arguments that it needs.

Reports E0203, E0204 and E0205. The expressions in the arguments are checked where they stand.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import replace

from ..diagnostics.character_hints import NEAR, hint_for_method
from ..diagnostics.diagnostic import Note, Report, did_you_mean
from ..diagnostics.foreign_terms import (
    advice,
    counterpart,
    names_input_size,
    suggest_setting,
    without_prefix,
)
from ..records import record
from ..syntax import ast as s
from ..syntax.source import Span
from .library import standard_library
from .names import BUILTINS, CONSTANTS, JOINING, MANY, Scope
from .spellings import AXES, activation, reduction, spelling, without_list

Arguments = tuple[s.Argument, ...]


@record
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
    if found is None and name in BUILTINS:
        _check_builtin(call, name, report)
    elif found is None:
        _report_unknown(call, callee, scope, report)
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


def _report_unknown(call: Invocation, callee: s.Name, scope: Scope, report: Report) -> None:
    """A name that nothing has. If it is that of a layer in another framework, its settings are
    checked as those of the layer here, so that all of them are found at once."""
    leaf = without_prefix(callee.id) or callee.id
    found = scope.find(counterpart(leaf) or leaf)
    own = spelling(leaf, call.groups, scope.has_function) if call.groups else ""
    general = help_for_callee if leaf == callee.id else help_for_prefix
    help = own or general(leaf, scope)
    settings = found.settings if found is not None and found.kind == "layer" else ()
    arguments = call.first
    if settings and arguments and arguments[0].name is None and names_input_size(leaf):
        arguments = arguments[1:]
        help += "; the size of the input follows from the input"
    report.add(
        "E0203",
        f"unknown layer or function `{callee.id}`",
        callee.span,
        label="not defined here or in the library",
        help=help,
    )
    if found is not None and settings:
        as_settings = replace(call, partial=True)
        check_arguments(found, settings, arguments, as_settings, report, piped=False)


def help_for_callee(name: str, scope: Scope) -> str:
    """For an unknown name that is applied: its name here, with the settings that it needs."""
    found = scope.find(counterpart(name))
    if found is not None:
        return f"here it is `{_with_settings(found)}`"
    return advice(name) or did_you_mean(name, filter(scope.has_function, scope.names()))


def help_for_prefix(leaf: str, scope: Scope) -> str:
    """For a name after that of a module, `torch.relu`: the same without, or what it is here."""
    found = scope.find(leaf) or scope.find(counterpart(leaf))
    # `torch.zeros(8)` is no initialiser
    if found is not None and (found.settings or found.inputs):
        return f"names have no prefix: `{_with_settings(found)}`"
    if leaf in BUILTINS or leaf in CONSTANTS:
        return f"names have no prefix: `{leaf}`"
    return help_for_callee(leaf, scope) or "names have no prefix: nnc has no modules"


def help_for_dots(node: s.Name, scope: Scope, values: Container[str]) -> str:
    """`np.exp`, `self.fc` or `x.mean(…)`: a module, an object or one of the `values` before the
    dot."""
    owner, name = node.id.split(".")[:2]
    if owner == "self":
        layer = f"a layer is applied by its name, or given one: `{name} = Dense(8)`"
        return advice(name) or layer
    if owner not in values and (leaf := without_prefix(node.id)):
        return help_for_prefix(leaf, scope)
    text = node.span.source.text
    follows = re.match(r"\(\s*\)?", text[node.span.end : node.span.end + NEAR])
    call = follows.group() if follows and node.id.count(".") == 1 else ""
    call = "()" if call.endswith(")") else call.strip()
    return hint_for_method(owner, name, call, set(scope.names()))


def names_function(node: s.Expr, scope: Scope, values: Container[str]) -> bool:
    """Whether it is a layer or function itself, `Dense(8)` or `relu`, or a list of them."""
    if isinstance(node, s.List):
        return all(names_function(item, scope, values) for item in node.items)
    callee = node.function if isinstance(node, s.Call) else node
    if not isinstance(callee, s.Name) or callee.id in values:
        return False
    if not isinstance(node, s.Call):
        return scope.find(callee.id) is not None
    foreign = without_prefix(callee.id) or counterpart(callee.id)
    return bool(foreign) or layer_without_input(node, scope) is not None


def _with_settings(found: s.Definition) -> str:
    """`Conv(filters, kernel)`: a definition's name, with the settings that have no default."""
    needed = [p.name for p in found.settings if p.default is None]
    return f"{found.name}({', '.join(needed)})" if needed else found.name


def _check_builtin(call: Invocation, name: str, report: Report) -> None:
    least, most = BUILTINS[name]
    arguments = [argument for group in call.groups for argument in group]
    named = [argument for argument in arguments if argument.name is not None]
    count = call.piped + len(arguments)
    named = [a for a in named if a.name not in JOINING.get(name, ())]
    count -= len([a for a in arguments if a.name is not None])
    if len(call.groups) > 1:
        message = f"`{name}` takes one pair of parentheses"
        report.add("E0204", message, call.span, help=_builtin_help(name, call.groups[0]))
    elif name in ("concat", "stack") and any(_holds_tensors(a.value) for a in arguments):
        help = without_list(name, arguments)
        report.add("E0204", f"`{name}` takes tensors", call.span, help=help)
    elif named:
        message = f"`{name}` has no argument called `{named[0].name}`"
        help = did_you_mean(str(named[0].name), JOINING.get(name, ()))
        report.add("E0204", message, named[0].span, help=help or _builtin_help(name, call.first))
    elif not least <= count <= most:
        takes = _plural(least, "argument")
        if least < most:
            takes = f"at least {takes}" if most == MANY else f"{least} to {most} arguments"
        message = f"`{name}` takes {takes}, and {count} are given"
        report.add("E0204", message, call.span, help=_builtin_help(name, call.first))


def _builtin_help(name: str, arguments: Arguments) -> str:
    """What is probably meant by too many, too few or named arguments of a built-in function."""
    if name == "grad":
        return "the derivative of a number y by every element of a tensor x is `grad(y, x)`"
    # `concat(a, b, dim = 1)`
    if name in JOINING and any(a.name in AXES for a in arguments):
        return "a dimension is its number or its name: `axis = 1`"
    # `sum(x, axis = 1)` and `sum(i, x[i])` are the usual misunderstandings
    return reduction(name, arguments) if name in s.REDUCTIONS else ""


def _holds_tensors(value: s.Expr) -> bool:
    """Whether it is a list of something else than numbers."""
    return isinstance(value, s.List) and any(isinstance(n, s.Name) for n in s.walk(value))


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
                    help=_extra_setting_hint(argument.value)
                    if of_layer
                    else _extra_argument_hint(argument.value, definition),
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
                help=_activation_hint(argument, names)
                or suggest_setting(argument.name, names, name),
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


def _activation_hint(argument: s.Argument, settings: Sequence[str]) -> str:
    """`Dense(8, activation = "tanh")`: which function it is, if the layer has no such setting."""
    given = argument.value
    word = given.value if isinstance(given, s.String) else given.span.text
    if argument.name != "activation" or "f" in settings:
        return ""
    found = activation(word.rpartition(".")[2], lambda n: n in standard_library() or n in BUILTINS)
    return f"apply it to the result: `… |> {found}`" if found else ""


def _extra_argument_hint(value: s.Expr, function: s.Definition) -> str:
    """`softmax(x, 1)`: the number of a dimension; `zeros(8, 8)`, which makes a tensor elsewhere."""
    number = value.operand if isinstance(value, s.Unary) else value
    if not isinstance(number, s.Number | s.Name):
        return ""
    return advice(function.name) or _setting_hint("axis", (), function)


def _setting_hint(setting: str, settings: Sequence[str], callee: s.Definition) -> str:
    """For a setting that the callee does not have; only with a shape it knows dimensions."""
    shaped = any(p.type is not None and p.type.shape for p in callee.inputs)
    if setting in AXES and not shaped:
        return ""
    return suggest_setting(setting, settings, callee.name)


def _extra_setting_hint(value: s.Expr) -> str:
    """For a setting that a layer does not have: an activation, or the size of the input."""
    if isinstance(value, s.Name) and value.id in standard_library():
        return f"apply it to the result: `… |> {value.id}`"
    return "the sizes of the input follow from the input"
