"""What was measured during training, as curves: of one run or of several to be compared.

In: run folders, or the records that `fit` returns, and a `Choice` of what to draw. Out: `Panel`s,
one for each measured quantity, which `curve_pictures.py` and `terminal_plot.py` draw. A run that is
training now has the curves that it has so far.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from ...dsl.check.train_block import SPLITS
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean, fail
from ...dsl.files import reason
from ..training.atomic_files import read_text
from ..training.run_folder import RunFolder

AXES = ("step", "epoch", "time")
OTHER = {"epoch", "step", "kind", "seconds"}  # entries of a record that are no measured values
TIME_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))

Record = Mapping[str, Any]  # a line of metrics.jsonl; null is a value that is not finite


@dataclass(frozen=True)
class Choice:
    """What is drawn: the `metrics` by name or pattern (`*_loss`), all of them if empty, against
    `step`, `epoch` or `time`. `smooth` in [0, 1) is the weight of the past in a moving average."""

    metrics: tuple[str, ...] = ()
    against: str = "step"
    smooth: float = 0.0
    log: bool = False


EVERYTHING = Choice()


@dataclass(frozen=True)
class History:
    """The records of one run, in order, and the name that a legend gives it. `steps_per_epoch`
    places records within an epoch, where there are any."""

    name: str
    records: Sequence[Record]
    steps_per_epoch: float | None = None

    @cached_property
    def names(self) -> list[str]:
        """Everything that was measured, in the order in which it appears."""
        return list(dict.fromkeys(n for record in self.records for n in record if n not in OTHER))

    def has(self, name: str) -> np.ndarray:
        """[n]: whether a record has a measured value. One of a whole epoch has none of the training
        where its parts have said that already."""
        parts = {r.get("epoch") for r in self.records if r.get("kind") and name in r}
        summed = set() if _split(name)[0] else parts
        return np.array(
            [
                name in r and (bool(r.get("kind")) or r.get("epoch") not in summed)
                for r in self.records
            ]
        )

    def values(self, name: str) -> np.ndarray:
        """[n]: a measured value in each record; nan where it is missing or was not finite."""
        return np.array([_number(record.get(name)) for record in self.records])

    def positions(self, against: str) -> np.ndarray:
        """[n]: the step, the epochs or the seconds of training at each record."""
        if against == "time":
            return self._seconds()
        if against == "epoch":
            return self._epochs()
        return np.array([_number(record.get("step")) for record in self.records])

    def _seconds(self) -> np.ndarray:
        # `seconds` of a record are those since its epoch began.
        found, before, epoch, last = [], 0.0, None, 0.0
        for record in self.records:
            if record.get("epoch") != epoch:
                before, epoch = before + last, record.get("epoch")
            last = _number(record.get("seconds"))
            found.append(before + last)
        return np.array(found)

    def _epochs(self) -> np.ndarray:
        epochs, steps = (
            np.array([_number(record.get(key)) for record in self.records])
            for key in ("epoch", "step")
        )
        if not self.steps_per_epoch or len(set(epochs)) == len(epochs):
            return epochs
        return steps / self.steps_per_epoch


@dataclass(frozen=True)
class Curve:
    """One measured value of one run: [n] positions and [n] values; `raw` are the values before
    they were smoothed. `split` is "" for the training set."""

    run: str
    split: str
    x: np.ndarray
    y: np.ndarray
    raw: np.ndarray

    def label(self, several: bool) -> str:
        """Its name in a legend, with its run where there are `several`."""
        split = self.split or "train"
        return f"{self.run} {split}" if several else split


@dataclass(frozen=True)
class Panel:
    """All curves of one quantity, such as the loss of every set and run."""

    title: str
    x_label: str
    log: bool
    runs: tuple[str, ...]
    curves: tuple[Curve, ...] = field(default=())

    @property
    def labels(self) -> list[str]:
        """A name for each curve: what distinguishes it from the others of the panel."""
        several = len(self.runs) > 1
        if several and len({curve.split for curve in self.curves}) == 1:
            return [curve.run for curve in self.curves]
        return [curve.label(several) for curve in self.curves]


# --- reading --------------------------------------------------------------------------------------


def read_histories(paths: Sequence[Path]) -> tuple[list[History], list[str]]:
    """The histories of run folders, and the names of those that have measured nothing yet.

    UserError E0706 for what is no run folder, E0740 if none has measured anything.
    """
    unique = list({path.resolve(): path for path in paths}.values())
    mistakes: list[Diagnostic] = []
    found, empty = [], []
    for path, name in zip(unique, _names(unique), strict=True):
        try:
            history = _read(path, name)
        except UserError as error:  # of all runs at once
            mistakes += error.diagnostics
            continue
        if history.records:
            found.append(history)
        else:
            empty.append(name)
    if mistakes:
        raise UserError(mistakes)
    if not found:
        raise fail(
            "E0740",
            f"{' and '.join(empty)} {'has' if len(empty) == 1 else 'have'} measured nothing yet",
            help="the first values come at the end of an epoch",
        )
    return found, empty


def _read(path: Path, name: str) -> History:
    folder = RunFolder(path)
    notes = folder.settings  # UserError if it is no run
    file = path / "metrics.jsonl"
    try:
        lines = read_text(file).splitlines()
    except FileNotFoundError:  # before the end of the first epoch
        lines = []
    except (OSError, ValueError) as error:
        raise fail("E0706", f"cannot read {file}: {reason(error)}") from error
    batch, accumulate = (_number(notes["settings"].get(key)) for key in ("batch", "accumulate"))
    per_step = (batch if batch > 0 else 1) * (accumulate if accumulate > 0 else 1)
    return History(name, _records(lines, file), -(-notes["examples"] // per_step))


def _records(lines: Sequence[str], file: Path) -> list[Record]:
    found: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            # The last line of a run that is writing it.
            if number == len(lines):
                break
            raise fail("E0706", f"line {number} of {file} is damaged: {error}") from error
        found.append(record)
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """What distinguishes the folders: their names, or else their paths."""
    names = [path.name or path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else nan


# --- choosing -------------------------------------------------------------------------------------


def panels(histories: Sequence[History], choice: Choice = EVERYTHING) -> list[Panel]:
    """The curves by quantity, in the order in which runs measure them.

    UserError E0740 for every name of the choice that no run has measured.
    """
    known = list(dict.fromkeys(name for history in histories for name in history.names))
    chosen = _chosen(known, choice.metrics)
    unit, x_label = _unit(histories, choice.against)
    titles = list(dict.fromkeys(_split(name)[1] for name in chosen))
    runs = tuple(history.name for history in histories)
    found = []
    for title in titles:
        curves = tuple(
            _curve(history, name, choice, unit)
            for history in histories
            for name in chosen
            if _split(name)[1] == title and name in history.names
        )
        found.append(Panel(title, x_label, choice.log, runs, curves))
    return found


def _chosen(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names that are wanted, in the order of `known`."""
    mistakes = []
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = did_you_mean(pattern, known)
            message = f"`{pattern}` was not measured"
            help = f"{near} measured are {', '.join(known)}".strip()
            mistakes.append(Diagnostic("E0740", message, help=help))
    if mistakes:
        raise UserError(mistakes)
    return [name for name in known if not wanted or any(fnmatchcase(name, p) for p in wanted)]


