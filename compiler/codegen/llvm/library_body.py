"""What the modules of a library have in common: codes, places in memory, and a writer of functions.

Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.dtypes import LINE
from ...machines import Machine
from .thread_pool import ARENA_AGAIN

# What a function returns, in this order from 0 on: the name in C, and the text for people.
FAILURES = (
    ("OK", "done"),
    ("OTHER_ABI", "the header belongs to another library"),
    ("MISSING", "a pointer is null"),
    ("MISALIGNED", "the arena or the values do not begin at a multiple of the alignment"),
    ("TOO_SMALL", "the arena or the values have too few bytes"),
    ("OTHER_MODEL", "the weights are those of another model, or no weights"),
    ("NO_INSTRUCTIONS", "this processor lacks instructions that the library was made for"),
    ("WRONG_EXAMPLES", "there must be one example at least, and no more than the batch"),
    ("INDEX_OUTSIDE", "an input is an index, and chooses something that is not there"),
    ("NO_RESULT", "an index is outside, or an integer operation has no result"),
    ("NOT_FINITE", "the loss is not finite: the values are of no use any more"),
    ("WINDOW_FULL", "as many tokens were read as the model has positions for"),
    ("WRONG_PARTS", "threads must have a function, and one part at least, no more than exported"),
)
CODES = {name: code for code, (name, _) in enumerate(FAILURES)}

# The head of the values: magic and format, the hash of their layout, how many bytes the weights
# have, the steps taken, the seed, and the hash of the weights that they began with.
HEAD_BYTES, AT_LAYOUT, AT_BYTES, AT_STEP, AT_SEED, AT_CONTENT = LINE, 8, 16, 24, 28, 32
# Beside the arena's cell `again`: of which program its content is, and of which values: where these
# are, what they began with, and their step.
DONE, DONE_ADDRESS, DONE_CONTENT, DONE_STEP = (ARENA_AGAIN + n for n in (4, 8, 16, 24))


@dataclass
class Body:
    """The lines of a function; values are numbered."""

    machine: Machine
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def op(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def at(self, memory: str, offset: int) -> str:
        return self.op(f"getelementptr i8, ptr {memory}, i64 {offset}")

    def load(self, type: str, memory: str, offset: int) -> str:
        return self.op(f"load {type}, ptr {self.at(memory, offset)}, align 4")

    def store(self, type: str, value: str | int, memory: str, offset: int) -> None:
        self.do(f"store {type} {value}, ptr {self.at(memory, offset)}, align 4")

    def fail(self, condition: str, code: str) -> None:
        """Return the code if the condition holds."""
        self.count += 1
        bad, good = f"bad{self.count}", f"good{self.count}"
        self.do(f"br i1 {condition}, label %{bad}, label %{good}")
        self.lines += [f"{bad}:", f"  ret i32 {code}", f"{good}:"]

    def function(self, head: str) -> str:
        lines = [f"define {head} #0 {{", "entry:", *self.lines, "  ret i32 0", "}", ""]
        return "\n".join(lines)


def size_type(machine: Machine) -> str:
    """C's size_t."""
    return f"i{machine.pointer_bits}"
