"""`nnc compile` and `nnc summary`: what the compiler makes of a file, without training.

In: the command line. Out: text on stdout or in files. The work is done in `emit.py`, `summary.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...compiler.ir.equation import System
from ...compiler.options import Options
from ...compiler.pipeline import Observer, all_passes
from ...dsl.diagnostics.diagnostic import did_you_mean
from ..inspect.emit import Stages
from ..inspect.pass_printing import EVERY, PrintAfter, PrintChanged, TimePasses
from ..inspect.stages import COMPILED, ENDINGS
from ..inspect.summary import summarize
from ..training.atomic_files import check_not_read, write_text
from . import options as o
from .report import print_diagnostics
from .tables import screen_width


def compile(
    program, emits, without, print_after, print_changed, time_passes, weights, calibrate
) -> None:
    """What `nnc compile` does."""
    wanted = _wanted(emits)
    options = Options(without=frozenset(_passes("--without", without, leaving_out=True)))
    observers: list[Observer] = []
    if print_after:
        observers.append(PrintAfter(_passes("--print-after", print_after), sys.stderr))
    if print_changed:
        observers.append(PrintChanged(print_changed == "diff", sys.stderr))
    times = TimePasses()
    if time_passes:
        observers.append(times)
    if not wanted and not observers:
        raise click.UsageError("nothing to print: --emit STAGE, --print-changed or --time-passes")
    project = program.project
    # The syntax tree needs no sizes, so it can be printed without any data.
    needs_types = not wanted or any(stage != "ast" for stage in wanted)
    setup = program.setup_if_trained if needs_types else None
    prediction = _predicted(program, weights, calibrate)
    stages = Stages(project, setup, options, observers, prediction)
    if needs_types:
        o.check_passes(stages.program)
    # All texts before any output: an error in a later stage leaves no half result.
    texts = {stage: stages.text(stage) for stage in wanted}
    # None of the stages asked for runs the passes that are observed, so they are run here.
    if observers and not COMPILED.intersection(wanted):
        stages.text("kernels")
    print_diagnostics(stages.report.diagnostics)
    if time_passes:
        click.echo(times.table(), err=True)
    for stage, text in texts.items():
        path = wanted[stage]
        # One text goes to stdout; of several, each needs a file, or they would run together.
        if path is None and len(texts) == 1:
            click.echo(text, nl=False)
            continue
        path = path or Path(f"{program.file.stem}.{stage}.{ENDINGS[stage]}")
        check_not_read(path, [program.run.model if program.run else program.file])
        write_text(path, text)


def _predicted(
    program: o.OpenedProgram, weights: str | None, calibrate: str | None
) -> System | None:
    """The prediction with weights in a format; None if none is named."""
    if weights is None and calibrate is None:
        return None
    # Only where it is asked for: executors and data.
    from ...compiler.programs import prediction
    from ..training.executor import Executor
    from .program_weights import data_of, setup_of_program, weights_of
    from .weights import chosen_format

    project = program.project
    executor = Executor(setup_of_program(program), o.device("cpu", 1), project.settings.seed)
    values = weights_of(program, executor) or executor.first_weights()
    format = chosen_format(
        weights, calibrate, executor, values, project, program.run, data_of(program)
    )
    assert format is not None
    return format.system(prediction(executor.setup))


def _wanted(emits: tuple[str, ...]) -> dict[str, Path | None]:
    """The stages and where each goes. UsageError for an unknown stage."""
    found: dict[str, Path | None] = {}
    # `--emit llvm,asm=out.s --emit loops` are three items, of which one has a path.
    for item in (item.strip() for text in emits for item in text.split(",")):
        stage, equals, path = item.partition("=")
        if stage not in ENDINGS or (equals and not path):
            hint = did_you_mean(stage, ENDINGS) or f"there are {', '.join(ENDINGS)}"
            raise click.UsageError(f"--emit knows no stage `{item}`: {hint}")
        found[stage] = Path(path) if path else None
    return found


def _passes(option: str, values: tuple[str, ...], leaving_out: bool = False) -> list[str]:
    """The names of passes in the values of an option. UsageError for one that is not known, or
    that cannot be left out where the option is about `leaving_out`."""
    known = {each.name: each for each in all_passes()}
    found = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in found:
        # Every pass can be printed, but not every one left out.
        if name == EVERY and not leaving_out:
            continue
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise click.UsageError(f"{option} knows no pass `{name}`: {hint}")
        # A pass that others rely on, unlike one that only improves what it is given.
        if leaving_out and known[name].required:
            raise click.UsageError(
                f"{option} {name}: what follows relies on this pass; it cannot be left out"
            )
    return found


def summary(program, device_name) -> None:
    """What `nnc summary` does."""
    project, setup = program.project, program.setup_if_trained
    if o.verifying():
        o.check_passes(Stages(project, setup).program)
    width = screen_width() if sys.stdout.isatty() else None
    click.echo(summarize(project, setup, device_name).text(width), nl=False)
