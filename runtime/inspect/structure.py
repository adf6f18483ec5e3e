"""The layers of a model and those within them, as a tree.

In: a `Project`, and a `Setup` if it is trained. Out: a `Structure`: the equations of the model, not
training, and for each of its tensors the innermost layer that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...compiler.elaboration.applications import Part, constant_text
from ...compiler.elaboration.context import Context
from ...compiler.elaboration.train_block import Setup
from ...compiler.elaboration.values import Static
from ...compiler.ir.equation import System
from ...compiler.programs import prediction
from ...dsl.syntax import ast as s
from ...dsl.syntax.printer import format_expr
from ..project import Project
from .model_system import elaborated_model

Path = tuple[str, ...]  # the names of layers, outermost first; () is the model itself


@dataclass(frozen=True)
class Block:
    """A layer or model that is applied: its name (`encoder1_dense2`), how the program writes it
    (`Dense(8)`), the shapes of its results, and the layers in it."""

    name: str
    title: str
    shapes: tuple[tuple[int, ...], ...]
    blocks: tuple[Block, ...] = ()

    def walk(self) -> Iterator[Block]:
        """This one and those within it, outermost first."""
        yield self
        for block in self.blocks:
            yield from block.walk()


@dataclass(frozen=True)
class Structure:
    """The `system` of a model, the layers that it applies itself, in order, and the names of the
    layers around each tensor that is computed or learnt in one."""

    system: System
    blocks: tuple[Block, ...]
    places: dict[str, Path]

    def place(self, tensor: str) -> Path:
        return self.places.get(tensor, ())

    def walk(self) -> Iterator[Block]:
        for block in self.blocks:
            yield from block.walk()


def structure(project: Project, setup: Setup | None = None) -> Structure:
    """The structure of a project's model. UserError if the program is wrong, E0316 for a size that
    is not known: with a `setup`, the data say those that a model alone leaves open."""
    if setup is not None:
        sizes = all_sizes(project, setup)
        project = replace(project, settings=replace(project.settings, sizes=sizes))
    return _structure(*elaborated_model(project))


def all_sizes(project: Project, setup: Setup) -> dict[str, int]:
    """The model's symbolic sizes as the data bind them: read off the inputs of a plan for it."""
    tensors = prediction(setup).tensors
    # sizes that the program itself fixes come first; the data say the rest
    sizes = dict(setup.sizes)
    for parameter in project.model.inputs:
        # an input without a declared shape binds nothing
        pattern = (parameter.type and parameter.type.shape) or ()
        # a prediction may not read every input
        shape = tensors[parameter.name].shape if parameter.name in tensors else ()
        for item, extent in zip(pattern, shape, strict=False):
            if isinstance(item, s.Name):
                sizes.setdefault(item.id, extent)
    return sizes


def _structure(system: System, ctx: Context) -> Structure:
    outer = {layer.name: layer for layer in ctx.layers}
    # Names of layers begin with those around them. The model's own layers are recorded with their
    # tensors, since a model may name a tensor of its own like one of them.
    inner = {n: p for n, p in ctx.parts.items() if n not in outer}
    children: dict[str, list[str]] = {}
    for name in inner:
        if around := _longest(name, [*outer, *inner]):
            children.setdefault(around, []).append(name)

    def block(name: str) -> Block:
        part, layer = ctx.parts.get(name), outer.get(name)
        shapes = layer.shapes if layer else part.shapes if part else ()
        within = tuple(block(child) for child in children.get(name, ()))
        return Block(name, _title(part) if part else name, shapes, within)

    places = {}
    for layer in ctx.layers:
        within = [name for name in inner if name.startswith(f"{layer.name}_")]
        for tensor in layer.tensors:
            # What the model computes for the layer, such as the `relu` of its input.
            if not tensor.startswith(f"{layer.name}_"):
                continue
            found = sorted((n for n in within if tensor.startswith(f"{n}_")), key=len)
            places[tensor] = (layer.name, *found)
    return Structure(system, tuple(block(name) for name in outer), places)


def _longest(name: str, others: list[str]) -> str:
    """The layer around the one of this name; "" if there is none."""
    return max((o for o in others if o != name and name.startswith(f"{o}_")), key=len, default="")


def _title(part: Part) -> str:
    """`Conv(16, 3, pad = "same")`: with the settings that are not the default."""
    shown, in_order = [], True
    for parameter in part.definition.settings:
        value = part.settings.get(parameter.name)
        if not isinstance(value, Static) or _is_default(parameter, value, part):
            in_order = False
            continue
        text = constant_text(value)
        # Once one is left out, the others are known by their names only.
        named = parameter.default is not None or not in_order
        shown.append(f"{parameter.name} = {text}" if named else text)
    return part.definition.name + (f"({', '.join(shown)})" if shown else "")


def _is_default(parameter: s.Parameter, value: Static, part: Part) -> bool:
    match parameter.default:
        case None:
            return False
        case s.Number(value=usual):
            return bool(value == usual)
        case s.Name(id=name) if name in part.settings:  # `stride = size`
            return bool(value == part.settings[name])
        case default:
            return constant_text(value) == format_expr(default)
