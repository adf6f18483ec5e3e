"""Train blocks: their fields, the model that they train and the calls in them.

Reports E0401–E0406, E0312, E0414 and E0415. The names of data sources and their fields are the
runtime's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..diagnostics.diagnostic import Note, Report, did_you_mean
from ..diagnostics.foreign_terms import counterpart, suggest, suggest_field, without_prefix
from ..syntax import ast as s
from ..syntax.source import Span
from .calls import check_arguments, check_call, check_named_layer, invocation
from .names import Scope, input_symbols
from .renamed import FORMER, former_fields, with_current_names
from .suspicious import check_training
from .turns import check_turns

TRAIN_FIELDS = (
    "data", "loss", "optimizer", "batch", "epochs", "steps", "seed", "patience", "validation",
    "clip", "penalty", "keep", "validate_every", "log_every", "checkpoint_every",
    "keep_checkpoints", "shuffle", "monitor", "float", "precision", "weights", "turns", "average",
    "accumulate", "draw", "private",
)  # fmt: skip

SPLITS = ("validation", "test")  # before the name of what is measured on them
# what a record has besides what is measured
RECORDED = {
    "epoch": "number of the epoch",
    "step": "number of the step",
    "kind": "kind of a record",
    "seconds": "time taken",
}

# their functions, data sources, `balanced` and `partial`, are known to the runtime
_RUNTIME_FIELDS = ("data", "draw", "validation", "weights", "private")
_PARTIAL_FIELDS = ("optimizer", "penalty", "clip", "average")  # the training loop adds arguments
_COMPUTED_FIELDS = ("loss", "penalty", "clip", "average")  # of tensors, so never a string


Layers = Mapping[str, s.Definition]  # by the names that a model gives to them


def check_trains(
    trains: list[s.Train], scope: Scope, layers: Mapping[str, Layers], report: Report
) -> None:
    """Check the train blocks of a file, whose models give names to `layers`."""
    seen: dict[str, s.Train] = {}
    for train in trains:
        name = train.model
        first = seen.setdefault(name.id, train)
        if first is not train:
            report.add(
                "E0402",
                f"`{name.id}` has two train blocks",
                name.span,
                label="again here",
                notes=(Note(first.model.span, "first here"),),
                help="keep one; `--set` changes values from run to run",
            )
        model = scope.find(name.id)
        if model is None or model.kind != "model":
            # Of models, the library has none: only the user's names are likely.
            own = [*scope.own.values(), *scope.used.values()]
            what = "is not defined" if model is None else f"is a {model.kind}, not a model"
            report.add(
                "E0403",
                f"`{name.id}` {what}",
                name.span,
                label="expected the name of a model",
                help=did_you_mean(name.id, [d.name for d in own if d.kind == "model"]),
            )
        # The entries can be checked even without the model.
        _check_entries(train, scope, layers.get(name.id, {}), report)
        if model is not None:
            check_training(train, model, scope, report)


def _check_entries(train: s.Train, scope: Scope, layers: Layers, report: Report) -> None:
    _warn_of_former_names(train, report)
    train = with_current_names(train)
    model = scope.find(train.model.id)
    symbols = input_symbols(model) if model is not None else []
    seen: dict[str, Span] = {}  # fields by their names
    values: dict[str, Span] = {}  # what expressions may name: metrics, inputs, `let`s
    limits: dict[str, Span] = {}  # sizes with a maximum
    measures = [e.name.id for e in train.measures]
    for entry in train.body:
        if isinstance(entry, s.Field):
            _check_set_once(entry.name, seen, report)
        if isinstance(entry, s.Loss | s.Metric | s.Input | s.Let):
            _check_set_once(entry.name, values, report)
        _check_reserved(entry, measures, train, report)
        # Order matters: an unknown field is reported as such, whatever its value.
        field = entry.name.id if isinstance(entry, s.Field) else ""
        match entry:
            # `T = 64`: a size of the model
            case s.Field() if field in symbols and field not in TRAIN_FIELDS:
                pass
            case s.Field(name=name) if field not in TRAIN_FIELDS:
                report.add(
                    "E0401",
                    f"a train block has no field `{field}`",
                    name.span,
                    label="unknown field",
                    help=suggest_field(field, (*TRAIN_FIELDS, *symbols)),
                )
            case s.Field(name=name, value=s.String() as text) if field in _COMPUTED_FIELDS:
                _report_string(name.id, text, scope, report)
            case (
                s.Loss(name=name, value=s.String() as text)
                | s.Metric(name=name, value=s.String() as text)
            ):
                _report_string(name.id, text, scope, report)
            case s.Field(value=value) if field == "optimizer":
                _check_optimizer(value, scope, layers, report)
            case s.ParamGroup(value=s.Node() as value):
                _check_optimizer(value, scope, layers, report)
            # `data = csv("…")`: what is called there is looked up by the runtime
            case s.Field() if field not in (*_RUNTIME_FIELDS, "turns"):
                _check_calls(entry, scope, layers, report, field in _PARTIAL_FIELDS)
            case s.Loss() | s.Metric() | s.Until() | s.Let():
                _check_calls(entry, scope, layers, report, partial=False)
            case s.Limit(name=name):
                _check_set_once(name, limits, report)
                _check_limit(entry, train, symbols, report)
    # The first symbol is the batch, by another name.
    if symbols and symbols[0] in seen and symbols[0] not in TRAIN_FIELDS and "batch" in seen:
        _check_set_once(s.Name(seen[symbols[0]], "batch"), seen, report)
    check_turns(train, report)
    named = [loss.name for loss in train.losses if isinstance(loss, s.Loss)]
    if named and "loss" in seen:
        report.add(
            "E0405",
            "a loss without a name stands beside one with a name",
            seen["loss"],
            label="this would train all parameters",
            notes=(Note(named[0].span, "this trains its own"),),
            help="say which parameters it trains: `loss NAME for PARAMETERS = …`",
        )
    if not train.losses:
        report.add(
            "E0404",
            f"`train {train.model.id}` has no loss",
            train.model.span,
            label="nothing to minimise",
            help="add `loss = …`, such as `loss = cross_entropy(logits, label)`",
        )


def _warn_of_former_names(train: s.Train, report: Report) -> None:
    for field in former_fields(train):
        report.add(
            "W0407",
            f"`{field.name.id}` is called `{FORMER[field.name.id]}` now",
            field.name.span,
            label="its former name",
            help="`nnc fix FILE` writes the new one; the folder of a run can stay as it is",
        )


def _check_limit(entry: s.Limit, train: s.Train, symbols: list[str], report: Report) -> None:
    """E0415 for a maximum of something else than a size of the model, or that is none."""
    name, span, value = entry.name.id, entry.name.span, entry.value
    lets = {item.name.id for item in train.body if isinstance(item, s.Let)}
    unknown = [n for n in s.walk(value) if isinstance(n, s.Name) and n.id not in lets]
    number = value.value if isinstance(value, s.Number) else 1
    if name in symbols[1:] and entry.op == "<=":
        if not unknown and isinstance(number, int) and number > 0:
            return  # the runtime computes with `let`s
        what, span = f"the maximum of `{name}` must be a whole number from 1", value.span
        help = f"such as `{name} <= 512`"
        if unknown:
            help = f"`{unknown[0].id}` is not known when compiling: write a number, {help}"
    elif name in symbols[1:]:
        what, span = f"the maximum of `{name}` is declared with `<=`", entry.span
        help = f"write `{name} <= {entry.value.span.text}`, the greatest size that is allowed"
    elif name in symbols:
        what = f"`{name}` counts examples, of which there may be any number"
        help = "leave it out: one program predicts any number"
    else:
        what = f"`{name}` is no size of `{train.model.id}`"
        sizes = ", ".join(f"`{symbol}`" for symbol in symbols[1:])
        help = did_you_mean(name, symbols[1:]) or (
            f"the sizes of its inputs that have a name are {sizes}"
            if sizes
            else f"give one a name, as in `x: f32[B, {name}, 8]`"
        )
    report.add("E0415", what, span, help=help)


def _check_reserved(entry: s.Node, measures: list[str], train: s.Train, report: Report) -> None:
    """E0319 for a `let`, a loss or a metric with a name that means something else beside it."""
    if isinstance(entry, s.Let) and entry.name.id in TRAIN_FIELDS:
        report.add(
            "E0319",
            f"`{entry.name.id}` is a field of a train block",
            entry.name.span,
            label="a `let` of this name",
            help=f"choose another name, or set the field: `{entry.name.id} = …`: `--set` has one "
            "name for each",
        )
    if not isinstance(entry, s.Loss | s.Metric):
        return
    kind = "loss" if isinstance(entry, s.Loss) else "metric"
    name, what = entry.name.id, "the loss" if entry.name.id == "loss" else ""
    split, _, measured = name.partition("_")
    fields = [item.name.id for item in train.body if isinstance(item, s.Field)]
    if name in RECORDED:
        what = f"the {RECORDED[name]}"
    elif name == "epsilon" and "private" in fields:
        what = "what private training has spent"
    elif split in SPLITS and measured in ("loss", *measures):
        what = f"`{measured}` on the {split} data"
    if what:
        report.add(
            "E0319",
            f"`{name}` is the name of {what}",
            entry.name.span,
            label=f"a {kind} of this name",
            help="choose another name: both would be one column of the log",
        )


def _check_set_once(name: s.Name, seen: dict[str, Span], report: Report) -> None:
    first = seen.setdefault(name.id, name.span)
    if first is not name.span:
        report.add(
            "E0405",
            f"`{name.id}` is set twice",
            name.span,
            label="again here",
            notes=(Note(first, "first here"),),
            help="keep one of them",
        )


def _report_string(field: str, text: s.String, scope: Scope, report: Report) -> None:
    """`loss = "mse"`."""
    found = scope.find(text.value)
    help = f"apply a function, such as `{field} = mse(y, target)`"
    if found:
        needed = ", ".join(p.name for p in found.inputs if p.default is None)
        help = f"apply the function: `{field} = {text.value}({needed})`"
    message = f"`{field}` is computed, and this is a string"
    report.add("E0312", message, text.span, label="a string", help=help)


def _check_optimizer(value: s.Expr, scope: Scope, layers: Layers, report: Report) -> None:
    """`adam` or `adam(lr = …)`; the settings may be schedules, which receive the step."""
    call = invocation(value)
    callee = call.callee
    name = callee.id if isinstance(callee, s.Name) else None
    found = scope.find(name) if name else None
    if found is not None and found.kind == "optimizer":
        check_arguments(found, found.settings, call.first, call, report)
        for argument in call.first:
            _check_calls(argument, scope, layers, report, partial=True)
        return
    optimizers = [n for n in scope.names() if (d := scope.find(n)) and d.kind == "optimizer"]
    # `torch.optim.Adam`
    leaf = name and (without_prefix(name) or name)
    help = suggest(leaf, optimizers) if leaf else ""
    # `optimizer = "adam"`, as Keras has it
    if isinstance(callee, s.String) and callee.value in optimizers:
        help = f"write it without quotes: `{callee.value}()`"
    report.add(
        "E0406",
        f"`{name}` is not an optimizer" if name else "this is not an optimizer",
        callee.span,
        label="not defined here or in the library" if name and found is None else "",
        help=help or "write one such as `adam(lr = 1e-3)`",
    )
    # `SGD(lr = 0.1, momentum = 0.9)`: its settings, too
    meant = scope.find(counterpart(leaf)) if leaf else None
    if meant is not None and all(a.name for a in call.first):
        check_arguments(meant, meant.settings, call.first, call, report)


def _check_calls(node: s.Node, scope: Scope, layers: Layers, report: Report, partial: bool) -> None:
    """The calls in a train block. Other names may be fields of the data and are not resolved."""
    # `Dense(10)(x)` is two Call nodes and one application. `walk` comes to the outer one first; ids
    # serve as keys because equal calls may occur twice.
    inner: set[int] = set()  # calls that are part of another
    for part in s.walk(node):
        if id(part) in inner or not isinstance(part, s.Call | s.Pipe):
            continue
        whole = part.stage if isinstance(part, s.Pipe) else part
        call = invocation(whole, isinstance(part, s.Pipe), partial)
        # Arguments are not marked: calls in them are walked and checked by themselves.
        while isinstance(whole, s.Call):
            inner |= {id(whole), id(whole.function)}
            whole = whole.function
        if isinstance(call.callee, s.Name) and call.callee.id in layers:
            check_named_layer(call, call.callee, layers[call.callee.id], report)
        elif isinstance(call.callee, s.Name):
            check_call(call, call.callee, scope, report)
