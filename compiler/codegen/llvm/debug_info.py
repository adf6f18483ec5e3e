"""Debug information: which equations every instruction computes, as LLVM's metadata.

    %v8 = fmul float %v3, %v7, !dbg !12        !12 = !DILocation(line: 12, scope: !10)

An equation may come from several places of the source at once, and equal kernels share one
function. So the line of a location is no line of a file, but the number of a list of equations;
what LLVM makes of the locations leads back to these. Only the directives `.loc` are made of them
(DebugDirectivesOnly): the instructions are the same as without, and no section is added. It is
written for those who read the code; what runs has none.

Cf. "Source Level Debugging with LLVM". Tests: tests/backends/test_debug_info.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ...ir.equation import Equation
from ...ir.printer import Line, origins
from ...passes.kernels.kernel import Kernel

Equations = tuple[Equation, ...]
SHOWN = 2  # places in a comment

# The first nodes of all modules: the unit, the version, the file, the type of functions.
_NODES = (
    "distinct !DICompileUnit(language: DW_LANG_C, file: !2, emissionKind: DebugDirectivesOnly)",
    '!{i32 2, !"Debug Info Version", i32 3}',
    '!DIFile(filename: "equations", directory: "")',
    "!DISubroutineType(types: !{})",
)
_HEAD = "!llvm.dbg.cu = !{!0}\n!llvm.module.flags = !{!1}\n"
_FUNCTION = (
    "distinct !DISubprogram(name: {name}, scope: !2, file: !2, line: {number}, type: !3, "
    "scopeLine: {number}, spFlags: DISPFlagDefinition, unit: !0)"
)
_IN_LLVM = re.compile(r",? !dbg !(\d+)")
_IN_ASM = re.compile(r"\t\.loc\t\d+ (\d+)")
_LABEL = re.compile(r'"?([^"]+)"?:')
_INSTRUCTION = re.compile(r"  (?!(br|ret) )|\t[^.]")
_ONLY_DEBUG = re.compile(r"\t\.(file\t\d|cfi_)|\.L(tmp|func_begin)\d+:")


class DebugInfo:
    """The locations of one module."""

    def __init__(self) -> None:
        self._nodes = list(_NODES)
        # what a node stands for, by its number, which is the line of the location, too
        self._equations: dict[int, Equations] = {}
        self._functions: dict[str, Equations] = {}

    def function(self, name: str, members: Sequence[Kernel]) -> Mapping[str, str]:
        """What follows the instructions of a function that serves equal kernels, by the target in
        the first of them; and what follows its head, by "". `name` is in quotes."""
        every = tuple(eq for kernel in members for eq in kernel.equations)
        self._functions[name.strip('"')] = every
        scope = self._node(every, _FUNCTION.replace("{name}", name))
        found = {"": f" !dbg !{scope}"}
        # Equal kernels have equal equations in the same order.
        for equations in zip(*(kernel.equations for kernel in members), strict=True):
            here = self._node(equations, f"!DILocation(line: {{number}}, scope: !{scope})")
            found[equations[0].target] = f", !dbg !{here}"
        return found

    def _node(self, equations: Equations, text: str) -> int:
        number = len(self._nodes)
        self._nodes.append(text.replace("{number}", str(number)))
        self._equations[number] = equations
        return number

    def __str__(self) -> str:
        nodes = (f"!{number} = {text}\n" for number, text in enumerate(self._nodes))
        return _HEAD + "".join(nodes)

    def llvm_lines(self, text: str) -> list[Line]:
        """The lines of the module, with comments in place of the metadata."""
        return list(_commented(self._llvm_lines(text), "  ; "))

    def _llvm_lines(self, text: str) -> Iterator[Line]:
        here: Equations = ()
        for line in text.partition(f"\n{_HEAD}")[0].splitlines():
            if found := _IN_LLVM.search(line):
                here = self._equations[int(found[1])]
                line = line[: found.start()] + line[found.end() :]
            # Labels and branches have no location: they go with what is before them.
            yield Line(line, here)
            here = () if line == "}" else here

    def asm_lines(self, text: str) -> list[Line]:
        """The lines of an assembler's text of the module, with comments in place of `.loc`."""
        return list(_commented(self._asm_lines(text), "\t# "))

    def _asm_lines(self, text: str) -> Iterator[Line]:
        here = function = Equations()
        for line in text.splitlines():
            if found := _IN_ASM.match(line):
                # Line 0 is what LLVM has moved from block to block, which loses its place.
                here = self._equations.get(int(found[1]), function)
            elif not _ONLY_DEBUG.match(line):
                if label := _LABEL.match(line):
                    here = function = self._functions.get(label[1], function)
                yield Line(line, here)
                if line.startswith("\t.size"):
                    here = function = ()


def _commented(lines: Iterator[Line], mark: str) -> Iterator[Line]:
    """The lines with a comment before each run of instructions from other equations."""
    previous = ""
    for line in lines:
        comment = _comment(line.equations) if _INSTRUCTION.match(line.text) else ""
        if comment and comment != previous:
            yield Line(mark + comment, line.equations)
        # the next function begins with a comment in any case
        previous = (comment or previous) if line.equations else ""
        yield line


def _comment(equations: Equations) -> str:
    """What an instruction computes and the places that this comes from."""
    places = list(dict.fromkeys(origins(eq.span) for eq in equations if eq.span is not None))
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"{equations[0].target}: {'; '.join(places[:SHOWN])}{more}" if places else ""
