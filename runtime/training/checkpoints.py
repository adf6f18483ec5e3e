"""The checkpoints of a run: `checkpoints/step-00000120.safetensors`, written atomically.

In: the values of all params and states, and the `Position` in the run. Out: one file with both, so
that they cannot disagree: the arrays by name, and the position as JSON under `position` in the
file's header. The last few are retained, and the one with the best weights; a damaged checkpoint is
skipped in favour of the one before it.

No state of a random generator is stored: every draw depends on the seed, the step and the epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean, fail
from ...dsl.files import make_folder, reason, remove
from .atomic_files import Damaged, check_arrays, load_arrays, read_notes, save_arrays
from .metrics import EPOCH, LOG, Record
from .set_measures import Totals

FORMAT = 3
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass
class Position:
    """The progress of a run. `epoch` is the current one, `done` the number of its examples that
    were visited in the order of `seed` and `epoch`, `totals` what they measured, and `window` what
    those since the last record did, where there are records within epochs; `stale` counts the
    epochs and validations since the best one, which was after `best_step`; `kept` is the step of
    the best weights (0: none yet), or of the last ones if `keep` is "last"; `examples` is the size
    of the training set."""

    epoch: int = 1
    done: int = 0
    step: int = 0
    seed: int = 0
    examples: int = 0
    totals: Totals = field(default_factory=Totals)
    window: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    best_step: int = 0
    stale: int = 0
    kept: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def compared(self) -> Record | None:
        """The last record that was compared with the best one: of an epoch or a validation."""
        return next((record for record in reversed(self.records) if record.kind != LOG), None)

    def text(self) -> str:
        """As JSON; numbers that are not finite, which JSON lacks, are strings."""
        totals = {"totals": self.totals.plain(), "window": self.window.plain()}
        plain = {**asdict(self), **totals}
        return json.dumps({"format": FORMAT, **_encode_nonfinite(plain)}, allow_nan=False)

    @staticmethod
    def of_text(text: str) -> Position:
        """The position that `text` wrote. ValueError, KeyError or TypeError for any other text."""
        plain = _decode_nonfinite(json.loads(text))
        version = plain.pop("format")
        if version == 1:  # the loss and the metrics themselves in place of totals
            means = plain.pop("means")
            before = means if means["count"] else {}
            plain["totals"], version = Totals(before=before).plain(), 2
        if version == 2:  # epochs alone had records
            _add_records_within(plain)
            version = FORMAT
        if version != FORMAT:
            # not a guess at what other fields meant: another format is refused
            raise ValueError("it is of another version of nnc")
        _check_keys(plain, Position)
        for name in ("totals", "window"):
            _check_keys(plain[name], Totals)
        for record in plain["records"]:
            _check_keys(record, Record)
            for name, value in record["values"].items():
                _check_number(name, value)
        # asdict turned the nested dataclasses into objects: make them again
        totals = {name: Totals.of_plain(plain[name]) for name in ("totals", "window")}
        records = [Record(**r) for r in plain["records"]]
        return Position(**{**plain, **totals, "records": records})


def _add_records_within(plain: dict[str, Any]) -> None:
    """Give the position of a run whose only records are of epochs what positions have since."""
    records = plain["records"]
    for record in records:
        record["kind"] = EPOCH
    steps = {record["epoch"]: record["step"] for record in records}
    plain["window"] = Totals().plain()
    plain["best_step"] = steps.get(plain["best_epoch"], 0)


# what JSON may hold for a field of a type; for all others an object or a list
_ALLOWED: dict[Any, Any] = {
    int: int, float: float | int, float | None: float | int | None, str: str,
}  # fmt: skip


def _check_keys(plain: Mapping[str, Any], kind: type) -> None:
    """ValueError unless the keys are the fields of the dataclass, and the values of their types."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in plain:
        if key not in known:
            raise ValueError(f"the key `{key}` has no meaning; " + did_you_mean(key, known))
    # annotations are strings in this file; this evaluates them: `float | None` and not its text
    types = get_type_hints(kind)
    for key in known:
        if key not in plain:
            raise ValueError(f"the key `{key}` is missing")
        if not isinstance(plain[key], _ALLOWED.get(types[key], dict | list)):
            raise ValueError(f"the key `{key}` is {repr(plain[key])[:40]}")
        if isinstance(plain[key], int | float):
            _check_number(key, plain[key])


def _check_number(name: str, value: Any) -> None:
    """ValueError unless it is a number that a float or 64 bits can hold."""
    if not isinstance(value, int | float) or (isinstance(value, int) and abs(value) >= 1 << 63):
        raise ValueError(f"the key `{name}` is {repr(value)[:40]}")


