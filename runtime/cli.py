"""The command line: `nnc …`. What each command does is in `commands/`.

In: arguments. Out: an exit code: 0 success, 1 an error in the user's file or data, 2 in the command
line, 101 a bug of nnc, 128 + n ended by signal n. What a command takes is declared in
`command_line/`, where nothing but click is imported, as `--help` and completion must be quick; its
file in `commands/`, and with it NumPy and everything else, is imported when the command runs.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from .. import __version__
from ..dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean
from ..dsl.files import bug_report, reason
from .commands.options import error_format_option, examples
from .commands.report import print_diagnostics
from .memory import are_short, is_limited, is_shortage, out_of_memory
from .messages import FORMS, HUMAN, SHORT, form, notify, use_form
from .streams import OutputError, discard_output, open_streams
from .training.interrupt import Stopped, exit_code, stop_on_signals

OK, USER, USAGE, INTERNAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 101, 130, 141
LONGEST_NAME = 200  # characters of a file's name in a message
ADDRESSES = 180_000_000  # bytes that NumPy and the least of the commands take

# command → where it is declared, in command_line/, and one line of help
COMMANDS = {
    "new":        ("beginning.new",       "Make a folder with a program to begin with."),
    "examples":   ("beginning.examples",  "List, print or copy the examples."),
    "train":      ("training.train",      "Train a model."),
    "eval":       ("training.evaluate_run", "Measure a trained model on its data."),
    "plot":       ("training.plot",       "Draw the loss and the metrics of runs."),
    "predict":    ("training.predict",    "Apply a trained model to files or arrays."),
    "attribute":  ("attribution.attribute", "Show what a result is due to."),
    "runs":       ("training.runs",       "List and compare runs."),
    "generate":   ("training.generate",   "Continue or translate a text."),
    "export":     ("shipping.export",     "Make a C library of a model."),
    "check":      ("files.check",         "Find the mistakes in files."),
    "fmt":        ("files.fmt",           "Lay files out in the one canonical way."),
    "fix":        ("files.fix",           "Bring files to the current version of the language."),
    "summary":    ("programs.summary",    "Layers, shapes, parameters, memory."),
    "compile":    ("programs.compile",    "Print what the compiler makes of a file."),
    "graph":      ("programs.graph",      "Draw the layers or the equations of a model."),
    "explore":    ("programs.explore",    "A page with a program at every stage, side by side."),
    "bench":      ("programs.bench",      "Time the training step."),
    "profile":    ("programs.profile",    "Show where the time of a step goes, line by line."),
    "verify":     ("programs.verify",     "Compare code and gradients with what defines them."),
    "debug":      ("training.debug",      "Show where a value stopped being finite."),
    "explain":    ("files.explain",       "Explain the code of a message, or list all."),
    "doctor":     ("computer.doctor",     "Say whether a GPU can be used, or what is missing."),
    "cache":      ("computer.cache",      "Show or clear what is stored between runs."),
    "completion": ("computer.completion", "Let a shell complete command lines."),
}  # fmt: skip
HELP = {"help_option_names": ["-h", "--help"]}


class Commands(click.Group):
    """The commands by name, each imported when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        # With fewer, libraries end the process while they are loaded, some without a word.
        if are_short(ADDRESSES):
            raise UserError([out_of_memory()])
        return super().resolve_command(context, args)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            if context.resilient_parsing:  # a shell completes a line that is not right
                return None
            raise click.UsageError(f"there is no command `{name}`: {_meant(name)}", context)
        module, _, function = COMMANDS[name][0].rpartition(".")
        command: click.Command = getattr(
            import_module(f"{__package__}.command_line.{module}"), function
        )
        # Every command takes it, so it is added here and not by each; once, though one process may
        # run several command lines.
        if not any(each.name == "error_format" for each in command.params):
            command.params.append(error_format_option())
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(
    cls=Commands,
    params=[error_format_option()],
    context_settings=HELP,
    epilog=examples("nnc train examples/cnn_digits.nn", "nnc train --help"),
)
@click.version_option(__version__, prog_name="nnc")
def nnc() -> None:
    """A compiler for neural networks written as equations."""


def _meant(name: str) -> str:
    """What was meant by a word that is no command: another one, or one that takes such a file."""
    path = Path(name)
    with suppress(OSError, ValueError):  # a name that no system takes
        if path.suffix == ".nn" or path.is_file():
            return f"did you mean `nnc train {name}`? `nnc check {name}` finds its mistakes"
        if (path / "settings.json").is_file():
            return f"did you mean `nnc eval {name}`, or `nnc train --resume {name}`?"
        if path.is_dir():
            return f"did you mean `nnc check {name}`?"
    return did_you_mean(name, COMMANDS) or f"there are {', '.join(COMMANDS)}"


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    started = time.perf_counter()
    use_form(_error_format(arguments))
    try:
        # Without click's standalone mode, errors arrive below instead of ending the process, and
        # the code of an `Exit` is returned; `obj` hands the start time to `bench`.
        return nnc.main(list(arguments), "nnc", standalone_mode=False, obj=started) or OK
    # Before ClickException, its base class.
    except click.UsageError as error:
        _show(error)
        return USAGE
    except click.ClickException as error:
        _show(error)
        return USER
    except UserError as error:
        _print(error.diagnostics)
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
            _print([out_of_memory()])
            return USER
        if not _folder_exists():
            gone = "the current folder does not exist any more"
            _print([Diagnostic("E0709", gone, help="change to another one with `cd`")])
            return USER
        # No such folder on the way, a name that is too long, no permission: wherever it is noticed.
        if isinstance(error, OSError) and error.errno is not None:
            _print([_refused(error)])
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
    notify(text, "error")


def _show(error: click.ClickException) -> None:
    """A mistake in the command line, as click says it."""
    if form() == HUMAN:
        error.show()
    else:
        notify(
            f"error: {error.format_message()}" if form() == SHORT else error.format_message(),
            "error",
        )


def _print(diagnostics: Sequence[Diagnostic]) -> None:
    try:
        print_diagnostics(diagnostics)
    except Exception as error:
        if not is_shortage(error):
            raise
        # There is not enough memory to say more.
        for found in diagnostics:
            _tell(f"error[{found.code}]: {found.message}")


def _error_format(arguments: Sequence[str]) -> str:
    """The value of the last `--error-format`, before the command or after it; a wrong one is
    reported by click."""
    found = HUMAN
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=False):
        name, equals, value = argument.partition("=")
        if name == "--error-format":
            found = value if equals else following
        elif argument == "--":
            break
    return found if found in FORMS else HUMAN


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
    # The process ends: looking for cycles among all objects once more would take a tenth of the
    # time of a short command.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
