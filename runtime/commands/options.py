"""Options that several commands share, and what they mean together.

In: values from the command line. Out: assignments, a `Search`, a device. No command lives here.
Imported for `--help` and completion, too: what is heavy is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..messages import FORMS, notify
from ..thread_count import default_threads, too_many
from .report import print_diagnostics

if TYPE_CHECKING:
    from ...compiler.ir.equation import System
    from ...compiler.programs import Setup
    from ..assignments import Assignment
    from ..data import Search
    from ..device import Device
    from ..project import Project
    from ..training.run_folder import RunFolder

FILE = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
DEVICES = ("cpu", "reference", "cuda")  # the names in `runtime.device`
FORMATS = ("f16", "bf16", "int8")  # the names in `runtime/training/weight_formats.py`


class FiniteFloat(click.FloatRange):
    """A finite number in a range; `nan` and `inf` are in none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found: float = super().convert(value, param, ctx)
        if not isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a field of the train block, a size, or optimizer.lr and the like.",
)
batch_option = click.option("--batch", type=POSITIVE, help="Examples in a step.")
model_option = click.option("--model", metavar="NAME", help="The model, if there are several.")
data_option = click.option("--data", type=FILE, metavar="DIR", help="Where the data is.")
offline_option = click.option("--offline", is_flag=True, help="Download nothing.")


def _usable(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    remark = too_many(value)
    if remark:
        notify(remark)
    return value if value is None else default_threads(value)


threads_option = click.option(
    "--threads",
    type=POSITIVE,
    callback=_usable,
    help="Default and most: the processors that may be used.",
)
device_option = click.option(
    "--device",
    "device_name",
    type=click.Choice(DEVICES),
    default="cpu",
    show_default=True,
    help="What it runs on.",
)

weights_option = click.option(
    "--weights",
    type=click.Choice(FORMATS),
    help="Predict with weights in 16 bits; int8: with weights and activations in 8 bits.",
)
calibrate_option = click.option(
    "--calibrate",
    metavar="N|FILE",
    help="int8: the examples by which activations are scaled, N of the validation data (else of "
    "the training data), or inputs as for `nnc predict`.  [default: 256]",
)

VERIFY = "nnc.verify"  # its key in click's context


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    # `meta` is shared by all contexts of a command line, so helpers can ask without a parameter.
    context.meta[VERIFY] = value


verify_option = click.option(
    "--verify",
    is_flag=True,
    expose_value=False,
    callback=_remember,
    help="Check every pass of the compiler: rules, and values on random numbers.",
)


def error_format_option() -> click.Option:
    """For every command, and for `nnc` itself. Its value is read by `cli.py`, before click does:
    a mistake in the command line is shown in that form, too."""
    return click.Option(
        ["--error-format"],
        type=click.Choice(FORMS),
        expose_value=False,
        help="How mistakes are shown; human unless said.",
    )


def examples(*lines: str) -> str:
    """What a command's help ends with: command lines to try."""
    return "\n".join(
        ["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {x}" for x in lines)]
    )


def option_group(*options: Callable) -> Callable:
    """One decorator from many, listed in the order of the help text."""

    def decorate(function: Callable) -> Callable:
        # The decorator applied last is listed first in click's help.
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@dataclass
class OpenedProgram:
    """What FILE, --set, --batch, --model and --data name; read when it is first needed. FILE may be
    the folder of a run, which has a copy of its program and knows the types of its data."""

    file: Path
    sets: tuple[str, ...]
    batch: int | None
    model: str | None
    data: Path | None

    @cached_property
    def project(self) -> Project:
        """UserError with everything that is wrong in FILE; warnings are printed."""
        from ..project import open_project

        file = self.run.model if self.run else self.file
        project = open_project(file, assignments(self.sets, batch=self.batch), self.model)
        print_diagnostics(project.warnings)
        return project

    @cached_property
    def run(self) -> RunFolder | None:
        """The run folder, if FILE is one. UserError E0706 for one that is misspelt."""
        from ..training.run_folder import RunFolder, means_a_run

        if means_a_run(self.file):
            RunFolder(self.file).require()
        return RunFolder(self.file) if self.file.is_dir() else None

    @property
    def setup(self) -> Setup:
        """The setup of training, without reading data. UserError E0707 if FILE trains nothing."""
        from ..project import planned_setup, setup_of

        if self.run is not None and self.data is None:
            return setup_of(self.project, self.run.fields, self.run.settings["examples"])
        # Always offline: commands that train nothing do not download data to know its shapes.
        return planned_setup(self.project, search(self.data, self.file.parent, offline=True))

    @property
    def setup_if_trained(self) -> Setup | None:
        return None if self.project.train is None else self.setup


def program(function: Callable) -> Callable:
    """A command on FILE, which gets an `OpenedProgram` in place of the options that choose it."""

    @click.argument("file", type=FILE)
    @option_group(set_option, batch_option, model_option, data_option)
    @wraps(function)
    def command(file, sets, batch, model, data, **options):
        opened = OpenedProgram(file, sets, batch, model, data)
        return function(program=opened, **options)

    return command


def assignments(sets: tuple[str, ...], **flags: int | str | None) -> list[Assignment]:
    """`--set` and flags such as `--epochs 3`, which win. UsageError for one without `=`."""
    from ..assignments import Assignment

    found = []
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise click.UsageError(f"--set takes NAME=VALUE, not `{text}`")
        # What the user typed up to the value, spaces included, so that carets are in place.
        typed = text.rstrip()
        before = f"--set {typed.removesuffix(value.strip())}"
        found.append(Assignment(key.strip(), value.strip(), before))
    # After `--set`, as the later assignment of a field replaces the earlier.
    for name, given in flags.items():
        if given is not None:
            found.append(Assignment(name, str(given), f"--{name.replace('_', '-')} "))
    return found


def search(data: Path | None, base: Path, offline: bool = False) -> Search:
    from ..data import Search

    return Search(data, base, offline, notify=notify)


def search_of_run(
    notes: Mapping[str, Any], data: Path | None = None, offline: bool = False
) -> Search:
    """Where the data of a run are, by what `settings.json` says."""
    from ..data import Search

    return Search.of_run(notes, data, offline, notify)


def device(name: str, threads: int | None) -> Device:
    """The device asked for; with `--verify`, one that checks what it compiles."""
    from ..device import DEVICES

    found = DEVICES[name](default_threads(threads))
    if not verifying():
        return found
    from ..inspect.pass_checking import checking  # only where it is asked for

    return checking(found, notify)


def check_passes(system: System) -> None:
    """What `--verify` asks of a command that compiles without a device; else nothing."""
    if verifying():
        from ..inspect.pass_checking import check_passes  # only where it is asked for

        check_passes(system, notify)


def verifying() -> bool:
    return bool(click.get_current_context().meta.get(VERIFY))
