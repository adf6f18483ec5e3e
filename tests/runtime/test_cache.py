"""Compiled code kept between runs: found again, never wrongly, and never in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, write
from support import plan, system

from nnc.compiler.ir.build import call, literal
from nnc.compiler.ir.equation import Equation, Index, System, Tensor
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.structural_hash import system_signature
from nnc.compiler.options import DEFAULT
from nnc.compiler.passes.kernels.equal_kernels import equal_kernels
from nnc.compiler.programs import training_step
from nnc.compiler.targets import CpuTarget
from nnc.dsl import files
from nnc.runtime import cache as caches
from nnc.runtime.assignments import Assignment
from nnc.runtime.cache import FileCache
from nnc.runtime.device.cpu import code_cache as code
from nnc.runtime.device.cpu import elf_linker as elf
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu import program as cpu
from nnc.runtime.device.cpu.jit import LEVEL
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, setup_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache; its folder of kernels."""
    monkeypatch.setenv("NNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(caches, "_noted", False)
    return tmp_path / "cache" / "kernels"


def product(size: int = 40, factor: float = 2.0, depth: int = 1) -> System:
    """`depth` products of matrices, one of the other, through a function each."""
    tensors = {n: Tensor(n, (size, size), "f32", "input") for n in "xw"}
    equations, before = [], "x"
    for number in range(depth):
        product, result = (Tensor(f"{n}{number}", (size, size), "f32") for n in "py")
        a, b = (
            Read(before, (Idx("i"), Idx("k")), None, "f32"),
            Read("w", (Idx("k"), Idx("j")), None, "f32"),
        )
        ij, k = (Index("i", size), Index("j", size)), (Index("k", size),)
        equations.append(Equation(product.name, ij, call("mul", a, b), "sum", k))
        p = Read(product.name, (Idx("i"), Idx("j")), None, "f32")
        equations.append(Equation(result.name, ij, call("mul", call("tanh", p), literal(factor))))
        tensors |= {product.name: product, result.name: result}
        before = result.name
    return System("product", tensors, tuple(equations), (before,))


def result(program: CpuProgram) -> bytes:
    rng = np.random.default_rng(0)
    for name in "xw":
        program.arrays[name][...] = rng.uniform(-1, 1, program.arrays[name].shape)
    program.run()
    return b"".join(program.arrays[name].tobytes() for name in program.system.outputs)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def forbid_compiling(monkeypatch) -> None:
    def compile(*_):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(code.jit, "Machine", compile)


# --- found again ----------------------------------------------------------------------------------


def test_kept_code_gives_the_same_bits(folder, monkeypatch):
    without = result(CpuProgram(plan(product())))
    fresh = result(CpuProgram(product()))
    assert len(kept(folder)) == 1
    forbid_compiling(monkeypatch)
    assert fresh == without == result(CpuProgram(product())) == result(CpuProgram(product(), 2))


def test_programs_that_share_code_share_nothing_else(folder):
    first, second = CpuProgram(product(), 2), CpuProgram(product(), 2)
    expected = result(first)
    second.arrays["x"][...] = 0
    second.run()
    assert not second.arrays["y0"].any()
    assert first.arrays["y0"].tobytes() == expected
    del second
    assert result(first) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(folder):
    program = CpuProgram(product(), 2)
    expected = result(program)
    child = os.fork()
    if not child:
        os._exit(0 if result(program) == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert result(program) == expected


PROGRAM = """
import sys, hashlib
from test_cache import CpuProgram, product, result
print(hashlib.sha256(result(CpuProgram(product(), 2))).hexdigest())
print("llvmlite" in sys.modules, "nnc.compiler.codegen.llvm.loop_nest" in sys.modules)
"""
BENCH = """
import sys
from nnc.runtime.cli import run
file = sys.argv[1]
assert run(["bench", file, "--steps", "1", "--threads", "1"]) == 0
print(sorted({m.partition(".")[0] for m in sys.modules} & {"llvmlite"}))
print([m for m in sys.modules if m.startswith("nnc.compiler.codegen.") or m.endswith(".lower")])
"""


def start(text: str, *arguments: str, seed: int = 0, **more: str) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(seed), **more}
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def output(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0 and not error, error
    return out


EXAMPLE = Path(caches.__file__).parents[1] / "examples" / "cnn_digits.nn"


@pytest.mark.skipif(not elf.supported(), reason="elsewhere LLVM loads the code")
def test_a_second_process_does_not_import_llvmlite(folder):
    first = output(start(BENCH, str(EXAMPLE)))
    names = kept(folder)
    again = output(start(BENCH, str(EXAMPLE), seed=1))
    assert "['llvmlite']" in first
    assert again.splitlines()[-2] == "[]" and ".lower'" not in again.splitlines()[-1]
    assert kept(folder) == names


TRAIN = """
import sys
from nnc.runtime.cli import run
file, out = sys.argv[1:]
sys.stderr = sys.stdout  # where the run is kept
assert run(["train", file, "--steps", "1", "--threads", "1", "--out", out]) == 0
print("nnc.compiler.pipeline" in sys.modules, "llvmlite" in sys.modules)
"""


def test_a_second_training_runs_no_pass(folder, tmp_path):
    file = write(tmp_path, DIGITS)
    first, again = (output(start(TRAIN, str(file), str(tmp_path / n))) for n in "ab")
    assert first.splitlines()[-1] == "True True"
    assert again.splitlines()[-1] == "False False"


@pytest.mark.slow
def test_processes_at_the_same_time(folder):
    several = [start(PROGRAM, seed=n) for n in range(3)]
    digests = {output(process).splitlines()[0] for process in several}
    assert len(digests) == 1 and len(kept(folder)) == 1


def test_elsewhere_an_object_file_is_kept(folder, monkeypatch):
    expected = result(CpuProgram(product()))
    monkeypatch.setattr(elf, "supported", lambda: False)
    fresh = result(CpuProgram(product(), 2))
    assert {path.suffix for path in kept(folder)} == {".so", ".o"}
    forbid_compiling(monkeypatch)
    assert fresh == expected == result(CpuProgram(product(), 2))


@pytest.mark.parametrize("linked", [elf.supported(), False])
def test_code_in_several_modules_is_the_same(folder, monkeypatch, linked):
    expected = result(CpuProgram(product(depth=2)))
    monkeypatch.setattr(elf, "supported", lambda: linked)
    monkeypatch.setattr(cpu, "MODULE", 1)
    shutil.rmtree(folder)
    fresh = CpuProgram(product(depth=2))
    assert len(list(fresh.modules())) == 2
    forbid_compiling(monkeypatch)
    assert result(fresh) == expected == result(CpuProgram(product(depth=2), 2))


@pytest.mark.parametrize("linked", [elf.supported(), False])
def test_a_function_that_kernels_call_is_in_one_module(folder, monkeypatch, linked):
    source = system(
        "model M(x: f32[64], r: f32[2]) -> y, z { y = sum(k) x[k] * r[0]^r[1]\n"
        " z = max(k) x[k] * r[0]^r[1] }",
        float_type="f32",
    )

    def bits():
        program = CpuProgram(source, 2)
        program.arrays["x"][...], program.arrays["r"][...] = np.linspace(0.1, 2, 64), (1.7, 3.1)
        program.run()
        return program.arrays["y"].tobytes() + program.arrays["z"].tobytes()

    expected = bits()
    shutil.rmtree(folder)
    monkeypatch.setattr(elf, "supported", lambda: linked)
    monkeypatch.setattr(cpu, "MODULE", 1)
    texts = [*CpuProgram(source, 2).modules()]
    heads = [line for text in texts for line in text.splitlines() if "float @nnc.pow.1(" in line]
    assert len([head for head in heads if head.startswith("define hidden")]) == 1
    assert any(head.startswith("declare hidden") for head in heads)
    assert bits() == expected


def test_code_that_cannot_be_linked_is_loaded_by_llvm(folder, monkeypatch):
    expected = result(CpuProgram(product()))

    def refuse(data, names):
        raise elf.Unlinkable("a test")

    monkeypatch.setattr(elf, "link", refuse)
    (path,) = kept(folder)
    path.unlink()
    assert result(CpuProgram(product(), 2)) == expected and not kept(folder)


# --- the key --------------------------------------------------------------------------------------


def test_the_key_changes_with_whatever_decides_the_code(monkeypatch):
    def key(system=None, target="", level=LEVEL):
        return code.key(system or product(), target, level)

    seen = {
        key(),
        key(product(41)),
        key(product(factor=3.0)),
        key(target=repr(CpuTarget(lanes=8))),
        key(level=2),
    }
    monkeypatch.setattr(code, "__version__", "0.0.0")
    seen.add(key())
    monkeypatch.setattr(code.features, "description", lambda: "another computer")
    seen.add(key())
    assert "0." in code._llvm()
    monkeypatch.setattr(code, "_llvm", lambda: "1.2.3")
    seen.add(key())
    monkeypatch.setattr(code, "texts_digest", lambda folder: "another compiler")
    seen.add(key())
    assert len(seen) == 9


SETTINGS = """
model M(x: f32[B, 6]) -> y: f32[B, 3] { y = x |> Dense(4) |> Dense(3) }
train M {
    input target: i32[B]
    loss = cross_entropy(y, target)
    optimizer = sgd(lr = 0.5)
    batch = 4
    steps = 1
}
"""


def test_another_text_setting_or_processor_has_another_key(monkeypatch):
    def key(text=SETTINGS, **settings):
        given = [Assignment(name, value) for name, value in settings.items()]
        project = project_of_text(text, "m.nn", None, given)
        step, _ = training_step(setup_of(project, None))
        return code.key(step, repr((host.target(), DEFAULT)), LEVEL)

    assert key() == key() == key(SETTINGS + "# a comment\n") == key(batch="4")
    seen = [key(), key(SETTINGS.replace("0.5", "0.25")), key(SETTINGS.replace("(4)", "(5)"))]
    seen += [key(batch="3"), key(precision="bf16"), key(optimizer="adam(lr = 0.5)")]
    monkeypatch.setenv("NNC_TARGET", "generic-sse")
    seen.append(key())
    assert len({*seen}) == len(seen)


def test_signatures_tell_systems_apart():
    x = Tensor("x", (4,), "f32", "input")
    i = (Index("i", 4),)

    def text(body, dtype="f32", kind="input", over=None):
        tensors = {"x": Tensor("x", (4,), "f32", kind), "y": Tensor("y", (4,), dtype)}
        return system_signature(System("s", tensors, (Equation("y", i, body),), ("y",)))

    read = Read(x.name, (Idx("i"),), None, "f32")
    bodies = [
        read,
        call("add", read, literal(1)),
        call("add", read, literal(2)),
        call("sub", read, literal(1)),
        Read("x", (Idx("i"),), literal(0.0), "f32"),
        call("mul", read, read),
        call("mul", read, literal(0.1)),
    ]
    assert len({text(body) for body in bodies}) == len(bodies)
    assert text(read) == text(Read("x", (Idx("i"),), None, "f32"))
    assert text(read) != text(read, kind="param")


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:],
    ],
)
def test_damaged_files_are_made_anew(folder, damage):
    expected = result(CpuProgram(product()))
    (path,) = kept(folder)
    data = path.read_bytes()
    path.unlink()  # the old file is in use by this process
    path.write_bytes(damage(data))
    assert result(CpuProgram(product())) == expected
    assert path.read_bytes() == data


