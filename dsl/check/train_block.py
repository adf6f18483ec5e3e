"""Train blocks: their fields, the model that they train, the calls in them.

In: the train blocks of a file and the names that it can see. Out: diagnostics E04xx and W04xx. The
names of data and their fields are the runtime's.
"""

from __future__ import annotations

from ..diagnostics.diagnostic import Note, Report, did_you_mean
from ..diagnostics.foreign_terms import suggest, suggest_field
from ..syntax import ast as s
from ..syntax.source import Span
from .calls import apply_to, groups_of, match_arguments
from .names import Visible

TRAIN_FIELDS = (
    "data",
    "loss",
    "optimizer",
    "batch",
    "epochs",
    "steps",
    "seed",
    "patience",
    "validation",
    "clip",
    "penalty",
    "keep",
    "checkpoint_steps",
    "keep_checkpoints",
    "shuffle",
    "monitor",
    "float",
    "precision",
)

# Fields whose functions are readers of data, known to the runtime alone.
_DATA_FIELDS = ("data", "validation")

# Fields whose functions are given some of their arguments by the training loop.
_PARTIAL_FIELDS = ("optimizer", "penalty", "clip")

# What is computed from tensors, so that a word cannot stand there.
_COMPUTED = ("loss", "penalty", "clip")


def check_trains(trains: list[s.Train], visible: Visible, report: Report) -> None:
    seen: dict[str, s.Train] = {}
    for train in trains:
        first = seen.setdefault(train.model.id, train)
        if first is not train:
            report.add(
                "E0402",
                f"`{train.model.id}` has two train blocks",
                train.model.span,
                label="again here",
                notes=(Note(first.model.span, "first here"),),
                help="keep one; what differs between runs is given with `--set`",
            )
        model = visible.find(train.model.id)
        if model is None or model.kind != "model":
            models = [
                d.name for d in (*visible.own.values(), *visible.used.values()) if d.kind == "model"
            ]
            what = "is not defined" if model is None else f"is a {model.kind}, not a model"
            report.add(
                "E0403",
                f"`{train.model.id}` {what}",
                train.model.span,
                label="expected the name of a model",
                help=did_you_mean(train.model.id, models),
            )
        _check_train(train, visible, report)
        _check_logits(train, visible, report)


def _check_train(train: s.Train, visible: Visible, report: Report) -> None:
    seen: dict[str, Span] = {}
    for entry in train.body:
        name = entry.name if not isinstance(entry, s.Until) else None
        if name is not None:
            _once(name, seen, report)
        if isinstance(entry, s.Field) and entry.name.id not in TRAIN_FIELDS:
            report.add(
                "E0401",
                f"a train block has no field `{entry.name.id}`",
                entry.name.span,
                label="unknown field",
                help=suggest_field(entry.name.id, TRAIN_FIELDS),
            )
            continue
        if isinstance(entry, s.Field) and entry.name.id in _DATA_FIELDS:
            continue
        match entry:
            case s.Field(name=name, value=s.String() as word) if name.id in _COMPUTED:
                _word(name.id, word, visible, report)
                continue
            case s.Metric(name=name, value=s.String() as word):
                _word(name.id, word, visible, report)
                continue
        partial = isinstance(entry, s.Field) and entry.name.id in _PARTIAL_FIELDS
        if isinstance(entry, s.Field) and entry.name.id == "optimizer":
            _check_optimizer(entry, visible, report)
        elif not isinstance(entry, s.Input):
            _check_calls(entry, visible, report, partial)
    if "loss" not in seen:
        report.add(
            "E0404",
            f"`train {train.model.id}` has no loss",
            train.model.span,
            label="nothing to make smaller",
            help="add `loss = …`, such as `loss = cross_entropy(logits, label)`",
        )


def _word(field: str, word: s.String, visible: Visible, report: Report) -> None:
    """`loss = "mse"`."""
    found = visible.find(word.value)
    needed = ", ".join(p.name for p in found.inputs if p.default is None) if found else "…"
    report.add(
        "E0312",
        f"`{field}` is computed, and this is a word",
        word.span,
        label="a word",
        help=f"apply the function: `{field} = {word.value}({needed})`"
        if found
        else f"apply a function, such as `{field} = mse(y, target)`",
    )


