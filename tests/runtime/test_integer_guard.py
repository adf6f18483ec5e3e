"""An index outside, or an integer without a result, is E0730 wherever a model is run: it names the
equation, the operation, its operands and the example, and changes no weights."""

from __future__ import annotations

import numpy as np
import pytest
from support import one_in

import nnc
from nnc.dsl.diagnostics.diagnostic import Diagnostic, UserError
from nnc.runtime.cli import run
from nnc.runtime.data import Dataset, Field, Schema, Split
from nnc.runtime.device import DEVICES
from nnc.runtime.project import project_of_text
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import Job, prepare
from nnc.runtime.training.loop import measure, train
from nnc.runtime.training.progress import Silent

MODEL = """
model M(x: f32[B, 2], k: i32[B], m: i64[B]) -> y: f32[B] {
    param table: [4] ~ normal
    @BODY@
}

train M {
    loss      = mean(y^2)
    optimizer = adam(lr = 0.01)
    batch     = 2
    epochs    = 1
    shuffle   = false
}
"""
EXAMPLE = 5  # the one that is wrong: in the third step
STORED = "h[b, j < 4] = tanh(table[j] * x[b, 0])\n    "
TABLE = "o[j < 3] = if j == 0 then 1 else 2 - j\n    "


def arrays(k: int, m: int = 0, x: float = 1.0) -> dict[str, np.ndarray]:
    """Six examples, of which the last has these values."""
    found = {
        "x": np.ones((6, 2), np.float32),
        "k": np.array([0, 1, 2, 1, 0, k], np.int32),
        "m": np.array([0, 1, 0, 1, 0, m], np.int64),
    }
    found["x"][EXAMPLE, 1] = x
    return found


def job_of(body: str, given: dict[str, np.ndarray], device: str) -> Job:
    names = {"float32": "f32", "int32": "i32", "int64": "i64"}
    fields = (Field(n, names[str(a.dtype)], a.shape[1:]) for n, a in given.items())
    dataset = Dataset("rows", Schema(tuple(fields), None), Split(given))
    project = project_of_text(MODEL.replace("@BODY@", body), "m.nn")
    return prepare(project, dataset, DEVICES[device](1))


def told(call) -> Diagnostic:
    with pytest.raises(UserError) as caught:
        call()
    (found,) = caught.value.diagnostics
    assert found.code == "E0730", found
    return found


@pytest.fixture(params=["cpu", "reference", "cuda"])
def device(request, monkeypatch) -> str:
    if request.param == "cuda":
        from gpu_simulator import available

        if not available():
            pytest.skip("needs g++")
        from backends import fake_cupy

        fake_cupy.install(monkeypatch, free=1 << 36)
    return request.param


WRONG = [
    # (body, values of the last example, message, the equation)
    ("y[b] = table[k[b] + 1]", {"k": 3}, "the index `k[b] + 1` is 4: `table` has places", "y"),
    ("y[b] = table[2 - k[b]]", {"k": 3}, "the index `2 - k[b]` is -1: `table` has places", "y"),
    ("p[b] = k[b] + 1\n y[b] = table[p[b]]", {"k": 7}, "the index `p[b]` is 8: `table`", "y"),
    (STORED + "y[b] = h[b, k[b] + 1]", {"k": 3}, "the index `k[b] + 1` is 4: `h` has", "y"),
    (TABLE + "y[b] = table[o[2 - k[b]]]", {"k": 3}, "`2 - k[b]` is -1: `o` has places 0 to 2", "y"),
    ("y[b] = table[m[b] + 1]", {"k": 1, "m": 2**32}, "`m[b] + 1` is 4,294,967,297: `table`", "y"),
    ("y[b] = table[2*m[b]]", {"k": 1, "m": 2**62}, "`2 * m[b]` has no result in i64", "y"),
    ("h[2*k[b] < 5] += sum(b) x[b, 0]\n y[b] = table[0] * sum(h)", {"k": 3},
     "the index `2 * k[b]` is 6: `h` has places 0 to 4", "h"),
    ("s[b] = sum(j < 3) k[b]\n y[b] = table[0] * s[b]", {"k": 2**31 - 1},
     "the sum `s` is 6442450941, which does not fit i32", "s"),
    ("p[b] = prod(j < 20) k[b]\n y[b] = table[0] * 1e-9 * p[b]", {"k": 3},
     "the product `p` is about 3.48678e+09, which does not fit i32", "p"),
    ("y[b] = table[0] * f32(k[b] * k[b])", {"k": 50000}, "`k[b]^2` has no result in i32", "y"),
    ("y[b] = table[0] * f32(i8(50 * k[b]))", {"k": 3}, "has no result in i8", "y"),
    ("y[b] = table[0] * f32(7 // (k[b] - 5))", {"k": 5}, "has no result in i32", "y"),
    ("y[b] = table[0] * f32(2^k[b])", {"k": -1}, "`2^k[b]` has no result in i32: `k[b]` = -1", "y"),
    ("y[b] = table[0] * f32(i32(x[b, 1]))", {"k": 0, "x": 3e9}, "`x[b, 1]` = 3e+09", "y"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "last", "message", "equation"), one_in(3, WRONG, True))
