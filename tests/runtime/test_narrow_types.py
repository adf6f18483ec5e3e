"""Models with tensors of f16, bf16 and i8: trained, resumed, saved, read again, predicted with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import nnc
from nnc.runtime.cli import run
from nnc.runtime.training.atomic_files import load_arrays

MODEL = """
model M(x: HALF[B, 6], q: i8[B, 4]) -> y: HALF[B, 3], h: bf16[B, 3], r: i8[B, 4] {
    param w: f16[6, 3] ~ normal(0, 0.3)
    param v: bf16[4, 3] ~ normal(0, 0.3)
    param b: [3] = 0.1
    state seen: bf16[3] = 0
    h[n, o] = tanh(sum(i) x[n, i] * w[i, o] + b[o])
    seen'[o] = 0.5*seen[o] + 0.5*(mean(n) stop(h[n, o]))
    y[n, o] = h[n, o] - 0.01*seen[o] + (sum(i) q[n, i] * v[i, o])
    r[n, i] = q[n, i] // 2
}

train M {
    data = npz("set.npz")
    input t: f32[B, 3]
    loss = mse(y, t)
    optimizer = adam(lr = 0.02)
    batch = 4
    epochs = 4
}
"""
HALVES = ("f16", "bf16")


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "x": random.normal(size=(10, 6)).astype(np.float16),
        "q": random.integers(-3, 4, (10, 4)).astype(np.int8),
        "t": random.normal(size=(10, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module", params=HALVES)
def folder(request, tmp_path_factory) -> Path:
    """A program beside its data, trained without a break."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "m.nn").write_text(MODEL.replace("HALF", request.param))
    np.savez(folder / "set.npz", **arrays())
    assert run(["train", str(folder / "m.nn"), "--out", str(folder / "whole")]) == 0
    return folder


def checkpoint(folder: Path, step: int) -> bytes:
    return (folder / f"checkpoints/step-{step:08}.safetensors").read_bytes()


