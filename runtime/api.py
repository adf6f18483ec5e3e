"""The Python interface: `nnc.load("model.nn")` gives a `Model` to fit and to predict with.

In: a `.nn` file or a run folder, and arrays. Out: arrays and measured values. It writes no files
(but for the copies of texts that a run folder has lost); runs that should leave one are `nnc
train`'s. Everything may be called from any thread, in a forked
child, and at the same time (docs/python.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..compiler.elaboration.train_block import Setup
from ..dsl.check.names import CONSTANTS, value_names
from ..dsl.diagnostics.diagnostic import fail
from ..dsl.syntax import ast as s
from ..dsl.syntax.ast import walk
from .data import Dataset, Field, Schema, Search, Split
from .data.core.dataset import validate
from .device import DEVICES, Device
from .forks import renew_after_fork
from .inference.predict import Request, input_names, predict
from .project import (
    Project,
    field_types,
    load_dataset,
    open_project,
    planned_setup,
    setup_of,
    untrained_setup,
    with_assignments,
)
from .settings import Assignment
from .thread_count import default_threads, too_many
from .training.batch_inputs import all_examples, check_fit, check_indices
from .training.executor import Executor, Values
from .training.initial_weights import (
    WeightsReport,
    initial_weights,
    match,
    match_all,
    read_weights,
)
from .training.interrupt import watch_interrupt
from .training.job import prepare
from .training.loop import INTERRUPTED, measure, train
from .training.progress import Lines, Silent
from .training.run_folder import RunFolder
from .weights_choice import WeightsChoice

# what arrays hold → the language's type, and the NumPy type that is one of its own
_TYPES = {
    "b1": ("bool", "b1"), "u1": ("u8", "u1"), "i1": ("i32", "i4"), "i2": ("i32", "i4"),
    "u2": ("i32", "i4"), "i4": ("i32", "i4"), "u4": ("i64", "i8"), "i8": ("i64", "i8"),
    "f2": ("f32", "f4"), "f4": ("f32", "f4"), "f8": ("f64", "f8"),
}  # fmt: skip


def load(
    path: str | PathLike[str],
    *,
    model: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, object] | None = None,
) -> Model:
    """The model of a `.nn` file, or of a run folder with what it learnt.

    `model` names one of several in the file; of a run folder, what `predict` computes: the trained
    model, or a model or layer in it.

    `settings` are those of `--set`: `{"batch": 64, "optimizer.lr": 0.01}`. More `threads` than
    processors are as many as these, with a warning. Raises UserError, whose `diagnostics` say
    everything that is wrong in the file.
    """
    path = Path(path)
    assignments = _assignments(settings or {})
    if device not in DEVICES:
        raise ValueError(f"no device {device!r}; there are {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads = {threads}: a run has 1 thread at least")
    remark = too_many(threads)
    if remark:
        warnings.warn(remark, stacklevel=2)
    made = DEVICES[device](default_threads(threads))
    if not path.is_dir():
        # A run folder has a copy of its program, which its weights belong to.
        return Model(open_project(path, assignments, model), made)
    folder = RunFolder(path)
    project = open_project(folder.model, assignments)
    loaded = Model(project, made)
    # The types of the inputs come from the run's notes, so that no data has to be found.
    setup = setup_of(project, folder.fields, folder.settings["examples"])
    executor = Executor(setup, made, project.settings.seed)
    weights, step = folder.read_weights_and_step(executor.weight_forms())
    executor.take(weights)
    for found in folder.complete_as_reader():
        warnings.warn(f"{found.message}: {found.help}", stacklevel=2)
    if model is not None:
        executor.part(model)  # there is one
        loaded._part = model
    loaded._trained = _Trained(executor, weights, step)
    return loaded


class _Trained(NamedTuple):
    """What a model has learnt, or begins with. The `weights` are those in the executor or a copy of
    them, which nothing changes; `step` is the step of training that they are of."""

    executor: Executor
    weights: Values
    step: int


class Model:
    """A model and its current parameters. Arrays have one entry per example along the first axis.

    Where arrays are given without names, the model's inputs come first, in order, then the other
    fields that the loss and the metrics name, in the order in which they do.

    Any number of threads may call it at the same time, and each gets what it would get alone. Calls
    of `fit` run one after the other; the others see the parameters before or after one, never in
    between.
    """

    def __init__(self, project: Project, device: Device) -> None:
        self._project, self._device = project, device
        # All at once, so that no other thread sees one without the others. From then on the
        # executor's values do not change: the next `fit` makes an executor of its own.
        self._trained: _Trained | None = None
        self._part = ""  # that is predicted with
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Locks anew, in a forked child."""
        self._fitting = RLock()

    def __repr__(self) -> str:
        return f"<nnc model {self._project.name} of {self._project.path}>"

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and states of the model by name; empty before `init`,
        `load_weights` or the first `fit`, because sizes may depend on the data."""
        trained = self._trained
        return {} if trained is None else {n: a.copy() for n, a in trained.weights.items()}

    def fit(
        self,
        *arrays: ArrayLike,
        epochs: int | None = None,
        steps: int | None = None,
        batch: int | None = None,
        seed: int | None = None,
        verbose: bool = False,
        **named: ArrayLike,
    ) -> list[dict[str, float]]:
        """Train, and keep the weights that the train block's `keep` says. One record per epoch.

        Without arrays the data of the train block is read. Fitting again goes on from the current
        parameters with a fresh optimizer. Raises UserError: E0606 and E0607 (labels, lengths),
        E0701 (the loss is not a number), E0708 and E0710 (what does not fit), or what is wrong in
        the program.
        """
        given = {"epochs": epochs, "steps": steps, "batch": batch, "seed": seed}
        numbers = {name: value for name, value in given.items() if value is not None}
        for name, value in numbers.items():
            # a field of the data may be called so: then an array comes here
            if np.ndim(value):
                raise fail(
                    "E0708",
                    f"`{name}` of fit is a number, and an array is given",
                    help=f"a field `{name}` is given by its place, without its name",
                )
        project = with_assignments(self._project, _assignments(numbers))
        dataset = self._dataset(arrays, named)
        with self._fitting:
            job = prepare(project, dataset, self._device)
            # Weights only: the optimizer's state belongs to the earlier call, whose data were
            # others.
            if self._trained is not None:
                job.executor.restore(match_all(self._trained.weights, job.executor))
            elif project.settings.weights is not None:
                job.begin_with(_begun_with(project, job.executor))
            with watch_interrupt() as interrupted:
                lines = Lines(project.settings.epochs) if verbose else Silent()
                reason = train(job, lines, interrupted)
            step = job.position.step
            # After Ctrl-C the user gets what training had reached, and not the best epoch before
            # it.
            if job.best is not None and reason != INTERRUPTED:
                job.executor.restore(job.best)
                step = job.position.kept
            self._trained = _Trained(job.executor, job.executor.weights(), step)
        # Raised only now, so that an interrupted fit in a notebook keeps what it learnt.
        if reason == INTERRUPTED:
            raise KeyboardInterrupt
        return [record.plain() for record in job.records]

    def evaluate(self, *arrays: ArrayLike, **named: ArrayLike) -> dict[str, float]:
        """The loss and the metrics over the given examples. Raises as `fit`."""
        dataset = self._dataset(arrays, named)
        # Before the first `fit`, the initial weights are measured; sizes come from these arrays.
        trained = self._trained
        known = (trained.executor.setup.fields or {}) if trained else {}
        # What was drawn for arrays of inputs knows of no other fields.
        if trained is None or not known.keys() >= {f.name for f in dataset.schema.fields}:
            fields = field_types(dataset.schema, self._project.model)
            setup = setup_of(self._project, fields, len(dataset.train))
            if trained is None:
                trained = self._begin(setup)
            else:
                executor = Executor(setup, self._device, trained.executor.seed)
                executor.take(match_all(trained.weights, executor))
                trained = _Trained(executor, trained.weights, trained.step)
        executor, step = trained.executor, trained.step
        # Arrays of any shape may be given, so misfits are found here and not in native code.
        check_fit(executor.system, executor.setup.batch, dataset.schema)
        check_indices(executor.system, dataset)
        return measure(executor, all_examples(dataset.test or dataset.train), step)

    def predict(
        self,
        *arrays: ArrayLike,
        model: str | None = None,
        tensor: str | Sequence[str] | None = None,
        seed: int | None = None,
        **named: ArrayLike,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """The model's result for every example: an array, or several by name if it has several.

        `model` names a model or layer in it, such as the decoder of an autoencoder, which is
        computed alone, for inputs of its own; `tensor` one or several tensors to return in place of
        the results; `seed` is that of random numbers.

        Raises UserError: E0707 before `init`, `load_weights` or the first `fit`, and for a model
        that does not exist; E0715 for such a tensor, E0708 for arrays that do not fit.
        """
        for name, value in {"model": model, "tensor": tensor, "seed": seed}.items():
            if isinstance(value, np.ndarray) and (value.ndim or name != "seed"):
                raise fail(
                    "E0708",
                    f"`{name}` of predict is no input, and an array is given",
                    help=f"an input `{name}` is given by its place, without its name",
                )
        tensors = (tensor,) if isinstance(tensor, str) else tuple(tensor or ())
        request = Request(model or self._part, tuple(dict.fromkeys(tensors)), _seed(seed))
        trained = self._trained
        if trained is None:
            raise fail(
                "E0707",
                f"`{self._project.name}` has no parameters yet",
                help="init() draws them, fit(…) learns them, load_weights(…) takes those of a run",
            )
        names = input_names(trained.executor, request)
        found = self._named(arrays, named, names)
        results = predict(trained.executor, found, "the call", request)
        # One result is returned as such; several keep their names.
        return next(iter(results.values())) if len(results) == 1 else results

    # --- parameters ---------------------------------------------------------------------------

    def init(
        self, *arrays: ArrayLike, seed: int | None = None, **named: ArrayLike
    ) -> dict[str, np.ndarray]:
        """Begin anew with the parameters that training would begin with, drawn from the seed (the
        program's if none is given) or those that `weights` in the train block names; a copy of
        them.

        Sizes that the program leaves open follow from arrays of inputs, else from the data that the
        train block names. Raises UserError with what is wrong in the program, E0708 for arrays that
        do not fit.
        """
        with self._fitting:
            found = self._named(arrays, named, [p.name for p in self._project.model.inputs])
            self._trained = self._begin(self._planned(found), seed)
            return self.parameters

    def load_weights(
        self,
        source: str | PathLike[str] | Mapping[str, ArrayLike],
        *,
        partial: bool = False,
        rename: tuple[str, str] = ("", ""),
    ) -> WeightsReport:
        """Take weights of a run folder, of a safetensors file or by name, as `parameters` gives
        them: those of the same name and shape. All must fit, and none be left over, unless
        `partial`; `rename=("encoder", "trunk")` takes those of the layer `encoder` there for
        `trunk` here. What was matched, is missing, extra, and of another shape.

        Raises UserError E0706 for what is no run, E0714 for weights that do not fit.
        """
        with self._fitting:
            trained = self._trained or self._begin(self._planned({}))
            if isinstance(source, Mapping):
                path, found = "the call", {n: np.asarray(a) for n, a in source.items()}
                choice = WeightsChoice(path, partial, *rename)
            else:
                choice = WeightsChoice(str(source), partial, *rename)
                found = read_weights(choice, self._project.path.parent)
            values, report, _ = match(found, trained.executor.weight_forms(), choice)
            executor = Executor(trained.executor.setup, self._device, trained.executor.seed)
            weights = {**trained.weights, **values}
            executor.take(weights)
            self._trained = _Trained(executor, weights, trained.step)
            return report

    def _begin(self, setup: Setup, seed: int | None = None) -> _Trained:
        """The parameters that training begins with."""
        given = _seed(seed)
        used = self._project.settings.seed if given is None else given
        executor = Executor(setup, self._device, used)
        weights = executor.first_weights()
        weights |= _begun_with(self._project, executor)
        executor.take(weights)
        return _Trained(executor, weights, 0)

    def _planned(self, inputs: Mapping[str, np.ndarray]) -> Setup:
        """The setup for arrays of inputs, or without any for the data of the program."""
        if inputs:
            schema, _ = _fields(inputs)
            return untrained_setup(self._project, field_types(schema, self._project.model))
        if self._project.settings.data is None:
            return untrained_setup(self._project, None)
        return planned_setup(self._project, Search(None, self._project.path.parent))

    # --- arrays -------------------------------------------------------------------------------

    def _dataset(self, arrays: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike]) -> Dataset:
        """The given arrays, or without any the data of the train block."""
        if not arrays and not named:
            return load_dataset(self._project, Search(None, self._project.path.parent))
        names = [p.name for p in self._project.model.inputs]
        found = self._named(arrays, named, [*names, *targets(self._project, named)])
        schema, stored = _fields(found)
        return validate(Dataset("the call", schema, Split(stored)))

    def _named(
        self, arrays: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike], names: list[str]
    ) -> dict[str, np.ndarray]:
        if len(arrays) > len(names):
            raise fail(
                "E0708",
                f"{len(arrays)} arrays are given; `{self._project.name}` takes "
                f"{', '.join(f'`{n}`' for n in names)}",
            )
        found = dict(zip(names, arrays, strict=False))
        # A name in `found` was already given by position.
        unknown = [n for n in named if n not in names or n in found]
        if unknown:
            raise fail(
                "E0708",
                f"`{unknown[0]}` is given twice or is none of {', '.join(f'`{n}`' for n in names)}",
            )
        return {name: np.asarray(array) for name, array in {**found, **named}.items()}


def _fields(found: Mapping[str, np.ndarray]) -> tuple[Schema, dict[str, np.ndarray]]:
    """Arrays as fields of data."""
    fields, stored = [], {}
    for name, array in found.items():
        # `str[1:]` drops the byte order, `<f4` → `f4`; the conversion below sets it right.
        if array.dtype.str[1:] not in _TYPES or not array.ndim:
            raise fail(
                "E0708",
                f"`{name}` is {array.dtype}{list(array.shape)}: expected "
                "numbers, one entry per example",
            )
        dtype, own = _TYPES[array.dtype.str[1:]]
        fields.append(Field(name, dtype, array.shape[1:]))
        stored[name] = np.ascontiguousarray(array, own)
    return Schema(tuple(fields), None), stored


def _seed(seed: int | None) -> int | None:
    """UserError E0703 unless it is a whole number that a seed may be."""
    if seed is None or (0 <= int(seed) < 1 << 31 and int(seed) == seed):
        return None if seed is None else int(seed)
    raise fail("E0703", f"`seed` is a whole number from 0 to 2^31-1, and not {seed}")


def _begun_with(project: Project, executor: Executor) -> Values:
    """The weights that the train block names, if it does."""
    choice = project.settings.weights
    if choice is None:
        return {}
    values, _, found = initial_weights(project, choice, executor)
    for one in found:
        warnings.warn(one.message, stacklevel=3)
    return values


def targets(project: Project, given: Collection[str] = ()) -> list[str]:
    """The fields that the loss and the metrics take from the data, the model's inputs left out.
    A name that has a meaning of its own, such as `t`, is one if it is declared or `given`."""
    block = project.block.body
    fields = {i.name.id for i in block if isinstance(i, s.Input)} | {*given}
    hidden = {*CONSTANTS, "t", "steps", "epochs"} - fields
    # Whatever the program itself defines is no field: the model's sizes, inputs and results, and
    # every name that a statement introduces.
    hidden |= {p.name for p in (*project.model.inputs, *project.model.results)}
    hidden |= {*project.symbols, "loss"}
    for node in walk((project.model.body, block)):
        match node:
            case s.Let(name=name) | s.State(name=name) | s.Loss(name=name) | s.Metric(name=name):
                hidden.add(name.id)
            case s.Param(names=names) | s.Equation(targets=names):
                hidden |= {n.id for n in names}
    values = [
        i.value
        for i in block
        if isinstance(i, s.Let | s.Loss | s.Metric)
        or (isinstance(i, s.Field) and i.name.id == "loss")
    ]
    # In the order of first mention, which is the order of arrays without names.
    found = [n.id for v in values for n in value_names(v)]
    # What is declared has to be given, even if nothing reads it.
    found += [i.name.id for i in project.block.body if isinstance(i, s.Input)]
    return [name for name in dict.fromkeys(found) if name not in hidden]


def _assignments(values: Mapping[str, object]) -> list[Assignment]:
    """Python values as the text of assignments."""
    words = {True: "true", False: "false"}
    texts = {k: words[v] if isinstance(v, bool) else str(v) for k, v in values.items()}
    return [Assignment(key, text, place="the call") for key, text in texts.items()]