def _curve(history: History, name: str, choice: Choice, unit: float) -> Curve:
    known = history.has(name)
    x, raw = history.positions(choice.against)[known] / unit, history.values(name)[known]
    return Curve(history.name, _split(name)[0], x, smoothed(raw, choice.smooth), raw)


def _split(name: str) -> tuple[str, str]:
    """`test_loss` → ("test", "loss"); the training set has no prefix."""
    prefix, _, rest = name.partition("_")
    return (prefix, rest) if prefix in SPLITS and rest else ("", name)


def _unit(histories: Iterable[History], against: str) -> tuple[float, str]:
    """What positions are divided by, and the label of the axis."""
    if against != "time":
        return 1.0, against
    longest = max(float(np.nanmax(h.positions("time"), initial=0.0)) for h in histories)
    return next(((unit, name) for unit, name in TIME_UNITS if longest >= 2 * unit), TIME_UNITS[-1])


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """The exponential moving average mₖ = w·mₖ₋₁ + (1 − w)·vₖ, divided by 1 − wᵏ so that the first
    values are not drawn to 0 (Kingma and Ba, 2015, §3). What is not finite stays and is passed
    over."""
    if not weight:
        return values
    found, mean, rest = np.array(values, float), 0.0, 1.0
    for k in np.flatnonzero(np.isfinite(found)):
        mean, rest = weight * mean + (1 - weight) * found[k], rest * weight
        found[k] = mean / (1 - rest)
    return found
