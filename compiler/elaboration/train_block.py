"""Train blocks: the loss and metrics of a model, and the gradients of the loss.

    loss = mse(y, target)   →   loss = …;   d_w = grad(loss, w)  for every parameter w

Gradients are placeholders (`ir/gradients.py`), which a pass expands. Fields of the data are inputs
of the system, declared where the block names them. What optimizers make of the gradients is in
`optimizers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ...dsl.check.names import value_names
from ...dsl.diagnostics.diagnostic import Note, Report, did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.equation import Gradient
from ..ir.gradients import active_tensors
from .broadcasting import materialize, pointwise
from .calls import apply
from .context import (
    RESERVED_INPUTS,
    UNLIMITED,
    Abort,
    BodyScope,
    Context,
    reserved,
)
from .dispatch import array as array_of
from .dispatch import value as value_of
from .interfaces import declared_shape
from .model import ElaboratedModel, elaborate_model, find_model
from .rules import RULES
from .values import Array, Shape, Static, Value, is_static, lift

# The expressions of norm and penalty stay this deep however many parameters the model has.
TERMS = 16  # squared gradients, or penalties, that one equation adds up


@dataclass(frozen=True)
class FieldType:
    """A field of the data: the type and shape of one example."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Setup:
    """What a training run is compiled for. `fields` is None where no data is known: then the file
    must state their types (`input label: i32[B]`). `steps` is the number of steps, if known.
    `precision` is that of the operands of contractions (`passes/autodiff/mixed_precision.py`).
    `whole` is the batch of most steps, where `batch` is that of a shorter last one."""

    definitions: Mapping[str, s.Definition]
    train: s.Train
    sizes: Mapping[str, int]
    fields: Mapping[str, FieldType] | None
    batch: int
    steps: int | None = None
    epochs: int | None = None
    float_type: str = "f32"
    precision: str = "f32"
    whole: int | None = None


@dataclass
class TrainBlock:
    """An elaborated model with the train block that is added to it."""

    setup: Setup
    model: ElaboratedModel
    constants: dict[str, Value] = field(default_factory=dict)  # `let`s that are known numbers
    hidden: set[str] = field(default_factory=set)  # fields of the data that W0306 has named

    @property
    def ctx(self) -> Context:
        return self.model.ctx

    def setting(self, name: str) -> s.Field | None:
        """The setting of this name, such as `optimizer = …`; the checks allow one."""
        fields = (i for i in self.setup.train.body if isinstance(i, s.Field))
        return next((f for f in fields if f.name.id == name), None)

    def scope(self) -> BodyScope:
        """The names that the block can use: those of the model, the step and constants."""
        names = {**self.model.scope.names, **self.constants}
        # No prefix: the tensors of the train block stand beside those of the model.
        leading = self.model.scope.leading
        layers, words = self.model.scope.layers, self.schedule()
        return BodyScope("", names, layers=layers, leading=leading, takes_fields=True, words=words)

    def schedule(self) -> dict[str, Static | Array]:
        """`t`, the number of the step, and `steps` and `epochs`, which are unknown where a program
        is compiled without a run. Names of the user's come first."""
        words: dict[str, Static | Array] = {"t": self.ctx.scalar_input("step")}
        known = {"steps": self.setup.steps, "epochs": self.setup.epochs}
        return words | {name: value for name, value in known.items() if value is not None}

    def settings_scope(self) -> BodyScope:
        """The names that the optimizer's settings can use. A rate depends on the step, whatever the
        model calls `t`; a `let` of the block comes first here, too."""
        scope, schedule = self.scope(), self.schedule()
        scope.names.update({n: v for n, v in schedule.items() if n not in self.constants})
        return scope


def groups(train: s.Train) -> list[s.ParamGroup]:
    """`optimizer encoder.* = …` and `freeze …`."""
    return [i for i in train.body if isinstance(i, s.ParamGroup)]


def group_of(train: s.Train, parameter: str) -> s.ParamGroup | None:
    """The entry that says how a parameter is trained: the last one with a pattern for it."""
    fitting = (g for g in groups(train) if any(_fits(p, parameter) for p in g.patterns))
    return next(iter([*fitting][::-1]), None)


def _fits(pattern: s.Pattern, parameter: str) -> bool:
    """Whether `encoder.*` is a pattern for `encoder_dense1_w`: a dot stands for the underscore
    between a layer and what it has."""
    return fnmatchcase(parameter, pattern.text.replace(".", "_"))


