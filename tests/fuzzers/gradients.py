"""Random programs and their gradients, beside an interpreter that shares nothing with the compiler.

A program has a few equations: maps, sums, products, extremes, contractions, gathers, integer
positions, recurrences that gather their own state. Their bodies are made of selections (nested, of
functions that are not finite in the branch not taken), powers, `%`, roots, logarithms, clamps. The
data holds zeros, equal numbers, and numbers of which `exp` overflows.

The right gradient is known from two sides: forward-mode differentiation in NumPy (a value and its
derivatives by every given number, where a branch not taken is dropped by `np.where`), and one-sided
differences of the same values. Where the two sides' differences agree with each other, the function
has a derivative, and the compiler must have it: by the reference evaluator for each program, by
machine code after the pass checker for some, by the simulator of a GPU for a few.

    python tests/fuzzers/gradients.py --programs 5000 --seed 1 [--code 10] [--gpu 200] [--log FILE]

appends a line for each hundred programs to FILE, so that runs add up; a program that fails is
printed with its seed. The short form is tests/fuzzers/test_gradients.py.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import gpu_plan, plan, system

from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.device.cpu.program import CpuProgram

ROWS, COLUMNS = 3, 4
SIZES = {"i": ROWS, "t": ROWS, "j": COLUMNS, "k": COLUMNS}
GIVEN = {"x": "ij", "z": "tj", "w": "j", "s": ""}  # real tensors with their indices' sizes
WHOLE = {"n": ("j", COLUMNS), "m": ("i", COLUMNS), "r": ("i", ROWS)}  # integer ones, and a limit
SPECIAL = (0.0, 0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -3.0, 1e-3, 30.0, 800.0, -800.0)
KINDS = ("map", "map", "map", "reduce", "contract", "recur", "position")
CLOSE = 1e-7  # of the forward-mode derivative, relative to the largest
ROUGH = 1e-3  # of differences
STEPS = (1e-6, 1e-7)


# --- expressions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """`op` is a function, an operator, or const, index, read; `args` are nodes, or what it says."""

    op: str
    args: tuple = ()

    @property
    def text(self) -> str:
        a = [x.text if isinstance(x, Node) else x for x in self.args]
        match self.op:
            case "const":
                return repr(a[0]) if a[0] >= 0 else f"({a[0]!r})"
            case "index":
                return a[0]
            case "read":
                name, places, other = self.args
                body = f"{name}[{', '.join(p.text for p in places)}]" if places else name
                return body if other is None else f"({body} else {other!r})"
            case "if":
                return f"(if {a[0]} then {a[1]} else {a[2]})"
            case "neg":
                return f"(-{a[0]})"
            case "not":
                return f"(not {a[0]})"
            case "log(1 + exp)":
                return f"log((1 + exp({a[0]})))"
            case op if op in INFIX:
                return f"({a[0]} {op} {a[1]})"
        return f"{self.op}({', '.join(a)})"


INFIX = ("+", "-", "*", "/", "%", "//", "^", "<", "<=", ">", ">=", "==", "and", "or")


@dataclass(frozen=True)
class Equation:
    """`name[indices] = reduce(over) body`; a recurrence steps by `t`."""

    name: str
    indices: str
    body: Node
    reduce: str = ""
    over: str = ""

    @property
    def text(self) -> str:
        left = ", ".join(f"{i} < {SIZES[i]}" for i in self.indices)
        left = f"{self.name}[{left}]" if left else self.name
        over = ", ".join(f"{i} < {SIZES[i]}" for i in self.over)
        return f"{left} = {f'{self.reduce}({over}) ' if self.reduce else ''}{self.body.text}"

    @property
    def recurrent(self) -> bool:
        return self.name in reads(self.body)


def reads(node: Node) -> set[str]:
    if node.op == "read":
        return {node.args[0]}.union(*(reads(p) for p in node.args[1]))
    return set().union(*(reads(a) for a in node.args if isinstance(a, Node)))


@dataclass
class Program:
    seed: int
    equations: list[Equation] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def text(self) -> str:
        given = [f"{n}: f64[{', '.join(str(SIZES[i]) for i in GIVEN[n])}]" for n in GIVEN]
        given += [f"{n}: i32[{SIZES[i]}]" for n, (i, _) in WHOLE.items()]
        body = "\n".join(f"    {eq.text}" for eq in self.equations)
        return f"model M({', '.join(given)}) -> loss {{\n{body}\n}}"


# --- making one -----------------------------------------------------------------------------------


class Maker:
    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.program = Program(seed)
        self.shapes = dict(GIVEN)
        self.positions: dict[str, str] = {}  # integer results, values below COLUMNS

    def make(self) -> Program:
        rng = np.random.default_rng(self.program.seed)
        for name, indices in GIVEN.items():
            shape = tuple(SIZES[i] for i in indices)
            plain = rng.normal(size=shape)
            special = rng.choice(SPECIAL, shape)
            self.program.arrays[name] = np.where(rng.random(shape) < 0.4, special, plain)
        for name, (index, limit) in WHOLE.items():
            self.program.arrays[name] = rng.integers(0, limit, SIZES[index]).astype(np.int32)
        for number in range(self.rng.randint(1, 4)):
            self.equation(f"y{number}", self.rng.choice(KINDS))
        self.equation("last", "map")
        terms = []
        for number, name in enumerate(n for n in self.shapes if n not in GIVEN):
            indices = self.shapes[name]
            read = Node("read", (name, tuple(Node("index", (i,)) for i in indices), None))
            weight = Node("const", (round(self.rng.uniform(0.3, 2), 3),))
            for index in indices:  # each element with a weight of its own
                sine = Node("sin", (Node("+", (weight, Node("index", (index,)))),))
                weight = Node("+", (weight, sine))
            body = Node("*", (weight, read))
            part = Equation(f"part{number}", "", body, "sum" if indices else "", indices)
            self.program.equations.append(part)
            terms.append(Node("read", (part.name, (), None)))
        total = terms[0]
        for term in terms[1:]:
            total = Node("+", (total, term))
        self.program.equations.append(Equation("loss", "", total))
        return self.program

    def equation(self, name: str, kind: str) -> None:
        indices = self.rng.choice(["ij", "j", "i", "ij", ""])
        if kind == "map":
            made = Equation(name, indices, self.body(indices, 3))
        elif kind == "reduce":
            over = "k" if "j" in indices else "j"
            reduce = self.rng.choice(["sum", "sum", "max", "min", "prod", "mean"])
            made = Equation(name, indices, self.body(indices + over, 2), reduce, over)
        elif kind == "contract":
            indices = self.rng.choice(["ik", "i"])
            body = Node("*", (self.body("ij", 1), self.body("j" + indices[1:], 1)))
            made = Equation(name, indices, body, "sum", "j")
        elif kind == "position":
            position = Equation(f"p{name}", "i", self.body("ij", 1), "argmax", "j")
            self.program.equations.append(position)
            self.positions[position.name] = "i"
            return
        else:
            indices = "tj"
            made = Equation(name, indices, self.recurrence(name))
        self.program.equations.append(made)
        self.shapes[name] = indices.replace("k", "j")

    def recurrence(self, name: str) -> Node:
        """tanh or half of a state of the step before, beside anything."""
        rng = self.rng
        before = Node("-", (Node("index", ("t",)), Node("const", (1,))))
        last = rng.choice(
            [Node("index", ("j",)), Node("read", ("n", (Node("index", ("j",)),), None))]
        )
        state = Node("read", (name, (before, last), rng.choice([0, 0, 1, 0.5])))
        if rng.random() < 0.4:
            guard = self.condition("tj", 1)
            state = Node("if", (guard, self.risky(state), self.constant()))
        elif rng.random() < 0.5:
            state = Node("tanh", (state,))
        else:
            state = Node("*", (Node("const", (0.5,)), state))
        return Node(rng.choice("+*-"), (self.body("tj", 2), state))

    def body(self, indices: str, depth: int) -> Node:
        rng = self.rng
        if depth == 0 or rng.random() < 0.1:
            return self.leaf(indices)
        kind = rng.random()
        if kind < 0.35:
            return self.selection(indices, depth)
        a = self.body(indices, depth - 1)
        if kind < 0.6:
            return Node(rng.choice("+-*"), (a, self.body(indices, depth - 1)))
        if kind < 0.8:
            return self.safe(a)
        if kind < 0.9:
            op = rng.choice(["max", "min"])
            other = self.constant() if rng.random() < 0.5 else self.body(indices, depth - 1)
            inner = self.risky(a) if rng.random() < 0.3 else a
            pair = (inner, other) if rng.random() < 0.7 else (other, inner)
            return Node(op, pair)
        if kind < 0.95:
            divisor = Node("const", (rng.choice([0.3, 2.0, -1.5, 1]),))
            return Node(rng.choice(["%", "//"]), (a, divisor))
        mask = Node("if", (self.condition(indices, 1), Node("const", (1,)), Node("const", (0,))))
        return Node("*", (mask, self.risky(Node("abs", (a,)))))

    def selection(self, indices: str, depth: int) -> Node:
        """A function where it is defined, and something else where it is not."""
        rng = self.rng
        a = self.body(indices, depth - 1)
        zero, three, many = (Node("const", (c,)) for c in (0, 3, 20))
        b = self.constant() if rng.random() < 0.5 else self.body(indices, depth - 1)
        positive, risky = Node(">", (a, zero)), self.risky(a)
        match rng.randrange(7):
            case 0:
                return Node("if", (positive, Node("*", (a, Node("log", (a,)))), b))
            case 1:
                return Node("if", (Node("<=", (a, zero)), b, risky))
            case 2:
                inner = Node("log(1 + exp)", (a,))
                return Node("if", (Node(">", (a, many)), a, inner))
            case 3:
                quotient = Node("/", (b, Node("-", (a, three))))
                return Node("if", (Node("==", (a, three)), zero, quotient))
            case 4:
                product = Node("*", (a, Node("exp", (a,))))
                return Node("if", (Node("<", (a, many)), product, a))
            case 5:
                both = Node("and", (positive, self.condition(indices, 1)))
                return Node("if", (both, risky, b))
        once = Node("if", (self.condition(indices, 1), risky, b))
        return Node("if", (positive, once, b))

    def risky(self, a: Node) -> Node:
        """A function that is not finite, or has no finite slope, for some numbers."""
        rng = self.rng
        powers = (0.5, 1.5, 0.3, -1, -2, 2, 3, 0)
        match rng.randrange(7):
            case 0:
                return Node("log", (a,))
            case 1:
                return Node("sqrt", (a,))
            case 2:
                return Node("^", (a, Node("const", (rng.choice(powers),))))
            case 3:
                return Node("/", (self.constant(), a))
            case 4:
                return Node("exp", (a,))
            case 5:
                return Node("^", (a, Node("read", ("s", (), None))))
        return Node("%", (self.constant(), a))

    def safe(self, a: Node) -> Node:
        rng = self.rng
        one = Node("const", (1,))
        square = Node("*", (a, a))
        return rng.choice(
            [
                Node("tanh", (a,)), Node("sin", (a,)), Node("abs", (a,)), Node("sigmoid", (a,)),
                Node("neg", (a,)), Node("floor", (a,)), Node("cos", (a,)), Node("erf", (a,)),
                Node("/", (one, Node("+", (square, one)))), Node("log1p", (square,)),
                Node("sqrt", (Node("+", (square, one)),)), Node("stop", (a,)),
                Node("exp", (Node("min", (a, one)),)), Node("expm1", (Node("tanh", (a,)),)),
                Node("^", (a, Node("const", (rng.choice([2, 3, 1, 0]),)))),
                Node("^", (Node("const", (rng.choice([0, 1, 2, 0.5]),)), Node("abs", (a,)))),
                Node("/", (one, Node("+", (one, Node("exp", (a,)))))),
            ]
        )  # fmt: skip

    def condition(self, indices: str, depth: int) -> Node:
        op = self.rng.choice(["<", "<=", ">", ">=", "=="])
        if indices and self.rng.random() < 0.2:
            index = Node("index", (self.rng.choice(indices),))
            return Node(op, (index, Node("const", (self.rng.randint(0, 3),))))
        return Node(op, (self.body(indices, depth - 1), self.constant()))

    def constant(self) -> Node:
        return Node("const", (self.rng.choice([0, 1, -1, 0.5, 2, 3, -2.5]),))

    def leaf(self, indices: str) -> Node:
        rng = self.rng
        if rng.random() < 0.15:
            return self.constant()
        fitting = [n for n, own in self.shapes.items() if all(self.places(i, indices) for i in own)]
        name = rng.choice(fitting)
        places, guarded = [], False
        for own in self.shapes[name]:
            place = rng.choice(self.places(own, indices))
            if place.op == "index" and rng.random() < 0.15:
                shift = Node("const", (rng.choice([1, 2]),))
                place, guarded = Node(rng.choice("+-"), (place, shift)), True
            places.append(place)
        other = rng.choice([0, 0, 1, 0.5]) if guarded else None
        return Node("read", (name, tuple(places), other))

    def places(self, own: str, indices: str) -> list[Node]:
        """What can stand for an index: one of the same size, or data."""
        size = SIZES[own]
        found = [Node("index", (i,)) for i in indices if SIZES[i] == size] * 3
        for name, (index, limit) in WHOLE.items():
            if limit == size:
                found += [
                    Node("read", (name, (Node("index", (i,)),), None))
                    for i in indices
                    if SIZES[i] == SIZES[index]
                ]
        for name in self.positions:
            if size == COLUMNS:
                found += [
                    Node("read", (name, (Node("index", (i,)),), None))
                    for i in indices
                    if SIZES[i] == ROWS
                ]
        return found


# --- the interpreter: values and their derivatives, forwards --------------------------------------


@dataclass(frozen=True)
class Dual:
    """A value over the points of an equation, and its derivatives by each of the given numbers in
    front; of whole numbers and truth values there are none."""

    value: np.ndarray
    slopes: np.ndarray


def chain(*parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The sum of slope * derivative; what does not depend on a number has the derivative 0."""
    return sum(np.where(own == 0, 0.0, slope * own) for slope, own in parts)


