"""One application of a layer or function: has it the arguments that it needs?

In: what is called and the groups of arguments it is given. Out: E0203, E0204 and E0205. The values
of the arguments are checked where they stand.
"""

from __future__ import annotations

from ..diagnostics.diagnostic import Note, Report
from ..diagnostics.foreign_terms import suggest, suggest_setting
from ..syntax import ast as s
from ..syntax.source import Span
from .library import standard_library
from .names import BUILTINS, Visible


def groups_of(node: s.Expr) -> tuple[list[tuple[s.Argument, ...]], s.Expr]:
    """The argument lists of `f(a)(b)` in order, and `f`."""
    groups: list[tuple[s.Argument, ...]] = []
    while isinstance(node, s.Call):
        groups.insert(0, node.arguments)
        node = node.function
    return groups, node


def apply_to(
    callee: s.Name,
    groups: list[tuple[s.Argument, ...]],
    span: Span,
    piped: bool,
    visible: Visible,
    report: Report,
    partial: bool = False,
) -> None:
    """Are these the right arguments for what is called? `piped`: the first input is given."""
    name = callee.id
    found = visible.find(name)
    if found is None:
        if name in BUILTINS:
            _apply_builtin(callee, groups, span, piped, report)
        else:
            report.add(
                "E0203",
                f"unknown layer or function `{name}`",
                callee.span,
                label="not defined here or in the library",
                help=suggest(name, visible.names()),
            )
        return
    if found.kind == "optimizer":
        report.add(
            "E0203",
            f"`{name}` is an optimizer and cannot be applied",
            callee.span,
            help="name it in a `train` block: `optimizer = …`",
        )
        return
    if found.kind == "fn" or not found.settings:
        if len(groups) > 1:
            report.add(
                "E0204",
                f"`{name}` takes one pair of parentheses",
                span,
                notes=(Note(found.name_span, "defined here"),),
            )
            return
        if not piped and not groups:
            report.add("E0205", f"`{name}` is not applied to anything", span)
            return
        match_arguments(
            found, found.inputs, groups[0] if groups else (), span, piped, report, partial
        )
        return
    match_arguments(
        found, found.settings, groups[0] if groups else (), span, False, report, partial
    )
    if len(groups) > 1 or piped:
        match_arguments(
            found, found.inputs, groups[1] if len(groups) > 1 else (), span, piped, report, partial
        )
    else:
        report.add(
            "E0205",
            f"{found.kind} `{name}` is not applied to an input",
            span,
            label="only its settings are given",
            help=f"write `x |> {name}(…)` or `{name}(…)(x)`",
        )


def _apply_builtin(
    callee: s.Name, groups: list[tuple[s.Argument, ...]], span: Span, piped: bool, report: Report
) -> None:
    name = callee.id
    least, most = BUILTINS[name]
    given = piped + sum(len(group) for group in groups)
    named = [a for group in groups for a in group if a.name is not None]
    reduces = f"over an index: `y[b] = {name}(i) x[b, i]`" if name in s.REDUCTIONS else ""
    if named:
        report.add(
            "E0204",
            f"`{name}` has no argument called `{named[0].name}`",
            named[0].span,
            help=reduces,
        )
    elif not least <= given <= most:
        takes = (
            f"{least} argument{'s' * (least != 1)}"
            if least == most
            else f"at least {least} argument{'s' * (least != 1)}"
            if most == 99
            else f"{least} to {most} arguments"
        )
        report.add("E0204", f"`{name}` takes {takes}, and {given} are given", span, help=reduces)


def match_arguments(
    definition: s.Definition,
    parameters: tuple[s.Parameter, ...],
    arguments: tuple[s.Argument, ...],
    span: Span,
    piped: bool,
    report: Report,
    partial: bool,
) -> None:
    """Arguments against the parameters of a definition, as everywhere: positions, then names."""
    name = definition.name
    names = [p.name for p in parameters]
    defined = (Note(definition.name_span, "defined here"),)
    given = set(names[:1]) if piped else set()
    position = int(piped)
    by_name = False
    strange = 0  # arguments by names that are none: each is taken for one that is missing
    for argument in arguments:
        if argument.name is None:
            if by_name:
                report.add(
                    "E0204",
                    "an argument by position stands after one by name",
                    argument.span,
                    help="put the named ones last",
                )
                return
            if position >= len(names):
                takes = f"{len(names)} argument{'s' * (len(names) != 1)}"
                report.add(
                    "E0204",
                    f"`{name}` takes {takes} here ({', '.join(names) or 'none'}), "
                    "and more are given",
                    argument.span,
                    label="one too many",
                    notes=defined,
                    help=_too_many(argument.value)
                    if definition.kind == "layer" and parameters is definition.settings
                    else "",
                )
                return
            given.add(names[position])
            position += 1
            continue
        by_name = True
        if argument.name not in names:
            strange += 1
            report.add(
                "E0204",
                f"`{name}` has no setting `{argument.name}`",
                argument.span,
                label=f"it has {', '.join(names)}" if names else "it has none",
                notes=defined,
                help=suggest_setting(argument.name, names),
            )
        elif argument.name in given:
            report.add(
                "E0204", f"`{argument.name}` is given twice", argument.span, label="again here"
            )
        given.add(argument.name)
    missing = [p.name for p in parameters if p.default is None and p.name not in given]
    if len(missing) > strange and not partial:
        listed = ", ".join(f"`{m}`" for m in missing)
        report.add(
            "E0205",
            f"`{name}` is missing {listed}",
            span,
            notes=defined,
            help=f"there are no lists of tensors: `{name}({', '.join(names)})`"
            if any(isinstance(a.value, s.List) for a in arguments)
            else f"give it: `{name}({', '.join(f'{m} = …' for m in missing)})`",
        )


def _too_many(value: s.Expr) -> str:
    """For a setting that a layer does not have: an activation, or the size of the input."""
    if isinstance(value, s.Name) and value.id in standard_library():
        return f"apply it to the result: `… |> {value.id}`"
    return "the sizes of the input are known from the input"
