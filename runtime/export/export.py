"""Export: a folder with a model as a library for C.

In: an executor with its weights, a target, the kinds of files. Out: the folder, complete or not at
all. Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ... import __version__
from ...compiler.codegen.llvm.library_shared import Values, embedded, helpers, shared
from ...compiler.ir.structural_hash import system_signature
from ...compiler.machines import Machine
from ...dsl.check.turns import Turn
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, fail
from ...dsl.files import place_folder, reason, unfinished_folder
from ..data.recorded import Recorded
from ..inference.meanings import meanings
from ..project import Project
from ..training.atomic_files import write_bytes
from ..training.executor import Executor
from ..training.weight_formats import WeightFormat
from . import header as texts
from . import javascript, wasm_linker
from .building import Member, archive, object_of, sections, shared_library, webassembly
from .footprint import footprint, needs
from .layout import FORMAT, MAGIC, Layout, begun, number_of, weights_file
from .machine_choice import ELSEWHERE, choice
from .page import page
from .programs import Program, Systems, programs_of, systems_of
from .writing import writing_of, writing_programs
from .zig_linker import dll, dylib

KINDS = ("so", "a", "o", "dll", "dylib", "wasm", "page")
MOST_THREADS = 64  # of a call
FUNCTIONS = ("predict", "evaluate", "train_step", "generate")  # a library always predicts


@dataclass(frozen=True)
class Request:
    """What is asked for: a folder that is new or empty, a target, kinds of files, the format of the
    weights if it is not that of training, the functions, or all that there are, and among how many
    threads of the caller a call may be divided. The target and the
    kind follow from each other if one is empty, and are the host's shared library if both are."""

    to: Path
    target: str = ""
    kinds: tuple[str, ...] = ()
    embed: bool = False
    format: WeightFormat | None = None
    functions: tuple[str, ...] = ()
    threads: int = 1

    def has(self, function: str) -> bool:
        """Whether a function is wanted, if the model has it."""
        if not self.functions:
            return self.format is None or function != "train_step"
        return function in self.functions


def export(
    project: Project,
    executor: Executor,
    weights: Mapping[str, np.ndarray] | None,
    request: Request,
    recorded: Recorded | None = None,
) -> texts.About:
    """Write the folder. Without `weights` the model begins with those that are drawn; `recorded` is
    what a page calls classes and columns by.

    UserError E0705 if the folder is in use, E0721 for a target that does not exist, E0724 for what
    cannot be exported so, E0709 if it cannot be written.
    """
    check_folder(request.to)
    machine, kinds = choice(request.target, request.kinds)
    request = replace(request, kinds=kinds)
    _check_kinds(kinds, machine)
    machine = _with_threads(machine, request.threads)
    trains = project.train is not None
    _check_functions(request, trains)
    turns = (project.settings.turns or [()]) if request.has("train_step") else ()
    systems = systems_of(executor, turns, trains, request.format)
    if not request.has("evaluate"):
        systems = replace(systems, evaluation=None)
    values = _values(executor, weights, trains)
    about, files = _made(project, executor, systems, values, machine, request, recorded)
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
    recorded: Recorded | None,
) -> tuple[texts.About, dict[str, bytes]]:
    """What there is to say, and the files by name."""
    prefix, layout = texts.c_name(project.name), systems.layout
    _check_averages(systems)
    programs = programs_of(systems, layout, prefix, machine)
    own = executor.weights_of(values)
    writing = writing_of(executor, own, request.format) if request.has("generate") else None
    if writing is not None:
        programs += writing_programs(writing, layout, prefix, machine)
    if request.format is not None:
        values = {**values, **request.format.values(own)}
    weights = weights_file(layout, values, executor.seed)
    every = (systems.prediction, systems.evaluation, *systems.steps.values())
    signature = "\n".join(system_signature(s) for s in every if s is not None)
    abi = number_of(
        repr((FORMAT, prefix, machine.name, machine.threads, layout, _interface(programs)))
    )
    common = Values(
        abi, MAGIC, layout.hash, layout.weights_bytes, layout.bytes,
        begun(layout, values, systems.averages),
    )  # fmt: skip
    modules = [
        _Module(
            prefix,
            shared(prefix, common, machine),
            _names(prefix, layout),
            helpers(prefix, machine),
        ),
        *(_Module(p.name, p.text, (p.name,)) for p in programs),
    ]
    if request.embed:
        name = f"{prefix}_weights"
        modules.append(_Module(name, embedded(prefix, weights, machine), (name,)))
    binaries = _binaries(prefix, machine, modules, request.kinds)
    sizes = binaries.sizes
    if machine.small:
        listed = [m.text for m in modules]
        sizes |= footprint(listed, prefix, machine, programs, layout, binaries.objects)
    about = texts.About(
        project.name, prefix, machine, programs, layout, abi,
        hashlib.sha256(signature.encode()).hexdigest(), executor.seed, executor.setup.batch,
        request.embed, request.kinds, _steps(project.settings.turns, programs), sizes,
        binaries.imports,
    )  # fmt: skip
    # A page has its module inside; a .dll has its import library beside it.
    wanted = {*request.kinds, "lib"}
    files = {about.files()[k]: data for k, data in binaries.files.items() if k in wanted}
    if "page" in request.kinds:
        module = binaries.files["wasm"]
        text = page(about, module, weights, systems.prediction, meanings(project), recorded)
        files[about.files()["page"]] = text.encode()
    if {*request.kinds} != {"page"}:
        files |= {} if request.embed else {"weights.bin": weights}
        files |= javascript.files(about) if machine.is_wasm else texts.files(about)
    files["manifest.json"] = _manifest(about, files).encode()
    return about, files


