"""`nnc export --as wasm`: modules compute in node what libraries for x86-64-v2 compute, to the bit,
and refuse what is wrong with a code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exported import Library, tool
from small_programs import DIGITS, prepared, trained, write
from webassembly import call, node

import nnc
from nnc.compiler.codegen.llvm.library_body import CODES
from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.export import wasm_linker
from nnc.runtime.export.building import frames

here = pytest.mark.skipif(not elf_linker.supported(), reason="compared on x86-64 Linux")
STEPS = 10


def export(folder: Path, *arguments: str | Path) -> Path:
    assert cli.run(["export", *map(str, arguments), "--to", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    tool("node")
    folder = tmp_path_factory.mktemp("small")
    return export(folder / "wasm", write(folder), "--as", "wasm")


def batches() -> list[dict[str, np.ndarray]]:
    """Those that a training of the small program begins with."""
    job = prepared()
    order = job.training.order(job.settings.seed, 1, job.settings.shuffle)
    size, found = job.settings.batch, []
    for step in range(STEPS):
        rows = order[step * size : (step + 1) * size]
        image, label = np.empty((size, 8, 8, 1), np.float32), np.empty(size, np.int32)
        job.training.split.take("image", rows, image)
        job.training.split.take("label", rows, label)
        found.append({"image": image, "label": label})
    return found


@here
def test_ten_steps_are_those_of_training(small, tmp_path):
    """To the bit those of a library for x86-64-v2; here sums have another order."""
    library = Library(export(tmp_path / "c", write(tmp_path), "--target", "x86-64-v2"))
    assert library.init() == 0
    given = batches()
    image = given[0]["image"][:7]
    calls = [("trainStep", batch, ()) for batch in given]
    *steps, predicted, measured, saved = call(
        small,
        [*calls, ("predict", {"image": image}, ()), ("evaluate", given[0], ()), ("save", None, ())],
    )
    for batch, step in zip(given, steps, strict=True):
        for name, array in batch.items():
            library.array("train_step", name)[...] = array
        assert library.call("train_step", library.values) == 0
        assert step["loss"] == float(library.array("train_step", "loss"))
    assert saved[""].tobytes() == library.values.tobytes()
    library.array("predict", "image")[:7] = image
    assert library.call("predict", library.values, 7) == 0
    assert np.array_equal(
        predicted["logits"].reshape(7, 10), library.array("predict", "logits")[:7]
    )
    for name, array in given[0].items():
        library.array("evaluate", name)[...] = array
    assert library.call("evaluate", library.values) == 0
    assert measured == {
        name: float(library.array("evaluate", name)) for name in ("loss", "accuracy")
    }
    expected = trained(steps=str(STEPS)).executor.weights()
    assert all(np.abs(a - expected[n]).max() < 2e-6 for n, a in library.trained().items())


def test_nothing_is_imported(small):
    script = """
    import { readFileSync } from "node:fs";
    const module = new WebAssembly.Module(readFileSync("small.wasm"));
    const names = (list) => list.map(({ name, kind }) => `${name} ${kind}`);
    const [imports, exports] = [WebAssembly.Module.imports, WebAssembly.Module.exports];
    console.log(JSON.stringify([names(imports(module)), names(exports(module))]));
    """
    imports, exports = json.loads(node(small, script))
    assert imports == []
    functions = ("check", "message", "init", "predict", "evaluate", "train_step")
    assert {*exports} == {
        "memory memory", "__heap_base global", *(f"small_{f} function" for f in functions)
    }  # fmt: skip


def test_the_example_runs_and_types_name_what_there_is(small):
    said = node(small, (small / "example.mjs").read_text())
    assert said.count("loss") == 3 and "Float32Array(10)" in said
    types = (small / "small.d.mts").read_text()
    assert '"image": Numbers;  // f32[100, 8, 8, 1]' in types and "trainStep(inputs" in types
    assert "generate" not in types


# --- what is wrong is an error code ---------------------------------------------------------------

RAW = """
import { readFileSync } from "node:fs";
const about = JSON.parse(readFileSync("manifest.json")).functions.small_predict;
const wasm = new WebAssembly.Module(readFileSync("small.wasm"));
const { memory, small_predict, small_check, small_init, small_message, __heap_base } =
  new WebAssembly.Instance(wasm).exports;