def elaborate_trained_model(setup: Setup, training: bool, limited: bool = True) -> TrainBlock:
    """The model of a train block. UserError with what is wrong in it, and E0407 or E0408 where the
    data do not fit its inputs. Tensors of a system that is not `limited` may have any size: it is
    only looked at."""
    definition = find_model(setup.definitions, setup.train.model.id)
    report = Report()
    sizes = _bound_sizes(setup, definition, report)
    ctx = Context(setup.definitions, report, training, setup.float_type, RULES, setup.fields)
    ctx.reserve(_own_names(setup.train))
    if not limited:
        ctx.most_elements = UNLIMITED
    if training and setup.whole is not None:
        ctx.fullness = min(setup.batch / setup.whole, 1.0)
    return TrainBlock(setup, elaborate_model(ctx, definition, sizes))


def _own_names(train: s.Train) -> Iterator[str]:
    """The names that a train block's text gives to tensors, and those of fields of the data."""
    for item in train.body:
        match item:
            case s.Metric(name=name, value=value) | s.Let(name=name, value=value):
                yield name.id
                yield from (n.id for n in value_names(value))
            case s.Input(name=name):
                yield name.id
            case s.Field(name=s.Name(id="loss"), value=value):
                yield "loss"
                yield from (n.id for n in value_names(value))


# --- sizes --------------------------------------------------------------------------------------


def _bound_sizes(setup: Setup, definition: s.Definition, report: Report) -> dict[str, int]:
    """The first symbolic dimension of the inputs is the batch; the data bind the others."""
    sizes = dict(setup.sizes)
    for parameter in definition.inputs:
        pattern = parameter.type.shape if parameter.type else None
        if not pattern:
            continue
        # `image: f32[B, 784]` → B = batch; a `--set B=8` comes first, as it is in `sizes` already
        if isinstance(pattern[0], s.Name):
            sizes.setdefault(pattern[0].id, setup.batch)
        # Without data, only `--set` can bind the other symbols.
        if setup.fields is None:
            continue
        if parameter.name in setup.fields:
            _bind_field(parameter, pattern[1:], setup.fields[parameter.name], sizes, report)
        else:
            report.add(
                "E0407",
                f"the data have no `{parameter.name}`",
                parameter.span,
                label="an input of the model",
                help=did_you_mean(parameter.name, setup.fields)
                or f"the data have {', '.join(f'`{f}`' for f in setup.fields)}",
            )
    return sizes


def _bind_field(
    parameter: s.Parameter,
    pattern: tuple[s.Expr, ...],
    field: FieldType,
    sizes: dict[str, int],
    report: Report,
) -> None:
    # Pattern and shape are those of one example, without the batch: [28, 28, c] against (28, 28,
    # 1). A symbol that is bound already must agree, a new one takes the size from the data.
    wrong = len(pattern) != len(field.shape)
    for item, size in zip(pattern, field.shape, strict=False):
        if isinstance(item, s.Name):
            wrong |= sizes.setdefault(item.id, size) != size
        # Arithmetic, as in `[2*n]`, is compared only when the model's inputs are elaborated.
        elif isinstance(item, s.Number):
            wrong |= item.value != size
    if wrong:
        report.add(
            "E0408",
            f"the data do not fit `{parameter.name}`",
            parameter.span,
            label=f"one example in the data is {field.dtype}{list(field.shape)}",
            help=f"declare it `{field.dtype}[{', '.join(['B', *map(str, field.shape)])}]`",
        )


# --- loss and metrics ---------------------------------------------------------------------------


def objective(block: TrainBlock) -> tuple[str, ...]:
    """The loss and the metrics as tensors without dimensions; their names, the loss first."""
    ctx, scope = block.ctx, block.scope()
    # Two rounds: the block's `let`s and inputs may stand below the loss that reads them.
    numbers: list[tuple[str, s.Expr]] = []
    for item in block.setup.train.body:
        with suppress(Abort), ctx.recursion_limit(item):
            match item:
                case s.Input():
                    _declare_input(block, item, scope)
                case s.Let(name=name, value=value):
                    _declare_fields(block, value, scope)
                    scope.names[name.id] = found = value_of(ctx, value, scope)
                    # Constants outlive this scope: the optimizer's settings read them, too.
                    if is_static(found):
                        block.constants[name.id] = found
                case s.Metric(name=name, value=value):
                    numbers.append((name.id, value))
                case s.Field(name=s.Name(id="loss"), value=value):
                    # Callers take the first output for the loss, wherever it stands in the block.
                    numbers.insert(0, ("loss", value))
    ctx.report.check()
    # With a wrong `let`, the expressions that read it would report its consequences.
    outputs = []
    for output, expression in numbers:
        with suppress(Abort), ctx.recursion_limit(expression):
            outputs.append(_number(block, output, expression, scope))
    ctx.report.check()
    return tuple(outputs)


