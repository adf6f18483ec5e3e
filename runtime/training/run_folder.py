"""The folder of a run: everything that is needed to repeat, resume or use it.

    model.nn                 the resolved program in one text, settings included
    settings.json            settings, seed, device, versions, the command that re-runs it
    metrics.jsonl            one object per epoch
    vocabulary.json          the texts of tokens, if it was trained on text
    weights.safetensors      the weights: the best or the last, as `keep` says
    checkpoints/             params, all states and the position in the run, to resume from
    snapshot.safetensors     the state before a step that made a value not finite, if one did

Every file is replaced atomically. A run resumes from one checkpoint (`checkpoints.py`); metrics and
weights follow from it and are written again if they are missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.elaboration.train_block import FieldType
from ...dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ...dsl.files import place_folder, reason, unfinished_folder
from ..data.core.vocabulary import Vocabulary
from .atomic_files import check_arrays, load_arrays, read_json, save_arrays, write_json, write_text
from .checkpoints import Checkpoints
from .metrics import Record

# the entries of `settings.json` and their types
_TEXT, _OPTIONAL = (str,), (str, type(None))
SETTINGS: dict[str, tuple[type, ...]] = {
    "model": _TEXT, "settings": (dict,), "examples": (int,), "fields": (dict,), "device": _TEXT,
    "threads": (int,), "data_folder": _OPTIONAL, "data_base": _TEXT, "versions": (dict,),
    "command": _TEXT, "directory": _TEXT, "target": _TEXT,
}  # fmt: skip
OPTIONAL_SETTINGS = {"target"}  # that runs of earlier versions lack


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
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    @property
    def settings(self) -> dict[str, Any]:
        """What `settings.json` holds. UserError E0706 if this is no run folder."""
        path = self.path / "settings.json"
        if not path.exists():
            raise self._no_run()
        found = read_json(path)
        if not isinstance(found, dict):
            raise fail("E0706", f"{path} is not the settings of a run")
        # unknown names first: a misspelt one is then reported as such and not as missing
        for name in found:
            if name not in SETTINGS:
                raise fail(
                    "E0706", f"`{name}` in {path} has no meaning", help=did_you_mean(name, SETTINGS)
                )
        for name, kinds in SETTINGS.items():
            if name not in found and name in OPTIONAL_SETTINGS:
                continue
            if name not in found:
                raise fail("E0706", f"{path} does not say `{name}`")
            if not isinstance(found[name], kinds):
                raise fail("E0706", f"`{name}` in {path} is {json.dumps(found[name])[:40]}")
        return found

    def _no_run(self) -> UserError:
        """UserError E0706, with what the path is instead, or the likely run."""
        path = self.path
        if path.suffix == ".nn" and path.is_file():
            return fail(
                "E0706",
                f"{path} is a model, not the folder of a run",
                help=f"train it first: `nnc train {path} --out RUN`",
            )
        if path.is_dir():
            return fail("E0706", f"{path} is not the folder of a run: it has no settings.json")
        # a run of another name in the same folder may be meant
        beside = {p.parent.name: str(p.parent) for p in path.parent.glob("*/settings.json")}
        return fail("E0706", f"there is no run folder {path}", help=did_you_mean(path.name, beside))

    @property
    def fields(self) -> dict[str, FieldType]:
        """The fields of the data that it was trained on."""
        try:
            return {
                n: FieldType(dtype, tuple(shape))
                for n, (dtype, shape) in self.settings["fields"].items()
            }
        except (TypeError, ValueError) as error:
            path = self.path / "settings.json"
            raise fail("E0706", f"`fields` in {path} are not fields of data") from error

    def write_vocabularies(self, vocabularies: Mapping[str, Vocabulary]) -> None:
        """What the numbers of each field of tokens stand for; nothing is written if there are
        none."""
        if vocabularies:
            plain = {name: json.loads(v.to_json()) for name, v in vocabularies.items()}
            # on the disk before the run counts: without it the weights are numbers of unknown
            # tokens
            write_json(self.path / "vocabulary.json", plain)

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """The vocabularies by field; none if the run was not trained on text."""
        path = self.path / "vocabulary.json"
        found = read_json(path) if path.exists() else {}
        return {
            name: Vocabulary.from_json(json.dumps(plain), str(path))
            for name, plain in found.items()
        }

    def vocabulary(self, field: str) -> Vocabulary:
        """The vocabulary of a field. UserError E0712 if the run was not trained on text."""
        found = self.vocabularies
        if field not in found:
            raise fail(
                "E0712",
                f"the run {self.path} knows no text for `{field}`",
                help="its data are not a text, or vocabulary.json is lost",
            )
        return found[field]

    def write_weights(self, weights: Mapping[str, np.ndarray], step: int) -> None:
        # Not flushed to the disk: they are made again from the checkpoints.
        save_arrays(self.weights_file, weights, {"step": str(step)}, durable=False)

    def read_weights(self, wanted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights, of the shapes and types wanted. UserError E0706 otherwise."""
        return self._weights(wanted)[0]

    def _weights(self, wanted: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
        found, notes = load_arrays(self.weights_file)
        check_arrays(self.weights_file, found, wanted)
        return found, notes.get("step", "")

    def weights_at(
        self, step: int, wanted: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The weights after a step, written again from its checkpoint if the file has others or is
        damaged. `values` are all values of the program. UserError E0706 if both are damaged."""
        try:
            # A crash between a checkpoint and the weights leaves those of an earlier step in the
            # file.
            found, written = self._weights(wanted)
            if written == str(step):
                return found
        # damaged or missing: the checkpoint holds the same values
        except UserError:
            pass
        found, _ = self.checkpoints.read_step(step, values)
        # the states of the optimizer are in the checkpoint but not among the weights
        weights = {name: found[name] for name in wanted}
        self.write_weights(weights, step)
        return weights

    def write_metrics(self, records: Sequence[Record]) -> None:
        lines = (json.dumps(_finite(record.plain()), allow_nan=False) for record in records)
        text = "".join(f"{line}\n" for line in lines)
        write_text(self.path / "metrics.jsonl", text, durable=False)


def _finite(plain: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN or infinity: they become null."""
    return {name: value if isfinite(value) else None for name, value in plain.items()}


def create_run(
    out: Path | None,
    name: str,
    program: str,
    settings: Mapping[str, Any],
    vocabularies: Mapping[str, Vocabulary] = {},
) -> RunFolder:
    """Create a run folder with its program, settings and vocabularies, atomically.

    `out` None: `runs/NAME-TIME`. UserError E0705 if it holds anything, E0709 if it cannot be made.
    """
    path = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out is not None:
        check_unused(out)
    try:
        # A run folder exists with all of this or not at all. Beside its place, since a rename is
        # atomic only within one file system.
        with unfinished_folder(path.parent) as folder:
            write_text(folder / "model.nn", program)
            write_json(folder / "settings.json", settings)
            RunFolder(folder).write_vocabularies(vocabularies)
            numbers, place = count(2), path
            # Of runs that start in the same second one takes the name, the others take numbers.
            while not place_folder(folder, place):
                if out is not None:
                    raise _used(path)
                place = path.with_name(f"{path.name}-{next(numbers)}")
    except OSError as error:
        raise fail("E0709", f"cannot make the run folder {path}: {reason(error)}") from error
    return RunFolder(place)


def check_unused(path: Path) -> None:
    """UserError E0705 unless the path is free or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _used(path)


def _used(path: Path) -> UserError:
    help = f"name another folder with `--out`, or go on with it: `nnc train --resume {path}`"
    return fail("E0705", f"{path} is not empty", help=help)
