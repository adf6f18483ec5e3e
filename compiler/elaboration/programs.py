"""The training step as one system: forward, loss, metrics, gradients, optimizer.

In: checked definitions, a `train` block, the batch, the fields of the data. Out: systems whose
outputs are the loss and the metrics; the training step also updates every parameter and state.
What a step is run on, and how often, is the runtime's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ...dsl.diagnostics.diagnostic import Report, did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ...dsl.syntax.source import Span
from ..ir.build import call, literal
from ..ir.equation import Gradient, System
from ..ir.expr import Idx, Read
from ..ir.gradients import active_tensors
from ..passes.autodiff.expand_gradients import expand_gradients, useless_remat
from ..reference.nonfinite_trace import carries
from .broadcasting import broadcast, materialize, pointwise
from .calls import apply
from .context import Abort, Application, Scope
from .dispatch import array as array_of
from .dispatch import value as value_of
from .initializers import initial_system
from .interfaces import bind, declared_shape
from .model import ModelWork
from .reductions import reduce_array
from .repetition import memoized, outline
from .statements import body
from .values import Array, Static, Value, is_static, lift, of_scalar, of_tensor

SUMMED_AT_ONCE = 16  # squares of gradients in one equation


@dataclass(frozen=True)
class FieldType:
    """A field of the data: the type and shape of one example."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Setup:
    """What a training run is compiled for. `fields` is None where no data is known: then the
    types must be said in the file (`input label: i32[B]`). `steps` is how many there will be.
    `precision` is that of the operands of contractions (`passes/precision.py`)."""

    definitions: Mapping[str, s.Definition]
    train: s.Train
    sizes: Mapping[str, int]
    fields: Mapping[str, FieldType] | None
    batch: int
    steps: int | None = None
    epochs: int | None = None
    float_type: str = "f32"
    precision: str = "f32"


def training_step(setup: Setup, warnings: Report | None = None) -> tuple[System, System]:
    """The step, and the system that draws the first values of its parameters.

    Raises UserError with everything that is wrong in the model and the train block; what is only
    doubtful goes into `warnings`.
    """
    step, drawn, _ = _step(setup, warnings, False)
    return step, drawn


def step_with_gradients(setup: Setup) -> tuple[System, System, dict[str, str]]:
    """The same, with the gradients among the step's outputs, and the gradient of each parameter
    that has one, by name."""
    return _step(setup, None, True)


def _step(
    setup: Setup, warnings: Report | None, gradients: bool
) -> tuple[System, System, dict[str, str]]:
    work = TrainingWork(setup, training=True)
    work.run()
    drawn = initial_system(work)
    outputs = work.objective()
    names = work.differentiated(outputs)
    work.update(names)
    step = work.program((*outputs, *names.values()) if gradients else outputs)
    if warnings is not None:
        work.check_saving(step)
        warnings.diagnostics += work.report.diagnostics
    return expand_gradients(step), drawn, names


def evaluation(setup: Setup) -> System:
    """The loss and the metrics of a batch, with `training` false and nothing updated."""
    work = TrainingWork(setup, training=False)
    work.run()
    outputs = work.objective()
    work.updates = {}
    return expand_gradients(work.program(outputs))


def prediction(setup: Setup) -> System:
    """The model's results for a batch of its inputs."""
    work = TrainingWork(setup, training=False)
    work.run()
    work.updates = {}
    return expand_gradients(work.program(tuple(r.name for r in work.definition.results)))


