"""Initial values of params and states, computed by the evaluator from the seed alone.

Every backend starts from the same bits. Most of the time goes into uniform numbers: who has many to
draw may give a faster function for them, with the same bits (`Random`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..ir.equation import System
from ..ir.random import threefry_numpy
from .evaluator import evaluate

Random = Callable[..., np.ndarray]  # of seed, step, stream and index, as `threefry_numpy`


def initial_values(
    system: System, drawn: System, seed: int, random: Random = threefry_numpy
) -> dict[str, np.ndarray]:
    """The first value of every param and state of `system`; `drawn` computes those that an
    initializer draws (`elaboration/initializers.py`)."""
    kept = [t for t in system.tensors.values() if t.kind in ("param", "state")]
    values: dict[str, np.ndarray] = {t.name: np.zeros(t.shape, t.array_type) for t in kept}
    set_initial_values(system, drawn, seed, values, random)
    return values


def set_initial_values(
    system: System,
    drawn: System,
    seed: int,
    values: Mapping[str, np.ndarray],
    random: Random = threefry_numpy,
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
    into = {name: values[name] for name in drawn.outputs}
    evaluate(drawn, given, into=into, functions={"random": random})
    for name, source in copied.items():
        np.copyto(values[name], values[source])


def _any_bit(array: np.ndarray) -> bool:
    """Whether it has an element other than zero; -0.0 is one."""
    return bool(array.reshape(-1).view(np.uint8).any())
