"""What of a model is computed: all of it, a layer or model in it by itself, or tensors by name.

    Selection()                       the results of the model that is trained
    Selection(part)                   those of its decoder, for inputs of the decoder's
    Selection(tensors = ("code",))    a tensor of the model, whether it is a result or not

A part has its parameters under their names in the whole model, so the weights of one are the
weights of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...dsl.diagnostics.diagnostic import Report, UserError, did_you_mean, fail
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ..ir.equation import System
from .applications import Part
from .broadcasting import materialize
from .context import Context
from .model import ElaboratedModel, elaborate_part
from .rules import RULES
from .train_block import Setup, elaborate_trained_model, with_sizes
from .values import Array, Shape

LISTED = 12  # names in a message


@record
class Selection:
    """What is computed: of a `part`, for inputs of which an example has this shape and type, or of
    the trained model, the `tensors`, or the results; with a maximum declared, for these `sizes`."""

    part: Part | None = None
    tensors: tuple[str, ...] = ()
    examples: tuple[tuple[str, Shape, str], ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()


WHOLE = Selection()


@record
class Selected:
    """A system, and the tensors of its outputs by their names in the selection."""

    system: System
    outputs: Mapping[str, str]


def select(setup: Setup, selection: Selection) -> Selected:
    """The system that computes a selection for a batch, and nothing that it does not need.
    UserError E0715 for a tensor that does not exist."""
    model = _elaborated(setup, selection)
    if selection.part is None and not selection.tensors:
        return results_of(model)
    names = selection.tensors or tuple(r.name for r in model.definition.results)
    outputs = {name: _output(model, name, selection.part, setup.batch) for name in names}
    system = model.system(tuple(dict.fromkeys(outputs.values()))).replace(updates={})
    needed = system.ancestors(system.outputs)
    return Selected(
        system.replace(
            tensors={n: t for n, t in system.tensors.items() if n in needed},
            equations=tuple(eq for eq in system.equations if eq.target in needed),
            gradients=tuple(g for g in system.gradients if g.target in needed),
        ),
        outputs,
    )


def results_of(model: ElaboratedModel) -> Selected:
    """The results of a model."""
    names = [r.name for r in model.definition.results]
    return Selected(model.system().replace(updates={}), dict(zip(names, names, strict=True)))


def _elaborated(setup: Setup, selection: Selection) -> ElaboratedModel:
    part = selection.part
    if part is None:
        sized = with_sizes(setup, dict(selection.sizes)) if selection.sizes else setup
        return elaborate_trained_model(sized, training=False).model
    ctx = Context(setup.definitions, Report(), False, setup.float_type, RULES)
    shapes = {name: (setup.batch, *shape) for name, shape, _ in selection.examples}
    dtypes = {name: ctx.float_for(dtype) for name, _, dtype in selection.examples}
    return elaborate_part(ctx, part, shapes, dtypes)


def _output(model: ElaboratedModel, name: str, part: Part | None, batch: int) -> str:
    """The tensor of this name as an output: of the body's own names the last value, else the result
    of a layer, `encoder1`, else a tensor in it, `encoder1.h` or `encoder1_h`."""
    ctx, full = model.ctx, name.replace(".", "_")
    own = model.scope.names.get(name)
    inside = f"{part.name}_{full}" if part else full
    layer = _first_result(ctx, inside)
    if isinstance(own, Array):
        array, span = own, model.definition.span
    elif layer is not None:
        array, span = layer, model.definition.span
    elif (found := next((n for n in (full, inside) if n in ctx.tensors), None)) is not None:
        array, span = ctx.array_of(found), ctx.tensors[found].span or model.definition.span
    else:
        raise _unknown(model, name, full, batch)
    if array.tensor is not None and array.tensor.kind == "temp":
        return array.tensor.name
    # What has no equation is copied by one.
    made = materialize(ctx, ctx.unique(full), array, span, None)
    assert made.tensor is not None
    return made.tensor.name


def tensor_within(setup: Setup, layer: str, name: str) -> str | None:
    """The tensor that a layer, which the model gives a name, computes under a name of its own, such
    as `h`, `conv2` or `encoder1.h`; None if it has none of this name."""
    model = elaborate_trained_model(setup, training=False).model
    ctx, within = model.ctx, model.scope.layers[layer]
    full = within.stem + name.replace(".", "_")
    found = within.values.get(name) or _first_result(ctx, full)
    if isinstance(found, Array):
        return found.tensor.name if found.tensor and found.tensor.kind == "temp" else None
    return full if full in ctx.tensors else None


def _first_result(ctx: Context, layer: str) -> Array | None:
    """The first result of a layer by its name in the model, `conv2`."""
    results = ctx.parts[layer].results[:1] if layer in ctx.parts else ()
    return results[0] if results and isinstance(results[0], Array) else None


def _sizes(shape: Shape, batch: int) -> str:
    """`[B, 64]`: the first dimension is the batch if it has its size."""
    first = ["B" if size == batch else str(size) for size in shape[:1]]
    return f"[{', '.join([*first, *map(str, shape[1:])])}]"


def _unknown(model: ElaboratedModel, name: str, full: str, batch: int) -> UserError:
    """E0715, with names that are near and those that the body spells out, with their sizes."""
    parts = model.ctx.parts
    tensors = [*parts, *model.ctx.tensors]
    own = {n: v.shape for n, v in model.scope.names.items() if isinstance(v, Array)}
    own |= {n: p.shapes[0] for n, p in parts.items() if p.shapes and p.definition.kind != "fn"}
    listed = _listed(f"`{n}` {_sizes(shape, batch)}" for n, shape in own.items())
    return fail(
        "E0715",
        f"`{model.definition.name}` has no tensor `{name}`",
        help=f"{did_you_mean(name, own) or did_you_mean(full, tensors)} there are {listed}".strip(),
    )


# --- parts ----------------------------------------------------------------------------------------


def find_part(setup: Setup, parts: Mapping[str, Part], model: str, name: str) -> Part | None:
    """The part of a trained `model` that `name` names: None for the model itself; a layer by its
    name in the model, a model or layer that is applied once by that of its definition, another
    model of the file. UserError E0707 if there is none, or several."""
    if name == model:
        return None
    if name.replace(".", "_") in parts:
        return parts[name.replace(".", "_")]
    applied = [p for p in parts.values() if p.definition.name == name]
    if len(applied) == 1:
        return applied[0]
    if applied:
        raise fail(
            "E0707",
            f"`{model}` applies `{name}` {len(applied)} times",
            help=f"choose one: {_listed(f'`{p.name}`' for p in applied)}",
        )
    # A model that is no part of the trained one has its parameters by their names.
    other = setup.definitions.get(name)
    if other is not None and other.kind == "model":
        return Part("", other, {}, {})
    models = [d.name for d in setup.definitions.values() if d.kind == "model"]
    own = [p for p in parts.values() if not p.definition.span.source.library]
    known = dict.fromkeys([*models, *(p.definition.name for p in own), *parts])
    described = {model: setup.definitions[model], **{p.name: p.definition for p in parts.values()}}
    raise fail(
        "E0707",
        f"there is no `{name}` in `{model}`",
        help=f"{did_you_mean(name, known)} there are "
        + _listed(f"`{n}` ({_inputs(d)})" for n, d in described.items()),
    )


def _inputs(definition: s.Definition) -> str:
    return ", ".join(p.span.text for p in definition.inputs)


def _listed(texts: Iterable[str]) -> str:
    found = list(texts)
    more = len(found) - LISTED
    return ", ".join(found[:LISTED]) + (f" and {more} more" if more > 0 else "")
