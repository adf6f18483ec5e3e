"""optimizers, schedules: twenty steps against PyTorch and against the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnc.compiler.elaboration.train_block import FieldType, Setup
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import advance
from nnc.dsl.syntax import ast as s

from .programs import check, read, torch_or_skip, value_of

STEPS, BATCH = 20, 6
SHAPES = {"dense1_w": (3, 4), "dense1_b": (4,), "dense2_w": (4, 2), "dense2_b": (2,)}


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(4)
    return [
        {"x": rng.normal(size=(BATCH, 3)), "target": rng.normal(size=(BATCH, 2))}
        for _ in range(STEPS)
    ]


def trained(train: str) -> dict[str, np.ndarray]:
    """The parameters after twenty steps."""
    definitions, file = read(
        "model M(x: f32[B, 3]) -> y: f32[B, 2] { y = x |> Dense(4) |> tanh |> Dense(2) }\n"
        f"train M {{\n loss = mse(y, target)\n {train}\n}}"
    )
    fields = {"x": FieldType("f32", (3,)), "target": FieldType("f32", (2,))}
    block = next(d for d in file.declarations if isinstance(d, s.Train))
    setup = Setup(definitions, block, {}, fields, BATCH, STEPS, float_type="f64")
    system = derive(training_step(setup)[0])
    kept = [t for t in system.tensors.values() if t.kind in ("param", "state")]
    values = {t.name: np.zeros(t.shape) for t in kept} | start()
    for step, batch in enumerate(batches(), 1):
        _, values = advance(system, values | batch | {"step": np.int32(step), "seed": np.int32(0)})
    return {name: values[name] for name in SHAPES}


def trained_by_torch(optimizer, schedule=None, loss=None, after=None) -> dict[str, np.ndarray]:
    """The same by PyTorch: `optimizer` makes one from the parameters, `schedule` its scheduler;
    `loss` is added to the loss and `after` looks at the gradients."""
    torch = torch_or_skip()
    p = {name: torch.tensor(value, requires_grad=True) for name, value in start().items()}
    made = optimizer(torch, list(p.values()))
    scheduler = schedule and schedule(torch.optim.lr_scheduler, made)
    for batch in batches():
        x, target = (torch.tensor(batch[name]) for name in ("x", "target"))
        y = torch.tanh(x @ p["dense1_w"] + p["dense1_b"]) @ p["dense2_w"] + p["dense2_b"]
        total = ((y - target) ** 2).mean()
        made.zero_grad()
        (total + loss(p) if loss else total).backward()
        if after:
            after(torch, list(p.values()))
        made.step()
        if scheduler:
            scheduler.step()
    return {name: value.detach().numpy() for name, value in p.items()}


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in SHAPES:
        check(found[name], expected[name], name, 1e-10)


TORCH = [
    ("sgd(0.1)", lambda t, p: t.optim.SGD(p, 0.1)),
    ("momentum(0.1)", lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9)),
    ("nesterov(lr = 0.1, beta = 0.8)",
     lambda t, p: t.optim.SGD(p, 0.1, momentum=0.8, nesterov=True)),
    ("rmsprop", lambda t, p: t.optim.RMSprop(p)),
    ("rmsprop(0.001, beta = 0.9)", lambda t, p: t.optim.RMSprop(p, 0.001, 0.9)),
    ("adagrad", lambda t, p: t.optim.Adagrad(p)),
    ("adam", lambda t, p: t.optim.Adam(p)),
    ("adam(0.1, 0.8, 0.95, 1e-3)", lambda t, p: t.optim.Adam(p, 0.1, (0.8, 0.95), 1e-3)),
    ("adamw", lambda t, p: t.optim.AdamW(p)),
    ("adamw(lr = 0.1, decay = 0.3)", lambda t, p: t.optim.AdamW(p, 0.1, weight_decay=0.3)),
]  # fmt: skip


@pytest.mark.parametrize("text, made", TORCH, ids=[row[0] for row in TORCH])
def test_agrees_with_pytorch(text, made):
    compare(trained(f"optimizer = {text}"), trained_by_torch(made))


# --- what PyTorch does not have: the papers' algorithms, for one parameter at a time --------------


class Lion:
    """Algorithm 2 of the paper."""

    def __init__(self, lr, beta1, beta2, decay):
        self.lr, self.beta1, self.beta2, self.decay = lr, beta1, beta2, decay

    def step(self, torch, p, state, t):
        m = state.setdefault("m", torch.zeros_like(p))
        c = self.beta1 * m + (1 - self.beta1) * p.grad
        p -= self.lr * (torch.sign(c) + self.decay * p)
        state["m"] = self.beta2 * m + (1 - self.beta2) * p.grad


class Lamb:
    """Algorithm 2 of the paper, with the identity for phi."""

    def __init__(self, lr, decay):
        self.lr, self.decay = lr, decay

    def step(self, torch, p, state, t):
        state["m"] = 0.9 * state.get("m", 0) + 0.1 * p.grad
        state["v"] = 0.999 * state.get("v", 0) + 0.001 * p.grad**2
        m, v = state["m"] / (1 - 0.9**t), state["v"] / (1 - 0.999**t)
        r = m / (torch.sqrt(v) + 1e-6) + self.decay * p
        p -= self.lr * torch.linalg.norm(p) / torch.linalg.norm(r) * r


class Each:
    """A rule as an optimizer of PyTorch's kind."""

    def __init__(self, torch, parameters, rule):
        self.torch, self.parameters, self.rule = torch, parameters, rule
        self.states = [{} for _ in parameters]
        self.t = 0

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        self.t += 1
        with self.torch.no_grad():
            for p, state in zip(self.parameters, self.states, strict=True):
                self.rule.step(self.torch, p, state, self.t)


