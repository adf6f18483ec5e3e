"""`accumulate = 3`: the step of several batches is that of all of them as one; and `average = …`,
what evaluation uses in place of the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import values

from nnc.compiler.elaboration.train_block import FieldType, Setup
from nnc.compiler.ir.equation import System
from nnc.compiler.pipeline import derive, plan
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import advance
from nnc.compiler.reference.initial_values import initial_values
from nnc.compiler.targets import CPU_TARGETS
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.source import Source

NET = """
model M(x: f32[B, 3], y: f32[B, 2]) -> out: f32[B, 2] {
    out = x |> Dense(5) |> tanh |> Dense(2)
}

train M {
    loss = mse(out, y)
    %s
}
"""
FIELDS = {"x": FieldType("f32", (3,)), "y": FieldType("f32", (2,))}
SIZES = (4, 4, 2)
OPTIMIZERS = {
    "adam": "optimizer = adam(lr = cosine(t, 0.1, 9))",
    "lamb": "optimizer = lamb(lr = 0.1)\npenalty = l2(0.01)",
    "clipped": "optimizer = momentum(lr = 0.1)\nclip = clip_norm(0.1)",
    "averaged": "optimizer = sgd(lr = 0.1)\naverage = ema(0.5)",
}


def setup(entries: str, batch: int, accumulate: int = 1, text: str = NET) -> Setup:
    report = Report()
    checked = load_source(Source("test.nn", text % entries), report)
    report.check()
    train = checked.trains[0]
    return Setup(
        checked.definitions, train, {}, FIELDS, batch, float_type="f64", accumulate=accumulate
    )


def system(entries: str, batch: int, accumulate: int = 1, text: str = NET) -> System:
    return derive(training_step(setup(entries, batch, accumulate, text))[0])


def scalars(**numbers: int) -> dict[str, np.ndarray]:
    return {name: np.array(number, np.int32) for name, number in numbers.items()}


@pytest.mark.parametrize("entries", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_batches_are_one_batch(entries: str) -> None:
    small = {size: system(entries, size, len(SIZES)) for size in set(SIZES)}
    whole, drawn = training_step(setup(entries, sum(SIZES)))
    large, now = derive(whole), initial_values(whole, drawn, seed=1)
    gathered = {t.name: t.shape for t in small[4].of_kind("state") if t.name not in now}
    parts = {**now, **{name: np.zeros(shape) for name, shape in gathered.items()}}
    kept, random = [*now], np.random.default_rng(2)
    for step in (1, 2):
        data = {"x": random.normal(size=(10, 3)), "y": random.normal(size=(10, 2))}
        _, now = advance(large, {**now, **data, **scalars(step=step)})
        before, begin = parts, 0
        for left, size in zip((2, 1, 0), SIZES, strict=True):
            batch = {name: rows[begin : begin + size] for name, rows in data.items()}
            given = scalars(step=step, microbatches_left=left)
            _, parts = advance(small[size], {**parts, **batch, **given})
            begin += size
            assert all(np.array_equal(parts[n], before[n]) for n in kept) == bool(left)
        for name in kept:
            assert np.isfinite(now[name]).all()
            np.testing.assert_allclose(parts[name], now[name], rtol=1e-12, atol=1e-14)
        assert "dense1_w_gathered" in gathered and not any(parts[n].any() for n in gathered)


def test_every_batch_of_a_step_draws_its_own_numbers() -> None:
    text = NET.replace("|> tanh", "|> dropout(0.5)")
    one, made = system(OPTIMIZERS["adam"], 4, 1, text), system(OPTIMIZERS["adam"], 4, 3, text)
    given = values(made, seed=1)
    found = []
    for step in (1, 2):
        for left in (2, 1, 0):
            given |= scalars(step=step, seed=5, microbatches_left=left)
            found.append(advance(made, given)[0]["dropout"] == 0)
            # the draws of this batch are those of the step 3 * step - left of a run without
            again = {**given, **scalars(step=3 * step - left)}
            assert np.array_equal(advance(one, again)[0]["dropout"] == 0, found[-1])
    assert len({mask.tobytes() for mask in found}) == 6


def test_memory_is_that_of_one_batch() -> None:
    text = NET.replace("Dense(5)", "Dense(64)")
    entries = OPTIMIZERS["adam"]
    small, large = system(entries, 32, 16, text), system(entries, 512, 1, text)
    target = CPU_TARGETS["zen4"]
    assert plan(small, target).arena_bytes < 0.3 * plan(large, target).arena_bytes


# --- averages -------------------------------------------------------------------------------------


def test_averages_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the second opinion here")
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

    for entry, averaging in (("ema(0.8)", get_ema_avg_fn(0.8)), ("mean_of_steps()", None)):
        made, drawn = training_step(setup(f"optimizer = sgd(lr = 0.3)\naverage = {entry}", 4))
        now = initial_values(made, drawn, seed=1)
        assert made.averages == {n: f"{n}_average" for n in (t.name for t in made.of_kind("param"))}
        names = list(made.averages)
        assert all(np.array_equal(now[n], now[a]) for n, a in made.averages.items())
        start = {n: torch.nn.Parameter(torch.tensor(now[n])) for n in names}
        torch_net = torch.nn.ParameterDict(start)
        mean = AveragedModel(torch_net, avg_fn=averaging)
        # PyTorch copies at its first update, what nnc has from the beginning
        if averaging:
            mean.update_parameters(torch_net)
        for step in range(1, 5):
            random = np.random.default_rng(step)
            given = {"x": random.normal(size=(4, 3)), "y": random.normal(size=(4, 2))}
            _, now = advance(derive(made), {**now, **given, **scalars(step=step)})
            with torch.no_grad():
                for name in names:
                    torch_net[name].copy_(torch.tensor(now[name]))
            mean.update_parameters(torch_net)
            for name, average in made.averages.items():
                wanted = mean.module[name].detach().numpy()
                np.testing.assert_allclose(now[average], wanted, rtol=1e-12, atol=1e-14)


def test_the_mean_begins_at_a_step() -> None:
    made, drawn = training_step(setup("optimizer = sgd(lr = 0.3)\naverage = mean_of_steps(3)", 4))
    now, seen = initial_values(made, drawn, seed=1), []
    for step in range(1, 6):
        random = np.random.default_rng(step)
        given = {"x": random.normal(size=(4, 3)), "y": random.normal(size=(4, 2))}
        _, now = advance(derive(made), {**now, **given, **scalars(step=step)})
        seen.append(now["dense1_w"])
        wanted = seen[-1] if step < 3 else np.mean(seen[2:], 0)
        np.testing.assert_allclose(now["dense1_w_average"], wanted, rtol=1e-12)


def test_frozen_parameters_and_other_turns_have_no_average() -> None:
    made, _ = training_step(setup("optimizer = sgd()\naverage = ema()\nfreeze dense1.*", 4))
    assert set(made.averages) == {"dense2_w", "dense2_b"}


@pytest.mark.parametrize(
    ("entry", "code", "marked"),
    [
        ("average = ema(1.5)", "E0320", ""),
        ("average = 3", "E0203", "3"),
        ("average = emma(0.9)", "E0203", "emma"),
        ("average = mine", "E0303", "mine"),
        ('average = "ema"', "E0312", '"ema"'),
        ("average = ema(0.9, 3)", "E0204", ""),
    ],
)
def test_mistakes(entry: str, code: str, marked: str) -> None:
    text = "fn mine(average, p, _t) = sum(p)\n" + NET
    with pytest.raises(UserError) as caught:
        training_step(setup("optimizer = sgd()\n" + entry, 4, 1, text))
    found = next(d for d in caught.value.diagnostics if d.is_error)
    assert found.code == code and (not marked or found.span.text == marked)


def test_a_state_may_begin_as_a_parameter() -> None:
    """As the slow weights of an optimizer do, in layers, printed programs and repeated blocks."""
    text = (
        """
