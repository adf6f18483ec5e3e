"""optimizers, penalties, clipping: twenty steps beside PyTorch and beside the papers' formulas."""

from __future__ import annotations

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


def first(init: str) -> float:
    """The number that a state begins with, `= 1.0`; 0 for all else."""
    number = init.removeprefix("= ")
    return float(number) if number.replace(".", "").isdigit() else 0.0


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
    values |= {t.name: values[t.init[2:]].copy() for t in kept if t.init[2:] in values}
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


class ScheduleFree:
    """The authors' implementation, which keeps y and z: facebookresearch/schedule_free."""

    def __init__(self, lr, beta1, beta2=None, decay=0):
        self.lr, self.beta1, self.beta2, self.decay = lr, beta1, beta2, decay

    def step(self, torch, p, state, t):
        z = state.setdefault("z", p.clone())
        g = p.grad.clone()
        if self.beta2 is not None:
            state["v"] = self.beta2 * state.get("v", 0) + (1 - self.beta2) * g**2
            g = g / (torch.sqrt(state["v"] / (1 - self.beta2**t)) + 1e-8)
        lr = self.lr(t)
        state["largest"] = max(state.get("largest", 0), lr)
        weight = state["largest"] ** 2
        state["total"] = state.get("total", 0) + weight
        share = weight / state["total"] if state["total"] else 0
        g = g + self.decay * p
        p.lerp_(z, share).add_(g, alpha=lr * (self.beta1 * (1 - share) - 1))
        z.sub_(g, alpha=lr)


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
    ("schedule_free(0.2)", ScheduleFree(lambda t: 0.2, 0.9)),
    (
        "schedule_free(lr = warmup(t - 1, 0.2, 4), beta = 0.6, decay = 0.1)",
        ScheduleFree(lambda t: 0.2 * min((t - 1) / 4, 1), 0.6, decay=0.1),
    ),
    ("schedule_free_adamw", ScheduleFree(lambda t: 2.5e-3, 0.9, 0.999)),
    (
        "schedule_free_adamw(step_decay(t, 0.1, 7, 0.5), 0.8, 0.95, decay = 0.1)",
        ScheduleFree(lambda t: 0.1 * 0.5 ** ((t - 1) // 7), 0.8, 0.95, 0.1),
    ),
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


def test_sharpness_aware_minimisation():
    """Twenty steps of gradient descent at the weights that `sam` gives."""
    torch = torch_or_skip()
    definitions, file = read(
        "model M(x: f32[B, 3], target: f32[B, 2]) -> loss: [] {\n"
        " param dense1_w: [3, 4] = 0\n param dense2_w: [4, 2] = 0\n"
        " l = mse(tanh(x @ dense1_w) @ dense2_w, target)\n"
        " g = grad(l, dense1_w)\n h = grad(l, dense2_w)\n"
        " n = sqrt(sum(g^2) + sum(h^2))\n"
        " loss = mse(tanh(x @ sam(dense1_w, g, n, 0.3)) @ sam(dense2_w, h, n, 0.3), target)\n}\n"
        "train M {\n loss = loss\n optimizer = sgd(0.1)\n}"
    )
    block = next(d for d in file.declarations if isinstance(d, s.Train))
    fields = {"x": FieldType("f32", (3,)), "target": FieldType("f32", (2,))}
    setup = Setup(definitions, block, {}, fields, BATCH, STEPS, float_type="f64")
    system = derive(training_step(setup)[0])
    names = ("dense1_w", "dense2_w")
    values = {name: start()[name] for name in names}
    own = [torch.tensor(values[name], requires_grad=True) for name in names]
    for batch in batches():
        _, values = advance(system, values | batch | {"step": np.int32(1)})
        x, target = (torch.tensor(batch[name]) for name in ("x", "target"))

        def loss(u, v, x=x, target=target):
            return ((torch.tanh(x @ u) @ v - target) ** 2).mean()

        first = torch.autograd.grad(loss(*own), own)
        norm = torch.sqrt(sum((g**2).sum() for g in first))
        moved = [
            (p + 0.3 * g / norm).detach().requires_grad_() for p, g in zip(own, first, strict=True)
        ]
        second = torch.autograd.grad(loss(*moved), moved)
        with torch.no_grad():
            for p, g in zip(own, second, strict=True):
                p -= 0.1 * g
    for name, p in zip(names, own, strict=True):
        check(values[name], p.detach().numpy(), name, 1e-10)


AVERAGES = [
    ("ema(a, p, 5)", 0.999 * 2 + 0.001 * 3),
    ("ema(a, p, 5, decay = 0.6)", 0.6 * 2 + 0.4 * 3),
    ("ema_warmup(a, p, 5)", 0.4 * 2 + 0.6 * 3),
    ("ema_warmup(a, p, 500, decay = 0.6)", 0.6 * 2 + 0.4 * 3),
    ("mean_of_steps(a, p, 5)", 2 + 1 / 5),
    ("mean_of_steps(a, p, 5, start = 4)", 2.5),
    ("mean_of_steps(a, p, 5, start = 6)", 3),
]


@pytest.mark.parametrize("y, expected", AVERAGES, ids=[row[0] for row in AVERAGES])
def test_averages(y, expected):
    found = value_of(y, {"a": "f32[2]", "p": "f32[2]"}, {"a": [2, 2], "p": [3, 3]})
    check(found, np.full(2, expected), y)