PAPERS = [
    ("lion(0.01)", Lion(0.01, 0.9, 0.99, 0)),
    ("lion(lr = 0.01, beta1 = 0.8, decay = 0.1)", Lion(0.01, 0.8, 0.99, 0.1)),
    ("lamb(0.05)", Lamb(0.05, 0.01)),
    ("lamb(lr = 0.05, decay = 0)", Lamb(0.05, 0)),
]


@pytest.mark.parametrize("text, rule", PAPERS, ids=[row[0] for row in PAPERS])
def test_agrees_with_the_paper(text, rule):
    expected = trained_by_torch(lambda torch, p: Each(torch, p, rule))
    compare(trained(f"optimizer = {text}"), expected)


# --- what stands around an optimizer --------------------------------------------------------------


def test_clip_norm_and_value():
    sgd = TORCH[0][1]
    for text, after in [
        ("clip_norm(0.5)", lambda t, p: t.nn.utils.clip_grad_norm_(p, 0.5)),
        ("clip_value(0.1)", lambda t, p: t.nn.utils.clip_grad_value_(p, 0.1)),
    ]:
        found = trained(f"optimizer = sgd(0.1)\n clip = {text}")
        compare(found, trained_by_torch(sgd, after=after))


@pytest.mark.parametrize(
    "text, cost", [("l2(0.1)", lambda w: (w**2).sum()), ("l1(0.1)", lambda w: w.abs().sum())]
)
def test_penalties(text, cost):
    """Of every parameter: weights and biases."""
    expected = trained_by_torch(TORCH[0][1], loss=lambda p: 0.1 * sum(map(cost, p.values())))
    compare(trained(f"optimizer = sgd(0.1)\n penalty = {text}"), expected)


def test_penalty_and_clip_of_vectors_and_numbers():
    """Every parameter, whatever its shape: d (loss + w^2 + |v|^2 + |m|^2) / d p = 1 + 2 p."""
    definitions, file = read(
        "model M(x: f32[B]) -> y: f32[B] {\n param w: [] = 1\n param v: [2] = 2\n"
        " param m: [2, 2] = 3\n y[b] = x[b]*(w + sum(v) + sum(m))\n}\n"
        "train M {\n loss = mean(y)\n penalty = l2(1)\n clip = clip_value(6)\n"
        " optimizer = sgd(lr = 1)\n}"
    )
    block = next(d for d in file.declarations if isinstance(d, s.Train))
    fields = {"x": FieldType("f32", ())}
    system = derive(training_step(Setup(definitions, block, {}, fields, 2, 1, float_type="f64"))[0])
    start = {"w": np.array(1.0), "v": np.full(2, 2.0), "m": np.full((2, 2), 3.0)}
    _, after = advance(system, start | {"x": np.ones(2), "step": np.int32(1)})
    assert after["w"] == 1 - 3 and after["v"].tolist() == [2 - 5] * 2
    assert after["m"].tolist() == [[3 - 6] * 2] * 2  # 7, clipped


SCHEDULED = [
    ("cosine(t, 0.1, steps)", lambda s, o: s.CosineAnnealingLR(o, STEPS)),
    ("cosine(t, 0.1, 30, floor = 0.01)", lambda s, o: s.CosineAnnealingLR(o, 30, 0.01)),
    ("step_decay(t, 0.1, 7)", lambda s, o: s.StepLR(o, 7)),
    ("step_decay(t, 0.1, 3, rate = 0.5)", lambda s, o: s.StepLR(o, 3, 0.5)),
    ("one_cycle(t, 0.1, steps)", lambda s, o: s.OneCycleLR(o, 0.1, STEPS, cycle_momentum=False)),
    ("warmup(t, 0.1, 5)", lambda s, o: s.LinearLR(o, 0.2, 1.0, 4)),
    ("constant(0.1)", lambda s, o: s.ConstantLR(o, 1.0)),
]


@pytest.mark.parametrize("text, schedule", SCHEDULED, ids=[row[0] for row in SCHEDULED])
def test_scheduled_training(text, schedule):
    found = trained(f"optimizer = sgd(lr = {text})")
    compare(found, trained_by_torch(TORCH[0][1], schedule))


def half_wave(a: float, b: float, x: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * x)) / 2


POINTS = [
    ("cosine(t, 2.0, 100)", {1: 2.0, 51: 1.0, 101: 0.0, 500: 0.0}),
    ("cosine(t, 2.0, 100, 0.5)", {1: 2.0, 26: half_wave(2, 0.5, 0.25), 101: 0.5}),
    ("step_decay(t, 2.0, 10)", {1: 2.0, 10: 2.0, 11: 0.2, 20: 0.2, 21: 0.02}),
    ("warmup(t, 2.0, 10)", {1: 0.2, 5: 1.0, 10: 2.0, 50: 2.0}),
    ("warmup_cosine(t, 2.0, 10, 110)", {1: 0.2, 10: 2.0, 60: 1.0, 110: 0.0, 111: 0.0}),
    ("one_cycle(t, 2.0, 100)",
     {1: 0.08, 30: 2.0, 65: half_wave(2, 0.08e-4, 0.5), 100: 0.08e-4, 200: 0.08e-4}),
    ("constant(2.0) + 0*t", {1: 2.0, 99: 2.0}),
]  # fmt: skip


@pytest.mark.parametrize("text, points", POINTS, ids=[row[0] for row in POINTS])
def test_schedule_at(text, points):
    for t, expected in points.items():
        found = float(value_of(text, {"t": "i32[]"}, {"t": t}))
        assert abs(found - expected) < 1e-12, f"t = {t}"
