"""Machine code against the reference evaluator, equation by equation.

In: a compiled plan, values. Out: a `Value` for every equation whose result the code stores, and
the differences between runs that should be the same bits. The code is that of a normal run, but
with a place in memory for every tensor, so that all can be looked at. Each equation is evaluated
in float64 on what the code itself had computed before, so that a mistake is seen where it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ...compiler.ir.build import call, rewrite
from ...compiler.ir.dtypes import is_float
from ...compiler.ir.equation import Equation, System, Tensor
from ...compiler.ir.expr import Expr, Read
from ...compiler.ir.magnitude import magnitude
from ...compiler.passes.gpu.attention.attention_kernel import AttentionKernel
from ...compiler.passes.kernels.kernel import Plan
from ...compiler.reference.evaluator import Arrays, evaluate

COMPUTED, SIZE = "#", "%"  # after a tensor's name: as the code computed it, and its magnitude
BF16 = 2.0**-8  # the largest relative error of a rounding to bf16
PERTURBATION = 1e-6  # relative: how near to a jump a value may be for either side to be right


@dataclass(frozen=True)
class CheckedEquation:
    """The worst element of what an equation gives: `error` is relative to the numbers that the
    equation works with (`magnitude`), or 0 or 1 for whole numbers."""

    equation: Equation
    index: tuple[int, ...]
    found: float
    expected: float
    error: float
    right: bool


class StoredProgram(Protocol):
    """A compiled plan whose memory can be looked at."""

    @property
    def plan(self) -> Plan: ...
    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...
    def view(self, name: str) -> np.ndarray: ...
    def run(self) -> None: ...


def run_stored(program: StoredProgram, values: Mapping[str, np.ndarray]) -> Arrays:
    """One run; every tensor that is stored, by name. Params and states are as they were before."""
    plan = program.plan
    # only inputs, params and states that the program has; outputs are in `arrays` as well
    for name, array in program.arrays.items():
        if name in values:
            array[...] = values[name]
    # an update writes over the param that it was computed from: keep the old values
    given = [t.name for t in plan.system.tensors.values() if t.kind != "temp"]
    before = {name: program.arrays[name].copy() for name in given}
    program.run()
    # `offsets` are those of all tensors that have a place in memory
    after = {name: program.view(name).copy() for name in plan.offsets}
    # `before` last: it wins over what the run has written to the same names
    return {**after, **before}


def check_code(plan: Plan, arrays: Arrays, tolerance: float) -> list[CheckedEquation]:
    """Every stored result against the evaluator's, in the order of the equations."""
    system = plan.system
    # temps that are fused into a kernel live in registers only and cannot be looked at
    stored = {name for name in arrays if system.tensors[name].kind == "temp"}
    local = _localised(system, stored)
    # `x#` is given what the code stored as x
    given = {
        n: arrays[n.removesuffix(COMPUTED)] for n, t in local.tensors.items() if t.kind != "temp"
    }
    # double precision: its own error is far below the tolerance for f32
    expected = evaluate(local, given, wide=True)
    # what attention rounds before it divides may be off by two roundings to bf16
    early = {
        t for k in plan.kernels if isinstance(k, AttentionKernel) for t in k.rounded_before_division
    }
    allowed = {t: tolerance + 2 * BF16 * (t in early) for t in stored}
    found = [
        _compare(eq, arrays[eq.target], expected, allowed[eq.target])
        for eq in system.equations
        if eq.target in stored
    ]
    if all(value.right for value in found):
        return found
    # Only if something seems wrong: a comparison may have gone the other way by one rounding.
    ends = _perturbed(local, given, expected)
    return [
        v
        if v.right
        else _compare_near_jump(
            v, arrays[v.equation.target], expected, ends, allowed[v.equation.target]
        )
        for v in found
    ]


def first_difference(one: np.ndarray, two: np.ndarray) -> tuple[int, ...] | None:
    """The first index at which two arrays have other bits."""
    # a scalar as [1], so that it has bytes to compare; NaN equals NaN in bits
    raw = [np.ascontiguousarray(a).reshape(a.shape or (1,)) for a in (one, two)]
    bits = [a.view(np.uint8).reshape(*a.shape, a.itemsize) for a in raw]
    wrong = np.argwhere((bits[0] != bits[1]).any(-1))
    # the place in a scalar has no coordinates
    return None if not len(wrong) else tuple(int(n) for n in wrong[0])[: one.ndim]


# --- each equation by itself ----------------------------------------------------------------------


