"""The trained examples of the gallery: their commands, what they measure, and their models.

In: the name of an example. Out: a run folder, and what is read of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import nnc
from nnc.runtime.data import Dataset, Search
from nnc.runtime.project import load_dataset, open_project

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
START = "from nnc.runtime.cli import main; main()"
TIMED = 6  # seconds after which a training that is timed is cut short


def call(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command of nnc prints. SystemExit with its message if it fails."""
    command = [sys.executable, "-c", START, *map(str, arguments)]
    given = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nnc {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Trained:
    """An example and the run that it was trained in."""

    name: str
    run: Path
    data: Path | None  # where data that are not part of nnc lie

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.name}.nn"

    def train(self, options: Sequence[str]) -> None:
        """Trains it, unless it has been; finetuned_digits begins with another example's run."""
        if not (self.run / "weights.safetensors").exists():
            call("train", self.path, "--out", self.run, *self._begun(), *self._data(), *options)

    def seconds(self, options: Sequence[str]) -> float:
        """How long the command takes, from its start to its end, with nothing compiled before. Of
        a training that takes longer than a few seconds: what it takes up to the first step, and
        for the others in proportion to those of these seconds."""
        total = _steps(self.run)
        start, first = self._timed([*options, "--max-time", "0.1s"])
        taken, steps, timed = start, first, TIMED
        while steps <= first:  # most of the time may be what is measured at the end
            taken, steps = self._timed([*options, "--max-time", f"{start + timed:.0f}s"])
            timed *= 2
        if steps >= total:
            return taken
        return start + (taken - start) * (total - first) / (steps - first)

    def _timed(self, options: Sequence[str]) -> tuple[float, int]:
        """Seconds of a training, and its steps."""
        with tempfile.TemporaryDirectory() as folder:
            run, begun = Path(folder) / "run", time.perf_counter()
            given = ("--out", run, *self._begun(), *self._data(), *options)
            call("train", self.path, *given, environment={"NNC_CACHE": "off"})
            return time.perf_counter() - begun, _steps(run)

    def _begun(self) -> list[str]:
        weights = open_project(self.path).settings.weights
        if weights is None:
            return []
        return ["--init", str(self.run.parent / Path(weights.path).name), "--partial"]

    def _data(self) -> list[str]:
        return ["--data", str(self.data)] if self.data else []

    def measured(self) -> dict[str, float]:
        """Loss and metrics of the weights that the run keeps, on its held-out data or, if there
        are none, in training; the steps and epochs of the run."""
        records = self.records
        last = {k: v for k, v in records[-1].items() if isinstance(v, int | float)}
        if not any(name.startswith(("test_", "validation_")) for name in last):
            return last
        found = json.loads(call("eval", self.run, "--json", *self._data()))
        return last | {k: v for k, v in found.items() if isinstance(v, int | float)}

    @property
    def records(self) -> list[dict[str, Any]]:
        lines = (self.run / "metrics.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def processor(self) -> str:
        """The processor's name, and the record of `compiler/targets.py` that it was taken for."""
        settings = json.loads((self.run / "settings.json").read_text("utf-8"))
        return f"{settings['machine']['processor']} ({settings['target']})"

    @cached_property
    def model(self) -> nnc.Model:
        return nnc.load(str(self.run))

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(open_project(self.path), Search(self.data, EXAMPLES))

    def held_out(self, field: str, rows: slice = slice(None)) -> np.ndarray:
        """Examples of a field that were not learnt from, as the model reads them."""
        split = self.dataset.test or self.dataset.validation
        assert split is not None
        stored = split.arrays[field][rows]
        if field in split.scale:
            return stored.astype(np.float32) * np.float32(split.scale[field])
        return stored.astype(np.float32 if stored.dtype.kind == "f" else np.int32)

    def tokens(self, field: str) -> tuple[str, ...]:
        """What the numbers of a field of texts stand for."""
        return self.dataset.vocabularies[field].names


def _steps(run: Path) -> int:
    """Steps that a run has taken."""
    (one,) = json.loads(call("runs", run, "--json"))
    return int(one["step"])