def _declare_input(block: TrainBlock, item: s.Input, scope: BodyScope) -> None:
    """`input label: i32[B]`: its sizes are those of the model's inputs; E0316 for others."""
    ctx, type = block.ctx, item.type
    for size in type.shape or ():
        # An input cannot bind a size of its own: the model is elaborated already.
        if isinstance(size, s.Name) and size.id not in scope.names:
            first = next(iter(block.model.definition.inputs), None)
            others = [p.span.text for p in (first and first.type and first.type.shape) or ()]
            raise ctx.error(
                "E0316",
                f"the size `{size.id}` is not known",
                size.span,
                label="no input of the model has it",
                help=f"is the batch missing there? `{first.name}: "
                f"f32[{', '.join([size.id, *others])}]`"
                if first
                else "",
            )
    shape = declared_shape(ctx, type, scope, f"`{item.name.id}`")
    _declare(ctx, item.name, item.span, shape, ctx.float_for(type.dtype), scope)


def _declare_fields(block: TrainBlock, value: s.Node, scope: BodyScope) -> None:
    """Declare the fields of the data that an expression names."""
    ctx, fields = block.ctx, block.setup.fields or {}
    for node in value_names(value):
        if node.id not in fields:
            continue
        known = scope.names.get(node.id)
        # Either may be meant: `mse(y, n)` where the data have a column `n`.
        if isinstance(known, int) and node.id in block.model.scope.origins:
            place, source = block.model.scope.origins[node.id]
            raise ctx.error(
                "E0206",
                f"`{node.id}` is a size of the model, and a field of the data",
                node.span,
                label="which of them?",
                notes=(Note(place, f"the size, of `{source}`"),),
                help="give the size another name",
            )
        # A name of the model, or one declared by `input`, hides the field.
        if known is not None:
            _warn_of_hidden(block, node)
        else:
            # the type is that of one example: [784] → [B, 784]
            shape = (block.setup.batch, *fields[node.id].shape)
            _declare(ctx, node, node.span, shape, ctx.float_for(fields[node.id].dtype), scope)


def _warn_of_hidden(block: TrainBlock, name: s.Name) -> None:
    """W0306, once, for a field of the data whose name is that of something the model computes."""
    model = block.model
    inputs = {p.name for p in model.definition.inputs}
    if name.id not in model.scope.names or name.id in inputs | block.hidden:
        return
    block.hidden.add(name.id)
    tensor = block.ctx.tensors.get(name.id)
    block.ctx.report.add(
        "W0306",
        f"`{name.id}` is the model's here, and hides the field `{name.id}` of the data",
        name.span,
        label=f"the model's `{name.id}`",
        notes=(Note(tensor.span, "computed here"),) if tensor and tensor.span else (),
        help="if the field is meant, give the model's another name",
    )


def _declare(
    ctx: Context, name: s.Name, place: Span, shape: Shape, dtype: str, scope: BodyScope
) -> None:
    """An input of the system; E0206 if its name is that of a tensor of the model, unless that is
    the same input."""
    if name.id in RESERVED_INPUTS:
        raise reserved(ctx, name.id, name.span)
    # The model may read the same field (a language model's `token`): that is one input.
    known = ctx.tensors.get(name.id)
    if known is not None and (known.kind, known.shape, known.dtype) != ("input", shape, dtype):
        raise ctx.error(
            "E0206",
            f"`{name.id}` already names another tensor",
            name.span,
            label=f"a field of the data, {dtype}{list(shape)}",
            notes=(Note(known.span, f"{known.dtype}{list(known.shape)}"),) if known.span else (),
            help="rename the one in the model",
        )
    scope.names[name.id] = ctx.declare(name.id, shape, dtype, "input", place)


def _number(block: TrainBlock, name: str, value: s.Expr, scope: BodyScope) -> str:
    """The tensor of the loss or a metric; E0410 if it has dimensions."""
    ctx = block.ctx
    _declare_fields(block, value, scope)
    # Sums inside are named after it: `loss_mean`.
    scope.target = name
    array = array_of(ctx, value, scope)
    if array.rank:
        raise ctx.error(
            "E0410",
            f"`{name}` must be a single number",
            value.span,
            label=f"its shape is {list(array.shape)}",
            help=f"like `mean({value.span.text})`",
        )
    if name == "loss":
        array = _with_penalty(block, array, scope)
    # A metric may be a whole number (a count of hits); what a step reports is floats.
    array = pointwise(ctx, ctx.float_type, [array], value.span)
    # Metrics may read the loss and earlier metrics, unless a tensor of the model has that name.
    full = ctx.own_name(name)
    scope.names.setdefault(name, materialize(ctx, full, array, value.span, None))
    return full