class TrainingWork(ModelWork):
    """A model together with its train block."""

    def __init__(self, setup: Setup, training: bool):
        self.setup, self.train = setup, setup.train
        self.numbers: dict[str, Value] = {}  # each `let` that is a number: the optimizer's too
        super().__init__(
            setup.definitions, setup.train.model.id, setup.sizes, training, setup.float_type
        )
        self.fields = setup.fields
        self.bind_sizes()

    def program(self, outputs: tuple[str, ...]) -> System:
        return self.finished(outputs).replace(precision=self.setup.precision)

    # --- sizes --------------------------------------------------------------------------------

    def bind_sizes(self) -> None:
        """The first symbolic dimension of the inputs is the batch; the data bind the others."""
        for parameter in self.definition.inputs:
            pattern = parameter.type.shape if parameter.type else None
            if not pattern:
                continue
            if isinstance(pattern[0], s.Name):
                self.sizes.setdefault(pattern[0].id, self.setup.batch)
            fields = self.setup.fields
            if fields is None:
                continue
            if parameter.name not in fields:
                self.report.add(
                    "E0407",
                    f"the data have no `{parameter.name}`",
                    parameter.span,
                    label="an input of the model",
                    help=did_you_mean(parameter.name, fields)
                    or f"the data have {', '.join(f'`{f}`' for f in fields)}",
                )
                continue
            self.bind_field(parameter, pattern[1:], fields[parameter.name])

    def bind_field(
        self, parameter: s.Parameter, pattern: tuple[s.Expr, ...], field: FieldType
    ) -> None:
        assert parameter.type is not None
        wrong = len(pattern) != len(field.shape)
        for item, size in zip(pattern, field.shape, strict=False):
            if isinstance(item, s.Name):
                wrong |= self.sizes.setdefault(item.id, size) != size
            elif isinstance(item, s.Number):
                wrong |= item.value != size
        if wrong:
            self.report.add(
                "E0408",
                f"the data do not fit `{parameter.name}`",
                parameter.span,
                label=f"one example in the data is {field.dtype}{list(field.shape)}",
                help=f"declare it `{field.dtype}[B, {', '.join(map(str, field.shape))}]`"
                if field.shape
                else f"declare it `{field.dtype}[B]`",
            )

    # --- the loss -----------------------------------------------------------------------------

    def objective(self) -> tuple[str, ...]:
        """The loss and the metrics as tensors without dimensions; their names."""
        scope = self.training_scope()
        items: list[tuple[str, s.Node, s.Expr]] = []
        for item in self.train.body:
            try:
                with self.recursion_limit(item):
                    self.train_item(item, scope, items)
            except Abort:
                continue
        self.report.check()
        outputs = []
        for name, place, value in items:
            try:
                with self.recursion_limit(value):
                    outputs.append(self.number(name, place, value, scope))
            except Abort:
                continue
        self.report.check()
        return tuple(outputs)

    def training_scope(self) -> Scope:
        step = self.scalar_input("step")
        names: dict[str, Value] = dict(self.scope.names)
        names |= self.numbers
        names["t"] = step
        if self.setup.steps is not None:
            names["steps"] = self.setup.steps
        if self.setup.epochs is not None:
            names["epochs"] = self.setup.epochs
        return Scope("", names, leading=self.scope.leading, takes_fields=True)

    def train_item(
        self, item: s.Node, scope: Scope, items: list[tuple[str, s.Node, s.Expr]]
    ) -> None:
        match item:
            case s.Input(name=name, type=type):
                self.known_sizes(type, scope)
                shape = declared_shape(self, type, scope, f"`{name.id}`")
                scope.names[name.id] = self.declare(
                    name.id, shape, self.float_for(type.dtype), "input", item.span
                )
            case s.Let(name=name, value=value):
                self.data_fields(value, scope)
                scope.names[name.id] = found = value_of(self, value, scope)
                if is_static(found):
                    self.numbers[name.id] = found
            case s.Metric(name=name, value=value):
                items.append((name.id, name, value))
            case s.Field(name=s.Name(id="loss"), value=value):
                items.insert(0, ("loss", item, value))

    def known_sizes(self, type: s.Type, scope: Scope) -> None:
        """The sizes of an input of the train block are those of the model's inputs."""
        for item in type.shape or ():
            if isinstance(item, s.Name) and item.id not in scope.names:
                first = self.definition.inputs[0] if self.definition.inputs else None
                shape = [p.span.text for p in (first and first.type and first.type.shape) or ()]
                raise self.error(
                    "E0316",
                    f"the size `{item.id}` is not known",
                    item.span,
                    label="no input of the model has it",
                    help=f"is the batch missing there? `{first.name}: "
                    f"f32[{', '.join([item.id, *shape])}]`"
                    if first
                    else "",
                )

    def data_fields(self, value: s.Node, scope: Scope) -> None:
        """Declare the fields of the data that an expression names."""
        for node in walk(value):
            if not isinstance(node, s.Name) or node.id in scope.names or node.primed:
                continue
            if node.id in self.definitions or node.id in s.REDUCTIONS:
                continue
            field = (self.setup.fields or {}).get(node.id)
            if field is not None:
                shape = (self.setup.batch, *field.shape)
                dtype = self.float_for(field.dtype)
                scope.names[node.id] = self.declare(node.id, shape, dtype, "input", node.span)

    def number(self, name: str, place: s.Node, value: s.Expr, scope: Scope) -> str:
        self.data_fields(value, scope)
        scope.target = name
        array = array_of(self, value, scope)
        if array.rank:
            raise self.error(
                "E0410",
                f"`{name}` must be a single number",
                value.span,
                label=f"its shape is {list(array.shape)}",
                help=f"like `mean({value.span.text})`",
            )
        if name == "loss":
            array = self.with_penalty(array, scope)
        array = pointwise(self, self.float_type, [array], value.span)
        full = self.unique(name)
        made = materialize(self, full, array, value.span, None)
        scope.names.setdefault(name, made)
        return full

    def with_penalty(self, loss: Array, scope: Scope) -> Array:
        """`penalty = l2(1e-4)`: the function of every weight (a parameter with at least two
        dimensions: biases and scales are left free), added to the loss."""
        field = self.field("penalty")
        if field is None:
            return loss
        for tensor in [t for t in self.tensors.values() if t.kind == "param" and len(t.shape) > 1]:
            weight = of_tensor(tensor, self.axes[tensor.name])
            self.scope.target = "penalty"
            cost = self.transformed(field, [weight], scope)
            if cost.rank:
                raise self.error(
                    "E0410",
                    "`penalty` must give a single number",
                    field.value.span,
                    label=f"its shape is {list(cost.shape)} for `{tensor.name}`",
                    help="sum over all elements: `sum(…)`",
                )
            loss = pointwise(self, "add", [loss, cost], field.span)
        return loss

    def field(self, name: str) -> s.Field | None:
        found = [i for i in self.train.body if isinstance(i, s.Field) and i.name.id == name]
        return found[-1] if found else None

    def transformed(self, field: s.Field, first: list[Static | Array], scope: Scope) -> Array:
        """`clip = clip_norm(1.0)`: the function of the given values and its own arguments."""
        node = field.value
        function = node.function if isinstance(node, s.Call) else node
        if not isinstance(function, s.Name):
            raise self.error(
                "E0203",
                f"`{field.name.id}` takes a function",
                field.value.span,
                help="like `penalty = l2(1e-4)` or `clip = clip_norm(1.0)`",
            )
        written = node if isinstance(node, s.Call) else None
        results = apply(self, function, written, (), first, node.span, scope)
        return lift(results[0], self.float_type)  # type: ignore[arg-type]

    # --- gradients and updates ----------------------------------------------------------------

    def differentiated(self, outputs: tuple[str, ...]) -> dict[str, str]:
        """Placeholders for the gradients of the loss; their names by parameter."""
        system = self.system(self.definition.name, outputs)
        parameters = [t for t in self.tensors.values() if t.kind == "param"]
        active = active_tensors(system, outputs[0], [p.name for p in parameters])
        names = {}
        for p in parameters:
            if p.name in active:
                names[p.name] = target = self.unique(f"d_{p.name}")
                self.declare(target, p.shape, p.dtype, "temp", None, self.axes[p.name])
                self.gradients.append(Gradient(target, outputs[0], p.name, p.span))
        if not names:
            self.report.add(
                "W0302",
                "the loss depends on no parameter",
                self.loss_span(),
                label="nothing will be trained",
                help="compute it from a result of the model"
                if parameters
                else "the model has no parameters",
            )
        read = {source for eq in self.equations for source in eq.sources}
        for p in parameters:
            if names and p.name not in names and p.name in read:  # what nothing reads is W0201
                self.untrained(p.name)
        return names

    def check_saving(self, step: System) -> None:
        """Warn of a `remat` for which nothing is computed again, wherever it is applied."""
        for span in useless_remat(step):
            self.report.add(
                "W0304",
                "this `remat` saves nothing",
                span,
                label="no gradient needs what only this block knows",
                help="put more into it: what it is given and what is read after it is kept",
            )

    def loss_span(self) -> Span:
        loss = self.field("loss")
        return loss.span if loss else self.train.span

    def untrained(self, name: str) -> None:
        """Warn where the user's file makes a parameter that the loss does not depend on."""
        use = self.origins.get(name)
        own = self.tensors[name].span
        self.report.add(
            "W0301",
            f"no gradient reaches `{name}`",
            use.span if use else own,
            label="it will not be trained",
        )

    def update(self, gradients: Mapping[str, str]) -> None:
        """Every parameter's next value, by the optimizer written in the train block."""
        field = self.field("optimizer")
        if field is None:
            self.report.add(
                "E0411",
                f"`train {self.train.model.id}` has no optimizer",
                self.train.model.span,
                label="nothing would change a parameter",
                help="like `optimizer = adam(lr = 1e-3)`",
            )
            self.report.check()
            return
        call_node = field.value if isinstance(field.value, s.Call) else None
        name = call_node.function if call_node else field.value
        optimizer = self.definitions.get(name.id) if isinstance(name, s.Name) else None
        if optimizer is None or optimizer.kind != "optimizer" or not isinstance(name, s.Name):
            known = [d.name for d in self.definitions.values() if d.kind == "optimizer"]
            self.report.add(
                "E0406",
                f"`{field.value.span.text}` is not an optimizer",
                field.value.span,
                help=did_you_mean(field.value.span.text, known) or f"there are {', '.join(known)}",
            )
            self.report.check()
            return
        scope = self.training_scope()
        arguments = call_node.arguments if call_node else ()
        try:
            settings = bind(self, optimizer.settings, arguments, [], name, field.value.span, scope)
            use = Application(name.id, field.value.span, settings)
            norm = self.norm_if_read(optimizer, gradients)
            for parameter, gradient in gradients.items():
                p = of_tensor(self.tensors[parameter], self.axes[parameter])
                g = of_tensor(self.tensors[gradient], self.axes[gradient])
                seen = outline({"p": p, "g": g})
                assert seen is not None
                make = partial(self.update_one, optimizer, use, p, g, norm, scope)
                memoized(self, ("update", seen[0]), parameter, seen[1], make)
        except Abort:
            pass
        self.report.check()

    def norm_if_read(self, optimizer: s.Definition, gradients: Mapping[str, str]) -> Array | float:
        """sqrt(sum of g^2 over all gradients), if the optimizer or the clipping looks at it."""
        bodies: list[s.Node] = [optimizer]
        narrow_sums = self.field("clip")
        if narrow_sums is not None:
            function = (
                narrow_sums.value.function
                if isinstance(narrow_sums.value, s.Call)
                else narrow_sums.value
            )
            definition = self.definitions.get(function.id) if isinstance(function, s.Name) else None
            bodies += [] if definition is None else [definition]
        if not any(isinstance(n, s.Name) and n.id == "norm" for b in bodies for n in walk(b)):
            return 0.0
        total = of_scalar(literal(0.0, self.float_type))
        span = (narrow_sums or self.field("optimizer") or self.train).span
        for number, gradient in enumerate(gradients.values(), 1):
            g = of_tensor(self.tensors[gradient], self.axes[gradient])
            square = pointwise(self, "mul", [g, g], span)
            if g.rank:
                square = reduce_array(
                    self, "sum", square, span, Scope("", {}, target=f"{gradient}_square")
                )
            total = pointwise(self, "add", [total, square], span)
            if number % SUMMED_AT_ONCE == 0:  # a deep model has hundreds: no endless expression
                total = materialize(self, self.unique("gradient_norm_part"), total, span, None)
        root = pointwise(self, "sqrt", [total], span)
        return materialize(self, self.unique("gradient_norm"), root, span, None)

    def update_one(
        self,
        optimizer: s.Definition,
        use: Application,
        p: Array,
        g: Array,
        norm: Array | float,
        scope: Scope,
    ) -> tuple[()]:
        """The equations of one parameter's step."""
        assert p.tensor and g.tensor
        parameter, gradient = p.tensor.name, g.tensor.name
        narrow_sums = self.field("clip")
        if narrow_sums is not None:
            clipped = self.transformed(narrow_sums, [g, norm], scope)
            if broadcast(self, [clipped, g], narrow_sums.value.span) != g.shape:
                raise self.error(
                    "E0303",
                    "`clip` must keep the shape of a gradient",
                    narrow_sums.value.span,
                    label=f"it makes {list(clipped.shape)} of {list(g.shape)}",
                )
            g = clipped
        step = call(self.float_type, scope.names["t"].scalar())  # type: ignore[union-attr]
        names: dict[str, Value] = {**use.names, "p": p, "g": g, "norm": norm, "t": of_scalar(step)}
        inner = Scope(f"{parameter}_", names, target=optimizer.name)
        self.calls.append(use)
        body(self, optimizer.body, inner)
        self.calls.pop()
        if "p'" not in inner.names:
            raise self.error(
                "E0209", f"optimizer `{optimizer.name}` never assigns `p'`", optimizer.name_span
            )
        if parameter in self.updates:  # else what is wrong with its equation has been told
            self.expose(parameter, gradient)
        return ()

    def expose(self, parameter: str, gradient: str) -> None:
        """Where a gradient is not finite, something must be so after the step. Optimizers see to
        that by themselves, unless a gradient is cut at a limit or only its sign is taken: then it
        becomes the parameter's next value."""
        definition = {eq.target: eq for eq in self.equations}
        own = [n for n in self.updates.values() if n.startswith(f"{parameter}_")]
        following = self.updates[parameter]
        if any(carries(definition, name, gradient) for name in (following, *own)):
            return
        place, eq = next((n, eq) for n, eq in enumerate(self.equations) if eq.target == following)
        index = tuple(Idx(i.name) for i in eq.indices)
        g = Read(gradient, index, None, self.tensors[gradient].dtype)
        self.equations[place] = eq.with_body(call("select", call("is_finite", g), eq.body, g))
