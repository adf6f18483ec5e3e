"""`nnc new` and `nnc examples`: programs to begin with.

In: names on the command line. Out: files, or text on stdout. The programs are those of
`examples/`: whole ones, and in its `templates/` those to be changed, each with a note on its data.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from ... import examples as package
from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.files import make_folder, place_folder, replacing, unfinished_folder

EXAMPLES = Path(package.__file__).parent
TEMPLATES = EXAMPLES / "templates"
PROGRAM, README = "model.nn", "README.md"
LONGEST = 100  # characters of a folder's name
_DOC = re.compile(r'\s*"""(.*?)"""', re.DOTALL)
_NAMED = re.compile(r'"([\w./-]+)"')


def templates() -> dict[str, Path]:
    """The programs of the templates by name."""
    return {path.parent.name: path for path in sorted(TEMPLATES.glob(f"*/{PROGRAM}"))}


def example_programs() -> dict[str, Path]:
    return {path.stem: path for path in sorted(EXAMPLES.glob("*.nn"))}


def listing(programs: Mapping[str, Path]) -> str:
    """A line for each: its name, and the first sentence of what it says of itself."""
    width = max(map(len, programs))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = (f"{name:<{width}}  {_sentence(path)}" for name, path in programs.items())
    # A terminal shows as much of a line as it is wide.
    return "\n".join(
        x if columns is None or len(x) <= columns else f"{x[: columns - 1]}…" for x in lines
    )


def _sentence(path: Path) -> str:
    found = _DOC.match(path.read_text("utf-8"))
    text = " ".join(found[1].split()) if found else ""
    return re.split(r"(?<=[.])\s", text, maxsplit=1)[0].rstrip(".")


# --- new ------------------------------------------------------------------------------------------


def new(name: str | None, template: str, list_all: bool) -> None:
    """What `nnc new` does."""
    known = templates()
    if list_all:
        click.echo(listing(known))
        return
    if name is None:
        raise click.UsageError("give the NAME of a new folder, or --list")
    if template not in known:
        hint = did_you_mean(template, known) or f"there are {', '.join(known)}"
        raise click.UsageError(f"there is no template `{template}`: {hint}")
    path = Path(name)
    if wrong := _wrong_name(path.name):
        raise click.UsageError(f"`{name}` is no name for a project: {wrong}")
    made = _make(path, known[template].parent)
    click.echo(f"{path}: {', '.join(made)}\n")
    click.echo(f"cd {path}\nnnc train {PROGRAM} --out runs/first")


def _wrong_name(name: str) -> str:
    """Why a folder should not be called so; empty if it may."""
    if name in ("", ".", ".."):
        return "it has to be that of a new folder"
    if name.endswith(".nn"):
        return f"a project is a folder, in which the program is {PROGRAM}; `nnc new {name[:-3]}`"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters, and at most {LONGEST} are allowed"
    if not name[0].isalnum():
        return f"it begins with `{name[0]}`, and should with a letter or a digit"
    for character in name:
        if not (character.isalnum() or character in "_-."):
            shown = {" ": "a space", "\t": "a tab"}.get(character, f"`{character}`")
            shown = shown if character.isprintable() else "a character that cannot be seen"
            return f"it has {shown}; letters, digits, `_`, `-` and `.` are allowed"
    return ""


def _make(path: Path, template: Path) -> list[str]:
    """Copy a template to a new folder, or an empty one; the names of its files. UsageError if there
    is something already."""
    taken = click.UsageError(
        f"`{path}` exists already, and nothing is written over: choose another name"
    )
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise taken
    files = sorted(template.iterdir())
    with unfinished_folder(path.parent) as folder:
        for file in files:
            content = file.read_bytes()
            if file.name == README:
                content = content.replace(b"NAME", path.name.encode(), 1)
            with replacing(folder / file.name) as out:
                out.write(content)
        if not place_folder(folder, path):
            raise taken
    # The program first, as it is what one looks at.
    return sorted((file.name for file in files), key=lambda n: (n != PROGRAM, n))


# --- examples -------------------------------------------------------------------------------------


def examples(name: str | None, copy: bool, folder: Path | None) -> None:
    """What `nnc examples` does."""
    known = example_programs()
    if name is None:
        if copy or folder:
            raise click.UsageError("give the NAME of an example to copy")
        click.echo(listing(known))
        return
    path = known.get(name.removesuffix(".nn"))
    if path is None:
        hint = did_you_mean(name.removesuffix(".nn"), known) or "`nnc examples` lists them"
        raise click.UsageError(f"there is no example `{name}`: {hint}")
    if not copy and folder is None:
        click.echo(path.read_text("utf-8"), nl=False)
        return
    for file in _copy(path, folder or Path()):
        click.echo(file)


def _copy(program: Path, folder: Path) -> list[Path]:
    """Copy a program and its data; the files that are written. UsageError if one is there."""
    copies = {folder / program.name: program}
    for named in _NAMED.findall(program.read_text("utf-8")):
        data = EXAMPLES / "data" / named
        if data.is_file():
            copies[folder / "data" / named] = data
    for target in copies:
        if os.path.lexists(target):
            raise click.UsageError(f"`{target}` exists already, and nothing is written over")
    for target, source in copies.items():
        make_folder(target.parent)
        with replacing(target) as file:
            file.write(source.read_bytes())
    return list(copies)
