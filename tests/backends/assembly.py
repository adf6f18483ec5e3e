"""Machine code as text, looked at: the innermost loops of its functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = re.compile(r"([\w.$\"@-]+):")
_JUMP = re.compile(r"\s+j\w+\s+(\.L\w+)")
# A packed panel is on the stack, too, but is read at an index.
_TO_STACK = re.compile(r"[xyz]mm.*\(%rsp\)|\(%rsp\).*[xyz]mm")


@dataclass(frozen=True)
class InnerLoop:
    """A loop without loops in it: the function it is in, and its instructions."""

    function: str
    lines: tuple[str, ...]

    @property
    def products(self) -> int:
        return sum("vfmadd" in line for line in self.lines)

    @property
    def spills(self) -> list[str]:
        """The instructions that move vectors to the stack or back."""
        return [line.strip() for line in self.lines if _TO_STACK.search(line)]


def inner_loops(assembly: str) -> Iterator[InnerLoop]:
    """The innermost loops of x86 assembly in AT&T syntax."""
    for name, lines, labels in _functions(assembly):
        spans = []
        for at, line in enumerate(lines):
            jump = _JUMP.match(line)
            if jump and labels.get(jump[1], at + 1) <= at:  # to a place further up
                spans.append((labels[jump[1]], at + 1))
        for start, end in spans:
            around = [s for s in spans if start <= s[0] and s[1] <= end and s != (start, end)]
            if not around:
                yield InnerLoop(name, tuple(lines[start:end]))


def _functions(assembly: str) -> Iterator[tuple[str, list[str], dict[str, int]]]:
    name, lines, labels = "", [], {}
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        if label is None:
            lines.append(line)
        elif label[1].startswith(".L"):
            labels[label[1]] = len(lines)
        else:
            yield name, lines, labels
            name, lines, labels = label[1], [], {}
    yield name, lines, labels
