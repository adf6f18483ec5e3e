"""Derives the constants of compiler/codegen/llvm/math.py: best polynomials by Remez exchange.

In: FORMS, one line of mathematics per table. Out (stdout): the tables as Python source, each with
the largest error that the rounded polynomial has in exact arithmetic. `--check` prints nothing but
differences between that and math.py and exits 1 if there are any.

A form approximates `target(x)` by the sum of c[k] * x**powers[k] on [low, high], so that the
largest |(sum - target(x)) / unit(x)| is as small as possible. Leading terms that math.py
knows exactly (the x of sin x = x + ...) are already subtracted in `target`; `unit` is f itself
where the relative error of f matters. By the equioscillation theorem (Chebyshev; E. Remez, 1934)
the best sum of N terms errs by +E, -E, +E, ... at N + 1 points. The exchange solves for c and E
on a guess of those points and moves them to the extrema of the error so found, until they stay.

Coefficients must be floats in the end. They are rounded one at a time, lowest power first, and
the rest is fitted again each time, so that later terms absorb what rounding took away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.dps = 50
Function = Callable[[mp.mpf], mp.mpf]
DTYPES = {"f32": np.float32, "f64": np.float64}


@dataclass(frozen=True)
class Form:
    name: str
    target: Function
    powers: range
    low: float
    high: float
    unit: Function
    dtype: str = "f32"


def _log2(q: mp.mpf) -> mp.mpf:
    return mp.log((1 + q) / (1 - q)) / mp.log(2)


def _erfc_scaled(x: mp.mpf) -> mp.mpf:
    return mp.exp(x * x) * mp.erfc(x)


def _erfc_by_t(u: mp.mpf) -> mp.mpf:
    """e^x² erfc(x) / t for t = u + 1/2 = 2 / (2 + x)."""
    t = u + mp.mpf(0.5)
    return _erfc_scaled(2 / t - 2) / t


def _per_bell(x: mp.mpf) -> mp.mpf:
    return mp.exp(x * x)  # what is found is multiplied by e^-x², and erf is near 1 there


# Ranges, a little wider than the reductions need: EXP |r| <= ln(2)/2, LOG 1 + x in [2/3, 4/3),
# SIN and COS |r| <= pi/4, LOG2 |q| <= (sqrt 2 - 1) / (sqrt 2 + 1). 1e-3 stands for 0, where the
# odd and even forms are 0/0; below it the first coefficient alone decides.
FORMS = (
    Form("EXP", lambda x: mp.expm1(x) - x, range(2, 7), -0.3467, 0.3467, mp.expm1),
    Form("LOG", lambda x: mp.log1p(x) - x + x * x / 2, range(3, 11), -0.3334, 0.3334, mp.log1p),
    Form("SIN", lambda x: mp.sin(x) - x, range(3, 9, 2), 1e-3, 0.7855, mp.sin),
    Form("COS", lambda x: mp.cos(x) - 1 + x * x / 2, range(4, 10, 2), 1e-3, 0.7855, mp.cos),
    Form("ERF", lambda x: mp.erf(x) - x, range(1, 15, 2), 1e-3, 1.125, mp.erf),
    Form("ERFC", _erfc_scaled, range(0, 8), 1.125, 4, _per_bell),
    Form("ERFCX", _erfc_by_t, range(0, 10), 2 / 12.3 - 0.5, 0.5, _erfc_by_t),
    Form("LOG2", _log2, range(1, 11, 2), 1e-3, 0.1716, _log2, "f64"),
)

# name, exact value, how many parts, type: value = part + part + ..., each the rounded remainder.
SPLITS = (
    ("LN2", mp.log(2), 2, "f32"),
    ("LOG2_E", 1 / mp.log(2), 1, "f32"),
    ("HALF_PI", mp.pi / 2, 2, "f64"),
    ("TWO_BY_PI", 2 / mp.pi, 1, "f64"),
)


class Sampled:
    """A form's target and 1 / unit, computed once on a grid that is densest at the ends."""

    def __init__(self, form: Form, size: int = 400) -> None:
        low, high = mp.mpf(form.low), mp.mpf(form.high)
        nodes = [mp.cos(mp.pi * (2 * i + 1) / (2 * size)) for i in reversed(range(size))]
        points = [low, *(low + (high - low) * (1 + node) / 2 for node in nodes), high]
        self.points = [x for x in points if x]
        self.target = [form.target(x) for x in self.points]
        self.weight = [1 / abs(form.unit(x)) for x in self.points]

    def errors(self, terms: dict[int, mp.mpf]) -> list[mp.mpf]:
        return [
            w * (sum(c * x**p for p, c in terms.items()) - t)
            for x, t, w in zip(self.points, self.target, self.weight, strict=True)
        ]


