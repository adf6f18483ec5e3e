"""Fill in what the compiler prints on docs/compiler_tour.md: `python tools/compiler_tour.py`.

The program is the first block of the page. A comment before each other block says what it holds:

    <!-- emit: STAGE: WORDS -->       the first paragraph of the stage with these words
    <!-- changed: PASS -->            what `--print-changed=diff` prints of the pass

Everything is compiled for one named processor, so that the page is the same on every computer.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "compiler_tour.md"
TARGET = "zen5"
MARKED = re.compile(r"(<!-- (emit|changed): (.*?) -->\n\n```text\n)(.*?)(```)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every marked block as the compiler prints it now."""
    program = re.search(r"```nn\n(.*?)```", page, re.DOTALL)
    assert program, "the page has no program"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tour.nn").write_text(program[1], "utf-8")

        def block(found: re.Match[str]) -> str:
            kind, what = found[2], found[3]
            text = (
                emitted(folder, *what.split(": ", 1)) if kind == "emit" else changed(folder, what)
            )
            return f"{found[1]}{text}\n{found[5]}"

        return MARKED.sub(block, page)


def emitted(folder: str, stage: str, words: str) -> str:
    """The paragraph of a stage in which these words stand; of LLVM's text, as many lines after them
    as a number before them says."""
    text = compiled(folder, "--emit", stage).stdout
    number, _, rest = words.partition(" lines from ")
    if rest:
        lines = text.splitlines()
        start = next(n for n, line in enumerate(lines) if rest in line)
        return "\n".join(lines[start : start + int(number)])
    return next(p for p in text.split("\n\n") if words in p).strip("\n")


def changed(folder: str, name: str) -> str:
    text = compiled(folder, "--print-changed=diff").stderr
    return text.split(f"*** {name} ***\n")[1].split("\n***")[0].strip("\n")


def compiled(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nnc", "compile", "tour.nn", *arguments]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "NNC_TARGET": TARGET, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