def _interface(programs: Sequence[Program]) -> list[object]:
    return [(p.name, p.arena_bytes, p.examples, p.places) for p in programs]


@dataclass(frozen=True)
class _Module:
    """A module of the library: the functions of it that C calls, and that other modules call."""

    name: str
    text: str
    public: tuple[str, ...]
    hidden: tuple[str, ...] = ()


def _names(prefix: str, layout: Layout) -> tuple[str, ...]:
    init = (f"{prefix}_init",) if layout.bytes > layout.weights_bytes else ()
    return (f"{prefix}_check", f"{prefix}_message", *init)


@dataclass(frozen=True)
class _Binaries:
    """The files by kind, how many bytes there are of what, and so of an archive's objects."""

    files: Mapping[str, bytes]
    sizes: dict[str, int]
    imports: Sequence[str] = ()
    objects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _binaries(
    prefix: str, machine: Machine, modules: Sequence[_Module], kinds: Sequence[str]
) -> _Binaries:
    files: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    objects = {}
    exports = [name for module in modules for name in module.public]
    if machine.is_wasm:
        made = webassembly([m.text for m in modules], prefix, machine, exports)
        sizes = {**sections(made), "module": len(made)}
        return _Binaries({"wasm": made}, sizes, wasm_linker.imported(made))
    linked = [kind for kind in kinds if kind in LINKED]
    if linked:
        object = object_of([m.text for m in modules], prefix, machine)
        sizes = sections(object)
        for kind in linked:
            files |= _linked(kind, object, exports, prefix)
    if "a" in kinds:
        # A member for each function: a program that only predicts has no code for training.
        members = [
            Member(f"{m.name}.o", object_of([m.text], prefix, machine, True), m.public + m.hidden)
            for m in modules
        ]
        files["a"] = archive(members)
        for module, member in zip(modules, members, strict=True):
            found = objects[module.name] = sections(member.object)
            if found and module.name != f"{prefix}_weights":
                sizes[f"code of {module.name}"] = found["code"]
    return _Binaries(files, sizes, objects=objects)


LINKED = ("so", "o", "dll", "dylib")  # made of one object


def _linked(kind: str, object: bytes, exports: Sequence[str], prefix: str) -> dict[str, bytes]:
    """The object as files of a kind; a .dll has an import library beside it."""
    match kind:
        case "so":
            return {kind: shared_library(object, exports, f"lib{prefix}.so")}
        case "dll":
            library, imported = dll(object, exports, [f"{prefix}_weights"], prefix)
            return {kind: library, "lib": imported}
        case "dylib":
            return {kind: dylib(object, prefix)}
    return {kind: object}


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
        "threads": machine.threads,
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
                **needs(p.name, about.sizes),
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


def _with_threads(machine: Machine, threads: int) -> Machine:
    """UserError E0724 where a module has no threads."""
    if threads > 1 and machine.is_wasm:
        message = f"a module for {machine.name} runs on one thread"
        raise fail("E0724", message, help="leave `--threads` out")
    return replace(machine, threads=threads)


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
                help=_kinds_text(kind, machine),
            )
            for kind in wrong
        )


def _check_functions(request: Request, trains: bool) -> None:
    """UserError E0724 for functions that the model does not have, E0725 for training with weights
    that are rounded."""
    missing = [f for f in ("evaluate", "train_step") if f in request.functions and not trains]
    found = [
        Diagnostic(
            "E0724",
            f"no `{function}` can be made of a model without a train block",
            help="`train MODEL { … }` says how it is trained and measured",
        )
        for function in missing
    ]
    if "train_step" in request.functions and request.format is not None:
        found.append(
            Diagnostic(
                "E0725",
                f"no `train_step` can be made of weights in {request.format.name}",
                help=f"a step changes a weight by less than the numbers of {request.format.name} "
                "are apart: export without `--weights`, or without `train_step`",
            )
        )
    if found:
        raise UserError(found)


def _kinds_text(kind: str, machine: Machine) -> str:
    """The likely fix where that kind is not made for the machine."""
    if kind in ELSEWHERE:
        return f"`--target {ELSEWHERE[kind]}` has it, in a folder of its own"
    found = f"there {'is' if len(machine.kinds) == 1 else 'are'} "
    return found + ", ".join(f"`--as {k}`" for k in machine.kinds)


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
