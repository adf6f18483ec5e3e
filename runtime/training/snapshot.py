"""The state before a step that was undone, for `nnc debug`: `snapshot.safetensors` of a run.

In: the state before a training step and the batch. Out: one safetensors file, and what is in it.

    value.NAME    every param and state before the step, by its name in the training system
    input.NAME    the batch: every field of the data that the step reads, one entry per example

Its metadata has one key, `snapshot`, a JSON object:

    format    1
    step      the number of the step, from 1: what the system's input `step` is
    seed      what the system's input `seed` is
    epoch     the epoch that it belongs to, from 1
    batch     how many examples there are: the system is `training_step(for_batch(setup, batch))`
    rows      the numbers of the examples in the training set
    tensor    the tensor that was not finite after the step, and the index; for a param or state,
    index     its next value
    value     "nan", "inf" or "-inf"
    left      how many batches of the step come after it; 0 if it is not there

`arguments` joins the two groups and the scalars: the input of `evaluate` for the training system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.ir.equation import System
from ...dsl.diagnostics.diagnostic import fail
from ...dsl.records import record
from .atomic_files import load_arrays, save_arrays

FORMAT = 1
SNAPSHOT_NAME = "snapshot.safetensors"


@record(eq=False)
class Snapshot:
    """The state before a step, the step's batch, and the value that was not finite."""

    values: Mapping[str, np.ndarray]
    inputs: Mapping[str, np.ndarray]
    step: int
    seed: int
    epoch: int
    rows: tuple[int, ...]
    tensor: str
    index: tuple[int, ...]
    value: str
    left: int = 0

    @property
    def batch(self) -> int:
        return len(self.rows)

    def arguments(self, system: System) -> dict[str, np.ndarray]:
        """A value for every input, param and state of the training system of this batch."""
        # not in the file as arrays: they are the same for every program
        numbers = {"step": self.step, "seed": self.seed, "microbatches_left": self.left}
        scalars = {name: np.array(number, np.int32) for name, number in numbers.items()}
        found = {**self.values, **self.inputs, **scalars}
        # a program may not read all that the snapshot has; what it lacks is a KeyError
        return {t.name: found[t.name] for t in system.tensors.values() if t.kind != "temp"}


def write_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """The snapshot as a file of the run folder. UserError E0709 if it cannot be written."""
    # prefixes keep an input apart from a parameter of the same name
    arrays = {f"value.{name}": array for name, array in snapshot.values.items()}
    arrays |= {f"input.{name}": array for name, array in snapshot.inputs.items()}
    notes = {
        "format": FORMAT,
        "step": snapshot.step,
        "seed": snapshot.seed,
        "epoch": snapshot.epoch,
        "batch": snapshot.batch,
        "rows": snapshot.rows,
        "tensor": snapshot.tensor,
        "index": snapshot.index,
        "value": snapshot.value,
        "left": snapshot.left,
    }
    path = folder / SNAPSHOT_NAME
    save_arrays(path, arrays, {"snapshot": json.dumps(notes)})
    return path


def read_snapshot(folder: Path) -> Snapshot:
    """The snapshot of a run folder. UserError E0706 if there is none or it is damaged."""
    path = folder / SNAPSHOT_NAME
    # a run that never went bad: this is not damage
    if folder.is_dir() and not path.exists():
        raise fail(
            "E0706",
            f"{folder} has no {SNAPSHOT_NAME}",
            help="a run writes one when a value stops being finite",
        )
    arrays, notes = load_arrays(path)
    try:
        plain: dict[str, Any] = json.loads(notes["snapshot"])
        if plain["format"] != FORMAT:
            raise fail("E0706", f"{path} is of another version of nnc")
        groups: dict[str, dict[str, np.ndarray]] = {"value": {}, "input": {}}
        for name, array in arrays.items():
            group, _, own = name.partition(".")
            groups[group][own] = array
        return Snapshot(
            groups["value"],
            groups["input"],
            int(plain["step"]),
            int(plain["seed"]),
            int(plain["epoch"]),
            tuple(map(int, plain["rows"])),
            str(plain["tensor"]),
            tuple(map(int, plain["index"])),
            str(plain["value"]),
            int(plain.get("left", 0)),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise fail("E0706", f"{path} is damaged: {error}") from error