def header(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_a_run_that_is_resumed_has_the_same_bits(folder: Path) -> None:
    part = folder / "part"
    assert run(["train", str(folder / "m.nn"), "--out", str(part), "--epochs", "2"]) == 0
    assert run(["train", "--resume", str(part), "--epochs", "4"]) == 0
    found, _ = load_arrays(part / "weights.safetensors")
    whole, _ = load_arrays(folder / "whole/weights.safetensors")
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_files_of_weights_name_the_types(folder: Path) -> None:
    last = sorted((folder / "whole/checkpoints").iterdir())[-1]
    for path in (folder / "whole/weights.safetensors", last):
        entries = header(path)
        kinds = {name: entries[name]["dtype"] for name in ("w", "v", "b", "seen")}
        assert kinds == {"w": "F16", "v": "BF16", "b": "F32", "seen": "BF16"}
    assert entries["w_m"]["dtype"] == entries["v_m"]["dtype"] == "F32"


def test_a_prediction_has_the_types_that_are_declared(folder: Path) -> None:
    model = nnc.load(folder / "whole")
    given = {name: arrays()[name] for name in ("x", "q")}
    found = model.predict(**given)
    half = np.float16 if "y: f16" in (folder / "m.nn").read_text() else np.float32
    assert found["y"].dtype == half and found["h"].dtype == np.float32
    np.testing.assert_array_equal(found["r"], arrays()["q"] // 2)
    assert found["r"].dtype == np.int8
    bits = np.ascontiguousarray(found["h"]).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    slow = nnc.load(folder / "whole", device="reference").predict(**given)
    # Where a sum is near a tie, another order of it may round the other way.
    for name, unit in (("y", 2.0**-7), ("h", 2.0**-7)):
        np.testing.assert_allclose(
            found[name].astype(float), slow[name].astype(float), rtol=unit, atol=unit
        )
    # wider arrays are rounded as they are given, and the output file has the types
    np.savez(folder / "wide.npz", x=given["x"].astype(np.float64), q=given["q"].astype(np.int64))
    arguments = ["--input", str(folder / "wide.npz"), "--output", str(folder / "out.npz")]
    assert run(["predict", str(folder / "whole"), *arguments]) == 0
    for name, values in np.load(folder / "out.npz").items():
        assert values.dtype == found[name].dtype
        np.testing.assert_array_equal(values, found[name])


def test_weights_of_other_programs_may_be_bf16(tmp_path: Path) -> None:
    """A file that PyTorch writes: bits of bf16 under their own name."""
    bits = np.array([[0x3F80, 0xC040], [0x0001, 0x7F7F]], np.uint16)
    data = save({"w": bits})
    end = 8 + int.from_bytes(data[:8], "little")
    text = data[8:end].replace(b'"U16"', b'"BF16"') + b" " * 7
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    program = (
        "model M(x: f32[B, 2]) -> y: f32[B, 2] {\n param w: bf16[2, 2] ~ normal\n y = x @ w\n}"
    )
    model = nnc.loads(program)
    model.load_weights(tmp_path / "w.safetensors")
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(model.parameters["w"], expected)
    np.testing.assert_array_equal(model.predict(np.eye(2, dtype=np.float32)), expected)


def test_what_does_not_fit_an_input_is_refused(tmp_path: Path) -> None:
    model = nnc.loads(
        "model M(x: f16[B, 2], q: i8[B]) -> y: f32[B, 2] {\n y[b, i] = x[b, i] * q[b]\n}"
    )
    model.init(x=np.zeros((1, 2), np.float16), q=np.zeros(1, np.int8))
    right = np.ones((3, 2), np.float32), np.ones(3, np.int64)
    for x, q in ((right[0] * 70000, right[1]), (right[0], right[1] * 200)):
        with pytest.raises(nnc.UserError) as caught:
            model.predict(x, q)
        assert caught.value.diagnostics[0].code == "E0606"


def test_tensors_of_bfloat16_are_taken() -> None:
    torch = pytest.importorskip("torch")
    model = nnc.loads("model M(x: bf16[B, 2]) -> y: bf16[B, 2] {\n y = x * 2\n}")
    x = torch.tensor([[1.5, -3.0]])
    model.init(x)
    assert model.predict(x.bfloat16()).tolist() == [[3.0, -6.0]]


def test_a_first_value_that_does_not_fit_is_refused() -> None:
    text = "model M(x: f32[B]) -> y: f32[B] {\n param w: f16[] = 65520\n y = w * x\n}"
    with pytest.raises(nnc.UserError) as caught:
        nnc.loads(text).init(np.ones(1, np.float32))
    assert caught.value.diagnostics[0].code == "E0311"
    assert caught.value.diagnostics[0].message == "65520 does not fit f16"


@pytest.mark.parametrize(("kind", "number"), [("f16", 70000.0), ("i8", 200)])
def test_weights_that_do_not_fit_are_refused(kind: str, number: float) -> None:
    text = f"model M(x: f32[B]) -> y: f32[B] {{\n param w: {kind}[2] = 1\n y = w[1] * x\n}}"
    model = nnc.loads(text)
    model.init(np.ones(1, np.float32))
    with pytest.raises(nnc.UserError) as caught:
        model.load_weights({"w": np.array([1, number])})
    (found,) = caught.value.diagnostics
    assert found.code == "E0714" and f"holds {number:g}" in found.message
    model.load_weights({"w": np.array([2, type(number)(100)])})
    assert model.predict(np.ones(1, np.float32)) == 100


def test_an_average_of_a_narrow_parameter_is_wide() -> None:
    program = MODEL.replace("HALF", "f16").replace('    data = npz("set.npz")\n', "")
    program = program.replace("    batch = 4", "    average = ema(0.9)\n    batch = 4")
    model = nnc.loads(program)
    given = arrays()
    model.fit(given["x"], given["q"], t=given["t"])
    assert model.parameters["w"].dtype == np.float16
    assert model.predict(given["x"], given["q"])["y"].dtype == np.float16
