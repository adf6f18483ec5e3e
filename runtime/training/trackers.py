"""Trackers: what is measured during training, in TensorBoard or trackio.

In: the records of a training, as callbacks see them. Out: what the tracker makes of them. Each is a
callback and needs its own package, which is imported when the training begins.
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike, fspath
from typing import Any

from ...dsl.diagnostics.diagnostic import fail
from .callbacks import Callback, Training


class TensorBoard(Callback):
    """Scalars and settings in a folder, for `tensorboard --logdir FOLDER`. A folder of each run's
    own shows them side by side. Needs the extra `tensorboard` (tensorboardX)."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = fspath(folder)
        self._writer: Any = None

    def on_begin(self, training: Training) -> None:
        self._writer = _module("tensorboardX", "tensorboard").SummaryWriter(self.folder)
        self._writer.add_text("settings", _listed(training.settings), training.step)

    def on_record(self, training: Training) -> None:
        for name, value in training.values.items():
            self._writer.add_scalar(name, value, training.step)
        self._writer.flush()

    def on_end(self, training: Training) -> None:
        if self._writer is not None:
            self._writer.close()


class Trackio(Callback):
    """A run of a project in trackio, for `trackio show`; `more` as in `trackio.init`. Needs the
    extra `trackio`."""

    def __init__(self, project: str, name: str | None = None, **more: Any) -> None:
        self.project, self.name, self.more = project, name, more
        self._run: Any = None

    def on_begin(self, training: Training) -> None:
        how = {"config": training.settings, **self.more}
        self._run = _module("trackio", "trackio").init(self.project, name=self.name, **how)

    def on_record(self, training: Training) -> None:
        self._run.log(dict(training.values), step=training.step)

    def on_end(self, training: Training) -> None:
        if self._run is not None:
            self._run.finish()


def _module(name: str, extra: str) -> Any:
    """The package of a tracker. UserError E0741 if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        help = f"install it with `pip install 'nnc-lang[{extra}]'`"
        raise fail("E0741", f"tracking needs the package {name}", help=help) from error


def _listed(settings: dict[str, Any]) -> str:
    """Settings as a list in Markdown."""
    return "\n".join(f"- {name} = {value}" for name, value in settings.items())
