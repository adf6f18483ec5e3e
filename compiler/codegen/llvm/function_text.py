"""Functions of a module that are called, and not written out wherever they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

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
    symbol, given = _symbol(name, lanes), [f"%x{n}" for n in range(arity)]
    body = FunctionText(symbol)
    a = Arithmetic(body, lanes, doubles)
    result, kind = write(Vector(a, "f32"), *given), a.type("f32")
    taken = ", ".join(f"{kind} {one}" for one in given)
    lines = [f"define internal {kind} {symbol}({taken}) #0 {{", "entry:", *body.lines]
    return (*body.declared, "\n".join([*lines, f"  ret {kind} {result}", "}"]))


def _symbol(name: str, lanes: int) -> str:
    return f"@nnc.{name}.{lanes}"
