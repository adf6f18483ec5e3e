"""The folder of a run: everything that is needed to repeat it, go on with it, or use it.

    model.nn                 the resolved program in one text, settings included
    settings.json            settings, seed, device, versions, the command that re-runs it
    metrics.jsonl            one object per epoch
    vocabulary.json          what tokens stand for, if it was trained on text
    weights.safetensors      what was learnt: the best or the last, as `keep` says
    checkpoint.safetensors   params, all states and the place in the run, to go on from

In: what there is to keep. Out: files, each whole at any time. The place is in the checkpoint's own
file, so that the two cannot disagree.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.training import FieldType
from ..dsl.diagnostics import fail
from .checkpoint import (
    check_arrays,
    load_arrays,
    read_json,
    save_arrays,
    write_json,
    write_text,
)
from .data.vocabulary import Vocabulary
from .metrics import Means, Record


@dataclass
class Position:
    """Where a run is. `epoch` is the one being trained, `batch` how many of its batches are done,
    `means` what they measured; `stale` counts epochs since the best."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    means: Means = None  # type: ignore[assignment]
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0

    def __post_init__(self) -> None:
        self.means = self.means or Means()

    def text(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of_text(text: str) -> Position:
        plain = json.loads(text)
        return Position(**{**plain, "means": Means(**plain["means"])})


class RunFolder:
    """An existing run folder."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def model(self) -> Path:
        return self.path / "model.nn"

    @property
    def weights_file(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def settings(self) -> dict[str, Any]:
        """What `settings.json` holds. UserError E0706 if this is no run folder."""
        if not self.path.is_dir():
            raise fail("E0706", f"there is no run folder {self.path}")
        return read_json(self.path / "settings.json")

    @property
    def fields(self) -> dict[str, FieldType]:
        """The fields of the data that it was trained on."""
        return {n: FieldType(dtype, tuple(shape))
                for n, (dtype, shape) in self.settings["fields"].items()}  # fmt: skip

    def write_vocabularies(self, vocabularies: Mapping[str, Vocabulary]) -> None:
        """What the numbers of each field of tokens stand for; nothing is written if there are
        none."""
        if vocabularies:
            plain = {name: json.loads(v.to_json()) for name, v in vocabularies.items()}
            write_json(self.path / "vocabulary.json", plain)

    def vocabulary(self, field: str) -> Vocabulary:
        """The vocabulary of a field. UserError E0712 if the run was not trained on text."""
        path = self.path / "vocabulary.json"
        found = read_json(path) if path.exists() else {}
        if field not in found:
            raise fail("E0712", f"the run {self.path} knows no text for `{field}`",
                       help="its data are not a text")  # fmt: skip
        return Vocabulary.from_json(json.dumps(found[field]), str(path))

    def write_weights(self, weights: Mapping[str, np.ndarray], epoch: int) -> None:
        save_arrays(self.weights_file, weights, {"epoch": str(epoch)})

    def read_weights(self, wanted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights, of the shapes and types wanted. UserError E0706 otherwise."""
        found, _ = load_arrays(self.weights_file)
        check_arrays(self.weights_file, found, wanted)
        return {name: found[name] for name in wanted}

    def write_checkpoint(self, values: Mapping[str, np.ndarray], position: Position) -> None:
        save_arrays(self.checkpoint_file, values, {"position": position.text()})

    def read_checkpoint(
        self, wanted: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], Position]:
        """Params, states and the place to go on from. UserError E0706 otherwise."""
        found, notes = load_arrays(self.checkpoint_file)
        check_arrays(self.checkpoint_file, found, wanted)
        try:
            return found, Position.of_text(notes["position"])
        except (KeyError, ValueError, TypeError) as error:
            raise fail("E0706", f"{self.checkpoint_file} does not say where it is") from error

    def write_metrics(self, records: Sequence[Record]) -> None:
        lines = (json.dumps(_finite(record.plain()), allow_nan=False) for record in records)
        write_text(self.path / "metrics.jsonl", "".join(f"{line}\n" for line in lines))

    def read_metrics(self, before: int) -> list[Record]:
        """The records of the epochs before a number."""
        try:
            lines = (self.path / "metrics.jsonl").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        records = []
        for plain in map(json.loads, lines):
            epoch, step, seconds = (plain.pop(k) for k in ("epoch", "step", "seconds"))
            values = {k: float("nan") if v is None else v for k, v in plain.items()}
            records.append(Record(epoch, step, values, seconds))
        return [r for r in records if r.epoch < before]


def _finite(plain: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no number for what is none."""
    return {name: value if isfinite(value) else None for name, value in plain.items()}


def create(out: Path | None, name: str, program: str, settings: Mapping[str, Any]) -> RunFolder:
    """A new run folder with its program and settings, there as a whole or not at all.

    `out` None: `runs/NAME-TIME`. UserError E0705 if it holds anything, E0709 if it cannot be made.
    """
    path = out or _fresh(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_free(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        write_text(beside / "model.nn", program)
        write_json(beside / "settings.json", settings)
        if path.exists():
            path.rmdir()  # it is empty
        beside.rename(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise fail("E0709", f"cannot make the run folder {path}: {reason}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return RunFolder(path)


def check_free(path: Path) -> None:
    """UserError E0705 unless the path is free or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise fail("E0705", f"{path} is not empty",
                   help="name another folder with `--out`, or go on with it: "
                   f"`nnc train --resume {path}`")  # fmt: skip


def _fresh(path: Path) -> Path:
    number, found = 2, path
    while found.exists():
        found, number = path.with_name(f"{path.name}-{number}"), number + 1
    return found
