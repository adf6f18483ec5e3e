"""Private training: what is drawn, what is spent, and that a run can go on."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, prepared, write

from nnc.compiler.elaboration.context import NOISE_KEY
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import step_with_gradients
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.accountant import Accountant
from nnc.runtime.conditions import Condition
from nnc.runtime.inspect.sample_inputs import random_values
from nnc.runtime.privacy import PrivacyChoice, Sampling
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent

PRIVATE = DIGITS.replace(
    "batch ", "private   = dp(clip = 1.0, noise = 1.1, delta = 1e-4, rate = 0.03)\n    batch "
).replace("adam(lr = 1e-2)", "sgd(lr = 0.5)")
SECRET = bytes(range(16))


def values_of(text: str = PRIVATE, threads: int = 1, secret: bytes = SECRET, **sets: str):
    job = prepared(text, threads=threads, **sets)
    job.private.secret = secret
    train(job, Silent(), never)
    return {name: array.copy() for name, array in job.executor.values.items()}, job


@pytest.fixture(scope="module")
def whole():
    return values_of()


def test_what_is_spent_is_recorded(whole) -> None:
    _, job = whole
    spent = [record.values["epsilon"] for record in job.records]
    sampling = job.private.sampling
    assert sampling.steps == 33 and [r.step for r in job.records] == [33, 66]
    accountant = Accountant(0.03, 1.1, 1e-4, sampling.overflow)
    assert spent == [accountant.epsilon(33), accountant.epsilon(66)]
    assert 0 < sampling.overflow < 1e-12  # 43 of 100 on average


def test_it_learns(whole) -> None:
    _, job = whole
    assert job.records[-1].values["test_accuracy"] > 0.6


def test_numbers_of_threads_change_no_bit(whole) -> None:
    for name, array in values_of(threads=2)[0].items():
        np.testing.assert_array_equal(array, whole[0][name], err_msg=name)


def test_another_secret_draws_other_noise_and_examples(whole) -> None:
    other, job = values_of(secret=bytes(16))
    assert all((other[name] != array).mean() > 0.9 for name, array in whole[0].items())
    assert (job.order(1) != whole[1].order(1)).mean() > 0.9


def test_a_secret_is_new_for_each_run() -> None:
    assert prepared(PRIVATE).private.secret != prepared(PRIVATE).private.secret


def test_accumulation_draws_as_a_larger_batch() -> None:
    """The same examples in two runs of 50: the same steps, but for rounding."""
    large, one = values_of()
    small, two = values_of(batch="50", accumulate="2")
    np.testing.assert_array_equal(one.order(2), two.order(2))
    # noise has streams by the order of parameters, which is the same
    for name, array in large.items():
        np.testing.assert_allclose(small[name], array, atol=1e-5, err_msg=name)


def test_what_a_step_draws() -> None:
    choice = PrivacyChoice(1.0, 1.0, 1e-5, 0.1)
    job = prepared(PRIVATE.replace("0.03", "0.02"))
    draws = replace(job.private, sampling=Sampling(choice, 1000, 150))
    counts = []
    for epoch in range(1, 31):
        places, drawn = draws._drawn(epoch)
        counts += [*drawn]
        assert places.shape == (10, 150) and places.min() >= 0 and places.max() < 1000
        assert all(len(np.unique(step)) == 150 for step in places)
    # binomial: 300 draws of mean 100 and deviation 9.5
    assert np.mean(counts) == pytest.approx(100, abs=5 * 9.5 / np.sqrt(300))
    assert np.std(counts) == pytest.approx(9.5, rel=0.2)


class Recorder:
    def __init__(self) -> None:
        self.drawn: list[tuple] = []

    def draw(self, count, key) -> None:
        self.drawn.append((count, *key))


def test_of_several_batches_the_first_are_full() -> None:
    job = prepared(PRIVATE, batch="30", accumulate="4")
    draws, program = job.private, Recorder()
    for left in (3, 2, 1, 0):
        draws.draw(program, 1, 240 + (3 - left) * 30, 3, left)
    counts = [one[0] for one in program.drawn]
    assert sum(counts) == draws._drawn(1)[1][2]
    assert counts == sorted(counts, reverse=True) and len({*program.drawn}) == 4


# --- noise ----------------------------------------------------------------------------------------

NOISE = """
model M(x: f32[B, 2]) -> y: f32[B, 300] {
    y = x |> Dense(300)
}
train M {
    input t: f32[B, 300]
    loss = LOSS
    optimizer = sgd(lr = 1)
    private = dp(clip = 2.0, noise = 0.5, delta = 1e-5, rate = 1e-5)
    batch = 5
}
"""


@pytest.mark.parametrize(
    "loss, deviation", [("mse(y, t)", 2 * 0.5 / 10), ("sum((y - t)^2)", 2 * 0.5)]
)
def test_noise_is_normal(loss: str, deviation: float) -> None:
    """Of a mean, clip * noise / (examples of a step on average)."""
    setup = setup_of(project_of_text(NOISE.replace("LOSS", loss)), None)
    assert setup.private.expected == pytest.approx(10)
    step, _, names = step_with_gradients(setup)
    system = derive(step)
    values, found = random_values(system), []
    for word in range(20):
        values |= {name: np.array(word + n, np.int32) for n, name in enumerate(NOISE_KEY)}
        arrays = evaluate(system, values)
        moved = values["dense1_w"] - arrays[system.updates["dense1_w"]]
        found.append((moved - arrays[names["dense1_w"]]) / deviation)
    noise = np.concatenate(found).ravel()
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))
    assert (abs(noise) < 0.6745).mean() == pytest.approx(0.5, abs=0.03)
    assert (abs(noise) > 2.576).mean() == pytest.approx(0.01, abs=0.004)
    first, second = noise.reshape(20, -1)[:2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_goes_on_to_the_bit(tmp_path: Path, monkeypatch, whole) -> None:
    monkeypatch.setattr("nnc.runtime.training.private_draws.token_bytes", lambda n: SECRET)
    program = write(tmp_path, PRIVATE)
    run = tmp_path / "run"
    assert call("train", program, "--out", run, "--epochs", 1, "--threads", 1) == 0
    secret = run / "noise.key"
    assert secret.read_text().strip() == SECRET.hex()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert SECRET.hex() not in (run / "settings.json").read_text()
    assert call("train", "--resume", run, "--epochs", 2, "--threads", 1) == 0
    from safetensors.numpy import load_file

    last = load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])
    for name, array in whole[0].items():
        np.testing.assert_array_equal(
            last[f"value.{name}" if f"value.{name}" in last else name], array
        )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == [r.values["epsilon"] for r in whole[1].records]


def test_a_run_without_its_secret_does_not_go_on(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    call("train", write(tmp_path, PRIVATE), "--out", run, "--epochs", 1)
    (run / "noise.key").unlink()
    assert call("train", "--resume", run, "--epochs", 2) == 1
    assert "E0706" in (told := capsys.readouterr().err) and "noise.key" in told


def call(*words: object) -> int:
    return cli.run([str(word) for word in words])


def test_a_budget_is_not_exceeded() -> None:
    text = PRIVATE.replace("epochs    = 2", "until epsilon > 3")
    job = prepared(text)
    end = train(job, Silent(), never)
    step = job.position.step
    accountant = job.private.sampling.accountant
    assert accountant.epsilon(step) <= 3 < accountant.epsilon(step + 1)
    assert job.records[-1].values["epsilon"] == accountant.epsilon(step)
    assert end == "`until epsilon > 3` would hold after another step"
    assert job.plan.total == step


def test_what_a_run_will_spend_is_told(tmp_path: Path, capsys) -> None:
    program = write(tmp_path, PRIVATE)
    assert call("check", program) == 0
    told = "66 steps spend epsilon "
    assert told in capsys.readouterr().err
    assert call("summary", program) == 0
    assert told in capsys.readouterr().out


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, messages",
    [
        ("dp(clip = 0, noise = -1, delta = 1)", ["`clip` must be", "`noise` must", "`delta` must"]),
        ("dp(clip = 1, nois = 1)", ["no argument `nois`", "needs `delta`"]),
        ("dp(clip = 1, nose = 1.1, delta = 1e-5)", ["no argument `nose`"]),
        ("dp(1, 1, 1e-5, 0.01, 3)", ["takes four numbers"]),
        ("dp(1, 1, 1e-5, clip = 2)", ["two values for `clip`"]),
        ("dp", ["`private` takes `dp(…)`"]),
        ("true", ["`private` takes `dp(…)`"]),
        ('dp(clip = "a", noise = 1, delta = 1e-5)', ["expected a number"]),
    ],
)
def test_wrong_settings_are_all_reported(setting: str, messages: list[str]) -> None:
    text = DIGITS.replace("batch ", f"private = {setting}\n    batch ")
    with pytest.raises(UserError) as caught:
        project_of_text(text)
    found = [d.message for d in caught.value.diagnostics]
    assert len(found) == len(messages)
    assert all(m in one for m, one in zip(messages, found, strict=True)), found


def test_batches_that_are_too_small() -> None:
    with pytest.raises(
        UserError, match="a step draws 288 examples on average, and more than the 100"
    ):
        prepared(PRIVATE, private__rate="0.2")


def test_a_rate_that_is_advised_is_small_enough() -> None:
    """Of many steps the chances of too small a batch add up."""
    (until,) = project_of_text(PRIVATE.replace("epochs    = 2", "until epsilon > 3")).settings.until
    choice = PrivacyChoice(1.0, 30.0, 1e-4)
    with pytest.raises(UserError, match="more than the 100 that fit") as caught:
        Sampling(choice, 1438, 100).check(None, [until])
    (mistake,) = caught.value.diagnostics
    assert mistake.label and re.fullmatch(r"`delta` is 0.0001 for [\d,]+ steps", mistake.label)
    (rate,) = re.findall(r"rate = ([\d.]+)", mistake.help or "")
    Sampling(replace(choice, rate=float(rate)), 1438, 100).check(None, [until])


def test_a_batch_may_be_all_examples() -> None:
    job = prepared(PRIVATE.replace(", rate = 0.03", ""), batch="5000", epochs="1")
    sampling = job.private.sampling
    assert (sampling.rate, sampling.steps, sampling.overflow) == (1, 1, 0)
    train(job, Silent(), never)
    assert job.position.step == 1


def test_a_metric_is_not_called_as_what_is_spent() -> None:
    with pytest.raises(UserError, match="`epsilon` is the name of"):
        project_of_text(PRIVATE.replace("metric      accuracy", "metric epsilon"))


def test_the_first_step_may_spend_too_much() -> None:
    with pytest.raises(UserError, match="the first step spends epsilon"):
        prepared(PRIVATE.replace("epochs    = 2", "until epsilon > 0.01"))


def test_epsilon_is_known_in_private_training_alone() -> None:
    with pytest.raises(UserError, match="`epsilon` is not measured"):
        project_of_text(DIGITS.replace("epochs    = 2", "until epsilon > 3"))


def test_examples_with_weights_are_not_drawn_privately() -> None:
    job = prepared(PRIVATE)
    with pytest.raises(UserError, match="private"):
        job.weigh(np.ones(len(job.training)))


def test_a_condition_may_be_about_other_values(whole) -> None:
    project = project_of_text(PRIVATE.replace("epochs    = 2", "until epsilon > 3 and loss < 9"))
    assert isinstance(project.settings.until[0], Condition)
    sampling = whole[1].private.sampling
    assert sampling.last_step(project.settings.until) is None
    # what has to hold alone is a budget
    either = project_of_text(PRIVATE.replace("epochs    = 2", "until loss < 0.1 or epsilon > 3"))
    alone = project_of_text(PRIVATE.replace("epochs    = 2", "until epsilon > 3"))
    last = sampling.last_step(either.settings.until)
    assert last and last[1].text == "epsilon > 3"
    assert last[0] == sampling.last_step(alone.settings.until)[0]


def test_a_condition_may_never_hold(whole) -> None:
    project = project_of_text(PRIVATE.replace("epochs    = 2", "until epsilon == 3"))
    assert whole[1].private.sampling.last_step(project.settings.until) is None
