"""A system to examine, with numbers for everything that it is given.

In: a `Project`, and its `Setup` if it is trained. Out: a `Sample`: the training step with its
gradients among the outputs, or for a model that is not trained the model with the gradients of a
made-up loss. The numbers are of the right kinds and in no special place: a little away from where
training starts, where biases are 0 and so every relu might stand on its kink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...compiler.elaboration.context import RESERVED_INPUTS
from ...compiler.elaboration.initializers import initial_system
from ...compiler.elaboration.model import elaborate
from ...compiler.elaboration.players import is_frozen, trains
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.build import call
from ...compiler.ir.dtypes import NUMPY, is_float
from ...compiler.ir.equation import Equation, Index, System, Tensor, unused_name
from ...compiler.ir.expr import Expr, Idx, Read
from ...compiler.ir.gradients import add_gradients
from ...compiler.pipeline import derive
from ...compiler.programs import step_with_gradients
from ...compiler.reference.evaluator import Arrays, evaluate
from ...compiler.reference.initial_values import initial_values
from ..device.data_inputs import fields_of
from ..project import Project
from .bench import fill_random

STEP = 3  # the number of the step: the first is special to optimizers
DISTANCE = 0.02  # how far params and states are from where they start
LENGTHS = (3, 2, 1)  # the largest length, tried in turn: a label may be longer than what says it
COST = "sum_of_results"


@dataclass(frozen=True)
class Sample:
    """`program` is the system before all passes, and `system` what `derive` makes of it. `wrt` are
    the tensors whose gradients are asked for, `gradients` the names of those that there are; `loss`
    is None if nothing in the model is a real number."""

    program: System
    system: System
    values: Arrays
    loss: str | None
    wrt: tuple[str, ...]
    gradients: Mapping[str, str]


def sample(project: Project, setup: Setup | None, seed: int) -> Sample:
    """UserError with what is wrong in the program."""
    if setup is None:
        return sample_model(project, seed)
    program, drawn, names = step_with_gradients(setup)
    # `derive` expands the gradients' placeholders into equations
    system = derive(program)
    losses = dict(zip(setup.train.losses, system.outputs, strict=False))
    own, loss = next(x for x in losses.items() if not setup.turn or x[0].name.id in setup.turn)
    params = (t.name for t in system.of_kind("param"))
    wrt = tuple(n for n in params if trains(own, n) and not is_frozen(setup.train, n))
    return Sample(program, system, _values(system, drawn, seed, loss), loss, wrt, names)


def sample_model(project: Project, seed: int) -> Sample:
    """A model that is not trained, with a loss that depends on each number of its results in a way
    of its own."""
    # the first symbol of a model is its batch
    sizes = {**dict.fromkeys(project.symbols[:1], project.settings.batch), **project.settings.sizes}
    definitions, float_type = project.checked.definitions, project.settings.float
    model = elaborate(definitions, project.name, sizes, float_type=float_type)
    # the distribution of each parameter is part of the system that draws them
    drawn = initial_system(model.ctx)
    # results of a model are no loss: a made-up one depends on all of them
    system, loss = with_cost(model.system())
    system = system.replace(precision=project.settings.precision)
    # gradients for inputs, too: a model that is not trained may have no parameters
    wrt = tuple(
        t.name
        for t in system.tensors.values()
        if t.kind in ("input", "param") and is_float(t.dtype)
    )
    names: dict[str, str] = {}
    if loss is not None:
        system, names = add_gradients(system, loss, wrt)
        # as outputs, or nothing would keep the gradients from being removed
        system = system.replace(outputs=(*system.outputs, *names.values()))
    derived = derive(system)
    values = _values(derived, drawn, seed, loss)
    return Sample(system, derived, values, loss, wrt if loss else (), names)


def with_cost(system: System) -> tuple[System, str | None]:
    """The system with one more output, and its name: for every result the sum of sin(n*y)*y, n its
    position. None if no result is a real number."""
    tensors, equations = dict(system.tensors), list(system.equations)
    total: Expr | None = None
    for name in system.outputs:
        tensor = system.tensors[name]
        if not is_float(tensor.dtype):
            continue
        # names of its own, so that they cannot collide
        indices = tuple(Index(f"i{n}", size) for n, size in enumerate(tensor.shape))
        here = Read(name, tuple(Idx(i.name) for i in indices), None, tensor.dtype)
        # A plain sum would hide errors that cancel, such as two results swapped; here each position
        # has a weight of its own, sin(n), n made of the indices.
        position: Expr = call("f32", 1.0)
        for index in indices:
            position = call("add", call("mul", position, 0.7), call("f32", Idx(index.name)))
        body = call("mul", call("sin", position), here)
        # and the square, so that the gradient depends on the value
        body = call("add", body, call("mul", 0.5, call("mul", here, here)))
        part = unused_name(f"{COST}_{name}", tensors)
        tensors[part] = Tensor(part, (), body.dtype)
        equations.append(Equation(part, (), body, "sum" if indices else None, indices))
        own = Read(part, (), None, body.dtype)
        total = own if total is None else call("add", total, own)
    # no result is a real number
    if total is None:
        return system, None
    cost = unused_name(COST, tensors)
    tensors[cost] = Tensor(cost, (), total.dtype)
    equations.append(Equation(cost, (), total))
    outputs = (*system.outputs, cost)
    return system.replace(tensors=tensors, equations=tuple(equations), outputs=outputs), cost


def _values(system: System, drawn: System, seed: int, loss: str | None) -> Arrays:
    # the 7 keeps this stream apart from those of other uses of the same seed
    rng = np.random.default_rng([seed, 7])
    values = {name: array.copy() for name, array in initial_values(system, drawn, seed).items()}
    # away from the start: biases of 0 put a relu on its kink, where no derivative exists
    for tensor in system.tensors.values():
        if tensor.kind not in ("param", "state") or not is_float(tensor.dtype):
            continue
        # states may be squares, which are not negative
        away = rng.normal if tensor.kind == "param" else rng.uniform
        values[tensor.name] = (values[tensor.name] + DISTANCE * away(size=tensor.shape)).astype(
            NUMPY[tensor.dtype]
        )
    given: Arrays = {}
    # A label longer than its sequence makes a CTC loss infinite: try shorter ones.
    for most in LENGTHS:
        given = values | _inputs(system, rng, seed, most)
        # without lengths another draw would not help
        if loss is None or not _counts(system):
            break
        if np.isfinite(evaluate(system, given, wide=True)[loss]):
            break
    return given


def random_values(system: System, seed: int = 0) -> Arrays:
    """Numbers for a system of which nothing else is known: params and states are small."""
    rng = np.random.default_rng([seed, 8])
    values: Arrays = {}
    for tensor in system.tensors.values():
        if tensor.kind in ("param", "state"):
            # a state may be a variance, which is not negative
            draws = 0.1 * rng.normal(size=tensor.shape), rng.random(tensor.shape)
            values[tensor.name] = draws[tensor.kind == "state"].astype(NUMPY[tensor.dtype])
    return values | _inputs(system, rng, seed)


def _inputs(system: System, rng: np.random.Generator, seed: int, most: int = LENGTHS[0]) -> Arrays:
    # whole arrays are made first, as `fill_random` writes into them
    inputs: Arrays = {t.name: np.zeros(t.shape, NUMPY[t.dtype]) for t in fields_of(system)}
    fill_random(system, inputs, rng)
    # at least 1: the mean of an empty sequence is 0 / 0
    for name in _counts(system):
        inputs[name][...] = rng.integers(1, most + 1, inputs[name].shape)
    given = {t.name for t in system.of_kind("input")}
    # these are set by whoever runs a program, if it reads them
    scalars = dict.fromkeys(RESERVED_INPUTS, seed + 1)  # of private training some examples count
    scalars |= {"step": STEP, "seed": seed, "microbatches_left": 0}
    return inputs | {n: np.array(v, np.int32) for n, v in scalars.items() if n in given}


def _counts(system: System) -> list[str]:
    """The inputs of whole numbers that index nothing: lengths, mostly, which 0 is special to."""
    classes = system.index_inputs or {}
    return [
        t.name for t in fields_of(system) if t.dtype in ("i32", "i64") and t.name not in classes
    ]
