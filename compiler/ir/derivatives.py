"""Derivatives of scalar functions.

A rule of f(x, …) gets the expression itself and its arguments, and returns ∂f/∂x for each argument,
None where that is 0. It uses f where it can, because f is stored. A function without a rule has
derivative 0 everywhere, or none (integers). What is chosen where a function has a kink is listed in
docs/language.md.

Accuracy: a rule is off by a few units in the last place of its result where that is not a small
difference of larger numbers. The exceptions are 1 - f² of tanh and f (1 - f) of sigmoid near
|f| = 1: f is rounded there, and so they are off by up to 2^-23 (f64: 2^-52) of 1, not of
themselves. sigmoid's is right in every place for negative x, where f is near 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .build import call
from .expr import Const, Expr

Factors = tuple[Expr | float | None, ...]


def _power(f: Expr, x: Expr, y: Expr) -> Factors:
    slope = y * call("pow", x, y - 1)
    if isinstance(y, Const):
        return slope, None
    # x^0 is 1 even for x = 0, where the formula gives 0 * inf. Elsewhere the formula is right, and
    # so is its derivative by y, which is 1/x at y = 0.
    constant = call("and", call("eq", y, 0), call("eq", x, 0))
    slope = call("select", constant, 0.0, slope)
    # d x^y / dy = x^y log x; 0 where x <= 0, where x^y is not differentiable by y, and where x^y is
    # 0 of an infinite x.
    defined = call("and", call("gt", x, 0), call("ne", f, 0))
    return slope, call("select", defined, f * call("log", x), 0.0)


def _difference(f: Expr, x: Expr, y: Expr) -> Factors:
    # x - x is 0 for every x, even if its adjoint is infinite.
    return (None, None) if x is y else (1.0, -1.0)


def _branches(condition: Expr, like: Expr) -> tuple[Expr, Expr]:
    """1 and 0 where the condition holds, 0 and 1 elsewhere."""
    yes, no = Const(1.0, like.dtype), Const(0.0, like.dtype)
    return call("select", condition, yes, no), call("select", condition, no, yes)


def _extreme(compare: str) -> Callable[..., Factors]:
    def rule(f: Expr, x: Expr, y: Expr) -> Factors:
        if isinstance(x, Const):
            return rule(f, y, x)[::-1]
        # against a constant, comparing the result is equivalent, and the result is stored
        return _branches(call(compare, f if isinstance(y, Const) else x, y), f)

    return rule


DERIVATIVES: dict[str, Callable[..., Factors]] = {
    "add":    lambda f, x, y: (1.0, 1.0),
    "sub":    _difference,
    "mul":    lambda f, x, y: (y, x),
    "div":    lambda f, x, y: (1.0 / y, -(f / y)),
    "pow":    _power,
    # a - b*floor(a/b), where floor has derivative 0
    "mod":    lambda f, x, y: (1.0, -call("floordiv", x, y)),
    "neg":    lambda f, x: (-1.0,),
    # At a tie a constant gets the derivative, or else the second argument: that of max(x, 0), as
    # of max(0, x), is 0 at 0.
    "max":    _extreme("gt"),
    "min":    _extreme("lt"),
    "abs":    lambda f, x: (call("sign", x),),
    "exp":    lambda f, x: (f,),
    "log":    lambda f, x: (1.0 / x,),
    "expm1":  lambda f, x: (call("exp", x),),
    "log1p":  lambda f, x: (1.0 / (1.0 + x),),
    "sqrt":   lambda f, x: (0.5 / f,),
    "tanh":   lambda f, x: (1.0 - f * f,),
    "sin":    lambda f, x: (call("cos", x),),
    "cos":    lambda f, x: (-call("sin", x),),
    "erf":    lambda f, x: (2 / math.sqrt(math.pi) * call("exp", -(x * x)),),
    "erfc":   lambda f, x: (-2 / math.sqrt(math.pi) * call("exp", -(x * x)),),
    "sigmoid": lambda f, x: (f * (1.0 - f),),
    "select": lambda f, x, y, z: (None, *_branches(x, f)),
    "f32":    lambda f, x: (1.0,),
    "f64":    lambda f, x: (1.0,),
    "f16":    lambda f, x: (1.0,),
    "bf16":   lambda f, x: (1.0,),  # the straight-through estimator (Bengio et al. 2013)
    "after":  lambda f, x, y: (1.0, None),
}  # fmt: skip
