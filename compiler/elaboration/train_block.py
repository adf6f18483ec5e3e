"""Train blocks: the model that a block trains, with its sizes bound by the data.

What a block adds to the model is elaborated in three steps: the losses and metrics
(`objective.py`), the gradients of each loss by the parameters that it trains (`players.py`), and
what optimizers make of them (`optimizers.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ...dsl.check.names import value_names
from ...dsl.diagnostics.diagnostic import Report, did_you_mean
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ..ir.equation import Clipping
from .context import Context
from .limits import UNLIMITED
from .model import ElaboratedModel, elaborate_model, find_model
from .rules import RULES
from .scopes import BodyScope
from .values import Array, Static, Value


@record
class FieldType:
    """A field of the data: the type and shape of one example."""

    dtype: str
    shape: tuple[int, ...]


@record
class Private:
    """`private = dp(…)`: the norm to which the gradient of one example is `limited`, the deviation
    of the `noise` by this, and how many examples a step has on average, of so many in all."""

    limit: float
    noise: float
    expected: float
    examples: int | None = None


@record
class Setup:
    """What a training run is compiled for. `fields` is None where no data is known: then the file
    must state their types (`input label: i32[B]`). `steps` is the number of steps, if known.
    `precision` is that of the operands of contractions (`passes/autodiff/mixed_precision.py`).
    `whole` is the batch of most steps, where `batch` is that of a shorter last one. `turn` are the
    losses whose parameters a step trains; empty for all losses. `accumulate` is the number of
    batches of a step. `limits` are the greatest values of sizes that have a declared maximum. With
    `private`, gradients are clipped for each example and noisy (`privacy.py`). `patch` is a tensor
    of a layer, and the name of the value in the model's body that it has in place of its own
    (activation patching)."""

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
    turn: tuple[str, ...] = ()
    accumulate: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    private: Private | None = None
    patch: tuple[str, str] | None = None


@dataclass
class TrainBlock:
    """An elaborated model with the train block that is added to it."""

    setup: Setup
    model: ElaboratedModel
    constants: dict[str, Value] = field(default_factory=dict)  # `let`s that are known numbers
    hidden: set[str] = field(default_factory=set)  # fields of the data that W0306 has named
    clipping: Clipping | None = None  # of a private block: what its gradients are clipped to

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
        layers = self.model.scope.layers
        # Names of the user's come first.
        words = self.schedule(self.ctx.scalar_input("step"), self.setup.steps)
        return BodyScope("", names, layers=layers, leading=leading, takes_fields=True, words=words)

    def schedule(self, step: Array, steps: int | None) -> dict[str, Static | Array]:
        """`t`, the number of the step, and `steps` and `epochs`, which are unknown where a program
        is compiled without a run."""
        words: dict[str, Static | Array] = {"t": step}
        known = {"steps": steps, "epochs": self.setup.epochs}
        return words | {name: value for name, value in known.items() if value is not None}

    def settings_scope(self, step: Array, steps: int | None) -> BodyScope:
        """The names that the settings of an optimizer can use, which takes its `step` of so many
        `steps`. A rate depends on the step, whatever the model calls `t`; a `let` of the block
        comes first here, too."""
        scope, schedule = self.scope(), self.schedule(step, steps)
        scope.names.update({n: v for n, v in schedule.items() if n not in self.constants})
        return scope


def elaborate_trained_model(setup: Setup, training: bool, limited: bool = True) -> TrainBlock:
    """The model of a train block. UserError with what is wrong in it, and E0407 or E0408 where the
    data do not fit its inputs. Tensors of a system that is not `limited` may have any size: it is
    only looked at."""
    definition = find_model(setup.definitions, setup.train.model.id)
    report = Report()
    sizes = _bound_sizes(setup, definition, report)
    ctx = Context(setup.definitions, report, training, setup.float_type, RULES, setup.fields)
    ctx.reserve(_own_names(setup.train))
    ctx.patch = setup.patch
    if not limited:
        ctx.most_elements = UNLIMITED
    if training:
        ctx.accumulate = setup.accumulate
    if training and setup.whole is not None:
        ctx.fullness = min(setup.batch / setup.whole, 1.0)
    return TrainBlock(setup, elaborate_model(ctx, definition, sizes))


def _own_names(train: s.Train) -> Iterator[str]:
    """The names that a train block's text gives to tensors, and those of fields of the data."""
    for item in train.body:
        match item:
            case (
                s.Loss(name=name, value=value)
                | s.Metric(name=name, value=value)
                | s.Let(name=name, value=value)
            ):
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
    _check_limits(setup, sizes, report)
    # what nothing else binds is compiled for the greatest
    return {**setup.limits, **sizes}


def with_sizes(setup: Setup, sizes: Mapping[str, int]) -> Setup:
    """The same for other values of sizes, which the data do not bind then."""
    definition = find_model(setup.definitions, setup.train.model.id)
    inputs = (item for item in setup.train.body if isinstance(item, s.Input))
    types = {p.name: p.type for p in definition.inputs} | {i.name.id: i.type for i in inputs}

    def sized(name: str, field: FieldType) -> FieldType:
        pattern = ((own := types.get(name)) and own.shape) or ()
        shape = [
            sizes.get(item.id, size) if isinstance(item, s.Name) else size
            for item, size in zip(pattern[1:], field.shape, strict=False)
        ]
        return FieldType(field.dtype, (*shape, *field.shape[len(shape) :]))

    fields = setup.fields and {name: sized(name, field) for name, field in setup.fields.items()}
    return replace(setup, sizes={**setup.sizes, **sizes}, fields=fields)


def _check_limits(setup: Setup, sizes: Mapping[str, int], report: Report) -> None:
    """E0415 for sizes beyond their maximum."""
    for item in setup.train.body:
        if isinstance(item, s.Limit):
            size = sizes.get(item.name.id, 0)
            limit = setup.limits.get(item.name.id, size)
            if size > limit:
                report.add(
                    "E0415",
                    f"`{item.name.id}` is {size:,}, and its declared maximum is {limit:,}",
                    item.span,
                    label="declared here",
                    help=f"write `{item.name.id} <= {size}`, or a larger number",
                )


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
