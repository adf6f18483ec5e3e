"""Several losses in one train block: which parameters each trains, by which gradients, in which
steps; and beside PyTorch a whole cycle of a Wasserstein GAN with gradient penalty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import values

from nnc.compiler.elaboration.train_block import FieldType, Setup
from nnc.compiler.ir.printer import system_text
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import step_with_gradients, training_step
from nnc.compiler.reference.evaluator import advance
from nnc.compiler.reference.initial_values import initial_values
from nnc.dsl.check.checker import load_source
from nnc.dsl.check.turns import turns
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.summary import summarize
from nnc.runtime.project import open_project, project_of_text, setup_of

WGAN = """
layer Critic(x: [..., n]) -> score: [...] {
    s = x |> Dense(6) |> silu |> Dense(1)
    score[...] = s[..., 0]
}

model Wgan(x: f32[B, 2], z: f32[B, 3], u: f32[B])
    -> fake: f32[B, 2], real_score: f32[B], fake_score: f32[B], penalty: f32 {
    critic = Critic
    generator = Dense(5)
    head = Dense(2)
    fake = z |> generator |> tanh |> head
    real_score = critic(x)
    fake_score = critic(fake)
    between[b, k] = u[b] * x[b, k] + (1 - u[b]) * stop(fake[b, k])
    s = critic(between)
    g = grad(sum(s), between)
    slope[b] = sqrt(sum(k) g[b, k]^2)
    penalty = mean((slope - 1)^2)
}

