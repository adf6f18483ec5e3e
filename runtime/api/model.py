"""A `Model`: to fit, to measure and to predict with.

In: a project, and arrays. Out: arrays and measured values. Only `save` writes files; runs that
should leave one are `nnc train`'s. Everything may be called from any thread, in a forked child, and
at the same time (docs/python.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ...dsl.diagnostics.diagnostic import UserError
from ..data import Dataset
from ..inference.predict import Request, input_names, predict
from ..inference.predict_files import predict_given, rows_of
from ..project import (
    Project,
    field_types,
    load_dataset,
    setup_of,
    with_assignments,
)
from ..training.batch_inputs import all_examples, check_fit, check_indices
from ..training.callbacks import Hook, Hooks, check_callbacks
from ..training.executor import Executor
from ..training.initial_weights import (
    WeightsReport,
    match,
    match_all,
    read_weights,
)
from ..training.interrupt import watch_interrupt
from ..training.job import Job, prepare
from ..training.loop import INTERRUPTED, measure, train
from ..training.run_notes import inputs_note
from ..weights_choice import WeightsChoice
from .arguments import ARGUMENTS, assignments, check_no_arrays, seed_of, share
from .arrays import (
    GIVEN,
    Array,
    Arrays,
    dataset_of,
    named_arrays,
    targets,
    with_validation,
    without_fields,
)
from .bars import listener
from .errors import boundary, warn
from .files import Names, is_files, read_files, recorded_of, run_of
from .frames import CALL, frame_of, is_table_of, measured_data, read_frame, training_data, trains_on
from .inspected import InspectedModel
from .parameters import Parameters
from .state import Trained, begun_with
from .weights import ClassWeight, example_weights

if TYPE_CHECKING:
    pass

Validation: TypeAlias = float | Sequence[Array] | Mapping[str, Array]


class Model(InspectedModel):
    """A model and its current parameters. Arrays have one entry per example along the first axis.

    Where arrays are given without names, the model's inputs come first, in order, then the other
    fields that the loss and the metrics name, in the order in which they do. They are NumPy arrays,
    nested lists, tensors of PyTorch and others, columns or frames of pandas, Polars or Arrow.

    Any number of threads may call it at the same time, and each gets what it would get alone. Calls
    of `fit` run one after the other; the others see the parameters before or after one, never in
    between.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        from .saving import model_of, state_of  # rarely needed

        return model_of, (type(self), state_of(self))

    def __copy__(self) -> Model:
        copied = Model(self._project, self._compute, self._search)
        copied._trained, copied._part = self._trained, self._part
        return copied

    def __deepcopy__(self, known: object) -> Model:
        # What is learnt is replaced and never changed: two models may share it.
        return self.__copy__()

    @boundary
    def save(self, path: str | PathLike[str]) -> Path:
        """Write the model into a new or empty folder, as `nnc train` writes runs: for `nnc.load`,
        `load_weights`, `nnc predict`, `nnc eval` and `--init`. Its path.

        Raises UserError E0707 without parameters, E0705 if the folder is in use, E0709 if it cannot
        be written.
        """
        from .saving import save  # rarely needed

        return save(self, path)

    @boundary
    def export(
        self,
        path: str | PathLike[str],
        *,
        target: str | None = None,
        kinds: str | tuple[str, ...] | None = None,
        embed: bool = False,
        batch: int | None = None,
        weights: str | None = None,
        functions: tuple[str, ...] = (),
        calibrate: int | np.ndarray | Mapping[str, np.ndarray] | None = None,
        threads: int = 1,
    ) -> Path:
        """Write a C library of the model into a new or empty folder, as `nnc export`: `so`, `a` or
        `o`, or several of them, `dll`, `dylib`, or `wasm` and `page`, for browsers. Its path.

        `target` is a preset, such as `aarch64-neon`, or a triple, the host or `wasm32` unless said;
        `kinds` are `so` or `wasm` unless said; `embed` puts the weights into the library; `batch`
        is that of its functions, by default that of training. `weights` are `f16`, `bf16` or `int8`
        for a library that does not train. With `int8`, activations are scaled by examples to
        `calibrate` with: arrays of inputs, or how many of the data. `functions` are those that are
        wanted of `predict`, `evaluate`, `train_step` and `generate`. A call may be divided among
        so many `threads` of the caller at most. Raises UserError E0707 without
        parameters, E0705 if the folder is in use, E0721 for another target, E0724 for what cannot
        be exported, E0725 for what cannot be with such weights.
        """
        from .exporting import export  # rarely needed

        return export(
            self, path, target, kinds, embed, batch, weights, tuple(functions), calibrate, threads
        )

    # --- training -----------------------------------------------------------------------------

    @boundary
    def fit(
        self,
        *arrays: Arrays,
        epochs: int | None = None,
        steps: int | None = None,
        batch: int | None = None,
        seed: int | None = None,
        validation: Validation | None = None,
        sample_weight: Array | None = None,
        class_weight: ClassWeight | None = None,
        callbacks: Hook | Iterable[Hook] = (),
        verbose: bool | int | None = None,
        settings: Mapping[str, object] | None = None,
        **named: Array,
    ) -> list[dict[str, float]]:
        """Train, and keep the weights that the train block's `keep` says. One record per epoch,
        and those of `validate_every` and `log_every`.

        Without arrays the data of the train block is read. `validation` are arrays as these,
        `(x, y)` or by name, or the share of the examples that is held back. An epoch draws examples
        in proportion to `sample_weight` [n], and to `class_weight` of their label, a dictionary or
        "balanced". `callbacks` are
        functions that are called after every epoch, or objects with methods of `nnc.Callback`.
        `verbose` None shows progress on a terminal and in a notebook; True everywhere, False
        nowhere; 2 prints lines alone. `settings` are those of `--set`, for this call.

        Fitting again goes on from the current parameters with a fresh optimizer. Raises UserError:
        E0606 and E0607 (labels, lengths), E0701 (the loss is not a number), E0704 (an argument that
        does not exist), E0708 and E0710 (what does not fit), or what is wrong in the program.
        """
        numbers = {"epochs": epochs, "steps": steps, "batch": batch, "seed": seed}
        check_no_arrays("fit", {**numbers, "verbose": verbose}, "a field")
        hooks = check_callbacks(callbacks)
        held = share(validation)
        given = {name: value for name, value in {**numbers, **held}.items() if value is not None}
        project = with_assignments(
            self._project, [*assignments(settings or {}), *assignments(given)]
        )
        dataset = self._dataset("fit", arrays, named)
        if validation is not None and not held:
            # It takes the place of what the program would hold back.
            project = with_assignments(project, assignments({"validation": 0}))
            dataset = self._with_validation(dataset, validation)
        weights = example_weights(dataset, sample_weight, class_weight)
        with self._fitting:
            with self._told_missing("fit", dataset):
                job = self._job(project, dataset)
            job.weigh(weights)
            with watch_interrupt() as interrupted:
                shown = listener(verbose, job.plan)
                reason = self._run(job, Hooks(hooks, shown, job), interrupted)
            step = job.position.step
            # After Ctrl-C the user gets what training had reached, and not the best epoch before
            # it.
            if job.best is not None and reason != INTERRUPTED:
                job.executor.restore(job.best)
                step = job.position.kept
            self._trained = Trained(
                job.executor, job.executor.weights(), project, step, len(job.training),
                tuple(job.records), dataset.vocabularies, inputs_note(project, dataset),
            )  # fmt: skip
        # Raised only now, so that an interrupted fit in a notebook keeps what it learnt.
        if reason == INTERRUPTED:
            raise KeyboardInterrupt
        return [record.plain() for record in job.records]

    def _job(self, project: Project, dataset: Dataset) -> Job:
        """The training to come, from the current parameters."""
        job = prepare(project, dataset, self._device)
        warn(job.warnings)
        # Weights only: the optimizer's state belongs to the earlier call, whose data were others.
        if self._trained is not None:
            job.executor.restore(match_all(self._trained.weights, job.executor))
        elif project.settings.weights is not None:
            job.begin_with(begun_with(project, job.executor))
        return job

    @staticmethod
    def _run(job: Job, hooks: Hooks, interrupted) -> str:
        try:
            hooks.begin()
            return train(job, hooks, interrupted)
        finally:
            # The bar goes first: what is printed at the end, or an error, comes below it.
            hooks.close()
            hooks.end()

    @boundary
    def evaluate(self, *arrays: Arrays, **named: Array) -> dict[str, float]:
        """The loss and the metrics over the given examples. Raises as `fit`."""
        dataset = self._dataset("evaluate", arrays, named)
        with self._told_missing("evaluate", dataset):
            executor, step = self._evaluated(dataset)
        return measure(executor, all_examples(dataset.test or dataset.train), step)

    def _evaluated(self, dataset: Dataset) -> tuple[Executor, int]:
        """What measures the current parameters on these data, and the step that they are of."""
        # Before the first `fit`, the initial weights are measured; sizes come from these arrays.
        trained = self._trained
        known = (trained.executor.setup.fields or {}) if trained else {}
        fields = field_types(dataset.schema, self._project.model)
        # What was drawn for arrays of inputs knows of no other fields, and sizes with a maximum may
        # be others than those of training.
        fits = all(name in known for name in fields) and not (
            self._project.settings.limits
            and any(known[name].shape != field.shape for name, field in fields.items())
        )
        if trained is None or not fits:
            setup = setup_of(self._project, fields, len(dataset.train))
            if trained is None:
                trained = self._begin(setup)
            else:
                executor = Executor(setup, self._device, trained.executor.seed)
                executor.take(match_all(trained.weights, executor))
                trained = trained._replace(executor=executor)
        executor, step = trained.executor, trained.step
        # Arrays of any shape may be given, so misfits are found here and not in native code.
        check_fit(executor.system, executor.setup.batch, dataset.schema)
        check_indices(executor.system, dataset)
        return executor, step

    @boundary
    def predict(
        self,
        *arrays: Arrays,
        model: str | None = None,
        tensor: str | Sequence[str] | None = None,
        seed: int | None = None,
        **named: Array,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """The model's result for every example: an array, or several by name if it has several.

        `model` names a model or layer in it, such as the decoder of an autoencoder, which is
        computed alone, for inputs of its own; `tensor` one or several tensors to return in place of
        the results; `seed` is that of random numbers.

        In place of arrays there may be names of files, folders and patterns, or lists of them,
        which are read as the data of training were: `predict("cat.jpg")`, `predict(["a.wav"])`. A
        frame with the columns of the table that trained is read as that table was.

        Raises UserError: E0707 before `init`, `load_weights` or the first `fit`, and for a model
        that does not exist; E0715 for such a tensor, E0708 for arrays that do not fit.
        """
        check_no_arrays("predict", {"model": model, "tensor": tensor, "seed": seed}, "an input")
        tensors = (tensor,) if isinstance(tensor, str) else tuple(tensor or ())
        request = Request(model or self._part, tuple(dict.fromkeys(tensors)), seed_of(seed))
        trained = self._trained
        if trained is None:
            raise self._without_parameters()
        if is_files(arrays) and not named:
            given = read_files(run_of(trained, request), arrays)
            results = predict_given(trained.executor, given, request)
        elif (frame := frame_of(arrays, named)) and is_table_of(frame, recorded_of(trained).reader):
            x = read_frame(frame, recorded_of(trained).reader)
            results = predict(trained.executor, {"x": x}, str(CALL), request)
        else:
            names = input_names(trained.executor, request)
            found = self._named("predict", arrays, named, names)
            results = predict(trained.executor, found, "the call", request)
        # One result is returned as such; several keep their names.
        return next(iter(results.values())) if len(results) == 1 else results

    @boundary
    def predict_files(
        self, *files: Names, top: int | None = None, invert: bool = False
    ) -> list[dict[str, Any]]:
        """What `nnc predict` says of files, folders and patterns, a dictionary for each example:
        `input`, the likeliest class with its `probability` and the `probabilities` of all, or of
        the `top` likeliest; numbers by their columns. `invert` takes light for dark in images.

        Raises UserError E0707 without parameters, and what `nnc predict` says.
        """
        trained, request = self._trained, Request()
        if trained is None:
            raise self._without_parameters()
        run = run_of(trained, request, invert)
        given = read_files(run, files)
        results = predict_given(trained.executor, given, request)
        rows = rows_of(trained.project, run, request, given, results, top)
        return [rows.plain(row) for row in range(rows.count(results, "the answer has"))]

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """The names of the labels 0, 1, … by the field of the data; empty without data that named
        them."""
        return {} if self._trained is None else dict(recorded_of(self._trained).class_names)

    # --- parameters ---------------------------------------------------------------------------

    @boundary
    def init(self, *arrays: Arrays, seed: int | None = None, **named: Array) -> Parameters:
        """Begin anew with the parameters that training would begin with, drawn from the seed (the
        program's if none is given) or those that `weights` in the train block names; a copy of
        them.

        Sizes that the program leaves open follow from arrays of inputs, else from the data that the
        train block names. Raises UserError with what is wrong in the program, E0708 for arrays that
        do not fit.
        """
        with self._fitting:
            found = self._named("init", arrays, named, [p.name for p in self._project.model.inputs])
            self._trained = self._begin(*self._planned(found), seed)
            return self.parameters

    @boundary
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
            trained = self._trained or self._begin(*self._planned({}))
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
            self._trained = trained._replace(executor=executor, weights=weights)
            return report

    # --- arrays -------------------------------------------------------------------------------

    def _dataset(self, call: str, arrays: Sequence[object], named: Mapping[str, object]) -> Dataset:
        """The given arrays, or without any the data of the train block. A table in memory with the
        columns of its table takes that one's place."""
        if not arrays and not named:
            return load_dataset(self._project, self._search)
        frame = frame_of(arrays, named)
        if frame and trains_on(self._project, frame):
            trained = self._trained if call == "evaluate" else None
            known = recorded_of(trained) if trained else None
            if known and is_table_of(frame, known.reader):
                return dataset_of(measured_data(frame, known))
            return training_data(self._project, frame)
        return dataset_of(self._named(call, arrays, named, self._fields(arrays, named)))

    @contextmanager
    def _told_missing(self, call: str, dataset: Dataset) -> Iterator[None]:
        """Inside, a name that nothing defines is told as an array that a call was not given."""
        try:
            yield
        except UserError as error:
            if dataset.name != GIVEN:  # the program's own data
                raise
            given = dataset.train.arrays
            raise without_fields(error, call, self._fields((), given), given) from None

    def _fields(self, arrays: Sequence[object], named: Mapping[str, object]) -> list[str]:
        """All fields that a training takes, in the order of arrays without names."""
        given = {*named, *(str(n) for a in arrays if isinstance(a, Mapping) for n in a)}
        names = [p.name for p in self._project.model.inputs]
        return [*names, *targets(self._project, given)]

    def _with_validation(self, dataset: Dataset, validation: object) -> Dataset:
        """The data with these arrays held out."""
        single = isinstance(validation, Mapping) or not isinstance(validation, list | tuple)
        arrays = (validation,) if single else tuple(validation)  # type: ignore[arg-type]
        names = self._fields(arrays, {})
        found = named_arrays("fit", self._project.name, arrays, {}, names)
        return with_validation(dataset, found)

    def _named(
        self,
        call: str,
        arrays: Sequence[object],
        named: Mapping[str, object],
        names: Sequence[str],
    ) -> dict[str, np.ndarray]:
        return named_arrays(call, self._project.name, arrays, named, names, ARGUMENTS[call])
