"""What a function of a library takes of a microcontroller: flash, RAM and stack.

In: the modules, the objects of an archive, the programs. Out: bytes by what they are of, as the
report, the page and the manifest have them. Tests: tests/runtime/test_stack_bounds.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...compiler.machines import Machine
from .building import assembly_of
from .layout import Layout
from .programs import Program
from .stack_bounds import stack_bounds


def footprint(
    texts: Sequence[str],
    prefix: str,
    machine: Machine,
    programs: Sequence[Program],
    layout: Layout,
    objects: Mapping[str, Mapping[str, int]],
) -> dict[str, int]:
    """For each program its stack at most; flash: its code, that of the checks, constants and the
    weights; RAM: its arena and its stack, and what it trains. Flash is that of the objects of an
    archive, by name, of which a linker takes those that are called."""
    stacks = stack_bounds(assembly_of(texts, prefix, machine))
    found = {}
    for program in programs:
        name = program.name
        if name in stacks:
            found[f"stack of {name}"] = stacks[name]
        if {prefix, name} <= objects.keys():
            constant = sum(objects[n]["code"] + objects[n]["constants"] for n in (prefix, name))
            found[f"flash for {name}"] = constant + layout.weights_bytes
        trained = layout.bytes * (program.purpose == "train_step")
        found[f"RAM for {name}"] = program.arena_bytes + stacks.get(name, 0) + trained
    return found


def needs(name: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """What the manifest says of a function, where it is known."""
    rows = {"stack_bytes": f"stack of {name}", "flash_bytes": f"flash for {name}"}
    return {key: sizes[row] for key, row in rows.items() if row in sizes}
