"""Write docs/library.md: the reference of the standard library, the built-in functions and the data
sources, from their docstrings and tables.

With `--check` nothing is written; exit code 1 if the page is out of date. A test does the same.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nnc.dsl.check.names import BUILTINS, MANY
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax import ast as s
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.data import sources
from nnc.runtime.data.core import mel
from nnc.runtime.data.core.source import REQUIRED
from nnc.runtime.data.sources import FILES, SOURCES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "library.md"

HEAD = """\
# The library

Made by `python tools/library_page.py` from the docstrings of `dsl/stdlib/*.nn` and of the data
sources; do not edit it.

Everything up to *Built in* is written in the language itself, and a program may redefine any
of its names. Settings come in a first pair of parentheses and inputs in a second, or before
`|>`: `Dense(10)(x)` is `x |> Dense(10)`.
"""


def page() -> str:
    """The text of docs/library.md."""
    files = sorted((ROOT / "dsl" / "stdlib").glob("*.nn"))
    parts = [HEAD, *map(library_file, files), built_in(), data_sources()]
    return "\n".join(parts)


def library_file(path: Path) -> str:
    """A file of the library: its docstring, and its definitions with theirs."""
    report = Report()
    file = parse(Source(f"stdlib/{path.name}", path.read_text(encoding="utf-8")), report)
    report.check()
    lines = [f"## {path.stem.capitalize()}", "", f"[`{path.name}`](../dsl/stdlib/{path.name})", ""]
    lines += [paragraphs(file.doc), ""] if file.doc else []
    for definition in file.declarations:
        if isinstance(definition, s.Definition):
            lines += [f"### {definition.name}", "", f"`{signature(definition)}`", ""]
            lines += [paragraphs(definition.doc), ""] if definition.doc else []
    return "\n".join(lines)


def signature(definition: s.Definition) -> str:
    """The head of a definition on one line, without its kind: `Dense(units)(x: [..., n]) -> …`."""
    text = definition.name_span.source.text[definition.name_span.start :]
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if not depth and character in "{=":
            return re.sub(r",? \)", ")", " ".join(text[:place].split()).replace("( ", "("))
    raise AssertionError(f"{definition.name} has no body")


def paragraphs(doc: str) -> str:
    """A docstring as Markdown: indented lines become a code block."""
    lines, in_block = [], False
    for line in doc.strip().splitlines():
        literal = line.startswith("    ")
        if literal != in_block and line.strip():
            lines.append("```text" if literal else "```")
            in_block = literal
        lines.append(line[4:] if literal else escaped(line))
    return "\n".join(lines + ["```"] * in_block)


def escaped(line: str) -> str:
    """Escape what Markdown would read as emphasis or a tag, outside backticks."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([*<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def built_in() -> str:
    """The functions that are part of the language."""
    lines = [
        "## Built in",
        "",
        "Implemented by the compiler.",
        "",
        "| name | arguments |",
        "|---|---|",
    ]
    for name, (least, most) in sorted(BUILTINS.items()):
        count = f"{least} or more" if most == MANY else f"{least} to {most}"
        lines.append(f"| `{name}` | {least if least == most else count} |")
    return "\n".join([*lines, ""])


def data_sources() -> str:
    """The data sources of `data = …`."""
    lines = ["## Data sources", ""]
    for source in SOURCES.values():
        lines += [f"### {source.name}", "", f"`{source.signature}`: {source.doc}.", ""]
        lines += [about(sys.modules[f"{sources.__package__}.{FILES[source.name]}"].__doc__), ""]
        rows = [f"| `{one.name}` | {one.doc} | {default(one.default)} |" for one in source.settings]
        lines += ["| setting | what it is | default |", "|---|---|---|", *rows, ""] if rows else []
    lines += ["### mel", "", paragraphs(mel.__doc__ or ""), ""]
    return "\n".join(lines)


def about(doc: str | None) -> str:
    """The docstring of a source's module without its first line, the signature."""
    _, _, rest = (doc or "").partition("\n\n")
    return re.sub(r"`(\w+)\.py`", r"[\1](#\1)", paragraphs(rest))


def default(value: object) -> str:
    if value is REQUIRED:
        return "must be given"
    text = "none" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text.replace("\t", r"\t")
    return f"`{text}`"


def main() -> None:
    text = page()
    if "--check" in sys.argv[1:]:
        old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        sys.exit(f"{PAGE.name} is out of date" if old != text else 0)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