def remez(grid: Sampled, fixed: dict[int, mp.mpf], free: list[int]) -> dict[int, mp.mpf]:
    """The best coefficients for the powers `free`, those of `fixed` being decided already.

    With nothing fixed the exchange must settle. Around fixed terms the rest need not be able to
    make the error alternate often enough; then the best of the rounds is a good enough answer.
    """
    count = len(free) + 1
    chosen = [round((len(grid.points) - 1) * i / (count - 1)) for i in range(count)]
    rounds: list[tuple[mp.mpf, dict[int, mp.mpf]]] = []
    for _ in range(30):
        rows = [
            [grid.points[i] ** p for p in free] + [(-1) ** k / grid.weight[i]]
            for k, i in enumerate(chosen)
        ]
        right = [
            grid.target[i] - sum(c * grid.points[i] ** p for p, c in fixed.items()) for i in chosen
        ]
        solved = mp.lu_solve(mp.matrix(rows), mp.matrix(right))
        terms = {**fixed, **{p: solved[k] for k, p in enumerate(free)}}
        errors = grid.errors(terms)
        rounds.append((max(abs(error) for error in errors), terms))
        extrema = exchange(errors, count)
        if extrema == chosen or len(extrema) < count:
            break
        chosen = extrema
    if not fixed and extrema != chosen:
        raise ArithmeticError(f"the exchange did not settle for powers {free}")
    return min(rounds, key=lambda one: one[0])[1]


def exchange(errors: list[mp.mpf], count: int) -> list[int]:
    """At most `count` indices where the error alternates and is largest between two changes."""
    peaks: list[int] = []
    for i, error in enumerate(errors):
        if peaks and (error > 0) == (errors[peaks[-1]] > 0):
            if abs(error) > abs(errors[peaks[-1]]):
                peaks[-1] = i
        else:
            peaks.append(i)
    while len(peaks) > count:  # one too many: drop the smaller end
        peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
    return peaks


def derive(form: Form) -> tuple[tuple[float, ...], float]:
    """The rounded coefficients, lowest power first, and their largest weighted error."""
    grid = Sampled(form)
    fixed: dict[int, mp.mpf] = {}
    for k, power in enumerate(form.powers):
        best = remez(grid, fixed, list(form.powers[k:]))
        fixed[power] = mp.mpf(rounded(best[power], form.dtype))
    worst = max(abs(error) for error in grid.errors(fixed))
    return tuple(float(c) for c in fixed.values()), float(worst)


def rounded(value: mp.mpf, dtype: str) -> float:
    """To nearest in the type. Through f64 first: a double rounding, harmless for a fit."""
    return float(DTYPES[dtype](float(value)))


def split(value: mp.mpf, parts: int, dtype: str) -> tuple[float, ...]:
    result: list[float] = []
    for _ in range(parts):
        result.append(rounded(value - mp.fsum(result), dtype))
    return tuple(result)


def derived() -> dict[str, tuple[tuple[float, ...], str, str]]:
    """name → (values, element type, comment), everything that math.py may not make up."""
    tables = {
        name: (split(value, parts, dtype), dtype, "exact value, rounded")
        for name, value, parts, dtype in SPLITS
    }
    for form in FORMS:
        values, worst = derive(form)
        comment = f"on [{form.low}, {form.high}], error 2^{np.log2(worst):.2f}"
        tables[form.name] = values, form.dtype, comment
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with math.py")
    tables = derived()
    if not parser.parse_args().check:
        for name, (values, dtype, comment) in tables.items():
            shown = ", ".join(str(DTYPES[dtype](value)) for value in values)
            print(f"{name} = ({shown},)    # {dtype} {comment}")
        return 0
    from nnc.compiler.codegen.llvm import math as elementary

    wrong = [
        name
        for name, (values, dtype, _) in tables.items()
        if tuple(float(DTYPES[dtype](v)) for v in getattr(elementary, name)) != values
    ]
    for name in wrong:
        print(f"math.{name} should be {tables[name][0]}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
