"""Initial values of params and states, computed by the evaluator from the seed alone.

Every backend starts from the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ir.equation import System
from .evaluator import evaluate


def initial_values(system: System, drawn: System, seed: int) -> dict[str, np.ndarray]:
    """The first value of every param and state of `system`; `drawn` computes those that an
    initializer draws (`elaboration/initializers.py`)."""
    kept = [t for t in system.tensors.values() if t.kind in ("param", "state")]
    values: dict[str, np.ndarray] = {t.name: np.zeros(t.shape, t.array_type) for t in kept}
    set_initial_values(system, drawn, seed, values)
    return values


def set_initial_values(
    system: System, drawn: System, seed: int, values: Mapping[str, np.ndarray]
) -> None:
    """The same, written into arrays by name."""
    copied = {}
    for name, array in values.items():
        # `= 0.5` or `= true`; `= w` is a copy; what begins with `~` is drawn.
        init = system.tensors[name].init
        if init.removeprefix("= ") in values:
            copied[name] = init.removeprefix("= ")
        elif init.startswith("="):
            value = float(init[1:].strip().replace("true", "1").replace("false", "0"))
            first = np.full((), value, array.dtype)
            # New memory holds zeros; the system gives it a place only when it is written to.
            if _any_bit(first) or _any_bit(array):
                array[...] = first
    # Drawn as of step 0: the numbers depend on the seed and on the place in the program alone.
    inputs = {"seed": np.array(seed, np.int32), "step": np.array(0, np.int32)}
    given = {name: value for name, value in inputs.items() if name in drawn.tensors}
    evaluate(drawn, given, into={name: values[name] for name in drawn.outputs})
    for name, source in copied.items():
        np.copyto(values[name], values[source])


def _any_bit(array: np.ndarray) -> bool:
    """Whether it has an element other than zero; -0.0 is one."""
    return bool(array.reshape(-1).view(np.uint8).any())
