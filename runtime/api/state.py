"""What a model is between two calls: its program, its device, and what it has learnt.

In: a project. Out: parameters to begin with, to look at and to set. The calls are in `model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, fail
from ..data import Search
from ..data.core.vocabulary import Vocabulary
from ..device import DEVICES
from ..forks import renew_after_fork
from ..project import Project, field_types, planned, planned_setup, untrained_setup
from ..training.executor import Executor, Values
from ..training.initial_weights import initial_weights
from ..training.metrics import Record
from .arguments import seed_of
from .arrays import fields_of_arrays
from .errors import UserError as PublicError
from .errors import boundary, warn
from .parameters import Parameters, checked, own_name


class Compute(NamedTuple):
    """What a model runs on: the name of a device, and its threads."""

    device: str
    threads: int


class Trained(NamedTuple):
    """What a model has learnt, or begins with. The `weights` are those in the executor or a copy of
    them, which nothing changes; `step` is the step of training that they are of. `project` has the
    settings of that training, `examples` is the size of its data (0 if it is not known), `records`
    are its epochs, `inputs` says how files became its data (`data/recorded.py`), `run` is the
    folder that it was loaded from."""

    executor: Executor
    weights: Values
    project: Project
    step: int = 0
    examples: int = 0
    records: tuple[Record, ...] = ()
    vocabularies: Mapping[str, Vocabulary] = {}
    inputs: Mapping[str, Any] | None = None
    run: Path | None = None


class ModelState:
    """The program, and the current parameters, which calls replace as a whole."""

    def __init__(self, project: Project, compute: Compute, search: Search | None = None) -> None:
        self._project, self._compute = project, compute
        # Where its data are found: a run has a copy of its program, beside which they do not lie.
        self._search = search or Search(None, project.path.parent)
        self._device = DEVICES[compute.device](compute.threads)
        # All at once, so that no other thread sees one without the others. From then on the
        # executor's values do not change: the next `fit` makes an executor of its own.
        self._trained: Trained | None = None
        self._part = ""  # that is predicted with
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Locks anew, in a forked child."""
        self._fitting = RLock()

    def __repr__(self) -> str:
        return f"<nnc model {self._project.name} of {self._project.path}>"

    @property
    def parameters(self) -> Parameters:
        """All parameters and states of the model by name, as copies; empty before `init`,
        `load_weights` or the first `fit`, because sizes may depend on the data. Setting one in it
        sets it in the model: `model.parameters["dense1.w"] = w`."""
        trained = self._trained
        values = {} if trained is None else {n: a.copy() for n, a in trained.weights.items()}
        return Parameters(values, self._set)

    @parameters.setter
    def parameters(self, values: Mapping[str, Any]) -> None:
        missing = [n for n in self.parameters if n not in {own_name(v, [n]) for v in values}]
        if missing:
            listed = ", ".join(f"`{n}`" for n in missing[:8])
            help = "`model.parameters.update(…)` sets some of them"
            raise PublicError([Diagnostic("E0714", f"{listed} are missing", help=help)])
        self._set(values)

    @boundary
    def _set(self, values: Mapping[str, object]) -> Mapping[str, np.ndarray]:
        """Set some parameters; what they are now."""
        with self._fitting:
            trained = self._trained
            if trained is None:
                raise self._without_parameters()
            found = checked(values, trained.weights)
            executor = Executor(trained.executor.setup, self._device, trained.executor.seed)
            weights = {**trained.weights, **found}
            executor.take(weights)
            self._trained = trained._replace(executor=executor, weights=weights)
            return {name: array.copy() for name, array in found.items()}

    # --- beginning ----------------------------------------------------------------------------

    def _without_parameters(self) -> UserError:
        return fail(
            "E0707",
            f"`{self._project.name}` has no parameters yet",
            help="init() draws them, fit(…) learns them, load_weights(…) takes those of a run",
        )

    def _begin(self, setup: Setup, examples: int = 0, seed: int | None = None) -> Trained:
        """The parameters that training begins with, on so many examples if that is known."""
        given = seed_of(seed)
        used = self._project.settings.seed if given is None else given
        executor = Executor(setup, self._device, used)
        weights = executor.first_weights()
        weights |= begun_with(self._project, executor)
        executor.take(weights)
        return Trained(executor, weights, self._project, examples=examples)

    def _planned(self, inputs: Mapping[str, np.ndarray]) -> tuple[Setup, int]:
        """The setup for arrays of inputs, or without any for the data of the program, and how many
        examples these have, 0 if it is not known."""
        if inputs:
            schema = fields_of_arrays(inputs)
            return untrained_setup(self._project, field_types(schema, self._project.model)), 0
        if self._project.settings.data is None:
            return untrained_setup(self._project, None), 0
        return planned(self._project, self._search)

    def _setup(self) -> Setup | None:
        """What the program is compiled for; None if it says nothing of training."""
        if self._trained is not None and self._project.train is not None:
            return self._trained.executor.setup
        if self._project.train is None:
            return None
        return planned_setup(self._project, self._search)


def begun_with(project: Project, executor: Executor) -> Values:
    """The weights that the train block names, if it does."""
    choice = project.settings.weights
    if choice is None:
        return {}
    values, _, found = initial_weights(project, choice, executor)
    warn(found)
    return values