def _once(name: s.Name, seen: dict[str, Span], report: Report) -> None:
    if name.id in seen:
        report.add(
            "E0405",
            f"`{name.id}` is set twice",
            name.span,
            label="again here",
            notes=(Note(seen[name.id], "first here"),),
            help="keep one of them",
        )
    seen.setdefault(name.id, name.span)


def _check_optimizer(entry: s.Field, visible: Visible, report: Report) -> None:
    """`adam` or `adam(lr = …)`; its settings may be schedules, which get the step themselves."""
    groups, callee = groups_of(entry.value)
    found = visible.find(callee.id) if isinstance(callee, s.Name) else None
    if not isinstance(callee, s.Name) or found is None or found.kind != "optimizer":
        shown = f"`{callee.id}`" if isinstance(callee, s.Name) else "this"
        names = [n for n in visible.names() if (d := visible.find(n)) and d.kind == "optimizer"]
        known = isinstance(callee, s.Name) and found is None
        report.add(
            "E0406",
            f"{shown} is not an optimizer",
            callee.span,
            label="not defined here or in the library" if known else "",
            help=(suggest(callee.id, names) if isinstance(callee, s.Name) else "")
            or (
                f"write it without quotes: `{callee.value}()`"
                if isinstance(callee, s.String) and callee.value in names
                else ""
            )
            or "write one such as `adam(lr = 1e-3)`",
        )
        return
    match_arguments(
        found, found.settings, groups[0] if groups else (), entry.value.span, False, report, False
    )
    for argument in groups[0] if groups else ():
        _check_calls(argument, visible, report, partial=True)


def _check_calls(node: s.Node, visible: Visible, report: Report, partial: bool) -> None:
    """Calls in a train block; plain names may be fields of the data, so they are not looked up."""
    inner: set[int] = set()
    for part in s.walk(node):
        if isinstance(part, s.Ellipsis_ | s.Name) or id(part) in inner:
            continue
        if isinstance(part, s.Pipe):
            groups, callee = groups_of(part.stage)
            piped, whole = True, part.stage
            inner.add(id(part.stage))
        elif isinstance(part, s.Call):
            groups, callee = groups_of(part)
            piped, whole = False, part
        else:
            continue
        function = whole
        while isinstance(function, s.Call):
            inner.add(id(function))
            function = function.function
        if isinstance(callee, s.Name):
            apply_to(callee, groups, whole.span, piped, visible, report, partial)


# --- logits ---------------------------------------------------------------------------------------

_SQUASHING = ("softmax", "log_softmax", "sigmoid")


def _check_logits(train: s.Train, visible: Visible, report: Report) -> None:
    """A loss whose input is called `logits` applies softmax itself."""
    model = visible.find(train.model.id)
    losses = [e.value for e in train.body if isinstance(e, s.Field) and e.name.id == "loss"]
    for call in s.walk(tuple(losses)):
        if not isinstance(call, s.Call) or not isinstance(call.function, s.Name) or model is None:
            continue
        function = visible.find(call.function.id)
        for parameter, argument in zip(
            function.inputs if function else (), call.arguments, strict=False
        ):
            given = argument.value
            if parameter.name != "logits" or argument.name or not isinstance(given, s.Name):
                continue
            last = _last_function(model, given.id)
            if last is not None and last.id in _SQUASHING:
                report.add(
                    "W0401",
                    f"`{call.function.id}` takes logits, and `{given.id}` has gone "
                    f"through `{last.id}`",
                    given.span,
                    label="these are no logits",
                    notes=(Note(last.span, "here first"),),
                    help=f"end the model before `|> {last.id}`",
                )


def _last_function(model: s.Definition, name: str) -> s.Name | None:
    """The function that a tensor of the model comes out of."""
    for statement in s.flatten_remat(model.body):
        if isinstance(statement, s.Equation) and statement.targets[-1].id == name:
            value = statement.value
            end = value.stage if isinstance(value, s.Pipe) else value
            end = groups_of(end)[1] if isinstance(end, s.Call) else end
            return end if isinstance(end, s.Name) else None
    return None
