"""optimizers, schedules: twenty steps against PyTorch and against the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnc.compiler.elaboration.train_block import FieldType, Setup
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import advance
from nnc.dsl.diagnostics.diagnostic import UserError
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


def first(init: str) -> float:
    """The number that a state begins with, `= 1.0`; 0 for what is drawn."""
    return float(init.removeprefix("= ")) if init.startswith("=") else 0.0


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
    values = {t.name: np.full(t.shape, first(t.init)) for t in kept} | start()
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
    ("adadelta", lambda t, p: t.optim.Adadelta(p)),
    ("adadelta(0.5, beta = 0.8)", lambda t, p: t.optim.Adadelta(p, 0.5, 0.8)),
    ("amsgrad(0.1, beta2 = 0.9)", lambda t, p: t.optim.Adam(p, 0.1, (0.9, 0.9), amsgrad=True)),
    ("adamax", lambda t, p: t.optim.Adamax(p)),
    ("adamax(0.1, 0.8, 0.95)", lambda t, p: t.optim.Adamax(p, 0.1, (0.8, 0.95))),
    ("nadam", lambda t, p: t.optim.NAdam(p)),
    ("radam(0.1)", lambda t, p: t.optim.RAdam(p, 0.1)),
    ("radam(0.1, beta2 = 0.9)", lambda t, p: t.optim.RAdam(p, 0.1, (0.9, 0.9))),
    ("adafactor", lambda t, p: t.optim.Adafactor(p)),
    ("adafactor(0.3, power = 0.6, decay = 0.1)",
     lambda t, p: t.optim.Adafactor(p, 0.3, -0.6, weight_decay=0.1)),
    ("adafactor(limit = 1.2, least = 0.9, eps = 0.01)",
     lambda t, p: t.optim.Adafactor(p, eps=(0.01, 0.9), d=1.2)),
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


class Sgdw:
    """Algorithm 1 of the paper of AdamW, with a rate of 1 for the schedule."""

    def __init__(self, lr, beta, decay):
        self.lr, self.beta, self.decay = lr, beta, decay

    def step(self, torch, p, state, t):
        state["m"] = self.beta * state.get("m", 0) + p.grad
        p -= self.lr * (state["m"] + self.decay * p)


class Nadam:
    """Algorithm 2 of the paper with its schedule of momentum; PyTorch keeps the product in f32."""

    def __init__(self, lr, beta1, beta2):
        self.lr, self.beta1, self.beta2 = lr, beta1, beta2

    def step(self, torch, p, state, t):
        mu, following = (self.beta1 * (1 - 0.5 * 0.96 ** (0.004 * s)) for s in (t, t + 1))
        state["m"] = self.beta1 * state.get("m", 0) + (1 - self.beta1) * p.grad
        state["v"] = self.beta2 * state.get("v", 0) + (1 - self.beta2) * p.grad**2
        state["product"] = state.get("product", 1) * mu
        m = following * state["m"] / (1 - state["product"] * following)
        g = (1 - mu) * p.grad / (1 - state["product"])
        p -= self.lr * (m + g) / (torch.sqrt(state["v"] / (1 - self.beta2**t)) + 1e-8)


class Muon:
    """Algorithm 2 of Jordan's page, as in PyTorch, but in float64 and for weights [in, out]."""

    def __init__(self, lr, beta, decay, other):
        self.lr, self.beta, self.decay, self.other = lr, beta, decay, other

    def step(self, torch, p, state, t):
        if p.ndim != 2:
            if "adam" not in state:
                state["adam"] = torch.optim.AdamW([p], self.other, weight_decay=self.decay)
            state["adam"].step()
            return
        m = state["m"] = self.beta * state.get("m", 0) + (1 - self.beta) * p.grad
        x = (1 - self.beta) * p.grad + self.beta * m
        x = x / x.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
        rows, columns = p.T.shape  # PyTorch's weights are [out, in]
        p *= 1 - self.lr * self.decay
        p -= self.lr * max(1, rows / columns) ** 0.5 * x


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
    ("sgdw(0.1)", Sgdw(0.1, 0.9, 1e-4)),
    ("sgdw(0.1, beta = 0.8, decay = 0.2)", Sgdw(0.1, 0.8, 0.2)),
    ("nadam(0.1, 0.8, 0.95)", Nadam(0.1, 0.8, 0.95)),
    ("muon", Muon(0.02, 0.95, 0, 3e-4)),
    ("muon(lr = 0.1, beta = 0.8, decay = 0.1, other_lr = 0.01)", Muon(0.1, 0.8, 0.1, 0.01)),
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
    ("exponential_decay(t, 0.1, 0.9)", lambda s, o: s.ExponentialLR(o, 0.9)),
    ("polynomial_decay(t, 0.1, 15)", lambda s, o: s.PolynomialLR(o, 15)),
    ("polynomial_decay(t, 0.1, steps, power = 2.5)", lambda s, o: s.PolynomialLR(o, STEPS, 2.5)),
    (
        "cosine_restarts(t, 0.1, 7, floor = 0.01)",
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 7, eta_min=0.01),
    ),
    ("triangle(t, 0.02, 0.1, 6)", lambda s, o: s.CyclicLR(o, 0.02, 0.1, 6, cycle_momentum=False)),
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
    ("noam(t, 512, 4000)", {1: 512**-0.5 * 4000**-1.5, 4000: (512 * 4000) ** -0.5,
                            16000: (512 * 16000) ** -0.5}),
    ("noam(t, 64, rise = 10, factor = 2)", {5: 0.25 * 5 * 10**-1.5, 40: 0.25 * 40**-0.5}),
    ("inverse_sqrt(t, 2.0, 100)", {1: 0.02, 100: 2.0, 400: 1.0}),
    ("warmup_linear(t, 2.0, 10, 110)", {1: 0.2, 10: 2.0, 60: 1.0, 110: 0.0, 111: 0.0}),
    ("warmup_linear(t, 2.0, 0, 100, floor = 1)", {1: 1.99, 50: 1.5, 100: 1.0}),
    ("warmup_stable_decay(t, 2.0, 10, 20, 100)",
     {1: 0.2, 10: 2.0, 81: 2.0, 91: 1.0, 100: 0.1, 101: 0.0, 500: 0.0}),
    ("one_cycle(t, 2.0, 100)",
     {1: 0.08, 30: 2.0, 65: half_wave(2, 0.08e-4, 0.5), 100: 0.08e-4, 200: 0.08e-4}),
    ("one_cycle(t, 2.0, 20, rise = 0.05)", {1: 2.0, 20: 0.08e-4}),
    ("constant(2.0) + 0*t", {1: 2.0, 99: 2.0}),
]  # fmt: skip


@pytest.mark.parametrize("text, points", POINTS, ids=[row[0] for row in POINTS])
def test_schedule_at(text, points):
    for t, expected in points.items():
        found = float(value_of(text, {"t": "i32[]"}, {"t": t}))
        assert abs(found - expected) < 1e-12, f"t = {t}"


WRONG = [
    ("warmup_cosine(t, 1.0, 100, 100)", "the warmup must be shorter than all steps together"),
    ("warmup_linear(t, 1.0, 200, 100)", "the warmup must be shorter than all steps together"),
    ("one_cycle(t, 1.0, 100, rise = 30)", "the rise of a cycle is a fraction of all steps"),
]


@pytest.mark.parametrize("text, message", WRONG, ids=[row[0] for row in WRONG])
def test_wrong_uses_of_schedules(text, message):
    with pytest.raises(UserError) as caught:
        value_of(text, {"t": "i32[]"}, {"t": 1})
    assert message in caught.value.diagnostics[0].message