def _localised(system: System, stored: set[str]) -> System:
    """Every equation on what the code computed before, and beside it its magnitude."""

    # reads of stored tensors become inputs, so an error does not spread to later equations
    def given(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in stored:
            return Read(node.tensor + COMPUTED, node.index, node.other, node.dtype)
        return None

    def size(node: Read, other: Expr | None) -> Expr:
        # temps that are not stored are evaluated on the way, hence have magnitudes of their own
        kind = system.tensors.get(node.tensor)
        if kind is not None and kind.kind == "temp":  # computed here: its magnitude is known
            return Read(node.tensor + SIZE, node.index, other, node.dtype)
        # what is given: its magnitude is its absolute value
        return call("abs", node)

    tensors: dict[str, Tensor] = {}
    equations: list[Equation] = []
    for eq in system.equations:
        # the index of a scatter is data, too
        at = None if eq.at is None else tuple(rewrite(e, given) for e in eq.at)
        own = replace(eq, body=rewrite(eq.body, given), at=at)
        equations.append(own)
        tensors[eq.target] = system.tensors[eq.target]
        # integers must be equal; an argmax gives an index, which has no magnitude
        if is_float(eq.body.dtype) and eq.reduce not in ("argmax", "argmin"):
            # an upper bound also for a minimum: the largest of its terms
            reduce = "max" if eq.reduce == "min" else eq.reduce
            name = eq.target + SIZE
            equations.append(
                replace(own, target=name, reduce=reduce, body=magnitude(own.body, size))
            )
            tensors[name] = replace(system.tensors[eq.target], name=name)
    # everything that is read and not computed here is an input
    for name in dict.fromkeys(s for eq in equations for s in eq.sources):
        if name not in tensors:
            plain = system.tensors[name.removesuffix(COMPUTED)]
            tensors[name] = replace(plain, name=name, kind="input")
    return System(system.name, tensors, tuple(equations), tuple(stored))


def _compare(
    eq: Equation,
    found: np.ndarray,
    expected: Arrays,
    tolerance: float,
    slack: np.ndarray | None = None,
) -> CheckedEquation:
    wanted = expected[eq.target]
    # whole numbers and booleans are right or wrong
    if not is_float(_dtype(found)):
        error = (found != wanted).astype(np.float64)
        if slack is not None:
            # where a nudge changes the number, either one is right
            error[slack > 0] = 0.0
    else:
        # by itself an equation without a magnitude is compared with its own result
        error = _relative(found, wanted, expected.get(eq.target + SIZE, wanted), slack)
    # the worst element stands for the tensor
    place = tuple(int(n) for n in np.unravel_index(int(error.argmax()), error.shape))
    worst = float(error[place]) if error.size else 0.0
    return CheckedEquation(
        eq, place, found[place].item(), wanted[place].item(), worst, worst <= tolerance
    )


def _relative(
    found: np.ndarray, wanted: np.ndarray, sizes: np.ndarray, slack: np.ndarray | None
) -> np.ndarray:
    with np.errstate(all="ignore"):
        limit = np.finfo(found.dtype).max
        # the evaluator works in f64: what is too large for f32 is infinity in the code
        wanted = np.where(np.abs(wanted) > limit, np.sign(wanted) * np.inf, wanted)
        # a magnitude that overflows even f64 says nothing: take the largest result instead
        plain = np.abs(wanted) + np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        sizes = np.where(np.isfinite(sizes), np.maximum(sizes, np.abs(wanted)), plain)
        off = np.abs(found - wanted)
        # how far the result moves when its operands do is no error
        if slack is not None:
            off = np.maximum(off - slack, 0)
        # `tiny` keeps 0/0 away where all is 0
        error = np.where(off == 0, 0.0, off / (sizes + float(np.finfo(found.dtype).tiny)))
    # infinities of the same sign and two NaN agree; a NaN on one side only is infinitely wrong
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def _dtype(array: np.ndarray) -> str:
    # anything but a float is compared exactly
    return {"f": f"f{array.itemsize * 8}"}.get(array.dtype.kind, "i32")


# --- near a jump ----------------------------------------------------------------------------------


def _perturbed(local: System, given: Arrays, expected: Arrays) -> list[Arrays]:
    """The same with everything that is read moved by about the rounding of f32."""
    found = []
    # several directions, since one may happen to move two operands the same way
    for seed in range(8):
        rng = np.random.default_rng(seed)
        moved = {
            name: array
            if array.dtype.kind != "f"
            # each number up or down by itself; whole numbers, which are indices, stay
            else array * (1 + PERTURBATION * rng.choice([-1.0, 1.0], array.shape))
            for name, array in given.items()
        }
        found.append(evaluate(local, moved, wide=True))
    return found


def _compare_near_jump(
    value: CheckedEquation,
    found: np.ndarray,
    expected: Arrays,
    ends: list[Arrays],
    tolerance: float,
) -> CheckedEquation:
    """Judged again with what a nudge may change: comparisons and maxima jump."""
    name = value.equation.target
    with np.errstate(all="ignore"):
        # the furthest that any of these moved the result: comparisons and maxima may jump
        slack = np.max([np.abs(e[name].astype(np.float64) - expected[name]) for e in ends], axis=0)
    return _compare(value.equation, found, expected, tolerance, np.nan_to_num(slack))
