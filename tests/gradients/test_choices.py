"""Derivatives where a function has a kink, a jump or a pole: those that docs/language.md lists, the
same in the evaluator and on both backends."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram
from support import gpu_plan, one_in, plan, system

from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

# y of x and z: values of x and z, the derivatives of the sum of y by them
CASES = {
    "modulo": ("x[i] % z[i]", [5.5, -5.5, 5.5, 6.0], [2.0, 2.0, -2.0, 2.0],
        [1, 1, 1, 1], [-2, 3, 3, -3]),
    "modulo of a number": ("x[i] % 2", [5.5, -5.5, 6.0], [0, 0, 0], [1, 1, 1], [0, 0, 0]),
    "a number modulo": ("5.5 % z[i]", [0, 0], [2.0, -2.0], [0, 0], [-2, 3]),
    "floor division": ("x[i] // z[i]", [5.5, 6.0], [2.0, 2.0], [0, 0], [0, 0]),
    "power of 0": ("x[i]^z[i]", [0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0, 1, 0], [0, 0, 0]),
    "power": ("x[i]^z[i]", [2.0, -2.0, 1.0, 4.0], [0.0, 3.0, 5.0, 0.5],
        [0, 12, 5, 0.25], [np.log(2), 0, 0, 2 * np.log(4)]),
    "0 to a power": ("0^z[i] + 0*x[i]", [1, 1, 1], [0.0, 1.0, 2.0], [0, 0, 0], [0, 0, 0]),
    "1 to a power": ("1^z[i]*x[i]", [3, 4], [0.0, 1.5], [1, 1], [0, 0]),
    "2 to a power": ("2^z[i]", [0, 0], [0.0, 3.0], [0, 0], [np.log(2), 8 * np.log(2)]),
    "a power that is 0": ("x[i]^0", [0.0, 2.0], [0, 0], [0, 0], [0, 0]),
    "absolute value of 0": ("abs(x[i])", [0.0, -0.0, -2.0], [0, 0, 0], [0, 0, -1], [0, 0, 0]),
    "maximum and a number": ("max(x[i], 1)", [1.0, 0.0, 2.0], [0, 0, 0], [0, 0, 1], [0, 0, 0]),
    "a number and maximum": ("max(1, x[i])", [1.0, 0.0, 2.0], [0, 0, 0], [0, 0, 1], [0, 0, 0]),
    "minimum and a number": ("min(x[i], 1)", [1.0, 0.0, 2.0], [0, 0, 0], [0, 1, 0], [0, 0, 0]),
    "a number and minimum": ("min(1, x[i])", [1.0, 0.0, 2.0], [0, 0, 0], [0, 1, 0], [0, 0, 0]),
    "clamped": ("min(max(x[i], -1), 1)", [-1.0, 1.0, 0.0], [0, 0, 0], [0, 0, 1], [0, 0, 0]),
    "clamped the other way": ("min(1, max(-1, x[i]))", [-1.0, 1.0, 0.0], [0, 0, 0],
        [0, 0, 1], [0, 0, 0]),
    "the larger of two": ("max(x[i], z[i])", [1.0, 1.0, 2.0], [1.0, 2.0, 1.0],
        [0, 0, 1], [1, 1, 0]),
    "the smaller of two": ("min(x[i], z[i])", [1.0, 1.0, 2.0], [1.0, 2.0, 1.0],
        [0, 1, 0], [1, 0, 1]),
    "the largest": ("(max(j) x[j]) + z[i]", [1.0, 2.0, 2.0], [0, 0, 0], [0, 3, 0], [1, 1, 1]),
    "the smallest": ("(min(j) x[j]) + z[i]", [2.0, 1.0, 1.0], [0, 0, 0], [0, 3, 0], [1, 1, 1]),
    "root of 0": ("sqrt(x[i])", [0.0, 4.0], [0, 0], [np.inf, 0.25], [0, 0]),
    "root of 0 that nothing needs": ("sqrt(x[i])*0", [0.0, 4.0], [0, 0], [0, 0], [0, 0]),
    "root of squares that are 0": ("sqrt(x[i]^2 + z[i]^2)", [0.0, 3.0], [0.0, 4.0],
        [0, 0.6], [0, 0.8]),
    "norm of 0": ("sqrt(sum(j) x[j]^2) + z[i]", [0.0, 0.0], [0, 0], [0, 0], [1, 1]),
    "modulo 1": ("(4*x[i]) % 1 + x[i] // 1", [0.3, 5.7], [0, 0], [4, 4], [0, 0]),
    "modulo of a multiple": ("((4*x[i]) % 2)^2", [0.3, 0.7], [0, 0], [9.6, 6.4], [0, 0]),
    "logarithm of 0": ("log(x[i])", [0.0, 4.0], [0, 0], [np.inf, 0.25], [0, 0]),
    "rounding": ("floor(x[i]) + ceil(x[i]) + round(x[i]) + sign(x[i])", [0.0, 1.5], [0, 0],
        [0, 0], [0, 0]),
    "a constant to differentiation": ("stop(x[i])*z[i]", [2.0, 3.0], [4.0, 5.0],
        [0, 0], [2, 3]),
    "a condition": ("if x[i] > z[i] then 2*x[i] else z[i]", [1.0, 2.0], [1.0, 1.0],
        [0, 2], [1, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", one_in(3, CASES))
def test_choice(name: str) -> None:
    text, x, z, by_x, by_z = CASES[name]
    whole = system(
        f"model M(x: f32[{len(x)}], z: f32[{len(x)}]) -> loss {{\n"
        f"y[i < {len(x)}] = {text}\n loss = sum(y)\n}}",
        float_type="f32",
    )
    whole, names = add_gradients(whole, "loss", ["x", "z"])
    whole = whole.replace(outputs=("loss", *names.values()))
    given = {"x": np.array(x, np.float32), "z": np.array(z, np.float32)}
    found = [evaluate(derive(whole), given)]
    for program in (CpuProgram(plan(whole)), SimulatedProgram(gpu_plan(whole))):
        for key in given.keys() & program.arrays.keys():
            program.arrays[key][...] = given[key]
        program.run()
        found.append(program.arrays)
    for arrays in found:
        for key, expected in (("x", by_x), ("z", by_z)):
            slope = arrays[names[key]] if key in names else np.zeros(len(x))
            np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=0, err_msg=key)
