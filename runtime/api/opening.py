"""`nnc.load` and `nnc.loads`: a model of a file, of a run folder, or of a text."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from ...dsl.diagnostics.diagnostic import did_you_mean
from ..data import Search
from ..device import DEVICES
from ..project import Project, open_project, project_of_text, setup_of, untrained_setup
from ..thread_count import default_threads, too_many
from ..training.executor import Executor
from ..training.run_folder import RunFolder, means_a_run
from ..training.trained_weights import trained_weights
from .arguments import assignments
from .errors import boundary, warn
from .model import Model
from .state import Compute, Trained


@boundary
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
    compute = _compute(device, threads)
    if not path.is_dir() and not means_a_run(path):
        # A run folder has a copy of its program, which its weights belong to.
        return _warned(Model(open_project(path, assignments(settings or {}), model), compute))
    folder = RunFolder(path)
    folder.require()
    project = open_project(folder.model, assignments(settings or {}))
    loaded = Model(project, compute, Search.of_run(folder.settings))
    trained = _trained(folder, project, loaded)
    warn(folder.complete_as_reader())
    if model is not None:
        trained.executor.part(model)  # there is one
        loaded._part = model
    loaded._trained = trained
    return loaded


def _trained(folder: RunFolder, project: Project, model: Model) -> Trained:
    # The types of the inputs come from the run's notes, so that no data has to be found.
    # A model that was saved before it met any data has none.
    examples, fields = folder.settings["examples"], folder.fields or None
    if project.train is None:
        setup = untrained_setup(project, fields)
    else:
        setup = setup_of(project, fields, examples)
    executor = Executor(setup, model._device, project.settings.seed)
    found = trained_weights(folder, executor, project.settings.keep)
    warn([*filter(None, [found.remark]), *found.warnings])
    executor.take(found.weights)
    return Trained(
        executor, found.weights, project, found.step, examples, (), folder.vocabularies,
        folder.settings.get("inputs"), folder.path.resolve(),
    )  # fmt: skip


@boundary
def loads(
    text: str,
    *,
    name: str = "program.nn",
    model: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, object] | None = None,
) -> Model:
    """The model of a program that is a text, as `load`; messages call it `name`. Files that it uses
    and data are looked for in the current folder."""
    if not isinstance(text, str):
        raise TypeError(f"loads takes the text of a program, and not {type(text).__name__}")
    project = project_of_text(text, name, None, assignments(settings or {}), model)
    return _warned(Model(project, _compute(device, threads)))


def _warned(model: Model) -> Model:
    """The model, with warnings about its program."""
    warn(model._project.warnings)
    return model


def _compute(device: str, threads: int | None) -> Compute:
    if device not in DEVICES:
        habit = "did you mean `cuda`?" if device.lower() in ("gpu", "cuda:0") else ""
        hint = habit or did_you_mean(device, DEVICES) or f"there are {', '.join(DEVICES)}"
        raise ValueError(f"no device {device!r}; {hint}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads = {threads}: a run has 1 thread at least")
    remark = too_many(threads)
    if remark:
        warn([remark])
    return Compute(device, default_threads(threads))