train Wgan {
    loss critic for critic.* = mean(fake_score) - mean(real_score) + 10 * penalty
    loss generator for generator.*, head.* = -mean(fake_score)
    %s
    metric gap = mean(real_score) - critic
}
"""
ADAM = "optimizer = adam(lr = 0.01, beta1 = 0.5, beta2 = 0.9)"
FIELDS = {"x": FieldType("f32", (2,)), "z": FieldType("f32", (3,)), "u": FieldType("f32", ())}
BATCH = 4
CRITIC = tuple(f"critic_dense{n}_{p}" for n in (1, 2) for p in "wb")
GENERATOR = ("generator_w", "generator_b", "head_w", "head_b")


def setup(entries: str, text: str = WGAN, **more) -> Setup:
    report = Report()
    checked = load_source(Source("test.nn", text % entries), report)
    report.check()
    train = checked.trains[0]
    return Setup(checked.definitions, train, {}, FIELDS, BATCH, float_type="f64", **more)


def batch(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    return {
        "x": random.normal(size=(BATCH, 2)),
        "z": random.normal(size=(BATCH, 3)),
        "u": random.uniform(size=BATCH),
        "step": np.array(step, np.int32),
    }


# --- beside PyTorch -------------------------------------------------------------------------------


def by_torch(start: dict, cycle: list[tuple[str, ...]], steps: int) -> list[dict]:
    """The gradients of every step, by parameter, and its losses; then the parameters."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second opinion here")
    F = torch.nn.functional
    p = {n: torch.tensor(start[n], requires_grad=True) for n in (*CRITIC, *GENERATOR)}
    own = {"critic": [p[n] for n in CRITIC], "generator": [p[n] for n in GENERATOR]}
    adam = {n: torch.optim.Adam(o, lr=0.01, betas=(0.5, 0.9)) for n, o in own.items()}

    def critic(x):
        h = F.silu(x @ p["critic_dense1_w"] + p["critic_dense1_b"])
        return (h @ p["critic_dense2_w"] + p["critic_dense2_b"])[:, 0]

    found = []
    for step in range(1, steps + 1):
        x, z, u = (torch.tensor(batch(step)[n]) for n in "xzu")
        h = torch.tanh(z @ p["generator_w"] + p["generator_b"])
        fake = h @ p["head_w"] + p["head_b"]
        between = (u[:, None] * x + (1 - u[:, None]) * fake.detach()).requires_grad_()
        (g,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = ((g.norm(dim=1) - 1) ** 2).mean()
        loss = {"critic": critic(fake).mean() - critic(x).mean() + 10 * penalty}
        loss["generator"] = -critic(fake).mean()
        now = {name: value.item() for name, value in loss.items()}
        turn = cycle[(step - 1) % len(cycle)]
        gradients = {n: torch.autograd.grad(loss[n], own[n], retain_graph=True) for n in turn}
        for name in turn:
            for parameter, gradient in zip(own[name], gradients[name], strict=True):
                parameter.grad = gradient
            names = CRITIC if name == "critic" else GENERATOR
            now |= {n: g.numpy() for n, g in zip(names, gradients[name], strict=True)}
        for name in turn:
            adam[name].step()
        found.append(now)
    return [*found, {n: v.detach().numpy().copy() for n, v in p.items()}]


TURNS = {
    "turns = [3*critic, generator]": [*[("critic",)] * 3, ("generator",)],
    "turns = [critic, critic + generator]": [("critic",), ("critic", "generator")],
    "": [("critic", "generator")],
}


@pytest.mark.parametrize("entry", TURNS, ids=["alternating", "mixed", "simultaneous"])
def test_cycles_are_those_of_pytorch(entry: str) -> None:
    cycle, made = TURNS[entry], setup(f"{ADAM}\n{entry}")
    assert list(turns(made.train)) == (cycle if entry else [])
    steps = {turn: step_with_gradients(replace(made, turn=turn)) for turn in dict.fromkeys(cycle)}
    systems = {turn: derive(found[0]) for turn, found in steps.items()}
    whole, drawn, _ = step_with_gradients(made)
    now = start = initial_values(whole, drawn, seed=1)
    *expected, last = by_torch(start, cycle, 2 * len(cycle))
    for step, wanted in enumerate(expected, 1):
        turn = cycle[(step - 1) % len(cycle)]
        system, names = systems[turn], steps[turn][2]
        arrays, now = advance(system, {**now, **batch(step)})
        assert names.keys() == wanted.keys() - {"critic", "generator"}
        for name in ("critic", "generator"):
            assert arrays[name] == pytest.approx(wanted[name], rel=1e-10)
        for parameter, gradient in names.items():
            np.testing.assert_allclose(arrays[gradient], wanted[parameter], rtol=1e-10, atol=1e-12)
    for name, value in last.items():
        np.testing.assert_allclose(now[name], value, rtol=1e-10, atol=1e-12)


def test_machine_code_takes_the_steps_of_the_evaluator() -> None:
    made = setup(f"{ADAM}\nturns = [2*critic, generator]")
    cycle = turns(made.train)
    whole, drawn = training_step(made)
    systems = {t: training_step(replace(made, turn=t))[0] for t in dict.fromkeys(cycle)}
    programs = {turn: CpuProgram(system, 1) for turn, system in systems.items()}
    now = dict(initial_values(whole, drawn, seed=1))
    machine = {name: value.copy() for name, value in now.items()}
    for step in range(1, 7):
        turn = cycle[(step - 1) % 3]
        _, now = advance(derive(systems[turn]), {**now, **batch(step)})
        arrays = programs[turn].arrays
        own = [t.name for t in systems[turn].tensors.values() if t.kind in ("param", "state")]
        for name in own:
            arrays[name][...] = machine[name]
        for name, value in batch(step).items():
            if name in arrays:
                arrays[name][...] = value
        programs[turn].run()
        machine |= {name: arrays[name].copy() for name in own}
    for name, value in machine.items():
        np.testing.assert_allclose(value, now[name], rtol=1e-10, atol=1e-12)


# --- what a step is -------------------------------------------------------------------------------


def test_a_step_has_the_gradients_of_its_own_losses_alone() -> None:
    made = replace(setup(ADAM), turn=("generator",))
    system, _, names = step_with_gradients(made)
    assert tuple(names) == GENERATOR
    assert not any(name.startswith("critic") for name in system.updates)
    assert not any(t.name.startswith("critic_dense1_w_") for t in system.of_kind("state"))


@pytest.mark.parametrize(
    ("entry", "counts"),
    [
        ("turns = [2*critic, generator]", ([1, 2, 2, 3, 4, 4, 5], [0, 0, 1, 1, 1, 2, 2])),
        ("turns = [generator, critic]", ([0, 1, 1, 2], [1, 1, 2, 2])),
        ("turns = [critic, generator, critic]", ([1, 1, 2, 3, 3, 4], [0, 1, 1, 1, 2, 2])),
        ("turns = [critic, critic + generator]", ([1, 2, 3, 4], [0, 1, 1, 2])),
        ("turns = [k*critic, generator]\nlet k = 2", ([1, 2, 2, 3], [0, 0, 1, 1])),
        ("turns = [2*(critic + generator)]", ([1, 2, 3], [1, 2, 3])),
        ("", ([1, 2, 3], [1, 2, 3])),
    ],
)
def test_an_optimizer_counts_its_own_steps(entry: str, counts) -> None:
    """The settings read `t` and `steps`: here p' = p - t * g, or - steps * g."""
    schedule = "optimizer = sgd(lr = t)\n"
    made = setup(schedule + entry, steps=7)
    system, _, names = step_with_gradients(made)
    system = derive(system)
    given = values(system, seed=1)
    for step in range(1, len(counts[0]) + 1):
        arrays, after = advance(system, {**given, **batch(step)})
        for parameter, count in zip(("critic_dense1_w", "head_w"), counts, strict=True):
            moved = given[parameter] - after[parameter]
            wanted = count[step - 1] * arrays[names[parameter]]
            np.testing.assert_allclose(moved, wanted, rtol=1e-9, atol=1e-12)


def test_schedules_end_with_the_steps_of_their_loss() -> None:
    made = setup("optimizer = sgd(lr = steps)\nturns = [2*critic, generator]", steps=7)
    text = system_text(derive(training_step(made)[0]))
    assert "critic_dense1_w[n, u] - 5.0 * d_critic" in text
    assert "head_w[n, u] - 2.0 * d_head_w" in text


def test_the_norm_and_the_penalty_are_those_of_a_loss() -> None:
    entries = ADAM + "\nclip = clip_norm(1.0)\npenalty = l2(1.0)"
    system, _, names = step_with_gradients(setup(entries))
    system = derive(system)
    arrays, _ = advance(system, {**values(system, seed=1), **batch(1)})
    norms = [arrays[n] for n in system.tensors if n.startswith("gradient_norm")]
    for own, norm in zip((CRITIC, GENERATOR), norms, strict=True):
        total = sum((arrays[names[n]] ** 2).sum() for n in own)
        assert norm == pytest.approx(np.sqrt(total), rel=1e-12)
    # the penalty on the generator's parameters is added to its own loss alone
    plain, _ = advance(
        derive(step_with_gradients(setup(ADAM))[0]), {**values(system, seed=1), **batch(1)}
    )
    added = arrays["generator"] - plain["generator"]
    assert added == pytest.approx(sum((arrays[n] ** 2).sum() for n in GENERATOR), rel=1e-9)


# --- mistakes -------------------------------------------------------------------------------------

LOSSES = WGAN.partition("train")[0] + "train Wgan {\n optimizer = sgd()\n %s\n}"
BOTH = "loss a for critic.* = mean(fake_score)\n loss b for generator.*, head.* = -mean(fake)\n"


@pytest.mark.parametrize(
    ("entries", "code", "marked"),
    [
        (BOTH.replace("head", "critic"), "E0413", "b"),
        (BOTH.replace(", head.*", ""), "E0413", "b"),
        (BOTH.replace("head", "hed"), "E0412", "hed.*"),
        (BOTH + "turns = [a, c]", "E0414", "c"),
        (BOTH + "turns = [a]", "E0414", "[a]"),
        (BOTH + "turns = []", "E0414", "[]"),
        (BOTH + "turns = a", "E0414", "a"),
        (BOTH + "turns = [a, 0*b]", "E0414", "0*b"),
        (BOTH + "turns = [a, 2.5*b]", "E0414", "2.5*b"),
        (BOTH + "turns = [a, b, -a]", "E0414", "-a"),
        (BOTH + "turns = [2000*a, b]", "E0414", "[2000*a, b]"),
        ("loss = mean(fake)\n turns = [a]", "E0414", "turns"),
        (BOTH + "loss = mean(fake)", "E0405", "loss"),
        (BOTH + "metric a = mean(fake)", "E0405", "a"),
        (BOTH.replace("loss b", "loss a"), "E0405", "a"),
        (BOTH.replace("loss b", "loss seconds"), "E0319", "seconds"),
        (BOTH.replace("-mean(fake)", "-fake"), "E0410", "-fake"),
        (BOTH.replace("-mean(fake)", '"mse"'), "E0312", '"mse"'),
        ("loss a = mean(fake)", "E0101", "="),
        ("loss a for = mean(fake)", "E0101", "="),
    ],
)
def test_mistakes(entries: str, code: str, marked: str) -> None:
    with pytest.raises(UserError) as caught:
        training_step(setup(entries, LOSSES))
    found = caught.value.diagnostics[0]
    assert (found.code, found.span.text) == (code, marked)


def test_a_frozen_parameter_needs_no_loss() -> None:
    report = Report()
    system, _ = training_step(setup(BOTH.replace(", head.*", "") + "freeze head.*", LOSSES), report)
    assert not report.diagnostics
    assert not any(name.startswith("head") for name in system.updates)


def test_a_loss_without_parameters_is_a_warning() -> None:
    report = Report()
    training_step(setup(BOTH.replace("-mean(fake)", "mean(x)"), LOSSES), report)
    (found,) = report.diagnostics
    assert found.code == "W0302" and "`b`" in found.message


@pytest.mark.parametrize(
    ("entry", "marked"),
    [("patience = 3", "3"), ("keep = best", "best"), ('keep = "best"', '"best"')],
)
def test_losses_are_no_common_measure(entry: str, marked: str) -> None:
    text = LOSSES % (BOTH + entry)
    with pytest.raises(UserError) as caught:
        project_of_text(text)
    (found,) = caught.value.diagnostics
    assert (found.code, found.span.text) == ("E0703", marked)
    named = project_of_text(LOSSES % (BOTH + entry + "\n monitor = validation_b")).settings
    assert named.monitor.less and named.keep == "best"
    assert project_of_text(LOSSES % BOTH).settings.keep == "last"


def test_layout_and_summary(tmp_path) -> None:
    text = WGAN % f"    {ADAM}\n    turns=[ 2 * critic,generator ]"
    text = text.replace("loss critic for critic.* =", "loss   critic for  critic.*   =")
    tidy = formatted(parse(Source("test.nn", text), Report()))
    assert "    loss critic for critic.* = mean(fake_score) - mean" in tidy
    assert "    turns     = [2 * critic, generator]" in tidy
    assert formatted(parse(Source("test.nn", tidy), Report())) == tidy
    path = tmp_path / "m.nn"
    path.write_text(tidy)
    project = open_project(path)
    found = summarize(project, setup_of(project, None))
    assert dict(found.groups) == {
        "loss critic in 2 of 3 steps": 25,
        "loss generator in 1 of 3 steps": 32,
        "optimizer": 57,
    }
    again = project_of_text(project.resolved())
    assert turns(again.block) == turns(project.block)
    assert [loss.patterns[0].text for loss in again.block.losses] == ["critic.*", "generator.*"]
