"""The command line: `nnc …`. What each command does is in `commands/`.

In: arguments. Out: an exit code: 0 success, 1 an error in the user's file or data, 2 in the command
line, 101 a bug of nnc, 130 interrupted. Only click is imported at the start; a command's file, and
with it NumPy and everything else, is imported when the command runs.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from .. import __version__
from ..dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean
from ..dsl.files import bug_report

OK, USER, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 101, 130

# command → its file in commands/, its function, one line of help
COMMANDS = {
    "train":   ("train",   "train",        "Train a model."),
    "eval":    ("train",   "evaluate_run", "Measure a trained model on its data."),
    "predict": ("train",   "predict",      "Apply a trained model to arrays."),
    "generate": ("generate", "generate",   "Continue or translate a text."),
    "compile": ("compile", "compile",      "Print what the compiler makes of a file."),
    "check":   ("check",   "check",        "Find the mistakes in files."),
    "fmt":     ("check",   "fmt",          "Lay files out in the one canonical way."),
    "summary": ("compile", "summary",      "Layers, shapes, parameters, memory."),
    "bench":   ("bench",   "bench",        "Time the training step."),
    "debug":   ("debug",   "debug",        "Show where a value stopped being finite."),
    "profile": ("profile", "profile",      "Show where the time of a step goes, line by line."),
    "verify":  ("verify",  "verify",       "Compare code and gradients with what defines them."),
    "doctor":  ("doctor",  "doctor",       "Say whether a GPU can be used, or what is missing."),
    "explain": ("check",   "explain",      "Explain the code of a message."),
}  # fmt: skip


class Commands(click.Group):
    """The commands by name, each imported when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command:
        if name not in COMMANDS:
            hint = did_you_mean(name, COMMANDS) or f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command `{name}`: {hint}", context)
        file, function, _ = COMMANDS[name]
        # Here lies the cost of a command: its file imports NumPy and the compiler.
        return getattr(import_module(f"{__package__}.commands.{file}"), function)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nnc")
@click.option(
    "--error-format",
    type=click.Choice(["human", "short", "json"]),
    default="human",
    help="How mistakes are shown.",
)
def nnc(error_format: str) -> None:
    """A compiler for neural networks written as equations."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    started = time.perf_counter()
    try:
        # Without click's standalone mode, errors arrive below instead of ending the process, and
        # the code of an `Exit` is returned; `obj` hands the start time to `bench`.
        return nnc.main(list(arguments), "nnc", standalone_mode=False, obj=started) or OK
    # Before ClickException, its base class.
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return USER
    except UserError as error:
        _print(error.diagnostics, arguments)
        return USAGE if error.of_flags else USER
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    # Memory was reported free and then refused, which is no bug.
    except MemoryError:
        _print([import_module(f"{__package__}.memory").out_of_memory()], arguments)
        return USER
    except BrokenPipeError:  # the reader of the output has closed it
        _discard_output()
        return OK
    except Exception as error:  # a bug: leave a trace for its report
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
            _discard_output()  # an error without a file name is about stdout
            print("the output could not be written: no space is left", file=sys.stderr)
            return USER
        _report_bug(error, arguments)
        return INTERNAL


def _print(diagnostics: Sequence[Diagnostic], arguments: Sequence[str]) -> None:
    report = import_module(f"{__package__}.commands.report")
    report.print_diagnostics(diagnostics, _error_format(arguments))


def _discard_output() -> None:
    """Redirect stdout to nowhere: flushing it at exit would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _error_format(arguments: Sequence[str]) -> str:
    """The value of `--error-format`; click's context is gone when an error arrives here."""
    for n, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--error-format":
            return value or arguments[n + 1]
    return "human"


def _report_bug(error: Exception, arguments: Sequence[str]) -> None:
    """Print where the compiler failed, and write a file with everything for a bug report."""
    trace = "".join(traceback.format_exception(error))
    # A failing pass leaves its name and the equations in the exception; otherwise the traceback
    # tells which part of the compiler it was.
    after = getattr(error, "after", "") or _pass_of(error)
    where = f" in the pass `{after}`" if after else ""
    versions = f"nnc {__version__}, Python {sys.version.split()[0]}, {sys.platform}"
    found = getattr(error, "dump", "")
    dump = f"{versions}\nnnc {' '.join(arguments)}\n\n{trace}\n{found}"
    try:
        with bug_report() as file:
            file.write(dump)
        report = f"please report it with the file {file.name}"
    except OSError:  # a full disk, or no folder for temporary files
        report = f"please report it with this text:\n{dump}"
    print(f"nnc has a bug{where}: {type(error).__name__}: {error}\n{report}", file=sys.stderr)


def _pass_of(error: Exception) -> str:
    """The innermost of the compiler's files in the traceback."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return next((f.stem for f in reversed(files) if "compiler" in f.parts), "")


def main() -> NoReturn:
    """The entry point of the installed command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
