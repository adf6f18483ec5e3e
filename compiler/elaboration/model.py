"""Models: inputs, body and results as a system of equations.

The symbolic sizes of a model's inputs (`B`, `T`) are bound from outside; the sizes of all else
follow from them. What a train block adds is in `train_block.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from ...dsl.diagnostics.diagnostic import Report, did_you_mean, fail
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.equation import System
from .applications import Part
from .broadcasting import as_declared, distinct, materialize
from .context import LETTERS, RESERVED_INPUTS, Abort, Context, reserved
from .cycle_errors import check_order, check_remat_blocks
from .dispatch import as_array, value
from .interfaces import declared_shape, input_value, result
from .names import own_initializers
from .rules import RULES
from .scopes import BodyScope
from .statements import body
from .values import Poison, Shape, is_static


@record
class ElaboratedModel:
    """An elaborated model. `scope` has the values of its inputs, results and all other names."""

    ctx: Context
    definition: s.Definition
    scope: BodyScope

    def system(self, outputs: tuple[str, ...] | None = None) -> System:
        """What is elaborated so far, in dependence order; the outputs are the model's results if
        not stated. UserError if recurrences have no order of computation."""
        check_order(self.ctx)
        self.ctx.report.check()
        if outputs is None:
            outputs = tuple(r.name for r in self.definition.results)
        system = self.ctx.system(self.definition.name, outputs).in_order()
        return replace(system, initializers=own_initializers(self.ctx))


def forward(
    definitions: Mapping[str, s.Definition],
    model: str,
    sizes: Mapping[str, int],
    *,
    training: bool = True,
    float_type: str = "f32",
) -> System:
    """The equations of a model, whose outputs are its results.

    `sizes` binds the symbolic sizes of its inputs (`B`, `T`). With `float_type` f64, everything
    declared f32 is computed in f64. Raises UserError with all mistakes that were found.
    """
    return elaborate(definitions, model, sizes, training=training, float_type=float_type).system()


def elaborate(
    definitions: Mapping[str, s.Definition],
    model: str,
    sizes: Mapping[str, int],
    *,
    training: bool = True,
    float_type: str = "f32",
) -> ElaboratedModel:
    """As `forward`, with the context, for those that add to the system."""
    ctx = Context(definitions, Report(), training, float_type, RULES)
    return elaborate_model(ctx, find_model(definitions, model), sizes)


def find_model(definitions: Mapping[str, s.Definition], name: str) -> s.Definition:
    """The model of this name; UserError E0403 if there is none."""
    found = definitions.get(name)
    if found is None or found.kind != "model":
        models = [d.name for d in definitions.values() if d.kind == "model"]
        raise fail("E0403", f"there is no model `{name}`", help=did_you_mean(name, models))
    return found


def elaborate_model(
    ctx: Context, definition: s.Definition, sizes: Mapping[str, int]
) -> ElaboratedModel:
    """Inputs, body, results. UserError with what is wrong in the first of these that is wrong."""
    declared = {r.name: r.type for r in definition.results if r.type}
    scope = BodyScope("", {}, declared=declared)
    ctx.reserve(_own_names(definition))
    for parameter in definition.inputs:
        with suppress(Abort):
            _input(ctx, parameter, sizes, scope)
    # Each stage needs the one before: the body cannot be elaborated without its inputs' shapes.
    ctx.report.check()
    _note_results(ctx, definition, scope)
    body(ctx, definition.body, scope)
    ctx.report.check()
    for parameter in definition.results:
        with suppress(Abort):
            _result(ctx, parameter, scope)
    ctx.report.check()
    check_remat_blocks(ctx)
    ctx.report.check()
    return ElaboratedModel(ctx, definition, scope)


def elaborate_part(
    ctx: Context, part: Part, shapes: Mapping[str, Shape], dtypes: Mapping[str, str]
) -> ElaboratedModel:
    """A part of a model by itself, for inputs of these shapes and types, batch included; what is
    not among them was a number or has a default. Its parameters and states are called as in the
    model. UserError with what is wrong."""
    definition = part.definition
    ctx.reserve(p.name for p in (*definition.inputs, *definition.results))
    declared = {r.name: r.type for r in definition.results if r.type}
    prefix = f"{part.name}_" if part.name else ""
    scope = BodyScope(prefix, dict(part.settings), declared=declared)
    for parameter in definition.inputs:
        place, given = parameter.span, part.inputs.get(parameter.name)
        with suppress(Abort):
            if parameter.name in shapes:
                shape, dtype = shapes[parameter.name], dtypes[parameter.name]
                axes = ("b", *LETTERS[: len(shape) - 1])
                given = ctx.declare(parameter.name, shape, dtype, "input", place, axes)
            elif parameter.default is not None and not is_static(given):
                given = value(ctx, parameter.default, BodyScope("", dict(scope.names)))
            assert given is not None
            scope.names[parameter.name] = input_value(ctx, parameter, given, scope, place, scope)
    ctx.report.check()
    body(ctx, definition.body, scope)
    ctx.report.check()
    for parameter in definition.results:
        with suppress(Abort):
            _result(ctx, parameter, scope)
    ctx.report.check()
    return ElaboratedModel(ctx, definition, scope)


def _input(
    ctx: Context, parameter: s.Parameter, sizes: Mapping[str, int], scope: BodyScope
) -> None:
    """Declare an input and bind the symbols in its shape."""
    type = parameter.type
    if type is None or type.shape is None:
        raise ctx.error(
            "E0318",
            f"the input `{parameter.name}` has no shape",
            parameter.span,
            label="a model's inputs have shapes",
            help=f"like `{parameter.name}: f32[B, 784]`",
        )
    for item in type.shape:
        if isinstance(item, s.Name) and item.id not in scope.names:
            if item.id not in sizes:
                ctx.error(
                    "E0316",
                    f"the size `{item.id}` is not known",
                    item.span,
                    label="nothing binds it",
                    help=f"bind it: `--set {item.id}=32`",
                )
            # Go on with size 1, so that the other inputs are checked as well.
            scope.names[item.id] = sizes.get(item.id, 1)
            scope.origins[item.id] = item.span, parameter.name
        elif isinstance(item, s.Ellipsis_):
            raise ctx.error(
                "E0318",
                f"the input `{parameter.name}` leaves dimensions open",
                item.span,
                label="how many are these?",
                help="a model's inputs name all their dimensions",
            )
    shape = declared_shape(ctx, type, scope, f"`{parameter.name}`")
    # Index names for printing: [B, T, 8] → b, t, k.
    letters = [
        item.id.lower() if isinstance(item, s.Name) else "ijklmnpq"[axis % 8]
        for axis, item in enumerate(type.shape)
    ]
    dtype = ctx.float_for(type.dtype)
    scope.names[parameter.name] = ctx.declare(
        parameter.name, shape, dtype, "input", parameter.span, distinct(letters)
    )


def _own_names(definition: s.Definition) -> Iterator[str]:
    """The names that a model's text gives to tensors."""
    yield from (p.name for p in (*definition.inputs, *definition.results))
    for node in walk(definition.body):
        match node:
            case s.State(name=name):
                yield name.id
            case s.Param(names=names) | s.Equation(targets=names):
                yield from (name.id for name in names)


