"""Functions of a module that are called, and not written out wherever they are used."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from .arithmetic import Arithmetic
from .vector import Vector


@dataclass
class FunctionText:
    """The lines of a function that is called and not written in place."""

    name: str
    lines: list[str] = field(default_factory=list)
    declared: dict[str, None] = field(default_factory=dict)

    def op(self, text: str, *operands: str, type: str) -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {text.format(*operands, T=type)}")
        return name

    def declare(self, line: str) -> None:
        self.declared[line] = None


def called(a: Arithmetic, name: str, args: Sequence[str], write: Callable[..., str]) -> str:
    """The result of a function of f32 that `write` writes, of operands that are given to it."""
    for line in _declarations(name, a.lanes, a.doubles, len(args), write):
        a.e.declare(line)
    slots = ", ".join(f"{{T}} {{{n}}}" for n in range(len(args)))
    return a.e.op(f"call {{T}} {_symbol(name, a.lanes)}({slots})", *args, type=a.type("f32"))


@cache
def _declarations(
    name: str, lanes: int, doubles: bool, arity: int, write: Callable[..., str]
) -> tuple[str, ...]:
    """What a module with the function declares: what the function calls, and itself."""
    return _function(Arithmetic(FunctionText(_symbol(name, lanes)), lanes, doubles), arity, write)


def _function(
    a: Arithmetic, arity: int, write: Callable[..., str], dtype: str = "f32"
) -> tuple[str, ...]:
    """What the function that `a` writes calls, and its text."""
    body, given, kind = a.e, [f"%x{n}" for n in range(arity)], a.type(dtype)
    assert isinstance(body, FunctionText)
    result = write(Vector(a, dtype), *given)
    taken = ", ".join(f"{kind} {one}" for one in given)
    lines = [f"define internal {kind} {body.name}({taken}) #0 {{", "entry:", *body.lines]
    return (*body.declared, "\n".join([*lines, f"  ret {kind} {result}", "}"]))


def without_roundings(text: str) -> str:
    """A module in which numbers, one at a time, are rounded to whole ones by functions of its own.
    Where code is to be short, LLVM calls libm for them on processors without an instruction."""
    functions: dict[str, None] = {}
    for how, dtype in product(("rint", "floor", "ceil"), ("f32", "f64")):
        intrinsic, name = f"@llvm.{how}.{dtype}(", f"@nnc.{how}.{dtype}"
        if intrinsic in text:
            text = re.sub(rf"^declare .*{re.escape(intrinsic)}.*\n", "", text, flags=re.MULTILINE)
            text = text.replace(intrinsic, f"{name}(")
            a = Arithmetic(FunctionText(name), 1)
            functions |= dict.fromkeys(
                _function(a, 1, lambda v, x, how=how: v.whole_by_addition(how, x), dtype)
            )
    lines = [line for line in functions if line not in text]
    return "\n".join([text, *lines, ""])


def _symbol(name: str, lanes: int) -> str:
    return f"@nnc.{name}.{lanes}"
