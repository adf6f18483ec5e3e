"""A model as a system of equations: the front door of the compiler's upper half.

In: checked definitions, the sizes of the symbolic dimensions. Out: a `System` whose outputs are the
model's results. What training adds is in `training.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dsl.diagnostics.diagnostic import Report, did_you_mean, fail
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.equation import System
from .broadcasting import as_declared, distinct, materialize
from .context import Abort, Context, Scope
from .cycle_errors import check_order, check_remat_blocks
from .dispatch import as_array
from .interfaces import declared_shape, result
from .rules import RULES
from .statements import body
from .values import Array, Poison, Static


def forward(
    definitions: Mapping[str, s.Definition],
    model: str,
    sizes: Mapping[str, int],
    *,
    training: bool = True,
    float_type: str = "f32",
) -> System:
    """The model's equations. `sizes` binds the symbolic sizes of its inputs (`B`, `T`).

    With `float_type` f64, everything declared f32 is computed in f64. Raises UserError with all
    mistakes that were found.
    """
    work = ModelWork(definitions, model, sizes, training, float_type)
    work.run()
    return work.finished(tuple(r.name for r in work.definition.results))


class ModelWork(Context):
    """A model being elaborated; `scope` holds its inputs and, after `run`, all that it names."""

    def __init__(
        self,
        definitions: Mapping[str, s.Definition],
        model: str,
        sizes: Mapping[str, int],
        training: bool,
        float_type: str,
    ):
        super().__init__(definitions, Report(), training, float_type, RULES)
        found = definitions.get(model)
        if found is None or found.kind != "model":
            models = [d.name for d in definitions.values() if d.kind == "model"]
            raise fail("E0403", f"there is no model `{model}`", help=did_you_mean(model, models))
        self.definition = found
        self.sizes = dict(sizes)
        self.scope = Scope("", {})

    def run(self) -> None:
        """Inputs, body, results. Raises UserError if anything was wrong."""
        for parameter in self.definition.inputs:
            try:
                self.input(parameter)
            except Abort:
                continue
        self.report.check()
        self.reserve(self.definition)
        self.scope.declared = {r.name: r.type for r in self.definition.results if r.type}
        body(self, self.definition.body, self.scope)
        self.report.check()
        for declared in self.definition.results:
            self.attempt(declared)
        self.report.check()
        check_remat_blocks(self)
        self.report.check()

    def reserve(self, definition: s.Definition) -> None:
        """Keep the names of the results for the results. One that a `repeat` computes anew has a
        tensor for each time, and the last gets the name in the end."""
        names = {r.name for r in definition.results}
        for name in [*names, *(p.name for p in definition.inputs)]:
            own = self.tensors.get(name)
            if name in ("step", "seed") and (own is None or (own.shape, own.dtype) != ((), "i32")):
                place = next(p for p in (*definition.inputs, *definition.results) if p.name == name)
                self.report.add(
                    "E0319",
                    f"`{name}` is an input of the compiler's own",
                    place.span,
                    label="the number of the step, or of the run",
                    help=f"such as `{name}_1`",
                )
        self.report.check()
        repeats = [n for n in walk(definition) if isinstance(n, s.Repeat)]
        anew = {
            t.id for r in repeats for n in walk(r) if isinstance(n, s.Equation) for t in n.targets
        }
        self.reserved |= names
        self.results = frozenset(names - anew)
        self.outermost = self.scope

    def attempt(self, declared: s.Parameter) -> None:
        """A result as a tensor of its own name."""
        try:
            value = result(self, declared, self.scope)
            if isinstance(value, Poison):
                return
            array = self.named_result(declared, value)
            if array.tensor is None or array.tensor.name != declared.name:
                place = self.scope.defined_by.get(declared.name, declared).span
                array = materialize(self, declared.name, array, place, None)
            self.scope.names[declared.name] = array
        except Abort:
            return

    def named_result(self, declared: s.Parameter, value: Static | Array) -> Array:
        array = as_array(self, value, declared)
        dtype = declared.type.dtype if declared.type else None
        if dtype is None:
            return array
        return as_declared(self, array, self.float_for(dtype), declared.span)

    def input(self, parameter: s.Parameter) -> None:
        """Declare an input. A symbolic size keeps its name as a name of the dimension."""
        type = parameter.type
        if type is None or type.shape is None:
            self.report.add(
                "E0318",
                f"the input `{parameter.name}` has no shape",
                parameter.span,
                label="a model says what it is given",
                help=f"like `{parameter.name}: f32[B, 784]`",
            )
            return
        for item in type.shape:
            if isinstance(item, s.Name) and item.id not in self.scope.names:
                if item.id not in self.sizes:
                    self.report.add(
                        "E0316",
                        f"the size `{item.id}` is not known",
                        item.span,
                        label="nothing binds it",
                        help=f"bind it: `--set {item.id}=32`",
                    )
                    self.sizes[item.id] = 1
                self.scope.names[item.id] = self.sizes[item.id]
                self.scope.origins[item.id] = item.span, parameter.name
            elif isinstance(item, s.Ellipsis_):
                self.report.add(
                    "E0318",
                    f"the input `{parameter.name}` leaves dimensions open",
                    item.span,
                    label="how many are these?",
                    help="a model's inputs name all their dimensions",
                )
                return
        shape = declared_shape(self, type, self.scope, f"`{parameter.name}`")
        axes = self.input_axes(type)
        self.scope.names[parameter.name] = self.declare(
            parameter.name, shape, self.float_for(type.dtype), "input", parameter.span, axes
        )

    def input_axes(self, type: s.Type) -> tuple[str, ...]:
        """`[B, T, 3]` → b, t, k: the symbols' own letters where there are some."""
        letters: list[str] = []
        for n, item in enumerate(type.shape or ()):
            own = item.id.lower() if isinstance(item, s.Name) else "ijklmnpq"[n % 8]
            letters.append(own)
        return distinct(letters)

    def finished(self, outputs: tuple[str, ...]) -> System:
        check_order(self)
        self.report.check()
        return self.system(self.definition.name, outputs).in_order()