optimizer slow_steps(lr = 0.1) {
    state slow = p
    slow' = 0.9 * slow + 0.1 * (p - lr * g)
    p' = slow'
}
"""
        + NET
    )
    made, drawn = training_step(setup("optimizer = slow_steps()", 4, 1, text))
    start = initial_values(made, drawn, seed=1)
    for name in ("dense1_w", "dense2_b", "dense2_w"):
        assert made.tensors[f"{name}_slow"].init == f"= {name}"
        assert np.array_equal(start[name], start[f"{name}_slow"])


def test_a_state_that_begins_as_another_shape() -> None:
    text = """
layer L(x: [..., n]) -> y: [..., n] {
    param w: [n] = 1
    state slow: [n, 2] = w
    y[..., i] = x[..., i] * w[i] * slow[i, 0]
}
""" + NET.replace("|> tanh", "|> L")
    with pytest.raises(UserError) as caught:
        training_step(setup("optimizer = sgd()", 4, 1, text))
    assert [d.code for d in caught.value.diagnostics] == ["E0303"]


def test_turns_accumulate_too() -> None:
    text = NET.replace(
        "loss = mse(out, y)",
        """loss a for dense1.* = mse(out, y)
    loss b for dense2.* = mean(out^2)
    turns = [a, b]""",
    )
    made = setup("optimizer = sgd(lr = t)", 4, 2, text)
    found = derive(training_step(replace(made, turn=("b",)))[0])
    assert {n.partition("_")[0] for n in found.updates} == {"dense2", "examples"}
