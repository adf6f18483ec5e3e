"""Programs on every backend: values and gradients, by machine code of the CPU and by CUDA's source
on its simulator, beside the evaluator; and the text that is printed of them."""

from __future__ import annotations

import numpy as np
from gpu_simulator import SimulatedProgram, available
from support import check_gradients, elaborated, gpu_plan, gradients, plan, values

from nnc.compiler.ir.printer import system_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram


def agree_everywhere(text: str, wrt: list[str], given: dict[str, np.ndarray] | None = None) -> None:
    """The gradients of the result `loss` of the model `M` agree with finite differences, all values
    agree on all backends, and what is printed computes the same."""
    system = elaborated(text)
    check_gradients(system, wrt)
    with_gradients, names = gradients(system, "loss", wrt)
    inputs = {**values(system, 1), **(given or {})}
    expected = evaluate(with_gradients, inputs)
    programs = [CpuProgram(plan(with_gradients))]
    if available():
        programs.append(SimulatedProgram(gpu_plan(with_gradients)))
    for program in programs:
        for name, value in inputs.items():
            program.arrays[name][...] = value
        program.run()
        for name in ("loss", *names.values()):
            found = program.arrays[name]
            np.testing.assert_allclose(found, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
    again = elaborated(system_text(system))
    np.testing.assert_array_equal(evaluate(again, inputs)["loss"], evaluate(system, inputs)["loss"])
