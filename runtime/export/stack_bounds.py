"""How much stack the functions of a library take at most: the frames along the longest chain of
calls, read from the assembly that LLVM writes.

In: assembly for ARM or RISC-V. Out: bytes, by function. What lowers the stack pointer is counted
once, as frames are made where a function begins; where a frame is aligned to more than the stack
is, what may be skipped counts as well. Functions from outside (libgcc's) count as 0. Cf. GCC's
-fstack-usage. Tests: tests/runtime/test_stack_bounds.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

# A name may be quoted.
LABEL = re.compile(r'"?([^\s":]+)"?:')
FUNCTION = re.compile(r'\s*\.type\s+"?([^\s",]+)"?,\s*[@%]function')
WORDS = re.compile(r'[^\s,()\[\]{}"#%:=+@]+')

Amount = Callable[[re.Match[str]], int]


def _registers(bytes: int) -> Amount:
    return lambda found: bytes * len(found[1].split(","))


def _number(found: re.Match[str]) -> int:
    return int(found[1])


# What lowers the stack pointer, and by how many bytes at most where its last bits are cleared.
LOWERING: tuple[tuple[str, Amount], ...] = (
    (r"push(?:\.w)?\s+\{(.*)\}", _registers(4)),
    (r"vpush\s+\{(.*)\}", _registers(8)),
    (r"sub(?:\.w)?\s+sp, (?:sp, )?#(\d+)", _number),
    (r"str(?:\.w|d)?\s+.*\[sp, #-(\d+)\]!", _number),
    (r"bfc\s+sp, #0, #(\d+)", lambda found: (1 << int(found[1])) - 1),
    (r"addi\s+sp, sp, -(\d+)", _number),
    (r"andi\s+sp, sp, -(\d+)", lambda found: int(found[1]) - 1),
)
PATTERNS = [(re.compile(text + "$"), amount) for text, amount in LOWERING]
# What raises it, takes an address that was counted where it was made, or stores there.
OTHERS = re.compile(
    r"(?:add(?:\.w)?\s+sp, (?:sp, )?(?:#\d+|\w+)|mov\s+sp, \w+|addi\s+sp, \w+, -?\d+"
    r"|(?:stm|ldm)(?:ia)?(?:\.w)?\s+sp, \{.*\}"
    r"|add\s+sp, sp, \w+|c?\.?mv\s+sp, \w+|sub(?:\.w)?\s+sp, r\d+, #\d+)$"
)
STACK = re.compile(r"\w+(?:\.\w+)?\s+sp,")
FAR = re.compile(r"sub\s+sp, sp, (\w+)$")
CLEARED = re.compile(r"bfc\s+(\w+), #0, #(\d+)$")  # the last bits of a register …
MOVED = re.compile(r"mov\s+sp, (\w+)$")  # … that becomes the stack pointer
OUTLINED = "OUTLINED_FUNCTION_"  # what LLVM has taken out of several functions, frames included
CONSTANT = re.compile(r"(lui|li|addiw?)\s+(\w+), (?:(\w+), )?(-?\d+)$")


class Unknown(Exception):
    """An instruction changes the stack pointer, and it is not known by how much."""


def stack_bounds(assembly: str) -> dict[str, int]:
    """The most bytes of each function and of all that it calls; none if that is not known."""
    try:
        frames, calls = _frames(assembly)
    except Unknown:
        return {}

    @cache
    def deepest(name: str) -> int:
        own = frames[name] + sum(frames[n] for n in calls[name] if n.startswith(OUTLINED))
        inside = (deepest(n) - frames[n] * n.startswith(OUTLINED) for n in calls[name])
        return own + max(inside, default=0)

    return {name: deepest(name) for name in frames}


def _frames(assembly: str) -> tuple[dict[str, int], dict[str, set[str]]]:
    """The bytes of every function's own frame, and what it calls."""
    functions = set(FUNCTION.findall(assembly))
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    name, constants = "", dict[str, int]()
    for line in assembly.splitlines():
        label = LABEL.match(line)
        if label and label[1] in functions:
            name, constants = label[1], {}
            frames[name], calls[name] = 0, set()
        text = re.split(r"\s*[@#](?![-\d])", line, maxsplit=1)[0].strip()
        if not name or not text or (text.startswith(".") and not text.startswith(".long")):
            continue
        frames[name] += _lowered(text, constants)
        # A function whose address is taken is called, too: by the caller's threads.
        calls[name] |= functions.intersection(WORDS.findall(text)) - {name}
    return frames, calls


def _lowered(text: str, constants: dict[str, int]) -> int:
    """By how many bytes an instruction lowers the stack pointer; `constants` are those that
    registers of RISC-V hold, and what was cleared from those of ARM."""
    for pattern, amount in PATTERNS:
        found = pattern.match(text)
        if found:
            return amount(found)
    moved = MOVED.match(text)
    if moved:
        return constants.pop(moved[1], 0)
    far = FAR.match(text)
    if far and far[1] in constants:
        return constants[far[1]]
    if STACK.match(text) and not OTHERS.match(text):
        raise Unknown(text)
    _note_constant(text, constants)
    return 0


def _note_constant(text: str, constants: dict[str, int]) -> None:
    cleared = CLEARED.match(text)
    if cleared:
        constants[cleared[1]] = (1 << int(cleared[2])) - 1
    found = CONSTANT.match(text)
    if not found:
        return
    how, register, source, number = found[1], found[2], found[3], int(found[4])
    if how == "lui":
        constants[register] = number << 12
    elif how == "li":
        constants[register] = number
    elif source in constants:
        constants[register] = constants[source] + number
    else:
        constants.pop(register, None)