def _note_results(ctx: Context, definition: s.Definition, scope: BodyScope) -> None:
    """Keep the names of the results for the results. One that a `repeat` computes has a tensor for
    each iteration, and the last gets the name in the end."""
    for parameter in (*definition.inputs, *definition.results):
        own = ctx.tensors.get(parameter.name)
        # An input `step: i32[]` is the compiler's own in disguise, and allowed.
        if parameter.name in RESERVED_INPUTS and (
            own is None or (own.shape, own.dtype) != ((), "i32")
        ):
            reserved(ctx, parameter.name, parameter.span)
    ctx.report.check()
    # y = f(x) in a `repeat` makes y_2, y_3, …: none of them may take the name `y`, as only after
    # the last iteration is it known which one is the result.
    names = {r.name for r in definition.results}
    repeats = [n for n in walk(definition) if isinstance(n, s.Repeat)]
    repeated = {
        t.id for r in repeats for n in walk(r) if isinstance(n, s.Equation) for t in n.targets
    }
    ctx.repeated = frozenset(names & repeated)
    ctx.outermost = scope


def _result(ctx: Context, parameter: s.Parameter, scope: BodyScope) -> None:
    """A result as a tensor of its own name and declared type."""
    found = result(ctx, parameter, scope)
    if isinstance(found, Poison):
        return
    array, dtype = as_array(ctx, found, parameter), ""
    if parameter.type and parameter.type.dtype:
        dtype = ctx.float_for(parameter.type.dtype)
        array = as_declared(ctx, array, dtype, parameter.span)
    # A number, a lazy expression or another tensor (an input, the last of a `repeat`) is copied
    # into a tensor of the result's name; outputs are looked up by it.
    if array.tensor is None or array.tensor.name != parameter.name:
        place = scope.defined_by.get(parameter.name, parameter).span
        array = materialize(ctx, parameter.name, array, place, None, dtype)
    scope.names[parameter.name] = array
