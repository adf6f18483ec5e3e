"""The Python interface: `nnc.load("model.nn")` gives a `Model` to fit and to predict with.

In: a `.nn` file or a run folder, and arrays. Out: arrays and measured values. It writes no files
(but for the copies of texts that a run folder has lost); runs that should leave one are `nnc
train`'s. Everything may be called from any thread, in a forked
child, and at the same time (docs/python.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..dsl.check.names import CONSTANTS, value_names
from ..dsl.diagnostics.diagnostic import fail
from ..dsl.syntax import ast as s
from ..dsl.syntax.ast import walk
from .data import Dataset, Field, Schema, Search, Split
from .data.core.dataset import validate
from .device import DEVICES, Device
from .forks import renew_after_fork
from .inference.predict import as_inputs, predict_batches
from .project import Project, field_types, load_dataset, open_project, setup_of, with_assignments
from .settings import Assignment
from .thread_count import default_threads, too_many
from .training.batch_inputs import all_examples, check_fit, check_indices
from .training.executor import Executor, Values
from .training.initial_weights import initial_weights
from .training.interrupt import watch_interrupt
from .training.job import prepare
from .training.loop import INTERRUPTED, measure, train
from .training.progress import Lines, Silent
from .training.run_folder import RunFolder

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
    project = open_project(folder.model, assignments, model)
    loaded = Model(project, made)
    # The types of the inputs come from the run's notes, so that no data has to be found.
    setup = setup_of(project, folder.fields, folder.settings["examples"])
    executor = Executor(setup, made, project.settings.seed)
    weights, step = folder.read_weights_and_step(executor.weights())
    executor.restore(weights)
    for found in folder.complete_as_reader():
        warnings.warn(f"{found.message}: {found.help}", stacklevel=2)
    loaded._trained = _Trained(executor, executor.weights(), step)
    return loaded


class _Trained(NamedTuple):
    """What a model has learnt. The `weights` are a copy of those in the executor; `step` is the
    step of training that they are of."""

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
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Locks anew, in a forked child."""
        self._fitting = RLock()

    def __repr__(self) -> str:
        return f"<nnc model {self._project.name} of {self._project.path}>"

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and states of the model by name; empty before the first `fit`,
        because sizes may depend on the data."""
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
            choice = project.settings.weights
            if self._trained is not None:
                job.executor.restore(self._trained.weights)
            elif choice is not None:
                values, _, found = initial_weights(project, choice, job.executor)
                for one in found:
                    warnings.warn(one.message, stacklevel=2)
                job.begin_with(values)
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
        trained, step = self._trained, 0
        if trained is not None:
            executor, step = trained.executor, trained.step
        else:
            fields = field_types(dataset.schema, self._project.model)
            executor = Executor(
                setup_of(self._project, fields, len(dataset.train)),
                self._device,
                self._project.settings.seed,
            )
        # Arrays of any shape may be given, so misfits are found here and not in native code.
        check_fit(executor.system, executor.setup.batch, dataset.schema)
        check_indices(executor.system, dataset)
        return measure(executor, all_examples(dataset.test or dataset.train), step)

    def predict(self, *arrays: ArrayLike, **named: ArrayLike) -> np.ndarray | dict[str, np.ndarray]:
        """The model's result for every example: an array, or several by name if it has several.

        Raises UserError E0708 for arrays that do not fit and E0707 before the first `fit`.
        """
        trained = self._trained
        if trained is None:
            raise fail(
                "E0707",
                f"`{self._project.name}` has no parameters yet",
                help="call fit(…) first, or load a run folder",
            )
        found = self._named(arrays, named, [p.name for p in self._project.model.inputs])
        results = predict_batches(
            trained.executor, as_inputs(self._project.model, found, "the call")
        )
        # One result is returned as such; several keep their names.
        return next(iter(results.values())) if len(results) == 1 else results

    # --- arrays -------------------------------------------------------------------------------

    def _dataset(self, arrays: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike]) -> Dataset:
        """The given arrays, or without any the data of the train block."""
        if not arrays and not named:
            return load_dataset(self._project, Search(None, self._project.path.parent))
        names = [p.name for p in self._project.model.inputs]
        found = self._named(arrays, named, [*names, *targets(self._project, named)])
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
        return validate(Dataset("the call", Schema(tuple(fields), None), Split(stored)))

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
            case s.Let(name=name) | s.State(name=name) | s.Metric(name=name):
                hidden.add(name.id)
            case s.Param(names=names) | s.Equation(targets=names):
                hidden |= {n.id for n in names}
    values = [
        i.value
        for i in block
        if isinstance(i, s.Metric | s.Let) or (isinstance(i, s.Field) and i.name.id == "loss")
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