const weights = readFileSync("weights.bin");
const at = __heap_base.value, arena = Math.ceil((at + weights.length) / 64) * 64;
memory.grow(64);
new Uint8Array(memory.buffer).set(weights, at);
const end = memory.buffer.byteLength;
const right = [arena, about.arena_bytes, at, weights.length, 1];
const codes = {};
const wrong = { none: [], nothing: [0, 0], odd: [1, arena + 8], few: [1, about.arena_bytes - 1] };
for (const [name, [place, value]] of Object.entries({
  right: [4, 1], null: [0, 0], noWeights: [2, 0], odd: [0, arena + 8], short: [1, right[1] - 1],
  fewWeights: [3, weights.length - 1], none: [4, 0], many: [4, 101], negative: [4, -1],
  beyond: [0, end - 64], far: [0, 0xffffffc0], farWeights: [2, end - 64], text: [0, "no"],
  others: [2, arena], stretched: [1, end],
})) codes[name] = small_predict(...right.map((v, k) => k === place ? value : v));
codes.missing = small_predict();
codes.abi = small_check(1n);
codes.start = small_init(arena, 64, at, weights.length);
const text = new Uint8Array(memory.buffer, small_message(4), 60);
codes.message = String.fromCharCode(...text.subarray(0, text.indexOf(0)));
console.log(JSON.stringify(codes));
"""


def test_wrong_memories_are_refused_and_never_a_trap(small):
    found = json.loads(node(small, RAW))
    expected = {
        "right": "OK", "null": "MISSING", "noWeights": "MISSING", "odd": "MISALIGNED",
        "short": "TOO_SMALL", "fewWeights": "TOO_SMALL", "none": "WRONG_EXAMPLES",
        "many": "WRONG_EXAMPLES", "negative": "WRONG_EXAMPLES", "beyond": "TOO_SMALL",
        "far": "TOO_SMALL", "farWeights": "TOO_SMALL", "text": "MISSING", "others": "OTHER_MODEL",
        "stretched": "TOO_SMALL", "missing": "MISSING", "abi": "OTHER_ABI", "start": "TOO_SMALL",
    }  # fmt: skip
    assert found.pop("message") == "the arena or the values have too few bytes"
    assert found == {name: CODES[code] for name, code in expected.items()}


def test_wrong_inputs_are_refused_by_name(small):
    image, label = np.zeros((100, 8, 8, 1), np.float32), np.full(100, 3)
    right = {"image": image, "label": label}
    nan = image.copy()
    nan[0, 0, 0, 0] = np.nan
    wrong = [
        (("predict", {"image": image[:, :, :5]}, ()), "WRONG_EXAMPLES", "image has 4000 numbers"),
        (("predict", {"image": np.zeros((101, 64))}, ()), "WRONG_EXAMPLES", "64 for an example"),
        (("predict", {"image": np.zeros(0)}, ()), "WRONG_EXAMPLES", "image has 0 numbers"),
        (("predict", {}, ()), "MISSING", "predict needs image"),
        (("trainStep", {"image": image, "label": label[:99]}, ()), "WRONG_EXAMPLES", "of 100"),
        (("trainStep", {**right, "label": label + 7}, ()), "INDEX_OUTSIDE", "chooses something"),
        (("trainStep", {**right, "image": nan}, ()), "NOT_FINITE", "not finite"),
        (("generateNext", None, (1,)), "MISSING", "no generate_next"),
        (("restore", None, ([1, 2],)), "TOO_SMALL", "restore"),
    ]
    found = call(small, [one for one, _, _ in wrong])
    for (_, reason, text), said in zip(wrong, found, strict=True):
        assert said["reason"] == reason and said["code"] == CODES[reason]
        assert text in said["message"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [("weights: new Uint8Array(64)", "TOO_SMALL"), ("module: new Uint8Array(8)", None)],
)
def test_wrong_files_are_refused(small, given, reason):
    script = f"""
    import {{ load }} from "./small.mjs";
    await load({{ {given} }}).then(() => console.log("well"), (e) => console.log(e.reason));
    """
    assert node(small, script).strip() == (reason or "undefined")


def refused(capfd, *arguments: str | Path) -> dict:
    assert cli.run(["--error-format", "json", "export", *map(str, arguments)]) in (1, 2)
    (said,) = capfd.readouterr().err.splitlines()
    return json.loads(said)


def test_what_cannot_be_exported_is_said(tmp_path, capfd):
    path = write(tmp_path)
    said = refused(capfd, path, "--to", tmp_path / "c", "--as", "wasm,so")
    assert said["code"] == "E0724" and "`--target wasm32`" in said["help"]
    said = refused(capfd, path, "--to", tmp_path / "c", "--target", "wasm32", "--as", "so")
    assert said["code"] == "E0724" and "`--as wasm`" in said["help"]
    said = refused(capfd, path, "--to", tmp_path / "c", "--target", "wasm64")
    assert said["code"] == "E0721" and "wasm32" in said["help"]
    with pytest.raises(wasm_linker.Unlinkable, match="calls erf"):
        list(wasm_linker._imports(b"\1\3env\3erf\0\0", ["exp"]))


# --- other models ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_in_the_module_without_vectors(tmp_path):
    model = nnc.loads(DIGITS)
    model.init()
    folder = model.export(tmp_path / "c", target="wasm32-plain", embed=True, batch=4)
    assert not (folder / "weights.bin").exists()
    image = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    (found,) = call(folder, [("predict", {"image": image}, ())])
    assert np.abs(found["logits"].reshape(3, 10) - model.predict(image)).max() < 2e-6
    # a prefix of all instructions of vectors, and the type of their registers
    assert b"\x7b" not in wasm_linker._read((folder / "small.wasm").read_bytes()).sections[1]


def test_training_goes_on_from_what_was_saved(small):
    given = batches()
    steps = [("trainStep", batch, ()) for batch in given[:3]]
    again = [("init", None, ()), *steps, ("save", None, ())]
    *_, saved, _, first, second, third, anew = call(small, [*steps, ("save", None, ()), *again])
    assert saved[""].tobytes() == anew[""].tobytes()
    assert first["loss"] > second["loss"] > third["loss"]
    script = """
    import { load } from "./small.mjs";
    const [one, other] = [await load(), await load()];
    const batch = { image: new Array(100).fill(new Float32Array(64).fill(0.5)),
                    label: new Array(100).fill(7) };
    for (let k = 0; k < 3; k += 1) one.trainStep(batch);
    other.restore(one.save());
    console.log(one.trainStep(batch).loss === other.trainStep(batch).loss);
    """
    assert node(small, script).strip() == "true"


LARGE = """
model Large(x: f32[B, 768]) -> y: f32[B, 768] {
    y = x |> Dense(768) |> relu |> Dense(768)
}

