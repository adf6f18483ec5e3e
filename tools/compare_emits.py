"""Compare what two checkouts print for every example and benchmark, stage by stage.

    python tools/compare_emits.py OLD NEW [--stages llvm,cuda] [--only cnn_digits,gpt]

OLD and NEW are checkouts of nnc. Before texts are compared, the substitutions of
`tools/emit_renames.txt` are applied to the old one, so that a renaming of what the compiler prints
does not count as a difference. Exit code 0 if all texts are equal, 1 with the first differing lines
of each file otherwise. Programs whose data is missing (set `$NNC_DATA`) are compared by their
messages.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from pathlib import Path

HERE = Path(__file__).parent
STAGES = "llvm,cuda"
LIBRARY_LINE = re.compile(r"(stdlib/\w+\.nn):\d+(:\d+)?")  # moves with docstrings
PRELUDE_END = "}  // namespace nn\n"  # the CUDA prelude, the same in every program, is not compared


def main() -> int:
    options = arguments()
    renames = read_renames(HERE / "emit_renames.txt")
    jobs = [(p, s) for p in programs(options.new, options.only) for s in options.stages.split(",")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        differing = sum(pool.map(lambda job: compare(options, renames, *job), jobs))
    print(f"{len(jobs) - differing} of {len(jobs)} texts are equal")
    return 1 if differing else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--stages", default=STAGES, help=f"comma-separated, default {STAGES}")
    parser.add_argument("--only", default="", help="comma-separated names of programs")
    parser.add_argument("--lines", type=int, default=12, help="lines of each difference to print")
    return parser.parse_args()


def programs(checkout: Path, only: str) -> list[str]:
    found = sorted(
        f"{folder}/{path.name}"
        for folder in ("examples", "benchmarks")
        for path in (checkout / folder).glob("*.nn")
    )
    wanted = set(filter(None, only.split(",")))
    return [p for p in found if not wanted or Path(p).stem in wanted]


def read_renames(path: Path) -> list[tuple[re.Pattern[str], str]]:
    """Lines `pattern => replacement`: regular expressions for the old text; `#`: a comment."""
    lines = (line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.split(" => ") for line in lines if line)
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


def compare(
    options: argparse.Namespace,
    renames: list[tuple[re.Pattern[str], str]],
    program: str,
    stage: str,
) -> bool:
    """Whether the texts differ; prints where."""
    old, new = (emitted(tree, program, stage) for tree in (options.old, options.new))
    for pattern, replacement in renames:
        old = pattern.sub(replacement, old)
    old, new = (LIBRARY_LINE.sub(r"\1", text) for text in (old, new))
    if stage == "cuda":
        old, new = (text.rpartition(PRELUDE_END)[2] for text in (old, new))
    if old == new:
        return False
    lines = unified_diff(old.splitlines(), new.splitlines(), "old", "new", lineterm="", n=1)
    print(f"--- {program} {stage}", *list(lines)[2 : 2 + options.lines], sep="\n", flush=True)
    return True


def emitted(checkout: Path, program: str, stage: str) -> str:
    """What `nnc compile` of this checkout prints, its message where it refuses the program."""
    with tempfile.TemporaryDirectory() as site:
        Path(site, "nnc").symlink_to(checkout.resolve())
        done = subprocess.run(
            [sys.executable, "-m", "nnc", "compile", program, "--emit", stage],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": site},
            capture_output=True,
            text=True,
        )
    return done.stdout if done.returncode == 0 else done.stderr


if __name__ == "__main__":
    sys.exit(main())
