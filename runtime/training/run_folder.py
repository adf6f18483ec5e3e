"""The folder of a run: everything that is needed to repeat, resume or use it.

    model.nn                 the resolved program in one text, settings included
    settings.json            settings, seed, device, versions, the command that re-runs it
    metrics.jsonl            one object per epoch, validation or line in between
    vocabulary.json          the texts of tokens, if it was trained on text
    weights.safetensors      the weights: the best or the last, as `keep` says
    initial.safetensors      the weights that it began with, if these were those of another run
    checkpoints/             params, all states and the position in the run, to resume from
    backup.json              copies of model.nn, settings.json and vocabulary.json, with a hash
    snapshot.safetensors     the state before a step that made a value not finite, if one did

Every file is replaced atomically. A run resumes from one checkpoint (`checkpoints.py`); metrics and
weights follow from it, the texts from their copies, and what is damaged or missing is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.elaboration.train_block import FieldType
from ...dsl.check.library import likely_file
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean, fail
from ...dsl.files import place_folder, reason, set_aside, unfinished_folder
from ...dsl.likely_paths import did_you_mean_path, likely_path
from ...dsl.regular_files import is_within, open_regular
from ...dsl.syntax.lexer_rules import DTYPES
from ..data.core.vocabulary import Vocabulary
from ..data.recorded import Recorded, from_plain
from .atomic_files import (
    check_arrays,
    json_text,
    load_arrays,
    read_json,
    read_text,
    save_arrays,
    write_text,
)
from .checkpoints import Checkpoints
from .lock import locked
from .metrics_file import MetricsFile

# the entries of `settings.json` and their types
_TEXT, _OPTIONAL = (str,), (str, type(None))
SETTINGS: dict[str, tuple[type, ...]] = {
    "model": _TEXT, "settings": (dict,), "examples": (int,), "fields": (dict,), "device": _TEXT,
    "threads": (int,), "data_folder": _OPTIONAL, "data_base": _TEXT, "versions": (dict,),
    "command": _TEXT, "directory": _TEXT, "target": _TEXT, "data_sha256": (dict,),
    "inputs": (dict,), "date": _TEXT, "machine": (dict,), "git": (dict, type(None)),
}  # fmt: skip
# that runs of earlier versions lack
OPTIONAL_SETTINGS = {"target", "data_sha256", "inputs", "date", "machine", "git"}
TEXTS = ("model.nn", "settings.json", "vocabulary.json")
BACKUP = "backup.json"


class RunFolder:
    """An existing run folder."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def model(self) -> Path:
        return self._own("model.nn")

    def _own(self, name: str) -> Path:
        """A file of text of the run. UserError E0706 if it is a link to somewhere else: a run may
        come from others, and messages show lines of its texts."""
        path = self.path / name
        if not is_within(path, [self.path]):
            raise fail("E0706", f"{path} is a link out of the folder of the run")
        return path

    @property
    def weights_file(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def initial_file(self) -> Path:
        return self.path / "initial.safetensors"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    @property
    def settings(self) -> dict[str, Any]:
        """What `settings.json` holds. UserError E0706 if this is no run folder, or if a text in it
        is not what the run wrote."""
        path = self._own("settings.json")
        self._check_texts()
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

    def require(self) -> None:
        """UserError E0706 if this is no run folder."""
        if not is_run(self.path):
            raise self._no_run()

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
        help = did_you_mean_path(path, is_run)
        return fail("E0706", f"there is no run folder {path}", help=help)

    @property
    def fields(self) -> dict[str, FieldType]:
        """The fields of the data that it was trained on."""
        found = self.settings["fields"]
        for name, described in found.items():
            if not _is_field(described):
                path = self.path / "settings.json"
                raise fail("E0706", f"`{name}` among the `fields` in {path} is no field of data")
        return {name: FieldType(dtype, tuple(shape)) for name, (dtype, shape) in found.items()}

    @property
    def recorded(self) -> Recorded | None:
        """What it keeps of its data; None of a run of an earlier version."""
        plain = self.settings.get("inputs")
        origin = str(self.path / "settings.json")
        return None if plain is None else from_plain(plain, self.vocabularies, origin)

    # --- texts and their copies ---------------------------------------------------------------

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Write files of text by name, and before them their copies: these count, so that a crash
        in between leaves what `repair` completes. The copies of other files stay."""
        known = self._copies() or {}
        self._write_copies({**known, **texts})
        for name, text in texts.items():
            write_text(self.path / name, text, own=True)

    def repair(self) -> list[Diagnostic]:
        """Write the texts again that are missing or not what the run wrote; a warning for each."""
        found = []
        for name, text in (self._copies() or {}).items():
            path = self.path / name
            if how := _difference(path, text):
                # It may have been changed on purpose.
                aside = set_aside(path)
                write_text(path, text, own=True)
                found.append(
                    Diagnostic(
                        "W0701",
                        f"{path} {how}",
                        help=f"it is written again from {BACKUP}"
                        + (f"; what was there is {aside.name} now" if aside else ""),
                    )
                )
        return found

    def complete(self) -> list[Diagnostic]:
        """Write the copies again if they are lost; a warning then. To be called when the texts are
        known to be right. UserError E0706 if one cannot be read."""
        if self._copies() is not None:
            return []
        path = self.path / BACKUP
        how = "is damaged" if path.exists() else "is missing"
        texts = {}
        for name in TEXTS:
            try:
                texts[name] = read_text(self.path / name)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise fail("E0706", f"cannot read {self.path / name}: {reason(error)}") from error
        self._write_copies(texts)
        help = "it is written again from the files that it copies"
        return [Diagnostic("W0701", f"{path} {how}", help=help)]

    def complete_as_reader(self) -> list[Diagnostic]:
        """The same by who only reads the run: without copies, the next damage to a text would not
        be noticed. A run that is training now, or cannot be written, stays as it is."""
        if self._copies() is not None:
            return []
        try:
            # A process that goes on with the run may be about to write other texts.
            with locked(self.path):
                return self.complete()
        except UserError:
            message = f"{self.path / BACKUP} is damaged or missing"
            help = f"`nnc train --resume {self.path}` writes it again; without it, a change to one "
            help += "of the files that it copies would not be noticed"
            return [Diagnostic("W0701", message, help=help)]

    def _write_copies(self, texts: Mapping[str, str]) -> None:
        text = json_text({"sha256": _hash(texts), "files": dict(texts)})
        write_text(self.path / BACKUP, text, own=True)

    def _copies(self) -> dict[str, str] | None:
        """The copies by name; None if they are damaged, or missing, as in runs of 0.1.0."""
        try:
            plain = json.loads(read_text(self.path / BACKUP))
            texts = plain["files"]
            known = isinstance(texts, dict) and set(texts) <= set(TEXTS)
            intact = known and plain["sha256"] == _hash(texts)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return texts if intact else None

    def _check_texts(self) -> None:
        """UserError E0706 if a text is missing or not what the run wrote: with another one, numbers
        would be wrong without a word."""
        self.require()
        wrong = [
            Diagnostic(
                "E0706",
                f"{self.path / name} {how}",
                help=f"`nnc train --resume {self.path}` writes it again from {BACKUP}; if it was "
                "changed on purpose, remove that file",
            )
            for name, text in (self._copies() or {}).items()
            if (how := _difference(self.path / name, text))
        ]
        if wrong:
            raise UserError(wrong)

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """The vocabularies by field; none if the run was not trained on text."""
        path = self._own("vocabulary.json")
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict):
            raise fail("E0603", f"{path} is damaged: it holds no vocabularies")
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

    def write_weights(
        self, weights: Mapping[str, np.ndarray], step: int, bf16: Collection[str] = ()
    ) -> None:
        # Not flushed to the disk: they are made again from the checkpoints.
        notes = {"step": str(step)}
        save_arrays(self.weights_file, weights, notes, durable=False, bf16=bf16)

    def read_initial(self) -> dict[str, np.ndarray]:
        """The weights of another run that this one began with. UserError E0706 if they cannot be
        read."""
        return load_arrays(self.initial_file)[0]

    def read_weights(self, wanted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights, of the shapes and types wanted. UserError E0706 otherwise."""
        return self._weights(wanted)[0]

    def read_weights_and_step(
        self, wanted: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], int]:
        """The same, and the step of training that they are of."""
        found, step = self._weights(wanted)
        if not step.isdecimal():
            raise fail("E0706", f"{self.weights_file} does not say of which step it is")
        return found, int(step)

    def _weights(self, wanted: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
        found, notes = load_arrays(self.weights_file)
        check_arrays(self.weights_file, found, wanted)
        return found, notes.get("step", "")

    def weights_at(
        self,
        step: int,
        wanted: Mapping[str, np.ndarray],
        values: Mapping[str, np.ndarray],
        weights_of: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
        bf16: Collection[str] = (),
    ) -> tuple[dict[str, np.ndarray], list[Diagnostic]]:
        """The weights after a step, written again from its checkpoint if the file has others or is
        damaged; a warning if it is. `values` are all values of the program, of which `weights_of`
        gives the weights. UserError E0706 if both are damaged."""
        warnings: list[Diagnostic] = []
        try:
            # A crash between a checkpoint and the weights leaves those of an earlier step in the
            # file.
            found, written = self._weights(wanted)
            if written == str(step):
                return found, []
        # damaged or missing: the checkpoint holds the same values
        except UserError as error:
            help = f"they are written again from the checkpoint of step {step}"
            warnings = [Diagnostic("W0701", d.message, help=help) for d in error.diagnostics]
        found, _ = self.checkpoints.read_step(step, values)
        # the states of the optimizer are in the checkpoint but not among the weights
        weights = weights_of(found)
        self.write_weights(weights, step, bf16)
        return weights, warnings

    @cached_property
    def metrics(self) -> MetricsFile:
        return MetricsFile(self.path / "metrics.jsonl")


def is_run(path: Path) -> bool:
    """Whether it is the folder of a run."""
    return any((path / name).exists() for name in ("settings.json", BACKUP))


def means_a_run(path: Path) -> bool:
    """Whether a path that leads nowhere is a misspelt run rather than a program."""
    if path.suffix == ".nn" or path.exists() or likely_file(path):
        return False
    return likely_path(path, is_run) is not None


def _is_field(described: Any) -> bool:
    """Whether it is the type and the shape of a field: ["f32", [8, 8, 1]]."""
    if not isinstance(described, list) or len(described) != 2:
        return False
    dtype, shape = described
    sizes = isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
    return isinstance(dtype, str) and dtype in DTYPES and sizes


def _difference(path: Path, text: str) -> str:
    """How a file differs from its text; empty if it does not."""
    try:
        with open_regular(path) as file:
            found = file.read(len(text.encode()) + 1)
        return "" if found == text.encode() else "is not what the run wrote"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {reason(error)}"


def _hash(texts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def create_run(
    out: Path | None,
    name: str,
    program: str,
    settings: Mapping[str, Any],
    vocabularies: Mapping[str, Vocabulary] = {},
    initial: Mapping[str, np.ndarray] | None = None,
    fill: Callable[[RunFolder], None] = lambda folder: None,
) -> RunFolder:
    """Create a run folder with its program, settings, vocabularies and `initial` weights, if it
    begins with those of another run, and with what `fill` writes, atomically.

    `out` None: `runs/NAME-TIME`. UserError E0705 if it holds anything, E0709 if it cannot be made.
    """
    path = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out is not None:
        check_unused(out)
    texts = {"model.nn": program, "settings.json": json_text(settings)}
    if vocabularies:
        # Without them the weights are of unknown tokens.
        plain = {name: json.loads(v.to_json()) for name, v in vocabularies.items()}
        texts["vocabulary.json"] = json_text(plain)
    try:
        # A run folder exists with all of this or not at all. Beside its place, since a rename is
        # atomic only within one file system.
        with unfinished_folder(path.parent) as folder:
            RunFolder(folder).write_texts(texts)
            if initial is not None:
                save_arrays(RunFolder(folder).initial_file, initial, {})
            fill(RunFolder(folder))
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
    """UserError E0705 unless the path is free or an empty folder; E0709 if the system refuses."""
    try:
        if not os.path.lexists(path):
            return
        if path.is_symlink() and not path.exists():
            path.stat()  # a link to nothing yet, or in a circle, which raises
        if not path.is_dir():
            raise fail("E0705", f"{path} is a file", help="name a new or empty folder with `--out`")
        if any(path.iterdir()):
            raise _used(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise fail("E0709", f"cannot make the run folder {path}: {reason(error)}") from error


def _used(path: Path) -> UserError:
    help = f"name another folder with `--out`, or go on with it: `nnc train --resume {path}`"
    return fail("E0705", f"{path} is not empty", help=help)
