"""The command line: `nnc …`. What each command does is in `commands/`.

In: arguments. Out: an exit code: 0 success, 1 an error in the user's file or data, 2 in the command
line, 101 a bug of nnc, 128 + n ended by signal n. Only click is imported at the start; a command's
file, and with it NumPy and everything else, is imported when the command runs.
"""

from __future__ import annotations

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
from ..dsl.files import bug_report, reason
from .memory import are_short, is_limited, is_shortage, out_of_memory
from .streams import OutputError, discard_output, open_streams
from .training.interrupt import Stopped, exit_code, stop_on_signals

OK, USER, USAGE, INTERNAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 101, 130, 141
LONGEST_NAME = 200  # characters of a file's name in a message
ADDRESSES = 180_000_000  # bytes that NumPy and the least of the commands take

# command → its file in commands/, its function, one line of help
COMMANDS = {
    "train":   ("train",   "train",        "Train a model."),
    "eval":    ("train",   "evaluate_run", "Measure a trained model on its data."),
    "plot":    ("plot",    "plot",         "Draw the loss and the metrics of runs."),
    "predict": ("predict", "predict",      "Apply a trained model to arrays."),
    "generate": ("generate", "generate",   "Continue or translate a text."),
    "compile": ("compile", "compile",      "Print what the compiler makes of a file."),
    "check":   ("check",   "check",        "Find the mistakes in files."),
    "fmt":     ("check",   "fmt",          "Lay files out in the one canonical way."),
    "fix":     ("check",   "fix",          "Bring files to the current version of the language."),
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
        # With fewer, libraries end the process while they are loaded, some without a word.
        if are_short(ADDRESSES):
            raise UserError([out_of_memory()])
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
        _tell("interrupted")
        return INTERRUPTED
    except Stopped as stopped:
        if not stopped.told:
            _tell("interrupted")
        return exit_code(stopped.number)
    except OutputError as error:
        return _without_output(error)
    except Exception as error:
        # Memory was reported free and then refused, which is no bug.
        if is_shortage(error):
            _print([out_of_memory()], arguments)
            return USER
        if not _folder_exists():
            gone = "the current folder does not exist any more"
            _print([Diagnostic("E0709", gone, help="change to another one with `cd`")], arguments)
            return USER
        # No such folder on the way, a name that is too long, no permission: wherever it is noticed.
        if isinstance(error, OSError) and error.errno is not None:
            _print([_refused(error)], arguments)
            return USER
        # A bug: leave a trace for its report.
        _report_bug(error, arguments)
        return INTERNAL


def _refused(error: OSError) -> Diagnostic:
    """What the operating system has refused."""
    name = str(error.filename or "")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}…"
    return Diagnostic("E0709", f"{name}: {reason(error)}" if name else reason(error))


def _without_output(error: OutputError) -> int:
    """The exit code where standard output cannot be written. A message says so on standard error,
    except where the reader has closed the pipe."""
    discard_output()
    if error.broken:
        return BROKEN_PIPE
    if not error.told:
        _tell(f"the output cannot be written: {error}")
    return USER


def _folder_exists() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _tell(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def _print(diagnostics: Sequence[Diagnostic], arguments: Sequence[str]) -> None:
    try:
        report = import_module(f"{__package__}.commands.report")
        report.print_diagnostics(diagnostics, _error_format(arguments))
    except Exception as error:
        if not is_shortage(error):
            raise
        # There is not enough memory to say more.
        for found in diagnostics:
            _tell(f"error[{found.code}]: {found.message}")


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
    _tell(f"nnc has a bug{where}: {type(error).__name__}: {error}\n{report}")


def _pass_of(error: Exception) -> str:
    """The innermost of the compiler's files in the traceback."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return next((f.stem for f in reversed(files) if "compiler" in f.parts), "")


def main() -> NoReturn:
    """The entry point of the installed command."""
    open_streams()
    # NumPy's library reserves addresses for every thread, and sends a SIGINT where there are none.
    if is_limited():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with stop_on_signals():
            code = run(sys.argv[1:])
    except Stopped as stopped:  # in the midst of telling something
        code = exit_code(stopped.number)
    # What is left in the buffer; at the very end an error could not be told any more.
    try:
        sys.stdout.flush()
    except OutputError as error:
        code = _without_output(error)
    sys.exit(code)


if __name__ == "__main__":
    main()
