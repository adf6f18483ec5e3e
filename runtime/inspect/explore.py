"""`nnc explore`: one page with a program at every stage, whose lines are linked.

In: `Stages`, and a `Profile` if there is one. Out: the text of an HTML page that needs no other
file, in the manner of Compiler Explorer. The lines and their links are gathered here; what the page
looks like and does is in `page/`. Tests: tests/runtime/test_explore.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from ...compiler.ir.equation import System
from ...compiler.ir.printer import Line, type_text
from ...compiler.passes.kernels.kernel import Blocks, Item, Kernel, Plan
from ...compiler.passes.kernels.memory import lifetimes
from ...dsl.syntax.highlighting import RULES
from ..compiling import compiling
from .emit import Stages
from .linked_lines import Links, Pane
from .profiling import STAGES, LineTime, Profile

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("syntax.js", "pane.js", "memory.js", "explore.js")
ENDINGS = (".html", ".htm")
TIMED = ("gradients", "kernels")  # stages whose lines have times; those of the source have, too
DEVICES = {"cpu": "CPU", "cuda": "GPU (H100)"}


@compiling()
def explore(stages: Stages, device: str = "cpu", profile: Profile | None = None) -> str:
    """The page of a program on `cpu` or `cuda`. UserError if the program is wrong."""
    links, times = Links(), times_of_targets(profile)
    panes = []
    for pane, lines in _stages(stages, device):
        links.fill(pane, lines, times if pane.name in TIMED else {})
        panes.append(pane)
    memory = _memory(stages.code.plan if device == "cpu" else stages.gpu_plan, links)
    main = stages.project.model.span.source
    own = [main, *(source for source in links.sources(library=False) if source is not main)]
    panes[:0] = [
        Pane("source", "Source", "nn"),
        Pane("library", "Library", "nn", "definitions that are used"),
    ]
    links.fill_source(panes[0], own)
    links.fill_source(panes[1], links.sources(library=True))
    if profile is not None:
        timed = profile.lines()
        add_times(panes[0], timed)
        add_times(panes[1], [inner for line in timed for inner in line.within.values()])
    batch = stages.setup.batch if stages.setup else stages.project.settings.batch
    data = {
        "title": stages.project.name,
        "about": f"{main.name}, batch {batch}, {DEVICES[device]}",
        "file": main.name,
        "links": links.plain(),
        "panes": [pane.plain() for pane in panes],
        "memory": memory,
        "rules": [[rule.pattern, rule.kinds] for rule in RULES],
        "profile": None if profile is None else _profile(profile),
    }
    return _page(data, main.text)


def _stages(stages: Stages, device: str) -> Iterator[tuple[Pane, Iterable[Line]]]:
    """The stages after the source, and their lines."""
    yield Pane("equations", "Equations", "nn", "layers inlined"), stages.equation_lines
    if stages.setup is not None:
        about = "the whole training step"
        yield Pane("gradients", "Gradients", "nn", about), stages.gradient_lines
    kernels = Pane("kernels", "Kernels", "kernels", "fused equations, in the order of their runs")
    if device == "cpu":
        yield kernels, stages.kernel_lines
        yield Pane("loops", "Loops", "loops", "tiles, vectors, threads"), stages.loop_lines
        yield Pane("llvm", "LLVM", "llvm", "as it is given to LLVM"), stages.llvm_lines
        yield Pane("asm", "Assembly", "asm", "for this computer"), stages.asm_lines
    else:
        yield kernels, stages.gpu_kernel_lines
        yield Pane("grids", "Grids", "loops", "blocks of threads"), stages.grid_lines
        yield Pane("cuda", "CUDA C++", "cuda", "without the prelude"), stages.cuda_lines


def _page(data: dict[str, Any], source: str) -> str:
    """The template with everything in its place."""
    plain = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "title": escape(data["title"]),
        "style": (PAGE / "explore.css").read_text("utf-8"),
        "script": "".join((PAGE / name).read_text("utf-8") for name in SCRIPTS),
        "source": escape(source),
        # What would end the script or begin a comment of HTML, spelled otherwise.
        "data": plain.replace("</", "<\\/").replace("<!", "\\u003c!"),
    }
    template = (PAGE / "explore.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


# --- memory ---------------------------------------------------------------------------------------


def _memory(plan: Plan, links: Links) -> dict[str, Any]:
    """The plan of the arena: items in the order in which they run, tensors with their lives."""
    system = plan.system
    tensors = [
        {
            "name": life.tensor, "kind": _kind(life.tensor, system), "offset": life.offset,
            "bytes": life.bytes, "first": life.first, "last": life.last,
            "type": type_text(system.tensors[life.tensor]),
            "set": _set_of(life.tensor, system, links),
        }
        for life in lifetimes(plan)
    ]  # fmt: skip
    items = list(map(_called, plan.items))
    return {"bytes": plan.arena_bytes, "held": plan.held_bytes, "items": items, "tensors": tensors}


def _kind(name: str, system: System) -> str:
    return "output" if name in system.outputs else system.tensors[name].kind


def _set_of(name: str, system: System, links: Links) -> int:
    """Where the tensor is computed, or declared."""
    equation = system.definition.get(name)
    return links.of_spans([system.tensors[name].span if equation is None else equation.span])


def _called(item: Item) -> str:
    if isinstance(item, Kernel):
        return item.name
    if isinstance(item, Blocks):
        over = item.fixed[0] if item.row is None else item.row
        return f"blocks {over.name}: {', '.join(kernel.name for kernel in item.kernels)}"
    return f"scan {item.index.name}: {', '.join(kernel.name for kernel in item.every)}"


# --- time -----------------------------------------------------------------------------------------


def times_of_targets(profile: Profile | None) -> dict[str, list[float]]:
    """Milliseconds of each stage of the step that the equation of a tensor takes."""
    found: dict[str, list[float]] = {}
    for kernel in profile.kernels if profile else ():
        for share in kernel.shares:
            times = found.setdefault(share.equation.target, [0.0] * len(STAGES))
            times[STAGES.index(share.stage)] += share.ms
    return found


def add_times(pane: Pane, lines: Iterable[LineTime]) -> None:
    """The times of lines of a source."""
    rows = {place: row for row, place in enumerate(pane.places) if place is not None}
    for line in lines:
        row = rows.get((line.span.source, line.span.line))
        if row is not None:
            before = pane.times.get(row, [0.0] * len(STAGES))
            pane.times[row] = [a + line.ms[s] for a, s in zip(before, STAGES, strict=True)]


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "stages": STAGES,
        "step": profile.step_ms,
        "kernels": profile.kernel_ms,
        "on": profile.gpu or f"{profile.threads} thread{'s' * (profile.threads != 1)}",
    }
