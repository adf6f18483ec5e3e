"""`nnc verify`: right on what is right, and the name of what is wrong on what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, write
from support import system, values, with_pass

from nnc.compiler import pipeline
from nnc.compiler.ir.build import call, rewrite
from nnc.compiler.ir.derivatives import DERIVATIVES
from nnc.compiler.ir.expr import Apply
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.magnitude import magnitude
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.passes.autodiff.zero_products import ZeroProducts
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.finite_differences import Differences
from nnc.runtime import cli
from nnc.runtime.inspect import verification
from nnc.runtime.inspect.sample_inputs import sample
from nnc.runtime.inspect.verification import verify_project
from nnc.runtime.project import project_of_text

EXAMPLES = Path(__file__).parents[2] / "examples"

# every kind of equation: a recurrence, a gather, kinks, a stopped value, maxima, an accumulation
MODEL = """
model M(x: f32[B, 5, 3], n: i32[B]) -> y {
    param w: [3, 3] ~ normal(0, 0.5)
    param table: [4, 3] ~ normal(0, 1)
    h[b, t, j] = tanh(x[b, t, j] + sum(k) (h[b, t - 1, k] else 0) * w[k, j])
    z[b, t, j] = h[b, t, j] * table[n[b] + 2, j] - stop(mean(i) h[b, t, i])
    top[b, j]  = max(t) z[b, t, j]
    share      = softmax(top)
    y[b, j]    = relu(top[b, j]) + abs(top[b, j]) * share[b, j]
}
"""


@pytest.fixture
def nnc(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def verified(text: str = MODEL, **options):
    return verify_project(project_of_text(text), None, (1, 2), **options)


def broken(monkeypatch, name: str, derivative) -> None:
    monkeypatch.setitem(DERIVATIVES, name, derivative)
    monkeypatch.setenv("NNC_CACHE", "off")  # its code would be that of the right derivative


# --- what is right --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xor", "linear", "mlp_digits"])
def test_examples(nnc, name):
    code, out, err = nnc("verify", EXAMPLES / f"{name}.nn", "--threads", 2)
    assert code == 0 and not err
    assert "results of machine code are the evaluator's" in out
    assert f"{len(pipeline.CPU.passes)} passes keep every value" in out
    assert "a whole step has the same bits on 1 and 2 threads" in out


@pytest.mark.night
@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.nn")))
def test_every_example(nnc, name):
    code, out, err = nnc("verify", EXAMPLES / name, "--samples", 1)
    if "E0601" in err:
        pytest.skip("its data are not here")
    if name == "ctc_prompts.nn":  # texts drawn at random are longer than the steps they are read in
        assert "E0804" in err and "the loss is inf" in err, out + err
        assert re.search(r"(\d+) of \1 results", out + err), out + err
        return
    assert code == 0 and not err, out + err


def test_json_says_what_the_table_says(nnc, tmp_path, monkeypatch):
    write(tmp_path, MODEL)
    code, out, _ = nnc("verify", "small.nn", "--json")
    found = json.loads(out)
    assert code == 0 and found["right"] and all(line["right"] for line in found["lines"])
    errors = [line["value_error"] for line in found["lines"] if "value_error" in line]
    assert len(errors) >= 5 and max(errors) <= found["tolerance"]
    broken(monkeypatch, "tanh", lambda f, x: (1.0 - f,))
    code, out, _ = nnc("verify", "small.nn", "--json")
    wrong = [line for line in json.loads(out)["lines"] if not line["right"]]
    assert code == 1 and [line["line"] for line in wrong] == [5]
    assert wrong[0]["gradient_worst"][0] == "h" and wrong[0]["gradient_error"] > 0.01


@pytest.mark.slow
def test_a_model_without_a_train_block():
    found = verified()
    assert not found.mistakes
    assert {s.tensor for s in found.slopes} >= {"x", "w", "table", "h", "top"}
    assert any(s.kinks for s in verified(MODEL.replace("tanh(x", "relu(0*x"), samples=4).slopes)
    assert all(line.equations or line.slope for line in found.lines.values())


STEEP = {
    "clamp": "y[b] = min(max(1e9*(x[b] - 0.5), -1), 1)*x[b]",
    "clamp of a parameter": "y[b] = min(max(1e12*w, -1), 1)*x[b]",
    "spike": "y[b] = max(1 - 1e10*abs(w*x[b]), 0)",
    "staircase": "y[b] = floor(1e9*(x[b] + w))*x[b]",
    "quotients": "y[b] = (1e9*(x[b] + w)) // 3 + round(1e8*w)",
    "integers": "k[b] = i32(1e8*(x[b] + w))\n y[b] = f32(k[b])*x[b]",
    "many thresholds": "y[b] = sum(i < 4000) if x[b] + w > 1e-9*i then x[b] else 0",
}


@pytest.mark.parametrize("name", STEEP)
def test_a_steep_function_is_no_mistake_of_the_compiler(name):
    """Every step of the differences is longer than its slope."""
    text = f"model M(x: f32[4]) -> y: f32[4] {{\n param w: [] = 0\n {STEEP[name]}\n}}"
    for seed in range(3):
        assert not verified(text, seed=seed, samples=4).mistakes


def test_a_staircase_with_a_wrong_slope_is_one(monkeypatch):
    """Its own differences, over any number of steps, are those of a line."""
    broken(monkeypatch, "floor", lambda f, x: (1.0,))
    text = "model M(x: f32[4]) -> y: f32[4] { param w: [] = 0.3\n y[b] = floor(1e9*w*x[b])*w }"
    assert {d.code for d in verified(text).mistakes} == {"E0802"}


def test_a_branch_that_is_not_taken_is_looked_at(monkeypatch):
    text = """model M(x: f32[8]) -> y: f32[8] {
        param w: [] = 1
        y[b] = if x[b]*w > 0 then sqrt(x[b]*w) else x[b]
    }"""
    assert not verified(text).mistakes
    monkeypatch.setenv("NNC_CACHE", "off")
    multiplied = staticmethod(lambda own, factor, node: call("mul", own, factor))
    monkeypatch.setattr(ZeroProducts, "_selected", multiplied)
    found = verified(text).mistakes
    assert found and found[0].code == "E0802" and "nan" in found[0].label


@pytest.mark.slow
def test_another_seed_gives_other_numbers():
    first, second = verified(), verified(seed=1)
    assert [v.found for v in first.values] != [v.found for v in second.values]
    assert not second.mistakes


def test_large_models_are_verified_small(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "EVALUABLE", 10**5)
    from nnc.runtime.data import Search
    from nnc.runtime.project import planned_setup

    project = project_of_text(DIGITS)
    setup = planned_setup(project, Search(None, tmp_path, True))
    found = verify_project(project, setup, (1,))
    assert found.gradient_sizes == "batch 3 (its own is 100)"
    assert found.sizes.endswith("(its own is 100)") and not found.mistakes


# --- what is wrong --------------------------------------------------------------------------------


def test_a_wrong_derivative_is_found_where_it_is_used(monkeypatch, nnc, tmp_path):
    broken(monkeypatch, "tanh", lambda f, x: (1.0 - f,))
    write(tmp_path, MODEL)
    code, out, err = nnc("verify", "small.nn")
    assert code == 1
    assert "error[E0802]: the gradient through `h" in err and "small.nn:5:" in err
    assert "by finite differences" in err and err.count("error[") == 1
    assert "values" in out


def test_a_wrong_derivative_at_some_elements(monkeypatch):
    """Some elements are on the wrong branch: the first of them is named."""
    text = "model M(x: f32[B, 6]) -> y { y = exp(x) }"
    wrong = lambda f, x: (call("select", call("lt", f, 1.1), 0.0, f),)  # noqa: E731
    broken(monkeypatch, "exp", wrong)
    found = verified(text, samples=0)
    bad = next(s for s in found.slopes if not s.right)
    assert bad.tensor == "x" and bad.exact == 0 and bad.numeric != 0
    x = sample(project_of_text(text), None, 0).values["x"][:3]
    assert bad.index == tuple(np.argwhere(np.exp(x) < 1.1)[0])
    assert [d.code for d in found.mistakes] == ["E0802"]


def test_a_derivative_that_is_missing(monkeypatch):
    monkeypatch.delitem(DERIVATIVES, "tanh")
    monkeypatch.setenv("NNC_CACHE", "off")
    found = verified()
    assert {d.code for d in found.mistakes} == {"E0802"}


def drop_a_term(system):
    """A pass that forgets the second of two things added."""

    def change(node):
        return node.args[0] if isinstance(node, Apply) and node.fn == "add" else None

    eq = next(e for e in system.equations if e.target.startswith("y"))
    fresh = eq.with_body(rewrite(eq.body, change))
    return system.replace(equations=tuple(fresh if e is eq else e for e in system.equations))


def test_a_broken_pass_is_named(monkeypatch):
    monkeypatch.setattr(pipeline, "CPU", with_pass("forgetful", drop_a_term))
    (found,) = verified().mistakes
    assert found.code == "E0803" and "`forgetful`" in found.message and "was" in found.message
    assert found.span.line == 9


def test_wrong_machine_code_is_named(monkeypatch):
    """tanh spelled as something else: the equation, its place and the first bad index."""
    from nnc.compiler.codegen.llvm.instructions import SPELLING

    monkeypatch.setitem(SPELLING, "tanh", SPELLING["sin"])
    monkeypatch.setenv("NNC_CACHE", "off")
    found = verified("model M(x: f32[B, 6]) -> y { y = 2*tanh(x) }").mistakes
    assert {d.code for d in found} == {"E0801"}
    assert found[0].span.line == 1 and "y[" in found[0].label and "evaluator" in found[0].label


def test_a_loss_that_is_not_finite():
    (found,) = verified("model M(x: f32[B, 6]) -> y { y = log(x - 5) }").mistakes
    assert found.code == "E0804" and "nan on random numbers" in found.message


def test_wrong_uses(nnc, tmp_path):
    assert nnc("verify", "none.nn")[0] == 1
    assert nnc("verify")[0] == 2
    write(tmp_path, MODEL)
    assert nnc("verify", "small.nn", "--tolerance", 0)[0] == 2
    assert nnc("verify", "small.nn", "--samples", -1)[0] == 2
    code, _, err = nnc("verify", "small.nn", "--set", "C=3")
    assert code == 2 and "E0704" in err


# --- --verify -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "small.nn", "--epochs", 1, "--out", "run", "--threads", 1],
        ["bench", "small.nn", "--steps", 1],
        ["profile", "small.nn", "--steps", 1],
        ["compile", "small.nn", "--emit", "kernels"],
        ["summary", "small.nn"],
    ],
    ids=lambda a: a[0],
)
def test_passes_are_checked_in_any_command(nnc, tmp_path, monkeypatch, arguments):
    write(tmp_path, DIGITS)
    code, _, err = nnc(*arguments, "--verify")
    assert code == 0 and "passes keep every rule and every value" in err

    def forgetful(system):
        """The loss without its last factor."""
        eq = system.definition["loss"]
        fresh = eq.with_body(call("mul", 0.5, eq.body))
        return system.replace(equations=tuple(fresh if e is eq else e for e in system.equations))

    monkeypatch.setattr(pipeline, "CPU", with_pass("forgetful", forgetful))
    again = ["other" if a == "run" else a for a in arguments]
    code, _, err = nnc(*again, "--verify")
    assert code == 101 and "nnc has a bug in the pass `forgetful`" in err and "`loss` was" in err
    dump = Path(err.split("with the file ")[1].strip())
    assert "before forgetful:" in dump.read_text() and "after forgetful:" in dump.read_text()
    dump.unlink()


def test_a_large_step_is_held_to_the_rules_alone(nnc, tmp_path, monkeypatch):
    from nnc.runtime.inspect import pass_checking as checking

    monkeypatch.setattr(checking, "EVALUABLE", 10)
    write(tmp_path, DIGITS)
    code, _, err = nnc("bench", "small.nn", "--steps", 1, "--verify")
    assert code == 0 and "every rule (the values of so large a step are not compared" in err


# --- the parts ------------------------------------------------------------------------------------


def test_wide_evaluation_rounds_nothing():
    """1 + 1e-9 is 1 in f32, also through a cast."""
    one = system("model M(x: f32[2]) -> y: f32[2] { y = f32(x + 1e-9) - 1 }", float_type="f32")
    given = {"x": np.ones(2, np.float32)}
    assert not evaluate(one, given)["y"].any()
    np.testing.assert_allclose(evaluate(one, given, wide=True)["y"], 1e-9, rtol=1e-6)


def test_magnitudes_bound_what_cancels():
    """(a + b) - a: what was added up, not what is left."""
    one = system("model M(a: f32[3], b: f32[3]) -> y: f32[3] { y = exp(a + b) - exp(a) }")
    body = one.definition["y"].body
    sized = one.replace(
        equations=(
            one.definition["y"].with_body(magnitude(body, lambda read, other: call("abs", read))),
        )
    )
    given = {"a": np.full(3, 2.0), "b": np.array([1e-9, 0.0, -1e-9])}
    found = evaluate(sized, given)["y"]
    assert (found >= 2 * np.exp(2)).all() and (found < 20 * np.exp(2)).all()


@pytest.mark.parametrize(
    "text",
    [
        "y = x + stop(floor(x) - x)",  # straight-through: the quotient must not see the floor
        "y[b, t] = 0.5*x[b, t] + tanh((y[b, t - 1] else 0))",
        "y[b, t] = max(k) x[b, k] * x[b, t]",
    ],
)
def test_differences_agree_with_right_gradients(text):
    one = system("model M(x: f32[2, 4]) -> loss: f32[] {\n" + text + "\nloss = sum(y*y)\n}")
    both, names = add_gradients(one, "loss", ["x"])
    both = differentiate(both)
    both = simplify(both.replace(outputs=("loss", *names.values())))
    slope = Differences(both, "loss", values(one)).check("x", "d_x", 8, 1e-6)
    assert slope.right and slope.error < 1e-6
    worse = both.replace(
        equations=tuple(
            e.with_body(call("mul", 1.001, e.body)) if e.target == "d_x" else e
            for e in both.equations
        )
    )
    assert not Differences(worse, "loss", values(one)).check("x", "d_x", 0, 1e-6).right


def test_a_users_names_are_not_taken_for_gradients() -> None:
    """Beside `h` and `w` an input `d_h`, a parameter `d_w` and a temp `d_y`."""
    text = """
    model M(x: f32[B, 3], d_h: f32[B, 3]) -> y: f32[B], d_y: f32[B] {
        param w: [3] = 1
        param d_w: [3] = 2
        h[b, j] = tanh(x[b, j] * w[j])
        y[b] = sum(j) h[b, j] * d_h[b, j]
        d_y[b] = sum(j) x[b, j] * d_w[j] * h[b, j]
    }
    """
    found = verified(text.replace("f32[B", "f32[4"))
    assert not found.report.diagnostics
    assert {slope.tensor for slope in found.slopes} >= {"w", "d_w", "h", "y", "d_y", "d_h"}
    assert all(slope.right for slope in found.slopes)
