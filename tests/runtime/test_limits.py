"""What a program may not do: take memory that is not there, reach files that it does not name,
run code, or grow without end. Each limit is stated in docs/running.md."""

from __future__ import annotations

import ast
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, prepared, write

import nnc as package
from nnc.compiler.elaboration import calls, context, statements
from nnc.compiler.ir.expr import Apply, walk
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import MAX_LISTED, Report, UserError
from nnc.dsl.diagnostics.render import render
from nnc.dsl.syntax.source import Source
from nnc.runtime import cli, data, memory
from nnc.runtime.data.core import decompress as unpack
from nnc.runtime.data.formats.idx import read_idx
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.model_system import model_system
from nnc.runtime.project import project_of_text
from nnc.runtime.training.executor import MIN_COPIES, values_bytes
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent

ROOT = Path(package.__file__).parent
WIDE = DIGITS.replace("Dense(12)", "Dense(2000)")


def refused(call):
    with pytest.raises(UserError) as caught:
        call()
    (found,) = caught.value.diagnostics
    return found


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_batch_that_does_not_fit(monkeypatch):
    """It is refused before memory is taken, with the largest tensors, and the batch that is said to
    fit does."""
    job = prepared(WIDE, batch="1400")
    system = job.executor.system
    whole = CpuProgram(system)._code.arena_bytes
    free = (whole + MIN_COPIES * values_bytes(system)) // 2
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    found = refused(lambda: train(job, Silent(), never))
    assert found.code == "E0713" and "1,400" in found.message
    largest = max(system.tensors.values(), key=lambda t: t.bytes)
    assert f"`{largest.name}`" in found.label and str(list(largest.shape)) in found.label
    fits = re.search(r"`--batch (\d+)`", found.help)[1]
    assert 1 < int(fits) < 1400
    other = prepared(WIDE, batch=fits)
    other.executor.training(int(fits))
    assert CpuProgram(other.executor.system)._code.arena_bytes > 0.7 * free


def test_parameters_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    found = refused(lambda: prepared(WIDE))
    assert found.code == "E0713" and "no batch is small enough" in found.help
    assert "`dense1_w`: f32[64, 2000], 512.0 kB" in str((found.label, found.notes))


def test_what_is_free_is_found_out():
    free = memory.free_bytes()
    assert free is None or 10**6 < free < 10**15
    memory.require(0)
    assert memory.size_text(999) == "999 bytes" and memory.size_text(1_500_000) == "1.5 MB"


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret.csv", "a/../../secret.csv", "..", "./../secret.csv"])
@pytest.mark.parametrize("flag", [True, False])
def test_no_file_outside_the_data(tmp_path, name, flag):
    inside = tmp_path / "inside"
    (inside / "a").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    search = data.Search(inside if flag else None, inside, offline=True)
    found = refused(lambda: data.load("csv", {"file": name, "target": "b"}, search))
    assert found.code == "E0617" and "leads out of" in found.message


def test_absolute_names_stay_within_data(tmp_path):
    for folder in ("inside", "outside", "inside2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").write_text("a,b\n" + "1,2\n" * 20)
    inside = tmp_path / "inside"
    search = data.Search(inside, inside, offline=True)
    for folder in ("outside", "inside2"):
        name = str(tmp_path / folder / "rows.csv")
        found = refused(lambda n=name: data.load("csv", {"file": n, "target": "b"}, search))
        assert found.code == "E0617"
    data.load("csv", {"file": str(inside / "rows.csv"), "target": "b"}, search)
    (inside / "x").mkdir()
    data.load("csv", {"file": "./x/../rows.csv", "target": "b"}, search)


# What reads or runs nothing that comes from a program, a data file or a run folder.
OWN = {
    # entries of the user's own cache, of which nothing but equations and messages is made
    "runtime/training/kept_programs.py": {"pickle"},
    # methods written of the names of a class's fields, as `dataclass` does it
    "dsl/records.py": {"exec", "eval"},
}


def test_nothing_is_unpickled_and_nothing_is_run():
    """No module that makes objects of bytes or runs text is imported, nothing is evaluated, and no
    array is read with pickles allowed."""
    forbidden = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "code"}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("tests", "benchmarks", "tools") or any(p.startswith(".") for p in parts):
            continue
        own = OWN.get(path.relative_to(ROOT).as_posix(), set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & forbidden - own, path
            elif isinstance(node, ast.ImportFrom):
                assert node.level or (node.module or "").split(".")[0] not in forbidden, path
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "os.system"} - own, (path, name)
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if name in ("np.load", "numpy.load"):
                    assert given.get("allow_pickle") == "False", path
                assert given.get("allow_pickle", "False") == "False", path
                assert given.get("shell", "False") == "False", path


