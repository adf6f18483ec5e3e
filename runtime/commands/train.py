"""`nnc train`: what runs on data.

In: the command line. Out: run folders, lines on stdout. The work is done in
`job.py`, `train.py` and `run_folder.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import click

from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, fail
from ...dsl.syntax.printer import quoted
from ..assignments import Assignment
from ..data.core.fingerprint import changed, fingerprint
from ..device.cpu import host
from ..durations import TimeLimit
from ..project import Project, load_dataset, open_project, privacy_text
from ..streams import OutputError
from ..thread_count import default_threads
from ..training.atomic_files import json_text
from ..training.callbacks import Callback, Hooks
from ..training.executor import Values
from ..training.initial_weights import initial_weights
from ..training.interrupt import Stopped, watch_interrupt
from ..training.job import Job, prepare
from ..training.lock import locked
from ..training.loop import INTERRUPTED
from ..training.loop import train as run
from ..training.progress import Stages, make_listener, notify
from ..training.run_folder import RunFolder, check_unused, create_run
from ..training.run_notes import check_goes_on, inputs_note, run_notes
from ..training.trackers import TensorBoard, Trackio
from ..weights_choice import PARTIAL
from . import options as o
from .report import print_diagnostics, print_warnings
from .sweep import Point, default_folder, grid, sweep

COMPILING = "compiling"  # a stage of what comes before training


def train(
    file, data, offline, sets, epochs, steps, batch, validate_every, log_every, checkpoint_every,
    max_time, seed, model, device_name, threads, out, resume, init, partial, tensorboard, track,
) -> None:  # fmt: skip
    """What `nnc train` does."""
    # Either a file or a folder to go on in; `--out` is for a new run alone.
    if (file is None) == (resume is None) or (resume and out):
        raise click.UsageError("give a FILE, or --resume RUN (which writes to RUN)")
    late = TimeLimit(max_time, click.get_current_context().find_root().obj)
    flags = {
        "epochs": epochs, "steps": steps, "batch": batch, "validate_every": validate_every,
        "log_every": log_every, "checkpoint_every": checkpoint_every, "seed": seed,
    }  # fmt: skip
    one = partial_of(
        _train, data=data, offline=offline, model=model, device_name=device_name, threads=threads,
        init=init, partial=partial, late=late,
    )  # fmt: skip
    points = grid(sets)
    if len(points) == 1 or file is None:
        if len(points) > 1:
            raise click.UsageError("a sweep goes on by the same command: FILE with the same --set")
        one(file, o.assignments(sets, **flags), out, resume, trackers(tensorboard, track))
        return

    def project_of(point: Point) -> Project:
        assignments = [*o.assignments(point.sets, **flags), *_beginning(init, partial, None)]
        return open_project(file, assignments, model)

    def train_point(point: Point, path: Path, goes_on: bool) -> Job | None:
        tracked = trackers(tensorboard and tensorboard / point.folder, track, point.title)
        if goes_on:
            return one(None, [], None, path, tracked, init=None, partial=False)
        return one(file, o.assignments(point.sets, **flags), path, None, tracked)

    sweep(points, out or default_folder(project_of(points[0])), project_of, train_point)


def trackers(
    tensorboard: Path | None, track: str | None, name: str | None = None
) -> list[Callback]:
    """The trackers that the command line names."""
    found: list[Callback] = [TensorBoard(tensorboard)] if tensorboard else []
    return [*found, Trackio(track, name)] if track else found


def _train(
    file: Path | None,
    assignments: list[Assignment],
    out: Path | None,
    resume: Path | None,
    tracked: Sequence[Callback],
    *,
    data: Path | None,
    offline: bool,
    model: str | None,
    device_name: str,
    threads: int | None,
    init: str | None,
    partial: bool,
    late: TimeLimit,
) -> Job | None:
    """Train a new run of a file, or go on with one; None if its time is over."""
    assignments += _beginning(init, partial, resume)
    # Before data is read and code compiled: a wrong folder should not cost minutes.
    if out is not None:
        check_unused(out)
    with ExitStack() as held:
        folder = RunFolder(resume) if resume else None
        before: dict[str, Any] = {}
        if folder:
            _check_goes_on(assignments)
            folder.require()
            # Two processes that go on with one run would overwrite each other's checkpoints.
            held.enter_context(locked(folder.path))
            print_diagnostics(folder.repair())
            before = folder.settings
            check_goes_on(folder.path, before)
        # The folder's own copy of the program: the file may have changed since.
        program = folder.model if folder else file
        assert program is not None
        project = open_project(program, assignments, model)
        print_warnings(project)
        # The program lies in the run folder now, but relative paths are those of the original file.
        search = (
            o.search_of_run(before, data, offline)
            if before
            else o.search(data, project.path.parent, offline)
        )
        stage = Stages()
        with stage("reading the data"):
            dataset = load_dataset(project, search)
        with stage(COMPILING), ThreadPoolExecutor(1) as beside:
            # Hashing takes no lock of Python's, so that it costs no time beside the compiler.
            hashing = beside.submit(fingerprint, dataset)
            job = prepare(project, dataset, o.device(device_name, threads))
            hashes = hashing.result()
        print_diagnostics(job.warnings)
        if text := privacy_text(project, job.executor.setup):
            notify(text)
        if folder:
            other_data = any(one.key.partition(".")[0] == "data" for one in assignments)
            if not other_data:
                _check_same_data(before, hashes, folder)
            with stage(COMPILING):
                damage = [*folder.complete(), *job.resume(folder)]
                job.compile_programs()
            print_diagnostics([*_other_target(before, device_name), *damage])
            changes = {"inputs": inputs_note(project, dataset)}
            changes |= {"data_sha256": hashes} if other_data else {}
            _write_changes(folder, before, changes, project.resolved() if assignments else "")
            notify(f"going on in {folder.path} after step {job.position.step}")
        else:
            # Created only when all else has succeeded, so that a mistake leaves no empty folder.
            setup, examples = job.executor.setup, len(job.training)
            threads = default_threads(threads)
            notes = run_notes(project, setup, examples, device_name, threads, data, search.base)
            notes["data_sha256"], notes["inputs"] = hashes, inputs_note(project, dataset)
            initial = _begin_with_weights(project, job)
            with stage(COMPILING):
                job.compile_programs()
            name, text = project.name.lower(), project.resolved()
            job.folder = create_run(
                out, name, text, notes, dataset.vocabularies, initial, job.keep_secret
            )
            held.enter_context(locked(job.folder.path))
            if initial is not None:
                job.save_checkpoint()
        remark = f"compiled in {stage.took(COMPILING)}"
        return job if _run(job, late, tracked, remark) else None


def _write_changes(
    folder: RunFolder, before: dict[str, Any], changes: dict[str, Any], program: str
) -> None:
    """Write what a run that goes on keeps from now on: its program, if that has changed, and notes
    that are others than before."""
    texts = {"model.nn": program} if program else {}  # to go on once more
    if any(before.get(name) != note for name, note in changes.items()):
        texts["settings.json"] = json_text({**before, **changes})
    if texts:
        folder.write_texts(texts)


def _beginning(init: str | None, partial: bool, resume: Path | None) -> list[Assignment]:
    """`--init RUN --partial` as the field `weights`."""
    if init is None:
        if partial:
            raise click.UsageError("--partial goes with --init RUN")
        return []
    if resume:
        raise click.UsageError("--init is for a new run: one that goes on has its weights")
    text = quoted(init)
    return [Assignment("weights", f"{PARTIAL}({text})" if partial else text, "--init ")]


def _check_goes_on(assignments: Sequence[Assignment]) -> None:
    """UserError E0704 for other weights to begin with, where a run has begun."""
    for one in assignments:
        if one.key.partition(".")[0] == "weights":
            raise fail(
                "E0704",
                "`weights` are what a run begins with, and this one has begun",
                one.span(one.key),
                help="train FILE anew: `nnc train FILE --init RUN`",
            )


def _begin_with_weights(project: Project, job: Job) -> Values | None:
    """Have the job begin with the weights that the program or `--init` names, if one does; what
    they are, so that the run has a copy."""
    choice = project.settings.weights
    if choice is None:
        return None
    values, report, warnings = initial_weights(project, choice, job.executor)
    notify(str(report))
    print_diagnostics(warnings)
    job.begin_with(values)
    return values


def _run(job: Job, late: TimeLimit, tracked: Sequence[Callback], remark: str) -> bool:
    """Train; whether it came to its end. `Stopped` after a signal."""
    assert job.folder is not None
    go_on = f"`nnc train --resume {shlex.quote(str(job.folder.path))}`"
    lines = Hooks(tracked, make_listener(job.plan, job.records, remark), job)
    try:
        lines.begin()
        with watch_interrupt(quits=True) as interrupted:
            reason = run(job, lines, lambda: interrupted() or late())
    except OutputError as error:
        saved = f"saved after step {job.position.step}; go on with {go_on}"
        notify(f"the output cannot be written: {error}; {saved}")
        error.told = True
        raise
    # The progress bar is closed even after an error, whose text would otherwise run into it.
    finally:
        lines.close()
        lines.end()
    if reason == INTERRUPTED and interrupted():
        notify(f"interrupted after step {job.position.step}; go on with {go_on}")
        raise Stopped(interrupted.number, told=True)
    if reason == INTERRUPTED:
        notify(
            f"the time of `--max-time {late.text}` is over: saved after step {job.position.step}; "
            f"go on with {go_on}"
        )
        return False
    notify(f"{reason}; kept in {job.folder.path}")
    return True


def _check_same_data(before: dict[str, Any], hashes: dict[str, str], folder: RunFolder) -> None:
    """UserError E0710 unless the data are those that a run was begun with: a step would take other
    examples, and the end would not be that of the run that was never interrupted."""
    # Notes of older runs have no hashes; then only the number of examples is compared.
    wrong = [
        Diagnostic(
            "E0710",
            f"`{name.split()[-1]}` of the {SPLIT_NAMES[name.split()[0]]} data is not what it was "
            f"when {folder.path} was begun",
            help="put the data back as they were, or begin a new run with `--out`; what `--set "
            "data.…` says on purpose is taken as it is",
        )
        for name in changed(before.get("data_sha256", hashes), hashes)
    ]
    if wrong:
        raise UserError(wrong)


SPLIT_NAMES = {"train": "training", "test": "test", "validation": "validation"}


def _other_target(before: dict[str, Any], device: str) -> list[Diagnostic]:
    """A warning if the run was begun for another processor: sums are added up in another order."""
    # Notes of older runs have no target; then there is nothing to compare.
    now = host.target().name if device == "cpu" else device
    if before.get("target", now) == now:
        return []
    message = f"this run was begun on `{before['target']}`, and goes on on `{now}`"
    return [
        Diagnostic(
            "W0702",
            message,
            help="its numbers differ in their last bits from those of a run on one of them; "
            f"`NNC_TARGET={before['target']}` compiles for the other if this computer can run it",
        )
    ]