def _with_penalty(block: TrainBlock, loss: Array, scope: BodyScope) -> Array:
    """`penalty = l2(1e-4)`: the function of every parameter, vectors and numbers included, added to
    the loss."""
    ctx, field = block.ctx, block.setting("penalty")
    if field is None:
        return loss
    # A list of its own, as the penalty's equations add tensors while the loop runs.
    parameters = [t for t in ctx.tensors.values() if t.kind == "param"]
    for number, tensor in enumerate(parameters, 1):
        cost = applied(ctx, field, [ctx.array_of(tensor.name)], scope)
        if cost.rank:
            raise ctx.error(
                "E0410",
                "`penalty` must give a single number",
                field.value.span,
                label=f"its shape is {list(cost.shape)} for `{tensor.name}`",
                help="sum over all elements: `sum(…)`",
            )
        loss = pointwise(ctx, "add", [loss, cost], field.span)
        if number % TERMS == 0:
            loss = materialize(ctx, ctx.unique("penalized_loss_part"), loss, field.span, None)
    return loss


def applied(ctx: Context, field: s.Field, first: list[Static | Array], scope: BodyScope) -> Array:
    """`clip = clip_norm(1.0)`: the function of the `first` values and its own arguments."""
    function, written = callee_of(field)
    if function is None:
        raise ctx.error(
            "E0203",
            f"`{field.name.id}` takes a function",
            field.value.span,
            help="like `penalty = l2(1e-4)` or `clip = clip_norm(1.0)`",
        )
    results = apply(ctx, function, written, (), first, field.value.span, scope)
    return lift(results[0], ctx.float_type)  # type: ignore[arg-type]


def callee_of(field: s.Field) -> tuple[s.Name | None, s.Call | None]:
    """The function that a setting names, and the call if it has arguments."""
    # `clip_norm(1.0)` has a call, `l2` alone is a name; `l2(1)(2)` names no function.
    written = field.value if isinstance(field.value, s.Call) else None
    function = written.function if written else field.value
    return (function if isinstance(function, s.Name) else None), written


# --- gradients ----------------------------------------------------------------------------------


def differentiate_loss(block: TrainBlock, loss: str) -> dict[str, str]:
    """Placeholders for the gradients of the loss; their names by parameter. Warns of parameters
    that have none."""
    ctx, report = block.ctx, block.ctx.report
    parameters = [t for t in ctx.tensors.values() if t.kind == "param"]
    _check_patterns(block, [p.name for p in parameters])
    train = block.setup.train
    frozen = [p for p in parameters if (g := group_of(train, p.name)) and g.value is None]
    parameters = [p for p in parameters if p not in frozen]
    system = ctx.system(block.model.definition.name, (loss,))
    # Activity analysis: a parameter that the loss does not depend on, or only through steps of
    # derivative zero such as `argmax`, gets no gradient and no update.
    active = active_tensors(system, loss, [p.name for p in parameters])
    names = {}
    for p in parameters:
        if p.name in active:
            names[p.name] = target = ctx.unique(f"d_{p.name}")
            ctx.declare(target, p.shape, p.dtype, "temp", None, ctx.axes[p.name])
            ctx.gradients.append(Gradient(target, loss, p.name, p.span))
    # One warning for all instead of W0301 for each parameter.
    if not names:
        report.add(
            "W0302",
            "the loss depends on no parameter",
            (block.setting("loss") or block.setup.train).span,
            label="nothing will be trained",
            help="compute it from a result of the model"
            if parameters
            else "all of them are frozen"
            if frozen
            else "the model has no parameters",
        )
        return names
    read = {source for eq in ctx.equations for source in eq.sources}
    for p in parameters:
        if p.name not in names and p.name in read:  # what nothing reads is W0201
            # A parameter of a library layer is shown where the user applies the layer.
            use = ctx.origins.get(p.name)
            report.add(
                "W0301",
                f"no gradient reaches `{p.name}`",
                use.span if use else p.span,
                label="it will not be trained",
            )
    return names


def _check_patterns(block: TrainBlock, parameters: Sequence[str]) -> None:
    """E0412 for a pattern that no parameter has."""
    for group in groups(block.setup.train):
        for pattern in group.patterns:
            if not any(_fits(pattern, name) for name in parameters):
                layers = {name.partition("_")[0] for name in parameters}
                first = pattern.text.partition(".")[0]
                listed = ", ".join(parameters[:8]) + ", …" * (len(parameters) > 8)
                block.ctx.error(
                    "E0412",
                    f"no parameter is called `{pattern.text}`",
                    pattern.span,
                    label="this fits none",
                    help=did_you_mean(first, sorted(layers))
                    or (f"there are {listed}" if parameters else "the model has none"),
                )