@pytest.mark.parametrize("place", ["file", "archive"])
def test_pickled_arrays_are_refused(tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert cli.run(["train", "small.nn", "--out", "run", "--epochs", "1"]) == 0
    objects = np.array([{"a": 1}], dtype=object)
    if place == "file":
        np.save("x.npy", objects, allow_pickle=True)
    else:
        np.savez("x.npz", image=objects)
    name = "x.npy" if place == "file" else "x.npz"
    assert cli.run(["predict", "run", "--input", name, "--output", "y.npy"]) == 1
    assert "E0611" in capsys.readouterr().err and not Path("y.npy").exists()


# --- sizes ----------------------------------------------------------------------------------------

MODEL = "model M(x: f32[B, 8]) -> y: f32[B, 8] {\n    BODY\n}\n"


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (
            MODEL.replace("BODY", "h = x\n    repeat 10001 { h = h |> Dense(8) }\n    y = h"),
            "E0311",
            "more than 10,000",
        ),
        (MODEL.replace("BODY", "y = x |> Dense(10000000000) |> Dense(8)"), "E0311", "elements"),
        ("fn deep(x) = " + "(-" * 210 + "x" + ")" * 210, "E0110", "200 levels"),
        ("# " + "x" * 1_000_000, "E0311", "1,000,000 bytes"),
    ],
)
def test_stated_limits(tmp_path, capsys, text, code, told):
    path = write(tmp_path, text)
    assert cli.run(["check", str(path), "--set", "B=4"]) == 1
    err = capsys.readouterr().err
    assert f"error[{code}]" in err and told in err


def test_an_endless_file_is_not_read(capsys):
    assert cli.run(["check", "/dev/zero"]) == 1
    assert "`/dev/zero`: it is a device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("mnist", "more than 3,153 bytes come out of it"),  # its header promises 3,152
        ("text", "more than 1,000 bytes come out of it"),
    ],
)
def test_a_small_file_that_unpacks_to_a_large_one(tmp_path, monkeypatch, source, told):
    monkeypatch.setattr(unpack, "ALWAYS_ALLOWED", 1000)
    monkeypatch.setattr(unpack, "MAX_RATIO", 0)
    header = b"\0\0\x08\x03\0\0\0\x04\0\0\0\x1c\0\0\0\x1c"
    place = tmp_path / "x.gz"
    place.write_bytes(gzip.compress(header + bytes(1 << 20)))
    cache = tmp_path / "cache"
    with pytest.raises(UserError) as caught:
        if source == "mnist":
            read_idx(place, 3, cache)
        else:
            unpack.plain_bytes(place, cache)
    assert caught.value.diagnostics[0].code == "E0603"
    assert told in caught.value.diagnostics[0].message
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_an_array_that_is_larger_than_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "big.npz", x=np.zeros((1000, 9), np.float32))
    search = data.Search(tmp_path, tmp_path, offline=True)
    assert len(data.load("npz", {"file": "big.npz"}, search).train) == 1000
    monkeypatch.setattr(memory, "free_bytes", lambda: 35_999)
    found = refused(lambda: data.load("npz", {"file": "big.npz"}, search))
    assert found.code == "E0713" and "`x`" in found.message and "savez" in found.help


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("check small.nn", 0),
        ("train small.nn --set leraning=3", 2),
        ("train small.nn --sett x=3", 2),
        ("check missing.nn", 1),
        ("train --resume missing", 1),
    ],
)
def test_exit_codes(tmp_path, monkeypatch, line, code):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert cli.run(line.split()) == code


