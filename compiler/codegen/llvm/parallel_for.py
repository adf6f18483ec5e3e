"""A kernel whose shares the caller's own threads compute, as LLVM text.

    part(frame, number)               one share of a kernel, whose arguments are in the frame
    divide(team, parts, part, frame)  all of them: team.run(context, parts, part, frame), or one

A library has no threads. Who calls it may give a `team`: the address of a function that runs the
parts 0 to parts - 1 in any order and on any threads, of a context for it, and a number of parts. It
returns when all parts have been run, so that no part waits for another one: fork and join, cf.
OpenMP's `parallel for`. Tests: tests/runtime/test_export_threads.py.
"""

from __future__ import annotations

from collections.abc import Sequence

ARENA, VALUES, PARTS, FIRST = 0, 1, 2, 3  # places of a frame, of an i64 each
DIVIDED = "ptr %arena, ptr %values, ptr %team, i32 %count"  # the arguments of a step

DIVIDE = """
define internal void @divide(ptr %team, i64 %parts, ptr %part, ptr %frame) #0 {
entry:
  %alone = icmp eq i64 %parts, 1
  br i1 %alone, label %one, label %all
one:
  call void %part(ptr %frame, i32 0)
  ret void
all:
  %run = load ptr, ptr %team, align 4
  %next = getelementptr ptr, ptr %team, i64 1
  %context = load ptr, ptr %next, align 4
  %number = trunc i64 %parts to i32
  call void %run(ptr %context, i32 %number, ptr %part, ptr %frame)
  ret void
}
"""


def opened(arguments: int = 0) -> list[str]:
    """The lines that read a frame: %arena, %values, %threads, %thread and %given0, %given1, …"""
    lines = [
        "%arena = load ptr, ptr %frame, align 4",
        f"%at.values = getelementptr i64, ptr %frame, i64 {VALUES}",
        "%values = load ptr, ptr %at.values, align 4",
        f"%at.parts = getelementptr i64, ptr %frame, i64 {PARTS}",
        "%threads = load i64, ptr %at.parts, align 4",
        "%thread = sext i32 %number to i64",
    ]
    for n in range(arguments):
        lines.append(f"%at{n} = getelementptr i64, ptr %frame, i64 {FIRST + n}")
        lines.append(f"%given{n} = load i64, ptr %at{n}, align 4")
    return lines


def part(name: str, function: str, arguments: int) -> str:
    """A share of a kernel's function that takes so many i64 besides the arena and the thread."""
    given = "".join(f", i64 %given{n}" for n in range(arguments))
    lines = [f"  {line}" for line in opened(arguments)]
    call = f"  call void @{function}(ptr %arena, i64 %thread, i64 %threads{given})"
    return "\n".join([f"{head(name)} {{", "entry:", *lines, call, "  ret void", "}", ""])


def head(name: str) -> str:
    return f"define internal void @{name}(ptr %frame, i32 %number) #0"


def team_parts(name: str, most: int) -> str:
    """The function that says of how many parts a run is: 1 without a team, 0 if it is none."""
    return f"""
define hidden i32 @{name}(ptr %team) #0 {{
entry:
  %none = icmp eq ptr %team, null
  br i1 %none, label %one, label %some
one:
  ret i32 1
some:
  %run = load ptr, ptr %team, align 4
  %missing = icmp eq ptr %run, null
  %at = getelementptr ptr, ptr %team, i64 2
  %parts = load i32, ptr %at, align 4
  %less = sub i32 %parts, 1
  %many = icmp uge i32 %less, {most}
  %wrong = or i1 %missing, %many
  %found = select i1 %wrong, i32 0, i32 %parts
  ret i32 %found
}}
"""


def frame_places(parts: str, given: Sequence[str]) -> list[tuple[int, str]]:
    """What is stored in a frame, and where: places and operands."""
    return [
        (ARENA, "ptr %arena"), (VALUES, "ptr %values"), (PARTS, f"i64 {parts}"),
        *((FIRST + n, f"i64 {one}") for n, one in enumerate(given)),
    ]  # fmt: skip
