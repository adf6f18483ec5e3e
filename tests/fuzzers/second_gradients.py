"""Random programs with `grad` inside: their values and gradients on the evaluator, on a CPU, and
beside an interpreter that shares nothing with the compiler.

A program of `gradients.py`, which computes a number from random equations, is continued by
`grad(loss, x)` for everything that is given, and a second number is made of these slopes, whose
gradient is one of gradients. The interpreter has the slopes by forward-mode differentiation; where
differences agree with all of them, the second number has a known value, and its one-sided
differences are second derivatives where both sides agree. The evaluator is held to these, machine
code to the evaluator.

    python tests/fuzzers/second_gradients.py --programs 500 --seed 1 [--log FILE]

The short form is tests/fuzzers/test_second_gradients.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

if __package__:
    from .gradients import GIVEN, ROUGH, SIZES, STEPS, Interpreter, Program, run_programs, truth
else:  # as a program: its own folder comes first, that of the tests for `support`
    sys.path.append(str(Path(__file__).parents[1]))
    from gradients import GIVEN, ROUGH, SIZES, STEPS, Interpreter, Program, run_programs, truth
from support import plan, system

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

EQUAL = 1e-9  # of machine code and the evaluator, relative to the largest


def weights(name: str) -> np.ndarray:
    """A number for each element of what is given, another one for each."""
    shape = tuple(SIZES[i] for i in GIVEN[name])
    count = int(np.prod(shape, dtype=int))
    return np.cos(np.arange(1, count + 1) + ord(name)).reshape(shape)


def continued(program: Program, active: list[str]) -> str:
    """The program with the slopes by the `active` given tensors, and `second`, made of these."""
    given, body = program.text.split(" -> loss {")
    terms = []
    lines = []
    for name in active:
        lines.append(f"    slope_{name} = grad(loss, {name})")
        places = GIVEN[name]
        flat = "0"
        for i in places:
            flat = f"({flat} * {SIZES[i]} + {i})"
        over = f"sum({', '.join(f'{i} < {SIZES[i]}' for i in places)}) " if places else ""
        read = f"slope_{name}[{', '.join(places)}]" if places else f"slope_{name}"
        weight = f"cos(f64({flat} + 1) + {float(ord(name))})"
        lines.append(f"    part_{name} = {over}{weight} * ({read} / sqrt(1 + {read}^2))")
        terms.append(f"part_{name}")
    lines.append(f"    second = {' + '.join(terms)}")
    results = "".join(f", slope_{name}" for name in active)
    return (
        f"{given} -> loss{results}, second {{{body.rstrip().rstrip('}')}" + "\n".join(lines) + "\n}"
    )


def second(program: Program, arrays: dict[str, np.ndarray], active: list[str]) -> float:
    """The second number by the interpreter; NaN where a slope is none."""
    slopes, total, place = Interpreter(program, arrays, slopes=True).loss.slopes, 0.0, 0
    for name in GIVEN:
        count = arrays[name].size
        if name in active:
            own = slopes[place : place + count]
            # Limited, so that no slope outweighs the others.
            with np.errstate(all="ignore"):
                own = own / np.sqrt(1 + own**2)
            total += float(np.sum(weights(name).ravel() * own))
        place += count
    return total


def whole(program: Program) -> tuple[System, dict[str, str], list[str]] | None:
    """The program with `grad` inside and its gradients; None if its loss depends on nothing."""
    first = system(program.text)
    active = [n for n in GIVEN if n in add_gradients(first, "loss", list(GIVEN))[1]]
    if not active:
        return None
    made = system(continued(program, active))
    made, names = add_gradients(made, "second", list(GIVEN))
    return made.replace(outputs=(*made.outputs, *names.values())), names, active


def faults(program: Program) -> Iterator[str] | None:
    """What disagrees; None for a program without a finite loss."""
    right = truth(program)
    made = None if right is None else whole(program)
    if right is None or made is None:
        return None
    return _faults(program, *made, known=bool(right.exact.all()))


def _faults(
    program: Program, made: System, names: dict[str, str], active: list[str], known: bool
) -> Iterator[str]:
    given = {n: a for n, a in program.arrays.items() if n in made.tensors}
    found = evaluate(derive(made), given)
    if known:
        yield from _against_the_interpreter(program, found, names, active)
    machine = CpuProgram(plan(made), 1)
    for name, array in given.items():
        machine.arrays[name][...] = array
    machine.run()
    for name in made.outputs:
        exact, own = found[name], machine.arrays[name]
        scale = max(1.0, float(np.abs(np.where(np.isfinite(exact), exact, 0)).max(initial=0)))
        # NaN and infinities are to be the same ones
        if not np.allclose(own, exact, rtol=0, atol=EQUAL * scale, equal_nan=True):
            yield f"machine code: {name} is {own!r}, the evaluator has {exact!r}"


def _against_the_interpreter(
    program: Program, found: Mapping[str, np.ndarray], names: dict[str, str], active: list[str]
) -> Iterator[str]:
    """The second number, and its gradient beside one-sided differences along a direction, where
    these agree."""
    value = second(program, program.arrays, active)
    if abs(found["second"] - value) > 1e-7 * max(1.0, abs(value)):
        yield f"evaluator: second is {found['second']!r}, right is {value!r}"
    for name in GIVEN:
        array = program.arrays[name]
        along = weights(name) * np.maximum(1.0, np.abs(array))
        sides = []
        for step in STEPS:
            for sign in (1, -1):
                moved = {**program.arrays, name: array + sign * step * along}
                sides.append((second(program, moved, active) - value) / (sign * step))
        scale = max(1.0, *map(abs, sides)) + abs(value) * 1e-8 / STEPS[-1]
        if not np.isfinite(sides).all() or max(sides) - min(sides) > ROUGH * scale:
            continue
        own = float(np.sum(along * found[names[name]])) if name in names else 0.0
        if not abs(own - sides[0]) <= 10 * ROUGH * scale:
            yield f"evaluator: d_{name} along a direction is {own!r}, right is {sides[0]!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    run_programs(given, lambda program, done: faults(program))


if __name__ == "__main__":
    main()
