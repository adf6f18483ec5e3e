"""Indices of 32 bits, for machines whose addresses have so many.

    %v1 = mul i64 %v0, 24                     %v1 = mul i32 %v0, 24
    %v2 = sext i32 %n to i64           →      %v2 = bitcast i32 %n to i32

The code generator computes indices, offsets and trip counts in i64, of which such a machine takes
two registers and several instructions each; no memory there has an offset that i32 does not hold.
Applies to a module in which i64 stands for nothing else: its equations have no numbers of i64, and
no double, whose bits are i64. Cf. LLVM's IndVarSimplify, which narrows induction variables one by
one. Tests: tests/runtime/test_export_small.py.
"""

from __future__ import annotations

import re

from ...ir.dtypes import INTEGERS
from ...ir.equation import System
from ...ir.expr import walk

WIDE = {"i64", "f64"}
NUMBER = re.compile(r"(?<![\w.%@])-?\d+(?![\w.])")


def narrowed(text: str, system: System) -> str:
    """The module with i32 for i64; as it is where that could change what it computes."""
    found = {node.dtype for eq in system.equations for node in walk(eq.body)}
    found |= {tensor.dtype for tensor in system.tensors.values()}
    least, most = INTEGERS["i32"]
    far = any(not least <= int(n) <= most for n in NUMBER.findall(text))
    if found & WIDE or "double" in text or far:
        return text
    text = re.sub(r"\b(v\d+)?i64\b", r"\1i32", text)
    kind = r"((?:<\d+ x )?i32>?)"
    text = re.sub(rf"= (?:sext|zext|trunc) {kind} (\S+) to \1", r"= bitcast \1 \2 to \1", text)
    # Two intrinsics may have become one.
    lines = dict[str, None]()
    kept = []
    for line in text.split("\n"):
        if line.startswith("declare "):
            if line in lines:
                continue
            lines[line] = None
        kept.append(line)
    return "\n".join(kept)
