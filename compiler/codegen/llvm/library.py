"""A library's functions around the steps of its programs, as LLVM text: what C calls.

    i32 @NAME(ptr arena, size arena_bytes, ptr values, size values_bytes [, size examples])

Each looks at all that it is given before anything is computed, and returns a code of `FAILURES`
instead of a wrong result: memory that is missing, misaligned or too small, weights of another
model, a processor without the instructions, indices out of bounds. Nothing is allocated and nothing
outside is called. The arena begins with the cells of `thread_pool`; the values begin with a head of
`HEAD_BYTES`, which says of which model they are, at which step, and from which seed.
Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...ir.equation import System
from ...machines import Machine
from .function_text import without_roundings
from .index_width import narrowed
from .library_body import (
    AT_CONTENT,
    AT_SEED,
    AT_STEP,
    CODES,
    DONE,
    DONE_ADDRESS,
    DONE_CONTENT,
    DONE_STEP,
    Body,
    size_type,
)
from .module import ALONE, ATTRIBUTES
from .narrow_products import INSTRUCTIONS
from .thread_pool import ARENA_AGAIN, ARENA_BYTES, ARENA_EXAMPLES

BITS = 64  # of an index in the code generator's text


@dataclass(frozen=True)
class IndexInput:
    """An input each of whose `count` elements must choose one of `limit` places."""

    offset: int
    count: int
    bytes: int  # of an element
    limit: int


@dataclass(frozen=True)
class Entry:
    """A function of a program: what it needs, and where in the arena it finds what.

    Of a program that `trains`, the step is counted in the values. `examples` is how many a run may
    be of, 0 where their number is fixed. `counted`, `seeded` and `left` are where the number of the
    step, the seed, and the batches that are left of a step are put or stand; `check` is where a run
    says that an integer has no result; `losses` must be finite. One with a `number` leaves out what
    the run before has computed of the values alone, if that was its own and they are the same.

    Of a text that is written, one token at a time, `position` is where the program counts tokens,
    of a `window` if there is an end. What begins a text has its own arena `base` bytes further;
    then it hands over (from its arena to the other, bytes) and clears what was read before.
    """

    name: str
    arena_bytes: int
    values_bytes: int
    trains: bool = False
    examples: int = 0
    counted: int | None = None
    seeded: int | None = None
    left: int | None = None
    check: int | None = None
    losses: tuple[tuple[int, str], ...] = ()  # offset, f32 or f64
    indices: tuple[IndexInput, ...] = ()
    number: int = 0
    position: int | None = None
    window: int = 0
    base: int = 0
    handed: tuple[tuple[int, int, int], ...] = ()
    cleared: tuple[tuple[int, int], ...] = ()
    begins: bool = False
    has_step: bool = True


def entry(prefix: str, program: Entry, machine: Machine) -> str:
    """The public function of a program, for the end of the module that has its `@step`."""
    size, body = size_type(machine), Body(machine)
    needs = f"ptr %arena, {size} %arena_bytes, {size} {program.arena_bytes}"
    needs += f", ptr %values, {size} %values_bytes, {size} {program.values_bytes}"
    code = body.op(f"call i32 @{prefix}.checked({needs})")
    body.fail(body.op(f"icmp ne i32 {code}, 0"), code)
    inner = body.at("%arena", program.base + ARENA_BYTES)
    team = ""
    if machine.threads > 1:
        parts = body.op(f"call i32 @{prefix}.parts(ptr %team)")
        body.fail(body.op(f"icmp eq i32 {parts}, 0"), str(CODES["WRONG_PARTS"]))
        team = f", ptr %team, i32 {parts}"
    if program.examples:
        less = body.op(f"sub {size} %examples, 1")
        wrong = body.op(f"icmp uge {size} {less}, {program.examples}")
        body.fail(wrong, str(CODES["WRONG_EXAMPLES"]))
        is_wide = machine.pointer_bits > 32
        number = body.op(f"trunc {size} %examples to i32") if is_wide else "%examples"
        body.store("i32", number, inner, ARENA_EXAMPLES)
    for one in program.indices:
        first = body.at(inner, one.offset)
        given = f"ptr {first}, i64 {one.count}, i64 {one.limit}"
        inside = body.op(f"call i1 @{prefix}.inside{8 * one.bytes}({given})")
        outside = body.op(f"xor i1 {inside}, true")
        body.fail(outside, str(CODES["INDEX_OUTSIDE"]))
    if program.window:
        position = body.load("i32", inner, program.position or 0)
        full = body.op(f"icmp uge i32 {position}, {program.window}")
        body.fail(full, str(CODES["WINDOW_FULL"]))
    _set_scalars(body, program, inner)
    if program.number:
        _look_back(body, program.number, inner)
    else:
        body.store("i32", 0, inner, ARENA_AGAIN)
        body.store("i32", 0, inner, DONE)
    if program.has_step:
        body.do(f"call void @step(ptr {inner}, ptr %values{team})")
    if program.check is not None:
        refused = body.op(f"icmp ne i32 {body.load('i32', inner, program.check)}, 0")
        body.fail(refused, str(CODES["NO_RESULT"]))
    if program.trains:
        _count_step(body, program, inner)
    for offset, dtype in program.losses:
        _check_finite(body, inner, offset, dtype)
    if program.begins:
        _begin_text(body, prefix, program, inner)
    elif program.position is not None:
        read = body.load("i32", inner, program.position)
        body.store("i32", body.op(f"add i32 {read}, 1"), inner, program.position)
    taken = f"ptr %arena, {size} %arena_bytes, ptr %values, {size} %values_bytes"
    if program.examples:
        taken += f", {size} %examples"
    if machine.threads > 1:
        taken += ", ptr %team"
    helpers = _helpers(prefix, program, size)
    if machine.threads > 1:
        helpers += f"declare hidden i32 @{prefix}.parts(ptr)\n"
    return helpers + body.function(f"i32 @{program.name}({taken})")


def _set_scalars(body: Body, program: Entry, inner: str) -> None:
    """The number of the step and the seed, from the head of the values."""
    if program.counted is not None:
        step = body.load("i32", "%values", AT_STEP)
        # Programs count steps from 1, also before the first.
        if program.trains:
            step = body.op(f"add i32 {step}, 1")
        else:
            none = body.op(f"icmp slt i32 {step}, 1")
            step = body.op(f"select i1 {none}, i32 1, i32 {step}")
        body.store("i32", step, inner, program.counted)
    if program.seeded is not None:
        body.store("i32", body.load("i32", "%values", AT_SEED), inner, program.seeded)


def _look_back(body: Body, number: int, inner: str) -> None:
    """Set the cell `again`: whether the prologue of the run before is still good."""
    address = body.op("ptrtoint ptr %values to i64")  # with zeros above where it is shorter
    now = {
        DONE_ADDRESS: ("i64", address),
        DONE_CONTENT: ("i64", body.load("i64", "%values", AT_CONTENT)),
        DONE_STEP: ("i32", body.load("i32", "%values", AT_STEP)),
        DONE: ("i32", str(number)),
    }
    same = "true"
    for place, (type, value) in now.items():
        equal = body.op(f"icmp eq {type} {body.load(type, inner, place)}, {value}")
        same = body.op(f"and i1 {same}, {equal}")
        body.store(type, value, inner, place)
    body.store("i32", body.op(f"zext i1 {same} to i32"), inner, ARENA_AGAIN)


def _count_step(body: Body, program: Entry, inner: str) -> None:
    """One more step, unless batches of it are left."""
    before = body.load("i32", "%values", AT_STEP)
    after = body.op(f"add i32 {before}, 1")
    if program.left is not None:
        more = body.op(f"icmp ne i32 {body.load('i32', inner, program.left)}, 0")
        after = body.op(f"select i1 {more}, i32 {before}, i32 {after}")
    body.store("i32", after, "%values", AT_STEP)


def _begin_text(body: Body, prefix: str, program: Entry, inner: str) -> None:
    """Hand over what is the same for all tokens, and forget those that were read."""
    other = body.at("%arena", ARENA_BYTES)
    for source, target, size in program.handed:
        places = f"ptr {body.at(other, target)}, ptr {body.at(inner, source)}"
        body.do(f"call void @{prefix}.copy({places}, i64 {size})")
    for offset, size in program.cleared:
        body.do(f"call void @{prefix}.clear(ptr {body.at(other, offset)}, i64 {size})")
    if program.position is not None:
        body.store("i32", 0, other, program.position)
    body.store("i32", 0, other, DONE)


def _check_finite(body: Body, inner: str, offset: int, dtype: str) -> None:
    """A number is finite exactly if its difference from itself is 0."""
    type = {"f32": "float", "f64": "double"}[dtype]
    loss = body.load(type, inner, offset)
    none = body.op(f"fsub {type} {loss}, {loss}")
    body.fail(body.op(f"fcmp une {type} {none}, 0.0"), str(CODES["NOT_FINITE"]))


def _helpers(prefix: str, program: Entry, size: str) -> str:
    """Declarations of what the function calls in the module of `shared`."""
    checked = f"i32 @{prefix}.checked(ptr, {size}, {size}, ptr, {size}, {size})"
    lines = [f"declare hidden {checked}"]
    for bits in sorted({8 * one.bytes for one in program.indices}):
        lines.append(f"declare hidden i1 @{prefix}.inside{bits}(ptr, i64, i64)")
    if program.handed:
        lines.append(f"declare hidden void @{prefix}.copy(ptr, ptr, i64)")
    if program.cleared:
        lines.append(f"declare hidden void @{prefix}.clear(ptr, i64)")
    return "\n".join([*lines, ""])


def memset(machine: Machine) -> str:
    """What LLVM calls to fill memory, as a function of the library's own: by 8 bytes as long as
    there are so many."""
    size = size_type(machine)
    return f"""
