"""Random systems of equations, for testing backends against the reference evaluator.

A system has a few input tensors and a chain of equations that read them and each other: maps,
every reduction, accumulations, guarded reads, strides, quotients and remainders, gathers. All
values stay moderate, so that float results compare well.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from nnc.compiler.ir.affine import bounds, inside
from nnc.compiler.ir.build import call, cast, literal
from nnc.compiler.ir.dtypes import NUMPY, SMALL
from nnc.compiler.ir.equation import REDUCTIONS, Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Expr, Idx, Read

SIZES = (1, 2, 3, 4, 5, 7, 10, 16, 17, 33)
FLOATS = ("f32", "f64")
VALUES = ("f32", "f32", "f64", "i32", "i64", "u8", "i8", "bool")
UNARY = ("neg", "abs", "sign", "tanh", "floor", "sin")
BINARY = ("add", "sub", "mul", "max", "min")
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")


def values(system: System, seed: int) -> dict[str, np.ndarray]:
    """Moderate values for everything that is given."""
    rng = np.random.default_rng(seed)
    return {t.name: array(t, rng) for t in system.tensors.values() if t.kind != "temp"}


def array(tensor: Tensor, rng: np.random.Generator) -> np.ndarray:
    if tensor.dtype in FLOATS:
        return rng.uniform(-2, 2, tensor.shape).astype(NUMPY[tensor.dtype])
    low, high = {"bool": (0, 2), "u8": (0, 9)}.get(tensor.dtype, (-3, 12))
    return rng.integers(low, high, tensor.shape).astype(NUMPY[tensor.dtype])


@st.composite
def systems(draw) -> System:
    tensors: dict[str, Tensor] = {}
    for number in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.sampled_from(SIZES), min_size=0, max_size=3)))
        tensor = Tensor(f"x{number}", shape, draw(st.sampled_from(VALUES)), "input")
        tensors[tensor.name] = tensor
    tensors["at"] = Tensor("at", (draw(st.sampled_from(SIZES)),), "i32", "input")
    equations = []
    for number in range(draw(st.integers(1, 3))):
        equation, tensor = draw(_equations(f"y{number}", dict(tensors)))
        equations.append(equation)
        tensors[tensor.name] = tensor
    outputs = tuple(e.target for e in equations)
    return System("random", tensors, tuple(equations), outputs)


@st.composite
def _equations(draw, target: str, tensors: dict[str, Tensor]) -> tuple[Equation, Tensor]:
    reduce = draw(st.sampled_from((None, None, *REDUCTIONS, "sum", "sum")))
    outputs = _indices(draw, "ijk", 0, 3)
    over = _indices(draw, "uv", 1, 2) if reduce else ()
    domain = outputs + over
    sizes = {i.name: i.size for i in domain}
    body = draw(_bodies(domain, tensors))
    if reduce == "prod":
        body = call("select", call("gt", body, 0), literal(1.5), literal(1))
    elif reduce == "sum" and body.dtype in SMALL:
        body = cast(body, "i32")
    if reduce == "sum" and not outputs and draw(st.booleans()):
        return _accumulation(draw, target, body, over, sizes)
    dtype = "i32" if reduce in ("argmax", "argmin") else body.dtype
    tensor = Tensor(target, tuple(i.size for i in outputs), dtype)
    return Equation(target, outputs, body, reduce, over), tensor


def _indices(draw, names: str, least: int, most: int) -> tuple[Index, ...]:
    count = draw(st.integers(least, most))
    return tuple(Index(name, draw(st.sampled_from(SIZES))) for name in names[:count])


def _accumulation(draw, target, body, over, sizes) -> tuple[Equation, Tensor]:
    at, shape = [], []
    for index in over:
        size = draw(st.sampled_from(SIZES))
        plain = draw(st.booleans())
        at.append(Idx(index.name) if plain else draw(_places(over, sizes, size)))
        shape.append(index.size if plain else size)
    tensor = Tensor(target, tuple(shape), body.dtype)
    return Equation(target, (), body, "sum", over, tuple(at)), tensor


@st.composite
def _bodies(draw, domain: tuple[Index, ...], tensors: dict[str, Tensor], depth: int = 2) -> Expr:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(_leaves(domain, tensors))
    a = draw(_bodies(domain, tensors, depth - 1))
    if draw(st.integers(0, 3)) == 0:
        return call(draw(st.sampled_from(UNARY)), a)
    b = draw(_bodies(domain, tensors, depth - 1))
    kind = draw(st.integers(0, 5))
    if kind == 0:
        condition = call(draw(st.sampled_from(COMPARE)), a, b)
        return call("select", condition, a, draw(_leaves(domain, tensors)))
    if kind == 1:
        return call(draw(st.sampled_from(COMPARE)), a, b)
    return call(draw(st.sampled_from(BINARY)), a, b)


@st.composite
def _leaves(draw, domain: tuple[Index, ...], tensors: dict[str, Tensor]) -> Expr:
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return literal(draw(st.sampled_from((0, 1, 2, -3, 0.5, 1.25))))
    if kind == 1 and domain:
        return Idx(draw(st.sampled_from(domain)).name)
    return draw(_reads(domain, tensors))


@st.composite
def _reads(draw, domain: tuple[Index, ...], tensors: dict[str, Tensor]) -> Expr:
    tensor = tensors[draw(st.sampled_from(sorted(tensors)))]
    sizes = {i.name: i.size for i in domain}
    index: list[Expr] = []
    safe = True
    for size in tensor.shape:
        if draw(st.integers(0, 5)) == 0 and "at" in tensors:
            inner = draw(_places(domain, sizes, tensors["at"].shape[0]))
            if inside(inner, tensors["at"].shape[0], sizes):
                index.append(Read("at", (inner,), None, "i32"))
                continue
        place = draw(_places(domain, sizes, size))
        safe = safe and inside(place, size, sizes)
        index.append(place)
    if safe and draw(st.booleans()):
        return Read(tensor.name, tuple(index), None, tensor.dtype)
    other = cast(literal(draw(st.sampled_from((0, 0, 1)))), tensor.dtype)
    return Read(tensor.name, tuple(index), other, tensor.dtype)


@st.composite
def _places(draw, domain: tuple[Index, ...], sizes: dict[str, int], size: int) -> Expr:
    """An index expression; often inside, not always."""
    fitting = [i for i in domain if i.size <= size]
    kind = draw(st.integers(0, 9))
    if not domain or kind == 0:
        return literal(draw(st.integers(0, size - 1)))
    if kind < 5 and fitting:
        return Idx(draw(st.sampled_from(fitting)).name)
    total: Expr = Idx(draw(st.sampled_from(domain)).name)
    if kind == 5:
        return call("mod", total, size)
    if kind == 6:
        by = draw(st.integers(1, 4))
        return call("floordiv", call("sub", total, draw(st.integers(-2, 2))), by)
    total = call("mul", total, draw(st.sampled_from((1, 1, 2, -1))))
    if draw(st.booleans()):
        total = call("add", total, Idx(draw(st.sampled_from(domain)).name))
    low, _ = bounds(total, sizes)
    shift = draw(st.sampled_from((0, -low, -low, 1, -2)))
    return call("add", total, int(shift))