train Large {
    input x: f32[B, 768]
    input target: f32[B, 768]
    loss      = mse(y, target)
    optimizer = sgd(lr = 0.1)
    batch     = 128
}
"""


@here
@pytest.mark.slow
def test_the_stack_holds_packed_panels(tmp_path):
    path = write(tmp_path, LARGE, "large.nn")
    module = export(tmp_path / "wasm", path, "--target", "wasm32-unknown-unknown")
    library = Library(export(tmp_path / "c", path, "--target", "x86-64-v2"))
    rng = np.random.default_rng(0)
    batch = {n: rng.random((128, 768), np.float32) for n in ("x", "target")}
    library.values[:] = library.weights
    for name, array in batch.items():
        library.array("train_step", name)[...] = array
    assert library.call("train_step", library.values) == 0
    step, saved = call(module, [("trainStep", batch, ()), ("save", None, ())])
    assert step["loss"] == float(library.array("train_step", "loss"))
    assert saved[""].tobytes() == library.values.tobytes()


def test_frames_are_those_of_the_largest_function():
    text = """
define void @f() {
  %a = alloca [12 x <4 x float>], align 64
  %b = alloca [3 x i64], align 64
}

define void @g() {
  %c = alloca i8, align 64
}
"""
    assert list(frames(text)) == [0, 12 * 16 + 3 * 8 + 128, 1 + 64]


@here
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["f16", "int8"])
def test_smaller_weights(tmp_path, weights):
    model = nnc.loads(DIGITS)
    model.init()
    image = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    how = {"calibrate": image} if weights == "int8" else {}
    module = model.export(tmp_path / "wasm", kinds="wasm", weights=weights, **how)
    native = model.export(tmp_path / "c", target="x86-64-v2", weights=weights, **how)
    library = Library(native)
    library.array("predict", "image")[:5] = image
    assert library.call("predict", library.weights, 5) == 0
    found, refused = call(module, [("predict", {"image": image}, ()), ("init", None, ())])
    assert np.array_equal(found["logits"].reshape(5, 10), library.array("predict", "logits")[:5])
    assert refused["reason"] == "MISSING"


@pytest.mark.slow
def test_double_precision_takes_its_functions_from_javascript(tmp_path):
    text = """
    model M(x: f64[B, 4], half: f16[B]) -> y: f64[B, 4], z: bf16[B] {
        y[b, n] = exp(x[b, n]) + tanh(x[b, n]) * log(x[b, n] + 2)
        z[b] = half[b] * 3
    }
    """
    model = nnc.load(write(tmp_path, text, "m.nn"))
    model.init()
    folder = model.export(tmp_path / "c", kinds="wasm")
    rng = np.random.default_rng(0)
    x, half = rng.random((5, 4)), rng.random(5).astype(np.float16)
    (found,) = call(folder, [("predict", {"x": x, "half": half}, ())])
    expected = np.exp(x) + np.tanh(x) * np.log(x + 2)
    assert np.abs(found["y"].reshape(5, 4) - expected).max() < 1e-12
    assert np.abs(found["z"] - 3 * half.astype(np.float32)).max() < 0.01
    assert "`Math." in (folder / "README.md").read_text()


def test_an_integer_without_a_result_is_no_trap(tmp_path):
    path = write(tmp_path, "model M(n: i32[B], k: i64[B]) -> y: i32[B], z: i64[B] "
                 "{ y[b] = 7 // n[b]\n z[b] = k[b] + 1 }\n", "m.nn")  # fmt: skip
    folder = export(tmp_path / "c", path, "--target", "wasm32")
    two, zero = np.full(1, 2), np.zeros(1)
    right, wrong = call(
        folder, [("predict", {"n": n, "k": np.array([1 << 40])}, ()) for n in (two, zero)]
    )
    assert right["y"].tolist() == [3] and right["z"].tolist() == [(1 << 40) + 1]
    assert wrong["reason"] == "NO_RESULT"


WRITER = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, 7] {
    logits = token |> Embedding(7, 8) |> LearnedPositions(12)
           |> TransformerBlock(2, 8, causal = true) |> Dense(7)
}

train Writer {
    input token: i32[B, T]
    input target: i32[B, T]
    loss      = cross_entropy(logits, target)
    optimizer = sgd(lr = 0.1)
    batch     = 2
}
"""


