"""`nnc export`: libraries compute what nnc computes, to the bit, and refuse what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from exported import Library, aligned, numbers, run, tool
from small_programs import DIGITS, RICH, prepared, trained, write
from support import mostly_slow

import nnc
from nnc.compiler.codegen.llvm.library_body import AT_STEP, CODES, FAILURES
from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.export.building import Member, archive
from nnc.runtime.export.header import c_name
from nnc.runtime.export.machine_choice import machine_of

here = pytest.mark.skipif(not elf_linker.supported(), reason="for x86-64 Linux")


def export(folder: Path, *arguments: str | Path) -> Path:
    assert cli.run(["export", *map(str, arguments), "--to", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The small program, exported in all forms for this computer."""
    folder = tmp_path_factory.mktemp("small")
    return export(folder / "c", write(folder), "--as", "so,a,o")


def steps(library: Library, job, count: int) -> None:
    """So many steps of the library on the batches of a training."""
    assert library.init() == 0
    order = job.training.order(job.settings.seed, 1, job.settings.shuffle)
    size = job.settings.batch
    fields = [p["name"] for p in library.functions[library.name("train_step")]["inputs"]]
    for step in range(count):
        rows = order[step * size : (step + 1) * size]
        for name in fields:
            job.training.split.take(name, rows, library.array("train_step", name))
        assert library.call("train_step", library.values) == 0


# --- the same bits --------------------------------------------------------------------------------


@here
def test_ten_steps_are_those_of_training(small):
    library, job = Library(small), trained(steps="10")
    steps(library, job, 10)
    found = library.trained()
    expected = job.executor.weights()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    # the head of the values counts
    assert library.values[AT_STEP : AT_STEP + 4].view(np.int32)[0] == 10


def test_training_goes_on_from_weights_that_were_taken():
    """A command takes the weights of a run to predict; an export of it trains, too."""
    executor = prepared().executor
    weights = {n: a + 1 for n, a in executor.weights().items()}
    executor.take(weights)
    assert executor.values.keys() == weights.keys()
    executor.restore(weights)
    assert "dense1_w_m" in executor.values
    assert all(np.array_equal(executor.values[n], a) for n, a in weights.items())


@here
def test_a_run_predicts_the_same(tmp_path):
    job = trained(steps="20")
    model = nnc.loads(DIGITS)
    model.init()
    model.load_weights(job.executor.weights())
    library = Library(model.export(tmp_path / "c"))
    image = np.random.default_rng(0).random((7, 8, 8, 1), np.float32)
    expected = model.predict(image)
    library.array("predict", "image")[:7] = image
    for _ in range(2):  # the second one takes what the first has prepared
        assert library.call("predict", library.weights, 7) == 0
        assert np.array_equal(library.array("predict", "logits")[:7], expected)


