"""Random systems and their gradients through the whole pipeline, beside the evaluator."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nnc.compiler.evaluate import evaluate
from nnc.compiler.ir import Equation, Idx, Read, System, Tensor, is_float
from nnc.compiler.passes.differentiate import differentiate
from nnc.compiler.pipeline import plan
from nnc.compiler.scalar import call
from nnc.compiler.verify import verify
from nnc.runtime.device.cpu import CpuProgram

sys.path.insert(0, str(Path(__file__).parent))
from systems import systems, values

EXAMPLES = int(os.environ.get("NNC_EXAMPLES", "60"))


def with_loss(system: System) -> System | None:
    """The system with a loss that every float result enters smoothly: sum of sin(y)."""
    last = system.equations[-1]
    tensor = system.tensors[last.target]
    if not is_float(tensor.dtype):
        return None
    indices = tuple(replace(i) for i in last.indices) if last.at is None else ()
    if last.at is not None or not indices:
        return None
    read = Read(tensor.name, tuple(Idx(i.name) for i in indices), None, tensor.dtype)
    loss = Equation("loss", (), call("sin", read), "sum", indices)
    tensors = {**system.tensors, "loss": Tensor("loss", (), tensor.dtype)}
    return system.replace(
        tensors=tensors,
        equations=(*system.equations, loss),
        outputs=(*system.outputs, "loss"),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems(), st.integers(0, 1000))
def test_gradients_agree_with_the_evaluator(system: System, seed: int) -> None:
    whole = with_loss(system)
    assume(whole is not None)
    assert whole is not None
    wrt = [t.name for t in whole.of_kind("input") if is_float(t.dtype)]
    whole, names = differentiate(whole, "loss", wrt)
    assume(names)
    whole = verify(whole.replace(outputs=(*whole.outputs, *names.values())), "differentiate")
    inputs = values(whole, seed)
    expected = evaluate(whole, inputs)
    program = CpuProgram(plan(whole, verified=True))
    for name, value in inputs.items():
        program.arrays[name][...] = value
    program.run()
    for output in whole.outputs:
        found, wanted = program.arrays[output], expected[output]
        wide = whole.tensors[output].dtype == "f64" and not any(
            t.dtype == "f32" for t in whole.tensors.values()
        )
        scale = max(1.0, float(np.abs(np.nan_to_num(wanted)).max(initial=0)))
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=(1e-11 if wide else 1e-4) * scale, err_msg=output
        )