@pytest.mark.slow
def test_texts_are_those_of_generate(tmp_path):
    """Also beyond the window, which begins anew with its last quarter."""
    from nnc.runtime.device import DEVICES
    from nnc.runtime.inference.generate import Generator, Sampling, longest_window
    from nnc.runtime.project import with_batch

    model = nnc.load(write(tmp_path, WRITER), settings={"T": 12})
    model.init()
    rng = np.random.default_rng(0)  # first weights are small, and their logits nearly even
    weights = {n: rng.normal(0, 0.5, a.shape) for n, a in model.parameters.items()}
    model.parameters = {n: a.astype(np.float32) for n, a in weights.items()}
    folder = model.export(tmp_path / "c", kinds="wasm")
    executor = model._trained.executor
    system = longest_window(with_batch(executor.setup, 1))
    generator = Generator(system, executor.weights(), DEVICES["cpu"](1))
    expected = list(generator.tokens([3, 5], 40, Sampling(0), 0))
    texts = [{"temperature": 0, "count": 40}, {"count": 40, "topK": 1}, {"topP": 1e-9, "count": 40}]
    sampled = {"seed": 5, "temperature": 0.8, "count": 30, "known": 6, "end": 2}
    found = call(folder, [("generate", None, ([3, 5], how)) for how in [*texts, sampled, sampled]])
    assert found[0] == found[1] == found[2] == expected
    assert found[3] == found[4] and {*found[3]} <= {0, 1, 3, 4, 5}
    assert "generate(prompt" in (folder / "writer.d.mts").read_text()
