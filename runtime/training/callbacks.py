"""Callbacks: the user's own code during training, which sees where it is and may stop it.

In: functions, called after every epoch, or objects with methods of `Callback`. Out: a listener for
the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean
from .job import Job
from .metrics import EPOCH, Record
from .progress import Listener


class Training:
    """A training under way, as callbacks see it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._losses: Sequence[float] = ()
        self.epoch = job.position.epoch
        """The epoch under way, or just completed; from 1."""

    @property
    def step(self) -> int:
        """The steps that are done."""
        return self._job.position.step

    @property
    def epochs(self) -> int | None:
        """How many there will be at most; None without a limit."""
        return self._job.settings.epochs

    @property
    def losses(self) -> dict[str, float]:
        """The losses of the last step, by name; `loss` if there is one. Empty before the first."""
        names = [loss.name.id for loss in self._job.losses]
        return dict(zip(names, self._losses, strict=False))

    @property
    def loss(self) -> float:
        """The first loss of the last step; not a number before the first."""
        return self._losses[0] if self._losses else float("nan")

    @property
    def values(self) -> Mapping[str, float]:
        """What the last record measured: `loss`, the metrics, those of `validation_…` and `test_…`.
        A record is made of every epoch, and by `validate_every` and `log_every`. Empty before."""
        return self._job.records[-1].values if self._job.records else {}

    @property
    def history(self) -> list[dict[str, float]]:
        """One record per complete epoch, and those within epochs, as `fit` returns them."""
        return [record.plain() for record in self._job.records]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the train block: `batch`, `epochs`, `seed` and so on."""
        from ..settings import settings_json  # by trackers alone

        return settings_json(self._job.settings)

    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of the parameters and states as they are now, by name."""
        return self._job.executor.weights()

    def stop(self, reason: str = "a callback has stopped it") -> None:
        """End the training after this step. The epoch is measured and recorded as it is."""
        self._job.stop = reason


class Callback:
    """What happens during training; every method may be left out. Others than these that begin with
    `on_` are refused, as misspelt."""

    def on_begin(self, training: Training) -> object:
        """Before the first step."""

    def on_step(self, training: Training) -> object:
        """After every step; on a GPU, after the launch of several that it belongs to."""

    def on_record(self, training: Training) -> object:
        """After every record: of an epoch, a validation or a log line. `values` has it."""

    def on_epoch_end(self, training: Training) -> object:
        """After every epoch, when it has been measured. True stops the training."""

    def on_end(self, training: Training) -> object:
        """After the last step, also if the training was interrupted or failed."""


Hook: TypeAlias = Callback | Callable[[Training], object]
METHODS = ("on_begin", "on_step", "on_record", "on_epoch_end", "on_end")
# what other libraries call them
_FOREIGN = {
    "on_train_begin": "on_begin", "on_fit_start": "on_begin", "on_train_start": "on_begin",
    "on_batch_end": "on_step", "on_train_batch_end": "on_step", "on_step_end": "on_step",
    "on_epoch": "on_epoch_end", "on_train_epoch_end": "on_epoch_end",
    "on_validation_end": "on_record",
    "on_log": "on_record", "on_evaluate": "on_record", "on_train_end": "on_end",
    "on_fit_end": "on_end",
}  # fmt: skip


def check_callbacks(callbacks: object) -> list[Any]:
    """One callback or several, as a list. UserError E0704 with those that are none, and methods
    that nothing would ever call."""
    listed = isinstance(callbacks, Iterable) and not isinstance(callbacks, Callback)
    found = list(callbacks) if listed else [] if callbacks is None else [callbacks]  # type: ignore[call-overload]
    wrong = [d for one in found for d in _mistakes(one)]
    if wrong:
        raise UserError(wrong)
    return found


def _mistakes(one: object) -> list[Diagnostic]:
    if isinstance(one, type):
        help = f"give an object of it: `{one.__name__}()`"
        return [Diagnostic("E0704", f"the callback `{one.__name__}` is a class", help=help)]
    named = [name for name in dir(one) if name.startswith("on_")]
    kind = type(one).__name__
    if not named and not callable(one):
        help = f"a callback is a function, or an object with {', '.join(f'`{m}`' for m in METHODS)}"
        return [Diagnostic("E0704", f"`{kind}` is no callback", help=help)]
    return [
        Diagnostic(
            "E0704",
            f"nothing calls `{name}` of the callback `{kind}`",
            help=f"did you mean `{_FOREIGN[name]}`?"
            if name in _FOREIGN
            else did_you_mean(name, METHODS) or f"there are {', '.join(METHODS)}",
        )
        for name in named
        if name not in METHODS
    ]


class Hooks:
    """A listener that has callbacks called, in their order, after another listener."""

    def __init__(self, callbacks: Sequence[Any], inner: Listener, job: Job) -> None:
        self._inner, self._training, self._job = inner, Training(job), job
        # A method of the base class does nothing: a step without callbacks must cost nothing.
        self._calls = {
            name: [m for c in callbacks if (m := _method(c, name)) is not None] for name in METHODS
        }

    def begin(self) -> None:
        self._call("on_begin")

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        self._inner.step(epoch, step, losses)
        if self._calls["on_step"]:
            self._training.epoch, self._training._losses = epoch, losses
            self._call("on_step")
        self._training._losses = losses

    def measuring(self, split: str, done: int, examples: int) -> None:
        self._inner.measuring(split, done, examples)

    def record(self, record: Record) -> None:
        self._inner.record(record)
        self._training.epoch = record.epoch
        self._call("on_record")
        if record.kind == EPOCH and True in self._call("on_epoch_end"):
            self._training.stop()

    def close(self) -> None:
        self._inner.close()

    def end(self) -> None:
        self._call("on_end")

    def _call(self, name: str) -> list[object]:
        # `is True`: an array or a number that a function happens to return means nothing
        return [called(self._training) is True for called in self._calls[name]]


def _method(callback: Any, name: str) -> Callable[[Training], object] | None:
    methods = [m for m in METHODS if hasattr(callback, m)]
    if not methods:
        return callback if name == "on_epoch_end" else None
    if getattr(type(callback), name, None) is getattr(Callback, name):
        return None
    return getattr(callback, name, None)
