"""The command line: `nnc …`. No logic; what each command does is in `commands/`.

In: arguments. Out: an exit code: 0 ok, 1 the user's file or data is wrong, 2 the command line is,
101 our bug, 130 interrupted. Only click is imported at the start; a command's file, and with it
NumPy and all else, when that command is run. This is the one place that loads modules by name.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from .. import __version__
from ..dsl.diagnostics.diagnostic import UserError, did_you_mean

OK, USER, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 101, 130

# command → its file in commands/, its function, one line of help
COMMANDS = {
    "train":   ("train",   "train",        "Train a model."),
    "eval":    ("train",   "evaluate_run", "Measure a trained model on its data."),
    "predict": ("train",   "predict",      "Apply a trained model to arrays."),
    "generate": ("generate", "generate",   "Continue a text with a trained model."),
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
    """The commands by name, each imported when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command:
        if name not in COMMANDS:
            hint = did_you_mean(name, COMMANDS) or f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command `{name}`: {hint}", context)
        file, function, _ = COMMANDS[name]
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
        return nnc.main(list(arguments), "nnc", standalone_mode=False, obj=started) or OK
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return USER
    except UserError as error:
        show = import_module(f"{__package__}.commands.report").show
        show(error.diagnostics, _form(arguments))
        return USAGE if error.of_flags else USER
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        found = import_module(f"{__package__}.memory").ran_out()
        import_module(f"{__package__}.commands.report").show([found], _form(arguments))
        return USER
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        _write_nowhere()
        return OK
    except Exception as error:  # the one place that catches all: a bug must leave a trace
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
            _write_nowhere()  # what was being written has no name: it is our output
            print("the output could not be written: no space is left", file=sys.stderr)
            return USER
        _report_bug(error, arguments)
        return INTERNAL


def _write_nowhere() -> None:
    """What is still to be flushed at the end would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _form(arguments: Sequence[str]) -> str:
    """The form asked for; click has left its context by the time an error arrives here."""
    for n, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--error-format":
            return value or arguments[n + 1]
    return "human"


def _report_bug(error: Exception, arguments: Sequence[str]) -> None:
    """Say where the compiler failed and leave a file with all that is known."""
    trace = "".join(traceback.format_exception(error))
    after = getattr(error, "after", "") or _pass_of(error)
    where = f" in the pass `{after}`" if after else ""
    versions = f"nnc {__version__}, Python {sys.version.split()[0]}, {sys.platform}"
    found = getattr(error, "dump", "")
    dump = f"{versions}\nnnc {' '.join(arguments)}\n\n{trace}\n{found}"
    with tempfile.NamedTemporaryFile(
        "w", prefix="nnc-bug-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(dump)
    print(
        f"nnc has a bug{where}: {type(error).__name__}: {error}\n"
        f"please report it with the file {file.name}",
        file=sys.stderr,
    )


def _pass_of(error: Exception) -> str:
    """The innermost of the compiler's files that the error went through."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return next((f.stem for f in reversed(files) if "compiler" in f.parts), "")


def main() -> NoReturn:
    """The entry point of the installed command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
