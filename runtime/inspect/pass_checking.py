"""`--verify`: every pass of the compiler is checked while a command compiles.

In: a device. Out: the same device, which checks the passes over each system before it compiles it:
the rules of a system after each pass, and on random numbers that no value changed. InternalError
with the name of the pass otherwise. The machine code itself is `nnc verify`'s business.
"""

from __future__ import annotations

from collections.abc import Callable

from ...compiler.ir.equation import System
from ...compiler.ir.verify import verify
from ...compiler.pipeline import CPU, derive, plan
from ...compiler.reference.pass_checker import EVALUABLE, PassCheck, points
from ..device import Device, Program
from ..device.cpu import host
from .sample_inputs import random_values


def checking(device: Device, say: Callable[[str], None]) -> Device:
    """The device, with all passes checked. `say` is told what was checked."""

    def checked(system: System) -> Program:
        # before the device compiles: a wrong pass is named even if its code would crash
        check_passes(system, say)
        return device(system)

    return checked


def check_passes(system: System, say: Callable[[str], None]) -> None:
    """Plan the system once with every pass checked. InternalError if one breaks a rule."""
    # what elaboration made must keep the rules before any pass can be blamed
    verify(system, "elaboration")
    work = points(derive(system))
    # evaluating a step of millions of points before and after each pass would take hours
    small = work <= EVALUABLE
    values = random_values(system) if small else None
    evaluations = 20 * len(system.gradients)  # for central differences
    check = PassCheck(system, values, differences=evaluations * work <= EVALUABLE)
    plan(system, host.target(), observers=[check])
    kept = (
        "every rule and every value"
        if small
        else (
            "every rule (the values of so large a step are not compared; "
            "`nnc verify` does for less)"
        )
    )
    say(f"{system.name}: {len(CPU.passes)} passes keep {kept}")
