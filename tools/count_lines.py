"""Count the lines of the package that bear code, room by room.

    python tools/count_lines.py [CHECKOUT] [--files]

The rule is tinygrad's: a line counts if a token other than a comment stands on it; docstrings do
not count. So that layout cannot hide lines, the count is taken on what `ruff format` makes of the
code at 100 columns without any `# fmt: skip`. The last column says how many comment lines stand
beside 12 lines of code. CUDA C++ and data files (`.cuh`, `.toml`, `.nn`) are no part of it.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import tempfile
import tokenize
from collections import Counter
from pathlib import Path

ROOMS = ("dsl", "compiler", "runtime")
CODE = (tokenize.OP, tokenize.NAME, tokenize.NUMBER, tokenize.STRING)
SKIP = re.compile(r"\s*# fmt: (skip|off|on)$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkout", type=Path, nargs="?", default=Path(__file__).parents[1])
    parser.add_argument("--files", action="store_true", help="list every file, the longest first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        laid_out = layout(options.checkout, Path(folder))
        counted = {path.relative_to(laid_out): count(path) for path in laid_out.rglob("*.py")}
    if options.files:
        for path, (code, _) in sorted(counted.items(), key=lambda item: -item[1][0]):
            print(f"{code:6,}  {path}")
    lines: Counter[str] = Counter()
    comments: Counter[str] = Counter()
    for path, (code, comment) in counted.items():
        for room in {path.parts[0], "/".join(path.parts[:2]), "in all"}:
            if not room.endswith(".py"):
                lines[room] += code
                comments[room] += comment
    for room in sorted(lines):
        share = 12 * comments[room] / max(lines[room], 1)
        indent = "  " if "/" in room else ""
        print(f"{lines[room]:7,}  {indent}{room:28}{share:5.2f}")


def layout(checkout: Path, folder: Path) -> Path:
    """A copy of the rooms in one layout."""
    for room in ROOMS:
        shutil.copytree(checkout / room, folder / room, ignore=shutil.ignore_patterns("*.pyc"))
    for path in folder.rglob("*.py"):
        path.write_text(SKIP.sub("", path.read_text("utf-8")), "utf-8")
    command = ["ruff", "format", "--isolated", "--no-cache", "--quiet", "--line-length", "100"]
    subprocess.run([*command, str(folder)], check=True)
    return folder


def count(path: Path) -> tuple[int, int]:
    """Lines that bear code, and lines that bear a comment."""
    strings = docstring_lines(path.read_text("utf-8"))
    code, comments = set(), set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            lines = range(token.start[0], token.end[0] + 1)
            if token.type in CODE and token.start[0] not in strings:
                code.update(lines)
            elif token.type == tokenize.COMMENT:
                comments.update(lines)
    return len(code), len(comments)


def docstring_lines(text: str) -> set[int]:
    """The lines on which docstrings begin."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None
    }


if __name__ == "__main__":
    main()