class Interpreter:
    def __init__(self, program: Program, arrays: Mapping[str, np.ndarray], slopes: bool):
        self.names = list(GIVEN)
        self.count = sum(arrays[n].size for n in self.names) if slopes else 0
        self.tensors: dict[str, Dual] = {}
        self.constants: dict[str, float] = {}
        start = 0
        for name, array in arrays.items():
            own = np.zeros((self.count, array.size))
            if slopes and name in GIVEN:
                own[start : start + array.size] = np.eye(array.size)
                start += array.size
            self.tensors[name] = Dual(array, own.reshape(self.count, *array.shape))
        with np.errstate(all="ignore"):
            for eq in program.equations:
                self.run(eq)
        self.loss = self.tensors["loss"]

    def run(self, eq: Equation) -> None:
        known = None if eq.reduce else self.constant(eq.body)
        if known is not None:
            self.constants[eq.name] = known
        domain = eq.indices + eq.over
        shape = tuple(SIZES[i] for i in domain)
        grid = dict(zip(domain, np.indices(shape), strict=True)) if domain else {}
        if not eq.recurrent:
            self.tensors[eq.name] = self.reduced(eq, self.of(eq.body, grid, shape), shape)
            return
        value, slopes = np.zeros(shape), np.zeros((self.count, *shape))
        for step in range(SIZES["t"]):
            self.tensors[eq.name] = Dual(value, slopes)
            now = {i: g[step : step + 1] for i, g in grid.items()}
            found = self.of(eq.body, now, (1, *shape[1:]))
            value[step : step + 1] = found.value
            slopes[:, step : step + 1] = found.slopes

    def reduced(self, eq: Equation, body: Dual, shape: tuple[int, ...]) -> Dual:
        if not eq.reduce:
            return body
        axis = len(shape) - 1  # one index is reduced, or all of them by a sum
        value, slopes = body.value, body.slopes
        if eq.reduce == "sum":
            over = tuple(range(len(eq.indices), len(shape)))
            return Dual(value.sum(over), slopes.sum(tuple(n + 1 for n in over)))
        if eq.reduce == "mean":
            return Dual(value.mean(axis), slopes.mean(axis + 1))
        if eq.reduce == "prod":
            total = np.zeros_like(slopes.sum(-1))
            for n in range(shape[-1]):
                others = np.prod(np.delete(value, n, -1), -1)
                total = total + chain((others, slopes[..., n]))
            return Dual(value.prod(-1), total)
        best = value.argmax(-1) if eq.reduce in ("max", "argmax") else value.argmin(-1)
        if eq.reduce == "argmax":
            return Dual(best, np.zeros((self.count, *best.shape)))
        chosen = np.take_along_axis(value, best[..., None], -1)[..., 0]
        places = np.broadcast_to(best[None, ..., None], (self.count, *best.shape, 1))
        return Dual(chosen, np.take_along_axis(slopes, places, -1)[..., 0])

    def of(self, node: Node, grid: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Dual:
        none = np.zeros((self.count, *shape))
        known = self.constant(node)
        if known is not None:
            return Dual(np.full(shape, known), none)
        if node.op == "index":
            return Dual(np.broadcast_to(grid[node.args[0]], shape), none)
        if node.op == "read":
            return self.read(node, grid, shape)
        args = [self.of(a, grid, shape) for a in node.args]
        if node.op == "if":
            condition, yes, no = args
            return Dual(
                np.where(condition.value, yes.value, no.value),
                np.where(condition.value, yes.slopes, no.slopes),
            )
        value, slopes = FUNCTIONS[node.op](*((a.value, a.slopes) for a in args))
        return Dual(np.asarray(value), none + slopes)

    def constant(self, node: Node) -> float | None:
        """The number that the node is by the rules of the language: 0*x and 0/x are 0 even of an
        infinite x, x^0 is 1."""
        if node.op == "const":
            return node.args[0]
        if node.op == "read":
            name, _, other = node.args
            found = self.constants.get(name)
            return found if other is None or other == found else None
        if node.op == "index":
            return None
        args = [self.constant(a) for a in node.args]
        if node.op == "if":
            if args[0] is not None:
                return args[1] if args[0] else args[2]
            return args[1] if args[1] == args[2] else None
        if None not in args:
            none = np.zeros(0)
            return FUNCTIONS[node.op](*((np.asarray(a), none) for a in args))[0].item()
        if (node.op == "*" and 0 in args) or (node.op == "/" and args[0] == 0):
            return 0
        return 1 if node.op == "^" and args[1] == 0 else None

    def read(self, node: Node, grid: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Dual:
        name, places, other = node.args
        source = self.tensors[name]
        if not places:
            spread = (Ellipsis, *[None] * len(shape))
            return Dual(
                np.broadcast_to(source.value, shape),
                np.broadcast_to(source.slopes[spread], (self.count, *shape)),
            )
        found = [self.of(p, grid, shape).value for p in places]
        limits = source.value.shape
        inside = np.ones(shape, bool)
        for place, limit in zip(found, limits, strict=True):
            inside = inside & (place >= 0) & (place < limit)
        at = tuple(np.clip(p, 0, n - 1) for p, n in zip(found, limits, strict=True))
        value, slopes = source.value[at], source.slopes[(slice(None), *at)]
        if other is None:
            return Dual(value, slopes)
        return Dual(np.where(inside, value, other), np.where(inside, slopes, 0.0))


def _power(x, y):
    (a, da), (b, db) = x, y
    a, b = a.astype(float), b.astype(float)
    value = np.power(a, b)
    by_a = np.where(b == 0, 0.0, b * np.power(a, b - 1))
    by_b = np.where(a > 0, value * np.log(np.where(a > 0, a, 1.0)), 0.0)
    return value, chain((by_a, da), (by_b, db))


def _larger(sign: int):
    def rule(x, y):
        first = sign * x[0] > sign * y[0]
        value = np.maximum(x[0], y[0]) if sign > 0 else np.minimum(x[0], y[0])
        return value, np.where(first, x[1], y[1])

    return rule


def _of(function, slope):
    """A function of one number: `slope` of the argument and the value."""

    def rule(x):
        value = function(x[0].astype(float))
        return value, chain((slope(x[0].astype(float), value), x[1]))

    return rule


def _plain(function):
    """A function without a derivative."""
    return lambda *args: (function(*(a[0] for a in args)), 0.0)


def _floordiv(a, b):
    """The exact quotient rounded down: -1.5 // 0.3 is -6, as 0.3 stands for a little less."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    rounded = np.floor(np.divide(a, b))
    return np.where(np.isfinite(rounded), np.floor_divide(a, b), rounded)


def _mod(x, y):
    quotient = _floordiv(x[0], y[0])
    return np.mod(x[0].astype(float), y[0]), chain((np.array(1.0), x[1]), (-quotient, y[1]))


_erf = np.vectorize(math.erf, otypes=[float])
FUNCTIONS = {
    "+": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "-": lambda x, y: (x[0] - y[0], x[1] - y[1]),
    "*": lambda x, y: (x[0] * y[0], chain((y[0], x[1]), (x[0], y[1]))),
    "/": lambda x, y: (
        np.true_divide(x[0], y[0]),
        chain((1 / y[0].astype(float), x[1]), (-x[0] / (y[0].astype(float) * y[0]), y[1])),
    ),
    "%": _mod,
    "//": _plain(_floordiv),
    "^": _power,
    "<": _plain(np.less),
    "<=": _plain(np.less_equal),
    ">": _plain(np.greater),
    ">=": _plain(np.greater_equal),
    "==": _plain(np.equal),
    "and": _plain(np.logical_and),
    "or": _plain(np.logical_or),
    "neg": lambda x: (-x[0], -x[1]),
    "max": _larger(1),
    "min": _larger(-1),
    "abs": lambda x: (np.abs(x[0]), np.sign(x[0]) * x[1]),
    "floor": _plain(np.floor),
    "stop": lambda x: (x[0], 0.0),
    "exp": _of(np.exp, lambda x, f: f),
    "expm1": _of(np.expm1, lambda x, f: f + 1),
    "log": _of(np.log, lambda x, f: 1 / x),
    # the compiler recognises it, and does not cancel
    "log(1 + exp)": _of(lambda x: np.log1p(np.exp(x)), lambda x, f: 1 / (1 + np.exp(-x))),
    "log1p": _of(np.log1p, lambda x, f: 1 / (1 + x)),
    "sqrt": _of(np.sqrt, lambda x, f: 0.5 / f),
    "tanh": _of(np.tanh, lambda x, f: 1 / np.cosh(x) ** 2),
    "sin": _of(np.sin, lambda x, f: np.cos(x)),
    "cos": _of(np.cos, lambda x, f: -np.sin(x)),
    "erf": _of(_erf, lambda x, f: 2 / math.sqrt(math.pi) * np.exp(-x * x)),
    "sigmoid": _of(
        lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), lambda x, f: 0.25 / np.cosh(0.5 * x) ** 2
    ),
}


# --- the right gradient ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """The derivatives by all given numbers, in order. `known` where there is one, `exact` where it
    is that of forward mode and not only of differences."""

    loss: float
    slopes: np.ndarray
    known: np.ndarray
    exact: np.ndarray


def truth(program: Program) -> Truth | None:
    """None if the loss itself is not finite."""
    found = Interpreter(program, program.arrays, slopes=True).loss
    loss = float(found.value)
    if not math.isfinite(loss) or abs(loss) > 1e8:
        return None
    flat = [(n, k) for n in GIVEN for k in range(program.arrays[n].size)]
    slopes, known, exact = np.zeros(len(flat)), *(np.zeros(len(flat), bool) for _ in range(2))
    for number, (name, place) in enumerate(flat):
        sides = []
        for step in STEPS:
            for sign in (1, -1):
                moved = dict(program.arrays)
                moved[name] = moved[name].copy()
                # a step in proportion, so that large numbers move at all
                size = sign * step * max(1.0, abs(moved[name].flat[place]))
                before = moved[name].flat[place]
                moved[name].flat[place] += size
                after = float(Interpreter(program, moved, slopes=False).loss.value)
                sides.append((after - loss) / (moved[name].flat[place] - before))
        own = float(found.slopes[number])
        scale = max(1.0, *map(abs, sides)) + abs(loss) * 1e-8 / STEPS[-1]
        smooth = bool(np.isfinite(sides).all()) and max(sides) - min(sides) <= ROUGH * scale
        agrees = math.isfinite(own) and abs(own - sides[0]) <= 2 * ROUGH * scale
        # Where forward mode is NaN (0 * inf of an overflow), differences alone are the judge. Where
        # it is finite and differs, as at a kink that lies symmetrically, there is no judge.
        # So they are of `stop`, which they move.
        alone = not math.isfinite(own) and "stop(" not in program.text
        known[number] = smooth and (agrees or alone)
        exact[number] = smooth and agrees
        slopes[number] = own if agrees else sides[0]
    return Truth(loss, slopes, known, exact)


# --- the comparison -------------------------------------------------------------------------------


def faults(program: Program, code: bool = False, gpu: bool = False) -> Iterator[str] | None:
    """What differs from the right gradient; None if the loss is not finite."""
    right = truth(program)
    return None if right is None else _faults(program, right, code, gpu)


def _faults(program: Program, right: Truth, code: bool, gpu: bool) -> Iterator[str]:
    whole = system(program.text)
    whole, names = add_gradients(whole, "loss", list(GIVEN))
    whole = whole.replace(outputs=("loss", *names.values()))
    given = {n: a for n, a in program.arrays.items() if n in whole.tensors}
    found = evaluate(derive(whole), given)
    yield from _compared("evaluator", found, names, program, right, CLOSE)
    if code:
        machine = CpuProgram(plan(whole, PassCheck(whole, given)), 1)
        for name, value in given.items():
            machine.arrays[name][...] = value
        machine.run()
        yield from _compared("machine code", machine.arrays, names, program, right, CLOSE)
    if gpu:
        from gpu_simulator import SimulatedProgram

        simulated = SimulatedProgram(gpu_plan(whole, PassCheck(whole, given)))
        for name, value in given.items():
            simulated.arrays[name][...] = value
        simulated.run()
        yield from _compared("simulator", simulated.arrays, names, program, right, CLOSE)


def _compared(
    where: str,
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    program: Program,
    right: Truth,
    tolerance: float,
) -> Iterator[str]:
    if abs(arrays["loss"] - right.loss) > tolerance * max(1.0, abs(right.loss)):
        yield f"{where}: the loss is {arrays['loss']!r}, right is {right.loss!r}"
    slopes = np.concatenate(
        [
            np.ravel(arrays[names[n]]) if n in names else np.zeros(program.arrays[n].size)
            for n in GIVEN
        ]
    )
    flat = [(n, k) for n in GIVEN for k in range(program.arrays[n].size)]
    largest = max(1.0, float(np.abs(right.slopes[right.known]).max(initial=0)))
    for number, (name, place) in enumerate(flat):
        if not right.known[number]:
            continue
        allowed = (tolerance if right.exact[number] else 10 * ROUGH) * largest
        if not abs(slopes[number] - right.slopes[number]) <= allowed:
            yield (
                f"{where}: d_{name}, element {place}, is {slopes[number]!r}, "
                f"right is {right.slopes[number]!r}"
            )


def run_programs(
    given: argparse.Namespace,
    faults_of: Callable[[Program, int], Iterable[str] | None],
) -> NoReturn:
    """Runs `given.programs` programs from `given.seed` on, prints what is wrong with each, and
    exits with 1 if anything is. `faults_of` takes a program and how many came before it; a program
    for which it gives None does not count."""
    wrong = done = 0
    seed = given.seed - 1
    began = time.monotonic()
    while done < given.programs:
        seed += 1
        program = Maker(seed).make()
        try:
            found = faults_of(program, done)
            if found is None:
                continue
            told = list(found)
        except UserError as error:
            # constants that are divided by 0; a fraction beside whole numbers
            if error.diagnostics[0].code in ("E0309", "E0307"):
                continue
            told = [str(error)]
        except Exception as error:  # a program must never end the run
            told = [f"{type(error).__name__}: {error}"]
        done += 1
        if told:
            wrong += 1
            print(f"seed {seed}:", *told, program.text, program.arrays, sep="\n", flush=True)
        if given.log and (done % 50 == 0 or done == given.programs):
            with given.log.open("a") as log:
                log.write(
                    f"seeds {given.seed} to {seed}: {done} programs, {wrong} wrong, "
                    f"{time.monotonic() - began:.0f} s\n"
                )
    print(f"{done} programs, seeds {given.seed} to {seed}, {wrong} wrong")
    sys.exit(wrong > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100, help="whose loss is finite")
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--code", type=int, default=10, help="machine code for each n-th")
    parser.add_argument("--gpu", type=int, default=0, help="the simulator for each n-th")
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    run_programs(
        given,
        lambda program, done: faults(
            program, done % given.code == 0, bool(given.gpu) and done % given.gpu == 0
        ),
    )


if __name__ == "__main__":
    main()