@here
@pytest.mark.slow
def test_a_run_of_the_command_line(tmp_path, monkeypatch):
    """With what it learnt; and for older processors the same but for the order of sums."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", str(write(tmp_path)), "--out", "run", "--steps", "5"]) == 0
    image = np.random.default_rng(3).random((9, 8, 8, 1), np.float32)
    expected = nnc.load("run").predict(image)
    for target in ("host", "x86-64-v2", "x86_64-linux-gnu", "x86-64-v3"):
        library = Library(export(tmp_path / target, "run", "--target", target))
        assert library.about["target"]["name"].startswith("x86-64-v")
        library.array("predict", "image")[:9] = image
        if library.call("predict", library.weights, 9) == CODES["NO_INSTRUCTIONS"]:
            assert target == "x86-64-v3"
            continue
        found = library.array("predict", "logits")[:9]
        assert np.array_equal(found, expected) if target == "host" else True
        assert np.abs(found - expected).max() < 2e-6


@here
def test_what_has_averages_states_and_draws(tmp_path):
    """In its own executor: the same data, by hand."""
    path = write(tmp_path, RICH, "rich.nn")
    library = Library(export(tmp_path / "c", path))
    executor = _executor(RICH)
    rng = np.random.default_rng(1)
    assert library.init() == 0
    program = executor.training(20)
    for step in range(1, 6):
        for name, array in program.fields:
            array[...] = rng.random(array.shape) if name == "image" else _kinds(rng, name, 20)
            library.array("train_step", name)[...] = array
        program.step[...] = step
        program.compute(np.arange(20), step)
        assert library.call("train_step", library.values) == 0
        loss = program.results[program.losses[0]]
        assert library.array("train_step", program.losses[0]) == loss
    expected = executor.weights()
    assert all(np.array_equal(a, expected[n]) for n, a in library.trained().items())
    # Evaluating reads the averages, whether they lie in the memory of training or in a file.
    with executor.evaluation(20) as measured:
        for name, array in measured.fields:
            array[...] = rng.random(array.shape) if name == "image" else _kinds(rng, name, 20)
            library.array("evaluate", name)[...] = array
        measured.step[...] = 5
        measured.compute(np.arange(20), 5)
        loss = measured.results[measured.losses[0]].copy()
    assert library.call("evaluate", library.values) == 0
    assert library.array("evaluate", "loss") == loss


@here
def test_predictions_notice_other_weights(small):
    """What one prediction prepares for the next holds for the same weights alone."""
    library = Library(small)
    library.init()
    library.array("predict", "image")[:3] = np.random.default_rng(2).random((3, 8, 8, 1))

    def both() -> bool:
        image = library.array("predict", "image").copy()
        assert library.call("predict", library.values, 3) == 0
        found = library.array("predict", "logits")[:3].copy()
        library.arenas["small_predict"][:] = 0
        library.array("predict", "image")[...] = image
        assert library.call("predict", library.values, 3) == 0
        return np.array_equal(found, library.array("predict", "logits")[:3])

    assert both()
    assert library.call("train_step", library.values) == 0
    assert both()
    # other weights at the same address, and the arena of another function
    head = library.values[:64].copy()
    library.values[64:3000] = 0
    library.values[:64] = head
    library.values[32] ^= 1
    assert both()
    library.arenas["small_predict"][:] = 0
    assert library.raw(
        "evaluate", library.arenas["small_predict"].ctypes.data,
        library.arenas["small_predict"].size, library.values.ctypes.data, library.values.size,
    ) == 0  # fmt: skip
    library.array("predict", "image")[:3] = 0.5
    assert both()


def _executor(text: str):
    from nnc.runtime.device import DEVICES
    from nnc.runtime.project import project_of_text, setup_of
    from nnc.runtime.training.executor import Executor

    project = project_of_text(text)
    return Executor(setup_of(project, None), DEVICES["cpu"](1), project.settings.seed)


def _kinds(rng: np.random.Generator, name: str, count: int) -> np.ndarray:
    return rng.integers(0, 5 if name == "kind" else 10, count)


@here
def test_weights_in_the_library(small, tmp_path):
    path = write(tmp_path)
    library = Library(export(tmp_path / "c", path, "--embed", "--batch", "4"))
    assert not (tmp_path / "c" / "weights.bin").exists()
    import ctypes

    size = library.weights.size
    raw = (ctypes.c_ubyte * size).in_dll(library.library, library.name("weights"))
    assert bytes(raw) == (small / "weights.bin").read_bytes()
    assert library.raw(
        "init", library.values.ctypes.data, library.values.size, ctypes.addressof(raw), size
    ) == 0  # fmt: skip
    assert library.functions["small_train_step"]["inputs"][0]["shape"][0] == 4


@pytest.mark.slow
def test_the_same_model_gives_the_same_files(small, tmp_path):
    again = export(tmp_path / "c", write(tmp_path), "--as", "so,a,o")
    names = sorted(p.name for p in small.iterdir())
    assert names == sorted(p.name for p in again.iterdir())
    assert all((small / n).read_bytes() == (again / n).read_bytes() for n in names)


# --- what is wrong is an error code ---------------------------------------------------------------


@here
def test_wrong_memories_are_refused(small):
    library = Library(small)
    library.init()
    arena, weights = library.arenas["small_predict"], library.weights
    right = [arena.ctypes.data, arena.size, weights.ctypes.data, weights.size, 1]
    for place, wrong, code in (
        (0, 0, "MISSING"), (2, 0, "MISSING"),
        (0, right[0] + 8, "MISALIGNED"), (2, right[2] + 32, "MISALIGNED"),
        (1, right[1] - 1, "TOO_SMALL"), (3, right[3] - 1, "TOO_SMALL"), (1, 0, "TOO_SMALL"),
        (4, 0, "WRONG_EXAMPLES"), (4, 101, "WRONG_EXAMPLES"), (4, 2**63, "WRONG_EXAMPLES"),
    ):  # fmt: skip
        given = [wrong if n == place else value for n, value in enumerate(right)]
        assert library.raw("predict", *given) == CODES[code], (place, wrong)
    assert library.raw("predict", *right) == 0
    # the weights of another model, or something else; training needs more than weights
    weights[8] ^= 1
    assert library.raw("predict", *right) == CODES["OTHER_MODEL"]
    assert library.init() == CODES["OTHER_MODEL"]
    weights[:] = 0
    assert library.raw("predict", *right) == CODES["OTHER_MODEL"]
    assert library.call("train_step", weights) == CODES["TOO_SMALL"]


@here
def test_another_header_is_noticed_and_codes_have_texts(small):
    library = Library(small)
    abi = int(library.about["abi"], 16)
    assert library.check(abi) == 0
    assert library.check(abi ^ 1) == CODES["OTHER_ABI"]
    texts = [library.message(code) for code in range(len(FAILURES))]
    assert texts == [text for _, text in FAILURES]
    assert library.message(-1) == library.message(99) == "no code of this library"


@here
def test_indices_and_numbers_are_looked_at(small):
    library = Library(small)
    library.init()
    before = library.values.copy()
    for label in (10, -1, 2**31 - 1):
        library.array("train_step", "label")[:] = 3
        library.array("train_step", "label")[-1] = label
        assert library.call("train_step", library.values) == CODES["INDEX_OUTSIDE"]
    assert np.array_equal(library.values, before)
    library.array("train_step", "label")[:] = 3
    library.array("train_step", "image")[0, 0, 0, 0] = np.nan
    assert library.call("train_step", library.values) == CODES["NOT_FINITE"]


@here
def test_an_integer_without_a_result(tmp_path):
    path = write(tmp_path, "model M(n: i32[B]) -> y: i32[B] { y[b] = 7 // n[b] }\n", "m.nn")
    library = Library(export(tmp_path / "c", path))
    count = library.functions["m_predict"]["examples"]
    library.array("predict", "n")[:] = 2
    assert library.call("predict", library.weights, count) == 0
    assert (library.array("predict", "y") == 3).all()
    library.array("predict", "n")[-1] = 0
    assert library.call("predict", library.weights, count) == CODES["NO_RESULT"]


def refused(capfd, *arguments: str | Path) -> dict:
    assert cli.run(["--error-format", "json", "export", *map(str, arguments)]) in (1, 2)
    (said,) = capfd.readouterr().err.splitlines()
    return json.loads(said)


def test_what_cannot_be_exported_is_said(small, tmp_path, capfd):
    path = write(tmp_path)
    said = refused(capfd, path, "--to", tmp_path / "c", "--target", "x86-64-v5")
    assert said["code"] == "E0721" and "did you mean `x86-64-v" in said["help"]
    said = refused(capfd, path, "--to", tmp_path / "c", "--target", "sparc")
    assert said["code"] == "E0721" and "aarch64-neon" in said["help"]
    said = refused(capfd, path, "--to", small)
    assert said["code"] == "E0705" and "nothing is overwritten" in said["help"]
    said = refused(capfd, path, "--to", path)
    assert said["code"] == "E0705" and "is a file" in said["message"]
    said = refused(capfd, path, "--to", tmp_path / "c", "--target", "apple-m1")
    assert said["code"] == "E0724" and "`--as o`" in said["help"]
    assert not (tmp_path / "c").exists()
    with pytest.raises(nnc.UserError, match="E0707"):
        nnc.load(path).export(tmp_path / "c")
    with pytest.raises(ValueError, match="did you mean `so`"):
        nnc.load(path).export(tmp_path / "c", kinds="sso")


@here
def test_only_x86_asks_the_processor(monkeypatch):
    assert machine_of("x86-64-v3").required == ("x86-64-v2", "x86-64-v3")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine_of("x86-64-v3").required == ()


def test_names_in_c():
    found = [c_name(n) for n in ("DigitsCNN", "GPT2", "x", "λ", "_m", "CnnDigits2")]
    assert found == ["digits_cnn", "gpt2", "x", "m_u3bb", "m_m", "cnn_digits2"]


# --- C --------------------------------------------------------------------------------------------


@here
@pytest.mark.parametrize("linker", ["bfd", "lld"])
def test_the_example_links_and_runs(small, tmp_path, linker):
    tool("ld.lld" if linker == "lld" else "ld")
    compiler = [tool("gcc"), "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    compiler += [f"-fuse-ld={linker}", "-I", small, small / "main.c"]
    shared = ["-L", small, "-lsmall", f"-Wl,-rpath,{small}"]
    said = []
    for name, how in {"so": shared, "a": [small / "libsmall.a"], "o": [small / "small.o"]}.items():
        run([*compiler, *how, "-o", tmp_path / name], small)
        said.append(run([tmp_path / name], small))
    assert said[0] == said[1] == said[2]
    assert len(numbers(said[0])) == 10 + 3
    library = Library(small)
    library.call("predict", library.weights, 1)
    assert numbers(said[0])[:10] == [
        float(f"{v:.9g}") for v in library.array("predict", "logits")[0]
    ]


@here
def test_nothing_outside_is_needed(small):
    run([tool("g++"), "-x", "c++", "-Wall", "-Werror", "-fsyntax-only", small / "small.h"], small)
    assert run([tool("nm"), "-u", "small.o"], small).strip() == ""
    assert "statically linked" in run([tool("ldd"), "libsmall.so"], small)
    dynamic = run([tool("readelf"), "-W", "-S", "-d", "--dyn-syms", "libsmall.so"], small)
    assert "(SONAME)" in dynamic and "NEEDED" not in dynamic and "UND small" not in dynamic
    index = run([tool("nm"), "-s", "libsmall.a"], small)
    assert all(f"{name} in {name}.o" in index for name in Library(small).functions)
    assert "small_init in small.o" in index


@here
def test_an_archive_of_an_odd_size_is_read(tmp_path):
    long = "a_name_of_many_letters.o"
    members = [Member("x.o", b"odd", ("f",)), Member(long, b"even", ("g", "h"))]
    (tmp_path / "x.a").write_bytes(archive(members))
    assert run([tool("ar"), "t", "x.a"], tmp_path).split() == ["x.o", long]
    assert run([tool("ar"), "p", "x.a", "x.o"], tmp_path) == "odd"
    assert run([tool("ar"), "p", "x.a", long], tmp_path) == "even"


@here
def test_sanitizers_have_nothing_to_say(tmp_path):
    """For a processor without AVX-512, which valgrind does not know."""
    folder = export(tmp_path / "c", write(tmp_path), "--target", "x86-64-v3", "--as", "a")
    compiler = [tool("gcc"), "-g", "main.c", "libsmall.a", "-o"]
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover"]
    run([*compiler, "sane", *flags], folder)
    clean = run(["./sane"], folder)
    run([*compiler, "plain"], folder)
    # what it translates at a time is short: it runs out of memory over a large tile
    command = [tool("valgrind"), "-q", "--error-exitcode=9", "--vex-guest-max-insns=20", "./plain"]
    assert run(command, folder) == clean


# target → the triple of its compiler, the emulator, what the linker is told
OTHERS = {
    "aarch64-linux-gnu": ("aarch64-linux-gnu", "qemu-aarch64", ()),
    "arm-linux-gnueabihf": ("arm-linux-gnueabihf", "qemu-arm", ()),
    "riscv64-linux-gnu": ("riscv64-linux-gnu", "qemu-riscv64", ()),
    "rv64gc": ("riscv64-linux-gnu", "qemu-riscv64", ("-static", "-no-pie")),
}


@pytest.mark.parametrize("target", mostly_slow(OTHERS, {"aarch64-linux-gnu"}))
@pytest.mark.parametrize("rich", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_other_processors_agree(tmp_path, target, rich):
    """The same numbers, but for the order in which sums are added up: a prediction and the losses
    of three steps, without a function from outside."""
    triple, emulator, flags = OTHERS[target]
    compiler, emulator = tool(f"{triple}-gcc"), tool(emulator)
    text, name = (RICH, "rich") if rich else (DIGITS, "small")
    path = write(tmp_path, text, f"{name}.nn")
    kinds = ["so", "a", "o"] if target.startswith("aarch64") else ["a", "o"]
    command = [path, "--target", target, "--as", ",".join(kinds), "--batch", "20"]
    folder = export(tmp_path / "c", *command)
    filled(folder, name)
    ways = {
        "so": ["-L.", f"-l{name}", "-Wl,-rpath,$ORIGIN"],
        "a": [f"lib{name}.a", *flags],
        "o": [f"{name}.o", *flags],
    }
    said = []
    for kind in kinds:
        run([compiler, "main.c", *ways[kind], "-o", kind], folder)
        said.append(run([emulator, "-L", f"/usr/{triple}", f"./{kind}"], folder))
    assert len({*said}) == 1
    assert run([tool(f"{triple}-nm"), "-u", f"{name}.o"], folder).strip() == ""
    if elf_linker.supported():
        host = export(tmp_path / "host", path, "--as", "o", "--batch", "20")
        filled(host, name)
        run([tool("gcc"), "main.c", f"{name}.o", "-o", "o"], host)
        expected = numbers(run(["./o"], host))
        assert len(expected) == 13
        assert numbers(said[0]) == pytest.approx(expected, abs=2e-6)


ROUNDINGS = """
model Rounded(x: FLOAT[B, 8]) -> y: FLOAT[B, 24] {
    y = concat(floor(x), ceil(x), round(x))
}
"""
BETWEEN = [-2.5, -0.5, -0.25, 0.5, 1.5, 2.5000001, 8388607.5, 16777217.0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype, c_type", [("f32", "float"), ("f64", "double")])
@pytest.mark.parametrize("target", ["rv64gc", "riscv64-linux-gnu"])
def test_a_processor_without_roundings_gets_functions(tmp_path, target, dtype, c_type):
    """Halves go to the even integer, and large numbers are whole."""
    compiler, emulator = tool("riscv64-linux-gnu-gcc"), tool("qemu-riscv64")
    path = write(tmp_path, ROUNDINGS.replace("FLOAT", dtype), "rounded.nn")
    folder = export(tmp_path / "c", path, "--target", target, "--as", "o", "--batch", "1")
    source = (folder / "main.c").read_text()
    first = "rounded_predict_x(arena)[0] = 0;"
    assert first in source
    values = ", ".join(map(repr, BETWEEN))
    given = f"const {c_type} v[] = {{{values}}}; for (int n = 0; n < 8; n++) {first}"
    (folder / "main.c").write_text(source.replace(first, given.replace("[0] = 0", "[n] = v[n]")))
    run([compiler, "main.c", "rounded.o", "-static", "-no-pie", "-o", "o"], folder)
    x = np.array(BETWEEN, dtype={"f32": np.float32, "f64": np.float64}[dtype])
    expected = np.concatenate([np.floor(x), np.ceil(x), np.rint(x)])
    said = numbers(run([emulator, "./o"], folder))
    assert said[-24:] == pytest.approx(expected.tolist(), rel=1e-6)
    assert run([tool("riscv64-linux-gnu-nm"), "-u", "rounded.o"], folder).strip() == ""


def filled(folder: Path, name: str) -> None:
    """The example with numbers other than zeros."""
    source = (folder / "main.c").read_text()
    for place, count in ((f"{name}_predict_image(arena)", 64),
                         (f"{name}_train_step_image(training)", 20 * 64)):  # fmt: skip
        assert f"{place}[0] = 0;" in source
        loop = f"for (int n = 0; n < {count}; n++) {place}[n] = n % 7 / 7.0f;"
        source = source.replace(f"{place}[0] = 0;", loop)
    (folder / "main.c").write_text(source)


def test_the_head_of_the_weights(small):
    data = (small / "weights.bin").read_bytes()
    about = json.loads((small / "manifest.json").read_text())
    magic, version, _, size = struct.unpack("<4sIQQ", data[:24])
    assert (magic, version, size) == (b"nncw", about["format"], len(data))
    place = about["weights"]["dense1_w"]
    found = np.frombuffer(data, np.float32, 64 * 12, place["offset"]).reshape(64, 12)
    assert np.array_equal(found, prepared().executor.weights()["dense1_w"])


def test_memory_of_tests_is_aligned():
    assert aligned(100).ctypes.data % 64 == 0