define weak_odr hidden ptr @memset(ptr %to, i32 %value, {size} %bytes) #0 {{
entry:
  %one = trunc i32 %value to i8
  %low = zext i8 %one to i64
  %eight = mul i64 %low, 72340172838076673 ; the byte in all places
  %words = and {size} %bytes, -8
  br label %loop
loop:
  %n = phi {size} [ 0, %entry ], [ %next, %word ]
  %more = icmp ult {size} %n, %words
  br i1 %more, label %word, label %rest
word:
  %there = getelementptr i8, ptr %to, {size} %n
  store i64 %eight, ptr %there, align 1
  %next = add {size} %n, 8
  br label %loop
rest:
  %m = phi {size} [ %n, %loop ], [ %following, %byte ]
  %some = icmp ult {size} %m, %bytes
  br i1 %some, label %byte, label %end
byte:
  %here = getelementptr i8, ptr %to, {size} %m
  store i8 %one, ptr %here, align 1
  %following = add {size} %m, 1
  br label %rest
end:
  ret ptr %to
}}
"""


def program_module(
    alone: str, system: System, prefix: str, program: Entry, machine: Machine
) -> str:
    """The module of a program: its step, `alone`, and the function that C calls. `system` is what
    the step computes."""
    if not program.has_step:
        return f"{entry(prefix, program, machine)}\n{ATTRIBUTES}\n"
    assert f"void @step({ALONE}" in alone
    # Modules share one page of zeros.
    text = alone.replace("@zeros = internal", "@zeros = linkonce_odr hidden")
    for dtype in {"f32", "f64"}.difference(machine.fma):
        text = re.sub(rf"@llvm\.fma\.(v\d+)?{dtype}\b", rf"@llvm.fmuladd.\1{dtype}", text)
    if machine.pointer_bits < BITS:
        text = narrowed(text, system)
    if machine.is_wasm:  # which has the same instruction, i32x4.dot_i16x8_s
        text = text.replace(f"@{INSTRUCTIONS[4]}", "@llvm.wasm.dot")
    if machine.small:
        text = without_roundings(text)
        text = text.replace(ATTRIBUTES, ATTRIBUTES.replace("nounwind", "nounwind minsize optsize"))
    clears = memset(machine) if "@llvm.memset." in text else ""
    return text + clears + entry(prefix, program, machine)
