"""Export: a folder with a model as a library for C.

In: an executor with its weights, a target, the kinds of files. Out: the folder, complete or not at
all. Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import __version__
from ...compiler.codegen.llvm.library import Values, shared
from ...compiler.ir.structural_hash import system_signature
from ...compiler.machines import Machine
from ...dsl.check.turns import Turn
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, fail
from ...dsl.files import place_folder, reason, unfinished_folder
from ..project import Project
from ..training.atomic_files import write_bytes
from ..training.executor import Executor
from . import header as texts
from .building import archive, object_of, sections, shared_library
from .layout import FORMAT, MAGIC, begun, number_of, weights_file
from .machine_choice import machine_of
from .programs import Program, Systems, programs_of, systems_of

KINDS = ("so", "a", "o")


@dataclass(frozen=True)
class Request:
    """What is asked for: a folder that is new or empty, a target, kinds of files."""

    to: Path
    target: str = "host"
    kinds: tuple[str, ...] = ("so",)
    embed: bool = False


def export(
    project: Project, executor: Executor, weights: Mapping[str, np.ndarray] | None, request: Request
) -> texts.About:
    """Write the folder. Without `weights` the model begins with those that are drawn.

    UserError E0705 if the folder is in use, E0721 for a target that does not exist, E0724 for what
    cannot be exported so, E0709 if it cannot be written.
    """
    check_folder(request.to)
    machine = machine_of(request.target)
    _check_kinds(request.kinds, machine)
    trains = project.train is not None
    systems = systems_of(executor, project.settings.turns, trains)
    values = _values(executor, weights, trains)
    about, files = _made(project, executor, systems, values, machine, request)
    _write(request.to, files)
    return about


def _values(
    executor: Executor, weights: Mapping[str, np.ndarray] | None, trains: bool
) -> Mapping[str, np.ndarray]:
    """All values that training begins with; of a model that is not trained, its weights."""
    if not trains:
        return weights if weights is not None else executor.first_weights()
    if weights is not None:
        executor.restore(weights)
    return executor.values


def _made(
    project: Project,
    executor: Executor,
    systems: Systems,
    values: Mapping[str, np.ndarray],
    machine: Machine,
    request: Request,
) -> tuple[texts.About, dict[str, bytes]]:
    """What there is to say, and the files by name."""
    prefix, layout = texts.c_name(project.name), systems.layout
    _check_averages(systems)
    programs = programs_of(systems, layout, prefix, machine)
    weights = weights_file(layout, values, executor.seed)
    every = (systems.prediction, systems.evaluation, *systems.steps.values())
    signature = "\n".join(system_signature(s) for s in every if s is not None)
    abi = number_of(repr((FORMAT, prefix, machine.name, layout, _interface(programs))))
    common = Values(
        abi, MAGIC, layout.hash, layout.weights_bytes, layout.bytes,
        begun(layout, values, systems.averages), weights if request.embed else b"",
    )  # fmt: skip
    object = object_of(
        [shared(prefix, common, machine), *(p.text for p in programs)], prefix, machine
    )
    about = texts.About(
        project.name, prefix, machine, programs, layout, abi,
        hashlib.sha256(signature.encode()).hexdigest(), executor.seed, executor.setup.batch,
        request.embed, request.kinds, _steps(project.settings.turns, programs), sections(object),
    )  # fmt: skip
    files = _binaries(about, object)
    if not request.embed:
        files["weights.bin"] = weights
    files |= {
        f"{prefix}.h": texts.header(about).encode(),
        "main.c": texts.example(about).encode(),
        "README.md": texts.readme(about).encode(),
    }
    files["manifest.json"] = _manifest(about, files).encode()
    return about, files


def _interface(programs: Sequence[Program]) -> list[object]:
    return [(p.name, p.arena_bytes, p.examples, p.places) for p in programs]


def _binaries(about: texts.About, object: bytes) -> dict[str, bytes]:
    names = [f"{about.prefix}_check", f"{about.prefix}_message", *(p.name for p in about.programs)]
    names += [f"{about.prefix}_init"] * about.has_states
    names += [f"{about.prefix}_weights"] * about.embedded
    found, files = {}, about.files()
    for kind in about.kinds:
        if kind == "o":
            found[files[kind]] = object
        elif kind == "a":
            found[files[kind]] = archive(f"{about.prefix}.o", object, names)
        else:
            found[files[kind]] = shared_library(object, names, files[kind])
    return found


def _steps(turns: Sequence[Turn], programs: Sequence[Program]) -> str:
    """In which order the functions of a step are called, where there are several."""
    by_turn = {p.turn: p.name for p in programs if p.purpose == "train_step"}
    if len(by_turn) < 2:
        return ""
    return f"Training calls, again and again: {', '.join(f'`{by_turn[t]}`' for t in turns)}."


def _manifest(about: texts.About, files: Mapping[str, bytes]) -> str:
    machine = about.machine
    found = {
        "made_by": f"nnc {__version__}",
        "format": FORMAT,
        "model": about.model,
        "prefix": about.prefix,
        "abi": f"{about.abi:#018x}",
        "equations_sha256": about.equations,
        "target": {
            "name": machine.name, "triple": machine.triple, "cpu": machine.cpu,
            "features": machine.features, "processor": machine.target.name,
        },
        "batch": about.batch,
        "seed": about.seed,
        "alignment": machine.alignment,
        "embedded": about.embedded,
        "bytes": {
            **about.sizes, "weights": about.layout.weights_bytes, "values": about.layout.bytes,
        },
        "weights": {
            name: {
                "offset": place,
                "type": about.layout.tensors[name].storage_dtype,
                "shape": list(about.layout.tensors[name].shape),
            }
            for name, place in about.layout.weights.items()
        },
        "functions": {
            p.name: {
                "arena_bytes": p.arena_bytes,
                "examples": p.examples or about.batch,
                "inputs": [texts.described(place) for place in p.places if place.is_input],
                "outputs": [texts.described(place) for place in p.places if not place.is_input],
            }
            for p in about.programs
        },
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }  # fmt: skip
    return json.dumps(found, indent=2) + "\n"


# --- what is refused ------------------------------------------------------------------------------


def check_folder(path: Path) -> None:
    """UserError E0705 unless the path is free or an empty folder."""
    try:
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            what = "is not empty" if path.is_dir() else "is a file"
            help = "nothing is overwritten: name a new or empty folder"
            raise fail("E0705", f"{path} {what}", help=help)
    except OSError as error:
        raise fail("E0709", f"cannot make the folder {path}: {reason(error)}") from error


def _check_kinds(kinds: Sequence[str], machine: Machine) -> None:
    """UserError E0724 for kinds of files that are not made for a machine."""
    wrong = [kind for kind in kinds if kind not in machine.kinds]
    if wrong:
        raise UserError(
            Diagnostic(
                "E0724",
                f"no `{kind}` is made for {machine.name}",
                help=f"there {'is' if len(machine.kinds) == 1 else 'are'} "
                + ", ".join(f"`--as {k}`" for k in machine.kinds),
            )
            for kind in wrong
        )


def _check_averages(systems: Systems) -> None:
    """UserError E0724 where an average is stored in another type than its param."""
    tensors = {n: t for step in systems.steps.values() for n, t in step.tensors.items()}
    wrong = [
        name
        for name, average in systems.averages.items()
        if tensors[name].storage_dtype != tensors[average].storage_dtype
    ]
    if wrong:
        listed = ", ".join(f"`{name}`" for name in wrong)
        message = f"{listed} and the average that is predicted with are stored in other types"
        raise fail("E0724", message, help="leave `average` out, or store them in f32")


def _write(to: Path, files: Mapping[str, bytes]) -> None:
    """A folder with the files, or none."""
    try:
        with unfinished_folder(to.parent) as folder:
            for name, data in files.items():
                write_bytes(folder / name, data)
            if not place_folder(folder, to):
                raise fail("E0705", f"{to} is not empty", help="name a new or empty folder")
    except OSError as error:
        raise fail("E0709", f"cannot make the folder {to}: {reason(error)}") from error
