"""Runs as they lie on the disk: which there are, how far they came, and in what two differ.

In: folders. Out: records. Nothing is loaded but texts and the headers of checkpoints, so that a
list of many runs is quick; a run that is damaged is one of the list, and says so.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ...dsl.diagnostics.diagnostic import Report, UserError
from ...dsl.syntax.parser import parse_value
from ...dsl.syntax.source import Source
from ..conditions import Condition
from ..constants import constant_number
from ..training.atomic_files import read_notes, read_text
from ..training.checkpoints import Position
from ..training.lock import is_locked
from ..training.run_folder import RunFolder

FINISHED, INTERRUPTED, RUNNING, EMPTY = "finished", "interrupted", "running", "no checkpoint"
SAVED, DAMAGED = "saved", "damaged"
TEXT = "settings.json"


@dataclass(frozen=True)
class RunSummary:
    """One run. `metric` is what decided which weights are kept, `best` its best value and
    `best_epoch` when; `values` the last that were measured."""

    path: Path
    status: str
    model: str = ""
    date: str = ""
    epoch: int = 0
    step: int = 0
    metric: str = ""
    best: float | None = None
    best_epoch: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # by dotted name
    command: str = ""
    bytes: int = 0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "path": str(self.path)}


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder and below it, or the folder itself, by name."""
    found = []
    for place, folders, names in os.walk(folder):
        if TEXT in names:
            found.append(Path(place))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)


def summary_of(path: Path) -> RunSummary:
    """What there is to say of a run. UserError E0706 if it is none."""
    folder = RunFolder(path)
    folder.require()
    size, date = _bytes(path), _date(path / TEXT)
    try:
        notes = folder.settings
        position = _position(folder)
    except (UserError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return RunSummary(path, DAMAGED, date=date, bytes=size)
    settings = {**flat(notes["settings"]), "device": notes["device"]}
    about = {
        "model": notes["model"],
        "date": notes.get("date", date),
        "settings": settings,
        "command": notes["command"],
        "bytes": size,
    }
    if position is None:
        weights = folder.weights_file.exists()
        status = RUNNING if is_locked(path) else SAVED if weights else EMPTY
        return RunSummary(path, status, **about)
    finished = _finished(notes["settings"], position)
    status = FINISHED if finished else RUNNING if is_locked(path) else INTERRUPTED
    last = position.compared
    values = last.values if last else {}
    return RunSummary(
        path,
        status,
        epoch=last.epoch if last else position.epoch,
        step=position.step,
        metric=_monitored(notes["settings"], values),
        best=position.best,
        best_epoch=position.best_epoch,
        values=values,
        **about,
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, without those that are not set."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            found[f"{prefix}{name}"] = value
    return found


def _position(folder: RunFolder) -> Position | None:
    """The position of the last checkpoint; None if there is none."""
    steps = folder.checkpoints.steps()
    if not steps:
        return None
    return Position.of_text(read_notes(folder.checkpoints.path(steps[-1]))["position"])


def _finished(settings: Mapping[str, Any], here: Position) -> bool:
    """Whether training had a reason to end; as `loop.reason_to_stop`, from texts alone."""
    if settings.get("steps") is not None and here.step >= settings["steps"]:
        return True
    if settings.get("epochs") is not None and here.epoch > settings["epochs"]:
        return True
    if settings.get("patience") is not None and here.stale >= settings["patience"]:
        return True
    last = here.compared
    if last is None:
        return False
    values = {"epoch": last.epoch, "step": last.step, **last.values}
    try:
        return any(_condition(text).holds(values) for text in settings.get("until", ()))
    except UserError:  # compared with what a `let` says, which stands in the program alone
        return False


def _condition(text: str) -> Condition:
    expr = parse_value(Source("until", text), 0, Report())
    if expr is None:
        raise ValueError(text)
    return Condition(expr, lambda node: constant_number(node, {}))


def _monitored(settings: Mapping[str, Any], values: Mapping[str, float]) -> str:
    """The name of the value that was watched: what was not trained on tells most."""
    if settings.get("monitor"):
        return str(settings["monitor"]).lstrip("-")
    loss = next(iter(values), "")
    named = [name for name in (f"validation_{loss}", f"test_{loss}") if name in values]
    return (named or [loss])[0]


def _bytes(path: Path) -> int:
    return sum(
        os.lstat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(path)
        for name in names
    )


def _date(path: Path) -> str:
    """When a run began, for those of earlier versions, which do not say so."""
    try:
        seconds = path.stat().st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


# --- in what runs differ --------------------------------------------------------------------------


def differing(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs: by name, a value for each; None where a run
    has none."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = {name: [run.settings.get(name) for run in runs] for name in names}
    return {n: row for n, row in rows.items() if any(value != row[0] for value in row)}


def metrics_of(runs: Sequence[RunSummary]) -> dict[str, list[float | None]]:
    """The last measured values by name, one for each run; None where it was not measured."""
    names = dict.fromkeys(name for run in runs for name in run.values)
    return {name: [run.values.get(name) for run in runs] for name in names}


def program_difference(one: RunSummary, two: RunSummary) -> list[str]:
    """The lines in which the programs differ, as `diff -u`; none if they do not."""
    files = [run.path / "model.nn" for run in (one, two)]
    before, after = (read_text(file).splitlines() for file in files)
    return list(difflib.unified_diff(before, after, str(files[0]), str(files[1]), lineterm=""))