def test_training_stops_before_the_step(device, body, last, message, equation) -> None:
    job = job_of(body, arrays(**last), device)
    found = told(lambda: train(job, Silent(), never))
    assert message in found.message and "in step 3 (epoch 1)" in found.message
    assert f"`{equation}`" in found.label and f"example {EXAMPLE}, counted from 0" in found.label
    assert found.span is not None and found.span.source.name == "m.nn"
    # The weights are those of a run that ends after two steps.
    assert (job.position.step, job.position.done) == (2, 4)
    right = job_of(body, {n: a[:4] for n, a in arrays(**last).items()}, device)
    train(right, Silent(), never)
    for name, array in right.executor.values.items():
        assert np.array_equal(array, job.executor.values[name]), name


@pytest.mark.parametrize(("body", "last", "message", "equation"), one_in(3, WRONG[::3], True))
def test_evaluation_and_prediction(device, tmp_path, body, last, message, equation) -> None:
    good, bad = arrays(0), arrays(**last)
    job = job_of(body, good, device)
    job.executor.weights()
    examples = job_of(body, bad, device).training
    found = told(lambda: measure(job.executor, examples, 1))
    assert message in found.message and f"example {EXAMPLE}," in found.label
    path = tmp_path / "m.nn"
    path.write_text(MODEL.replace("@BODY@", body))
    model = nnc.load(path, device=device)
    model.fit(**good)
    found = told(lambda: model.predict(**bad))
    assert message in found.message and f"example {EXAMPLE}," in found.label
    found = told(lambda: model.evaluate(**bad))
    assert message in found.message


def test_nan_is_told_of(device, tmp_path) -> None:
    """Of the example that is wrong: an order of NaN has no places, which an index shows first."""
    path = tmp_path / "m.nn"
    body = "h = sort(concat(x, x))\n y[b] = table[k[b]] + h[b, 0]"
    path.write_text(MODEL.replace("@BODY@", body))
    model = nnc.load(path, device=device)
    model.init()
    bad = arrays(0)
    bad["x"][EXAMPLE] = np.nan
    found = told(lambda: model.predict(**bad))
    assert "NaN is in `x`" in found.help and f"example {EXAMPLE}," in found.label
    bad["x"][EXAMPLE], bad["x"][0, 0], bad["k"][EXAMPLE] = 1, np.inf, 4
    assert "NaN" not in told(lambda: model.predict(**bad)).help


RIGHT = [
    # a branch that is not taken may be anything
    ("y[b] = if k[b] >= 0 and k[b] < 4 then table[k[b]] else table[0]", {"k": 9}),
    ("y[b] = table[0] + (if k[b] != 5 then f32(12 // (k[b] - 5)) else 0)", {"k": 5}),
    ("y[b] = table[0] + (if k[b] < 9 then f32(i32(x[b, 1])) else 0)", {"k": 9, "x": 1e30}),
    # what falls outside has a value
    ("y[b] = (table[k[b]] else 0) + table[1]", {"k": -7}),
    # 64 bits are enough
    ("s = sum(b) i64(k[b])\n    y[b] = table[0] * 1e-9 * f32(s)", {"k": 2**31 - 1}),
    ("y[b] = table[0] * 1e-9 * f32(i64(k[b]) * k[b])", {"k": 50000}),
    # only one of the elements is an index
    ("y[b] = table[k[0]] * x[b, 0]", {"k": 1987}),
]


@pytest.mark.parametrize(("body", "last"), RIGHT)
def test_nothing_is_refused_that_is_right(device, body, last) -> None:
    given = arrays(**last)
    job = job_of(body, given, device)
    train(job, Silent(), never)
    assert job.position.step == 3


def test_a_label_of_the_data_names_its_equation(capsys, tmp_path) -> None:
    """Labels and tokens are compared once, before the first step."""
    np.savez(tmp_path / "rows.npz", **arrays(4))
    path = tmp_path / "m.nn"
    text = MODEL.replace("@BODY@", "y[b] = table[k[b]] * x[b, 0]")
    path.write_text(text.replace("loss ", 'data = npz("rows.npz")\n    loss '))
    code = run(["train", str(path), "--out", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert code == 1 and "E0606" in err and "example 5" in err
    assert "y[b] = table[k[b]] * x[b, 0]" in err and "here `k` is an index below 4" in err


def test_the_command_line(capsys, tmp_path) -> None:
    """`train` stops with the message; `predict` writes nothing."""
    body = "p[b] = 2 * k[b]\n    y[b] = table[p[b]] * x[b, 0]"
    path = tmp_path / "m.nn"
    path.write_text(
        MODEL.replace("@BODY@", body).replace("loss ", 'data = npz("rows.npz")\n    loss ')
    )
    np.savez(tmp_path / "rows.npz", **{n: a[:2] for n, a in arrays(0).items()})
    assert run(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    np.savez(tmp_path / "rows.npz", **arrays(0))
    code = run(["train", str(path), "--out", str(tmp_path / "bad")])
    assert code == 1 and "E0730" in capsys.readouterr().err
    np.savez(tmp_path / "more.npz", **arrays(1))
    out = tmp_path / "out.npz"
    inputs = str(tmp_path / "more.npz")
    code = run(["predict", str(tmp_path / "run"), "--input", inputs, "--output", str(out)])
    assert code == 1 and "E0730" in capsys.readouterr().err and not out.exists()