def test_a_file_under_another_name_is_not_taken(folder):
    CpuProgram(product())
    (path,) = kept(folder)
    cache = FileCache(folder)
    path.rename(folder / own("d"))
    assert cache.read(own("d")) is None and not kept(folder)


def test_off_keeps_nothing(folder, monkeypatch):
    monkeypatch.setenv("NNC_CACHE", "off")
    assert result(CpuProgram(product())) == result(CpuProgram(plan(product())))
    assert caches.kernel_cache() is None and not folder.exists()


# --- the folder -----------------------------------------------------------------------------------


def own(letter: str) -> str:
    """A name as the cache gives them."""
    return f"{letter * 64}.so"


def test_the_folder_is_the_users_own(folder):
    cache = FileCache(folder)
    assert cache.write(own("a"), b"data") and cache.read(own("a")) == b"data"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / own("a")).stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners")
def test_other_peoples_folders_are_not_read(folder, monkeypatch, capsys):
    cache = FileCache(folder)
    cache.write(own("a"), b"data")
    folder.chmod(0o777)
    assert cache.read(own("a")) is None and not cache.write(own("b"), b"data")
    folder.chmod(0o700)
    assert cache.read(own("a")) == b"data"
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert cache.read(own("a")) is None and not cache.write(own("b"), b"data")
    assert capsys.readouterr().err.count("\n") == 1  # one note is enough


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NNC_CACHE", str(tmp_path / "file"))
    assert result(CpuProgram(product())) == result(CpuProgram(product()))
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_no_error(folder, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert result(CpuProgram(product())) == result(CpuProgram(product()))
    assert not kept(folder) and "No space left" in capsys.readouterr().err


def test_the_least_recently_used_make_room(folder):
    cache = FileCache(folder, limit=1100)
    for n, letter in enumerate("abc"):
        cache.write(own(letter), bytes(300))
        os.utime(folder / own(letter), (n, n))
    assert cache.read(own("a"))  # used now: b is the oldest
    cache.write(own("d"), bytes(300))
    assert [p.name for p in kept(folder)] == [own("a"), own("c"), own("d")]


def test_what_the_cache_has_not_written_stays(folder, tmp_path):
    """Old and large files of the user, under any name, and what links lead to."""
    folder.mkdir(parents=True, mode=0o700)
    others = ["thesis.tex", ".hidden", "notes.so", f"{'A' * 64}.so", "f" * 64, f".{own('e')}.1.2"]
    for name in others:
        (folder / name).write_bytes(bytes(5000))
        os.utime(folder / name, (1, 1))
    (tmp_path / "elsewhere").write_bytes(bytes(5000))
    (folder / own("e")).symlink_to(tmp_path / "elsewhere")
    (folder / own("f")).mkdir()
    cache = FileCache(folder, limit=1000)
    for letter in "abcd":
        assert cache.write(own(letter), bytes(600))
    assert cache.read(own("e")) is None and cache.read(own("f")) is None
    names = {p.name for p in kept(folder)}
    assert names == {*others, own("d"), own("e"), own("f")}
    # An entry replaces a link and not what the link leads to.
    assert cache.write(own("e"), b"data") and cache.read(own("e")) == b"data"
    assert (tmp_path / "elsewhere").read_bytes() == bytes(5000)
    assert not cache.write(own("f"), b"data")


def test_a_link_in_the_place_of_the_folder_is_not_followed(folder, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    cache = FileCache(folder)
    assert not cache.write(own("a"), b"data") and cache.read(own("a")) is None
    assert not list((tmp_path / "elsewhere").iterdir())
    assert "a link" in capsys.readouterr().err


def test_a_named_pipe_in_the_cache_is_not_waited_for(folder):
    folder.mkdir(parents=True, mode=0o700)
    os.mkfifo(folder / own("a"))
    cache = FileCache(folder)
    assert cache.read(own("a")) is None
    assert cache.write(own("a"), b"data") and cache.read(own("a")) == b"data"


# --- equal kernels --------------------------------------------------------------------------------


def test_equal_kernels_are_compiled_once():
    four, twelve = (CpuProgram(plan(product(depth=n))) for n in (4, 12))
    equal = [program.source.equal_kernels for program in (four, twelve)]
    counts = [len({each.representative for each in kernels.values()}) for kernels in equal]
    assert counts[0] == counts[1] < len(equal[0])
    assert len(twelve.llvm) < 1.5 * len(four.llvm)
    one = CpuProgram(plan(product()))
    result(one)
    for program in (four, twelve):
        result(program)
    expected = one
    for _ in range(3):  # four products, one after the other, by the one that knows a single kernel
        expected.arrays["x"][...] = expected.arrays["y0"]
        expected.run()
    np.testing.assert_array_equal(four.arrays["y3"], expected.arrays["y0"])


def test_kernels_that_differ_are_told_apart():
    system = product(depth=2)
    changed = product(factor=3.0, depth=2)
    mixed = system.replace(equations=(*system.equations[:2], *changed.equations[2:]))
    models = {id(a.representative) for a in equal_kernels(plan(mixed)).values()}
    assert len(models) == len(list(plan(mixed).kernels))


def test_the_layout_is_kept_with_the_code(folder):
    program = CpuProgram(product())
    (path,) = kept(folder)
    content = FileCache(folder).read(path.name)
    assert content is not None
    layout = json.loads(content[-8 - int.from_bytes(content[-8:], "little") : -8])
    assert layout["offsets"] == dict(program.plan.offsets)