_NONFINITE = {"nan": nan, "inf": inf, "-inf": -inf}


def _encode_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode_nonfinite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_encode_nonfinite(v) for v in value]
    return f"{value:g}" if isinstance(value, float) and not isfinite(value) else value


def _decode_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode_nonfinite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_decode_nonfinite(v) for v in value]
    return _NONFINITE.get(value, value) if isinstance(value, str) else value


class Checkpoints:
    """The folder of a run's checkpoints, which need not exist yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._kept: dict[int, int] = {}  # step of a checkpoint → `kept` of its position

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08}.safetensors"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order. UserError E0706 if the folder cannot be read."""
        try:
            names = [p.name for p in self.folder.iterdir()] if self.folder.exists() else []
        except OSError as error:
            raise fail("E0706", f"cannot read {self.folder}: {error.strerror}") from error
        return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)

    def write(
        self,
        values: Mapping[str, np.ndarray],
        position: Position,
        keep: int,
        bf16: Collection[str] = (),
    ) -> None:
        """Write a checkpoint, then remove the older ones except the last `keep`, and those with the
        best weights of each of them: a run goes on from the one before if the last is damaged.
        Values in `bf16` are stored as such.
        UserError E0709 if it cannot be written: then none is removed."""
        # listed before writing: if this folder cannot be read, nothing is written either
        before = self.steps()
        notes = {"position": position.text()}
        try:
            make_folder(self.folder)
        except OSError as error:
            raise fail("E0709", f"cannot make {self.folder}: {reason(error)}") from error
        # The new file is on the disk before an old one goes, so one good checkpoint always exists.
        path, help = self.path(position.step), self._advice(before)
        save_arrays(path, values, notes, help=help, bf16=bf16)
        # A run that resumed from step 100 because 200 was damaged has 200 still: it is not among
        # the older ones and goes. The new one is one of the last `keep`, hence the + 1.
        older = [step for step in before if step < position.step]
        last = [*older[max(0, len(older) - keep + 1) :], position.step]
        self._kept[position.step] = position.kept
        kept = {*last, *map(self._kept_by, last)}
        for step in before:
            if step not in kept:
                remove(self.path(step))  # one too many would do no harm

    def _kept_by(self, step: int) -> int:
        """The step of the best weights as of a checkpoint; 0 if none are, or it is damaged."""
        if step not in self._kept:
            try:
                position = Position.of_text(read_notes(self.path(step))["position"])
                self._kept[step] = position.kept
            except (UserError, LookupError, ValueError, TypeError, AttributeError, RecursionError):
                self._kept[step] = 0
        return self._kept[step]

    def _advice(self, steps: list[int]) -> str:
        run = self.folder.parent
        if not steps:
            return f"nothing is saved yet: make room, then `nnc train --resume {run}` begins anew"
        return f"step {steps[-1]} is saved: make room, then `nnc train --resume {run}`"

    def read(
        self, wanted: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], Position | None, list[Diagnostic]]:
        """Values and position of the last intact checkpoint, and a warning for every damaged one
        after it. No values and no position if there is none, or but a damaged one: then the run
        begins anew, to the same bits. UserError E0706 if there are several, and none is right."""
        skipped: list[Diagnostic] = []
        steps = self.steps()
        # newest first
        for step in reversed(steps):
            try:
                return *self.read_step(step, wanted), skipped
            except UserError as error:
                anew = len(steps) == 1 and isinstance(error, Damaged)
                help = "the run begins anew" if anew else "the checkpoint before it is used"
                skipped += [
                    Diagnostic("W0701", d.message, help=d.help or help) for d in error.diagnostics
                ]
                if anew:
                    return {}, None, skipped
        # fresh diagnostics: damage that can be skipped is a warning, all damaged is an error
        if skipped:
            raise UserError([Diagnostic("E0706", d.message, help="") for d in skipped])
        return {}, None, []

    def read_step(
        self, step: int, wanted: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], Position]:
        """Values and position of one checkpoint. UserError E0706 if it is damaged or of another
        program."""
        path = self.path(step)
        found, notes = load_arrays(path)
        check_arrays(path, found, wanted)
        # the hash was right, so these are files of another version, or made by another program
        try:
            position = Position.of_text(notes["position"])
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise fail("E0706", f"{path} does not say where it is: {error}") from error
        # a file that was renamed by hand would resume at a wrong step
        if position.step != step:
            raise fail("E0706", f"{path} is the checkpoint of step {position.step}")
        return found, position
