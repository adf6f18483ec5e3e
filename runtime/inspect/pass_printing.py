"""Observers of the pipeline for a reader: what a pass made, what it changed, how long it took.

In: an output stream. Out: observers for `compiler.pipeline.compile`. The words of the command line
are LLVM's: `--print-after`, `--print-changed`, `--time-passes`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import unified_diff
from typing import TextIO

from ...compiler.ir.equation import System
from ...compiler.ir.printer import system_text
from ...compiler.passes.kernels.kernel import Plan
from ...compiler.passes.kernels.printer import plan_text

EVERY = "all"  # the name that stands for every pass


def text_of(value: System | Plan) -> str:
    return plan_text(value) if isinstance(value, Plan) else system_text(value)


class PrintAfter:
    """Prints what each of the named passes made."""

    def __init__(self, names: Collection[str], to: TextIO):
        self.names, self.to = names, to

    def __call__(
        self, name: str, before: System | Plan, after: System | Plan, seconds: float
    ) -> None:
        if name in self.names or EVERY in self.names:
            print(f"*** after {name} ***\n{text_of(after)}", file=self.to)


class PrintChanged:
    """Prints what each pass made if it changed anything; with `diff`, the lines that it changed."""

    def __init__(self, diff: bool, to: TextIO):
        self.diff, self.to = diff, to

    def __call__(
        self, name: str, before: System | Plan, after: System | Plan, seconds: float
    ) -> None:
        old, new = text_of(before), text_of(after)
        # equal texts may still stand for other values: strides and places are not printed
        if old == new:
            what = "no change" if before == after else "only how tensors lie in memory"
            print(f"*** {name}: {what} ***", file=self.to)
        elif self.diff:
            changed = "\n".join(_changed_lines(old, new))
            print(f"*** {name} ***\n{changed}\n", file=self.to)
        else:
            print(f"*** after {name} ***\n{new}", file=self.to)


def _changed_lines(old: str, new: str) -> Iterator[str]:
    lines = unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    # the headers of a diff name files and lines, which the texts do not have
    return (line for line in lines if not line.startswith(("---", "+++", "@@")))


class TimePasses:
    """Adds up the seconds of every pass; `table` lists them, the slowest first."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(
        self, name: str, before: System | Plan, after: System | Plan, seconds: float
    ) -> None:
        # a pass may run more than once
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def table(self) -> str:
        total = sum(self.seconds.values())
        rows = sorted(self.seconds.items(), key=lambda row: -row[1])
        lines = [f"{'ms':>9}  {'share':>5}  pass"]
        lines += [
            # an empty list of passes has a total of 0
            f"{1e3 * seconds:9.2f}  {seconds / max(total, 1e-12):5.0%}  {name}"
            for name, seconds in rows
        ]
        return "\n".join([*lines, f"{1e3 * total:9.2f}  100%   all passes"])
