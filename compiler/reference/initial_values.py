"""Initial values of params and states, computed by the evaluator from the seed alone.

Every backend starts from the same bits.
"""

from __future__ import annotations

import numpy as np

from ..ir.dtypes import NUMPY
from ..ir.equation import System
from .evaluator import evaluate


def initial_values(system: System, drawn: System, seed: int) -> dict[str, np.ndarray]:
    """The first value of every param and state of `system`; `drawn` computes those that an
    initializer draws (`elaboration/initializers.py`)."""
    values: dict[str, np.ndarray] = {}
    for tensor in system.tensors.values():
        # `= 0.5` or `= true`; what begins with `~` is drawn.
        if tensor.kind in ("param", "state") and tensor.init.startswith("="):
            value = float(tensor.init[1:].strip().replace("true", "1").replace("false", "0"))
            values[tensor.name] = np.full(tensor.shape, value, NUMPY[tensor.dtype])
    # Drawn as of step 0: the numbers depend on the seed and on the place in the program alone.
    inputs = {"seed": np.array(seed, np.int32), "step": np.array(0, np.int32)}
    arrays = evaluate(drawn, {k: v for k, v in inputs.items() if k in drawn.tensors})
    return values | {name: arrays[name] for name in drawn.outputs}
