"""Functions of a module that are called, and not written out wherever they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    kind, symbol = a.type("f32"), f"@nnc.{name}.{a.lanes}"
    body = FunctionText(symbol)
    given = [f"%x{n}" for n in range(len(args))]
    result = write(Vector(Arithmetic(body, a.lanes, a.doubles), "f32"), *given)
    for line in body.declared:
        a.e.declare(line)
    taken = ", ".join(f"{kind} {one}" for one in given)
    lines = [f"define internal {kind} {symbol}({taken}) #0 {{", "entry:", *body.lines]
    a.e.declare("\n".join([*lines, f"  ret {kind} {result}", "}"]))
    slots = ", ".join(f"{{T}} {{{n}}}" for n in range(len(args)))
    return a.e.op(f"call {{T}} {symbol}({slots})", *args, type=kind)