def test_exit_codes_of_bugs_and_interruptions(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for error, code in ((RuntimeError("cannot be"), 101), (KeyboardInterrupt(), 130)):
        with monkeypatch.context() as patch:

            def broken(*_, error=error):
                raise error

            patch.setattr("nnc.runtime.commands.train.prepare", broken)
            assert cli.run(["train", "small.nn"]) == code


def test_an_unknown_key_in_the_file(tmp_path, capsys):
    path = write(tmp_path, DIGITS.replace("batch     =", "bacth     ="))
    assert cli.run(["check", str(path)]) == 1
    assert "did you mean `batch`" in capsys.readouterr().err


# --- programs that grow ---------------------------------------------------------------------------

MODEL = "model M(x: f32[4, 3]) -> y: f32[4, 3] {{ y[i, j] = f{}(x[i, j]) }}\n"


def levels(body: str, count: int = 24) -> str:
    """`count` functions, each of which applies the one before as `body` says."""
    fns = (f"fn f{i}(x) = {body.format(f=f'f{i - 1}', i=i)}\n" for i in range(1, count + 1))
    return "".join(["fn f0(x) = x*x + 1\n", *fns, MODEL.format(count)])


def checked(text: str) -> tuple[str, int]:
    """The code with which a program is refused, "" for none; how many functions were applied."""
    applied = 0
    plain = calls._expression

    def counted(*arguments):
        nonlocal applied
        applied += 1
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "_expression", counted)
        try:
            model_system(project_of_text(text))
        except UserError as error:
            return error.diagnostics[-1].code, applied
    return "", applied


@pytest.mark.parametrize(
    "body",
    ["{f}(x) - {f}(x)*0.5", "{f}(x + 1) + {f}(x + 1)", "tanh({f}(x)) * {f}(x)",
     "if x > {i} then {f}(x) else {f}(x - 1)"],
)  # fmt: skip
def test_equal_applications_are_elaborated_once(body):
    """2^24 applications written out, 2 at each of the 24 levels as elaborated."""
    code, applied = checked(levels(body))
    assert code in ("", "E0110") and applied <= 2 * 24 + 24**2


@pytest.mark.parametrize(
    "body",
    ["{f}(x) + {f}(x*{i})", "{f}({f}(x))", "{f}(x + 1) + {f}(1 + x)", "{f}(x) + {f}(random())"],
)
def test_functions_may_not_be_applied_without_measure(body, monkeypatch):
    monkeypatch.setattr(calls, "MAX_APPLICATIONS", 500)
    code, applied = checked(levels(body))
    assert code == "E0311" and applied <= 2 * 500


@pytest.mark.parametrize(
    ("module", "limit", "told"),
    [(context, "MAX_EQUATIONS", "20 equations"), (statements, "MAX_STATEMENTS", "20 statements")],
)
def test_a_program_may_not_grow_without_measure(monkeypatch, module, limit, told):
    monkeypatch.setattr(module, limit, 20)
    text = "model M(x: f32[4, 3]) -> y: f32[4, 3] { y = x\n repeat 30 { y = 2*y } }"
    found = refused(lambda: model_system(project_of_text(text)))
    assert found.code == "E0311" and told in found.message


def test_draws_are_not_shared():
    """Equal applications are one only if nothing is drawn in them."""
    system = model_system(
        project_of_text(levels("{f}(x) - {f}(x)", 1).replace("x*x + 1", "random()"))
    )
    nodes = {node for eq in system.equations for node in walk(eq.body)}
    assert sum(isinstance(node, Apply) and node.fn == "random" for node in nodes) == 2


def test_a_chain_of_functions_is_no_recursion():
    code, _ = checked(levels("{f}(x) + 1", 60))
    assert code == "E0110"
    endless = "fn f(n) = if n > 0 then f(n + 1) else n\nfn f1(x) = x * f(1)\n" + MODEL.format(1)
    code, applied = checked(endless)
    assert code == "E0213" and applied < 50


def test_the_mistakes_of_a_text_that_is_no_program():
    """200 mistakes are listed, and as many warnings, each with the whole line never looked at."""
    body = "".join(f"    y{k} = x + unknown{k}\n" for k in range(3000))
    found = Report()
    with pytest.raises(UserError):
        load_source(Source("a.nn", f"model M(x: f32[4]) -> y: f32[4] {{\n{body} y = x }}\n"), found)
    assert len(found.errors) == MAX_LISTED
    assert "further ones are not listed" in found.errors[-1].message
    names = ", ".join(f"a{k}" for k in range(5000))
    found = Report()
    load_source(Source("a.nn", f"fn f({names}) = a0\n"), found)
    assert len(found.diagnostics) == MAX_LISTED
    shown = render(found.diagnostics[-1])
    assert max(map(len, shown.splitlines())) <= 130 and "^^^^" in shown


def test_a_long_cycle_is_shown_in_part():
    text = "".join(f"fn f{k}(x) = f{(k + 1) % 500}(x)\n" for k in range(500))
    found = Report()
    load_source(Source("a.nn", text), found)
    (mistake,) = found.errors
    assert mistake.code == "E0213" and len(mistake.message) < 200 and len(mistake.notes) < 10
