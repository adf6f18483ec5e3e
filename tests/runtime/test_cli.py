"""Every command of `nnc`, rightly and wrongly used: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, write

from nnc.runtime import cli
from nnc.runtime.training.atomic_files import load_arrays

MNIST = next(
    (
        p
        for p in (
            Path(os.environ.get("NNC_DATA", "")) / "mnist",
            Path(__file__).parents[3] / "shared" / "data" / "mnist",
        )
        if p.is_dir()
    ),
    None,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nnc(capsys):
    """Runs a command line: (exit code, stdout, stderr)."""

    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err
        return code, printed.out, printed.err

    return call


@pytest.fixture
def small(here):
    return write(here)


def start(*arguments: str, **more) -> subprocess.Popen:
    text = "from nnc.runtime.cli import main; main()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        **(pipes | more),
        env={**os.environ, "PYTHONPATH": path},
    )


# --- train, eval, predict -------------------------------------------------------------------------


def test_train_leaves_a_run_folder(nnc, small):
    rate = "optimizer.lr=0.02"
    code, out, err = nnc("train", small, "--out", "run", "--threads", 1, "--set", rate)
    assert code == 0 and len(out.splitlines()) == 2 and "kept in run" in err
    assert out.startswith("epoch 1/2  loss ") and "test_accuracy" in out
    names = {p.name for p in Path("run").iterdir()}
    assert names == {
        "model.nn",
        "settings.json",
        "backup.json",
        "metrics.jsonl",
        "weights.safetensors",
        "checkpoints",
    }
    kept = sorted(p.name for p in Path("run/checkpoints").iterdir())
    assert kept == ["step-00000015.safetensors", "step-00000030.safetensors"]
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [15, 30]
    assert {"epoch", "loss", "accuracy", "test_loss", "test_accuracy", "seconds"} < lines[0].keys()
    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["settings"]["batch"] == 100 and settings["threads"] == 1
    assert settings["versions"].keys() == {"nnc", "python", "numpy", "llvmlite"}
    assert "optimizer = adam(lr = 0.02)" in Path("run/model.nn").read_text()


def test_the_program_of_a_run_gives_the_same_run(nnc, small):
    nnc("train", small, "--out", "one", "--epochs", 1, "--set", "B=64", "--seed", 4)
    code, _, _ = nnc("train", "one/model.nn", "--out", "two")
    assert code == 0
    one, two = (load_arrays(Path(run, "weights.safetensors"))[0] for run in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "doc, inside",
    [
        ('"""Above."""', ""),
        ("", '"""Inside."""'),
        ("", '"""Of more\n    lines than one."""'),
    ],
)
def test_the_program_of_a_run_keeps_its_docstrings(nnc, here, doc, inside):
    surprise = "fn surprise(z: [n, k], y: i32[n]) -> r: [] {\n    r = cross_entropy(z, y)\n}\n"
    text = DIGITS.replace("cross_entropy(logits", "surprise(logits") + surprise
    text = text.replace(" {\n", f" {{\n{inside}\n")
    for word in ("model Small", "train Small", "fn surprise"):
        text = text.replace(word, f"{doc}\n{word}")
    assert nnc("train", write(here, text), "--out", "run", "--steps", 1)[0] == 0
    code, out, err = nnc("eval", "run")
    assert code == 0 and "test_loss" in json.loads(out), err


def test_eval_and_predict(nnc, small):
    nnc("train", small, "--out", "run")
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    code, out, _ = nnc("eval", "run")
    assert code == 0
    assert json.loads(out)["test_accuracy"] == pytest.approx(last["test_accuracy"])
    np.save("x.npy", np.zeros((300, 8, 8, 1)))
    code, out, err = nnc("predict", "run", "--input", "x.npy", "--output", "y.npy")
    assert (code, out) == (0, "") and "float32[300, 10]" in err
    assert np.load("y.npy").shape == (300, 10)
    np.save("bad.npy", np.zeros((3, 64)))
    code, _, err = nnc("predict", "run", "--input", "bad.npy", "--output", "z.npy")
    assert code == 1 and "[3, 64]" in err and "f32[B, 8, 8, 1]" in err
    assert not Path("z.npy").exists()
    assert nnc("predict", "run", "--input", "none.npy", "--output", "z.npy")[0] == 1
    assert nnc("predict", "run", "--input", "x.npy", "--output", "no/z.npy")[0] == 1


def test_a_run_never_writes_over_another(nnc, small):
    Path("run").mkdir()
    Path("run/precious").write_text("mine")
    code, _, err = nnc("train", small, "--out", "run")
    assert code == 1 and "E0705" in err and [p.name for p in Path("run").iterdir()] == ["precious"]


def test_a_run_that_cannot_start_leaves_nothing(nnc, here):
    wrong = write(here, DIGITS.replace("Dense(10)", "Dense(11)"))
    assert nnc("train", wrong, "--out", "run")[0] == 1
    assert [p.name for p in here.iterdir()] == ["small.nn"]


def test_a_loss_that_is_no_number(nnc, small):
    code, _, err = nnc("train", small, "--out", "run", "--set", "optimizer.lr=1e30")
    assert code == 1 and "error[E0701]" in err and "small.nn:3" in err
    assert not Path("run/weights.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_resume_gives_the_bits_of_never_stopping(nnc, small, here, number):
    whole = nnc("train", small, "--out", "whole", "--epochs", 60)[1].splitlines()
    job = start("train", str(small), "--out", "run", "--epochs", "60", cwd=here)
    job.stdout.readline()
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    if number == signal.SIGINT:
        assert job.returncode == 130 and "nnc train --resume run" in err
    code, out, _ = nnc("train", "--resume", "run")
    assert code == 0 and out.splitlines()[-1].rsplit("  ", 1)[0] == whole[-1].rsplit("  ", 1)[0]
    one, two = (load_arrays(max(Path(r, "checkpoints").iterdir()))[0] for r in ("whole", "run"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.skipif(MNIST is None, reason="needs the MNIST files")
def test_mnist(nnc, here):
    text = DIGITS.replace("8, 8, 1", "28, 28, 1").replace("digits", "mnist")
    code, out, _ = nnc("train", write(here, text), "--data", MNIST, "--offline", "--steps", 60)
    assert code == 0 and float(out.split("test_accuracy ")[1].split()[0]) > 0.7
    assert len(list(Path("runs").glob("small-*"))) == 1


# --- compile, check, fmt, summary, bench, explain -------------------------------------------------


def test_compile_prints_one_stage_and_writes_several(nnc, small):
    code, out, _ = nnc("compile", small, "--emit", "equations")
    assert code == 0 and out.startswith("# equations of Small") and "dense1_y" in out
    code, out, _ = nnc("compile", small, "--emit", "ast,gradients=g.nn", "--emit", "kernels,loops")
    assert (code, out) == (0, "")
    for name in ("small.ast.nn", "g.nn", "small.kernels.txt", "small.loops.txt"):
        assert Path(name).stat().st_size
    assert nnc("check", "small.ast.nn")[0] == 0
    assert "define void @step" in nnc("compile", small, "--emit", "llvm", "--batch", 4)[1]


def test_check_reports_all_mistakes_of_all_files(nnc, here, small):
    assert nnc("check", small) == (0, "", "")
    one = write(here, "fn half(x) = y / 2\nfn twice(x) = x * z\n", "one.nn")
    two = write(here, DIGITS.replace("Dense(10)", "Dense(11)"), "two.nn")
    code, out, err = nnc("--error-format", "short", "check", one, two)
    places = [line.split(":")[0:2] for line in err.splitlines() if "error[" in line]
    assert code == 1 and out == "" and len(places) >= 3
    assert {Path(p[0]).name for p in places if p[0].endswith(".nn")} >= {"one.nn", "two.nn"}


def test_check_says_what_it_could_not_check(nnc, here):
    """Types and order need sizes; a file that nothing is wrong with so far is not called right."""
    text = "model M(x: f32[B, T]) -> y: f32[B, T] { y[b, t] = x[b, t] + y[b, t - 1] }"
    (here / "m.nn").write_text(text)
    code, _, err = nnc("check", "m.nn")
    assert code == 0 and "only the names were checked" in err and "--set T=32" in err
    code, _, err = nnc("check", "m.nn", "--set", "T=32")
    assert code == 1 and "E0306" in err and "only the names" not in err


def test_check_renders_json(nnc, here):
    code, _, err = nnc("--error-format=json", "check", write(here, "fn half(x) = y / 2\n"))
    first = json.loads(err.splitlines()[0])
    assert code == 1 and first["severity"] == "error" and first["line"] == 1


def test_fmt(nnc, here):
    file = write(here, "fn half(x)=x/2\n")
    assert nnc("fmt", "--check", file)[0] == 1
    code, out, _ = nnc("fmt", "--diff", file)
    assert code == 1 and "+fn half(x) = x / 2" in out and file.read_text() == "fn half(x)=x/2\n"
    assert nnc("fmt", file)[0] == 0 and file.read_text() == "fn half(x) = x / 2\n"
    assert nnc("fmt", "--check", file) == (0, "", "")
    bad = write(here, "fn (", "bad.nn")
    assert nnc("fmt", bad)[0] == 1 and bad.read_text() == "fn ("


def test_fmt_keeps_links_and_modes(nnc, here):
    real, link = write(here, DIGITS.replace(" = ", "="), "real.nn"), here / "link.nn"
    real.chmod(0o600)
    link.symlink_to("real.nn")
    assert nnc("fmt", "link.nn")[0] == 0
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o600
    assert "data      = digits()" in real.read_text()
    assert sorted(p.name for p in here.iterdir()) == ["link.nn", "real.nn"]


def test_only_files_are_written(nnc, small, here):
    """A device, a pipe or a folder is no place for a result, and stays what it is."""
    nnc("train", "small.nn", "--out", "run", "--epochs", 1)
    np.save("x.npy", np.zeros((3, 8, 8, 1)))
    os.mkfifo("pipe")
    Path("folder").mkdir()
    before = os.stat("/dev/null")
    for place, kind in (
        ("/dev/null", "a device"),
        ("pipe", "a named pipe"),
        ("folder", "a folder"),
    ):
        code, _, err = nnc("predict", "run", "--input", "x.npy", "--output", place)
        assert code == 1 and f"error[E0709]: cannot write {place}: it is {kind}" in err
        code, _, err = nnc("compile", "small.nn", "--emit", f"ast={place}")
        assert code == 1 and f"error[E0709]: cannot write {place}: it is {kind}" in err
    assert os.path.samestat(os.stat("/dev/null"), before)
    code, _, err = nnc("predict", "run", "--input", "x.npy", "--output", "results/y.npy")
    assert code == 1 and "there is no folder results" in err
    np.save("y.npy", np.zeros(2))
    Path("link.npy").symlink_to("y.npy")
    Path("y.npy").chmod(0o600)
    assert nnc("predict", "run", "--input", "x.npy", "--output", "link.npy")[0] == 0
    assert Path("link.npy").is_symlink() and np.load("y.npy").shape == (3, 10)
    assert Path("y.npy").stat().st_mode & 0o777 == 0o600


def test_fmt_goes_on_after_a_file_that_cannot_be_written(nnc, here, monkeypatch):
    for name in ("a.nn", "b.nn", "c.nn"):
        write(here, DIGITS, name)
    (here / "b.nn").chmod(0o400)
    access = os.access  # the superuser may write everything

    def refuse(path, mode):
        return mode != os.W_OK if "b.nn" in str(path) else access(path, mode)

    monkeypatch.setattr(os, "access", refuse)
    code, _, err = nnc("fmt", "a.nn", "b.nn", "c.nn")
    assert code == 1 and "cannot write b.nn: Permission denied" in err
    assert nnc("fmt", "--check", "a.nn", "c.nn")[0] == 0


@pytest.mark.parametrize("name", ["x" * 300, "d/" * 3000 + "x", "self", "self/x", "small.nn/x"])
def test_paths_that_no_system_takes(nnc, small, here, name):
    """Wherever they are noticed, in every place where a path may stand."""
    Path("self").symlink_to("self")
    nnc("train", "small.nn", "--out", "run", "--epochs", 1)
    np.save("x.npy", np.zeros((3, 8, 8, 1)))
    for line in (
        "check PATH",
        "fmt PATH",
        "train PATH",
        "train small.nn --out PATH",
        "train small.nn --data PATH",
        "train --resume PATH",
        "eval PATH",
        "eval run --data PATH",
        "predict run --input PATH --output y.npy",
        "predict run --input x.npy --output PATH",
        "generate PATH --prompt a",
        "debug PATH",
        "compile small.nn --emit ast=PATH",
    ):
        code, _, err = nnc(*(word.replace("PATH", name) for word in line.split()))
        assert code == 1 and err.startswith("error[E"), line


def test_a_file_that_is_open_as_standard_output_is_no_target(small, here):
    with (here / "out").open("w") as out:
        process = start("compile", str(small), "--emit", "ast=/dev/stdout", stdout=out)
        told = process.communicate()[1]
    assert process.returncode == 1 and "it is a file that is open" in told


def test_summary(nnc, small):
    code, out, _ = nnc("summary", small, "--batch", 7)
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert code == 0
    work = f"{2 * 7 * 64 * 12:,}"  # forward, and backward: the images have no gradient
    assert rows["dense1"][1:] == ["[7,", "12]", "780", work, work]
    assert rows["total"][1] == str(780 + 130)
    assert "training memory" in out and "inference memory" in out


def test_bench(nnc, small):
    code, out, _ = nnc("bench", small, "--json", "--steps", 2, "--batch", 8)
    found = json.loads(out)
    assert code == 0
    figures = ["median_ms", "min_ms", "gflops", "first_step_s", "peak_mb"]
    assert found["batch"] == 8 and all(found[name] > 0 for name in figures)


def test_explain(nnc):
    for code in ("e0101", "E0606", "E0701"):
        assert nnc("explain", code)[1].startswith(code.upper())
    assert nnc("explain", "E9999")[0] == 2


# --- wrong uses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("", 2, "Usage"),
        ("trian small.nn", 2, "did you mean `train`"),
        ("explain dropout", 2, "codes are like E0304"),
        ("train", 2, "give a FILE"),
        ("train none.nn", 1, "cannot read"),
        ("train small.nn --epochs 0", 2, "--epochs"),
        ("train small.nn --set batch", 2, "NAME=VALUE"),
        ("train small.nn --set bacth=3", 2, "did you mean `batch`"),
        ("train small.nn --set batch=1.5", 2, "whole number"),
        ("train small.nn --set batch=)", 2, "error[E01"),
        ("train small.nn --set batch=3;epochs=4", 2, "E0704"),
        ("train small.nn --set optimizer=adm()", 2, "did you mean `adam`"),
        ("train small.nn --set shuffle=yes", 2, "must be true or false"),
        ("train small.nn --set epochs=ten", 2, "a whole number from 1"),
        ("train small.nn --set lr=1", 2, "did you mean `optimizer.lr`"),
        ("train small.nn --set Batch=1", 2, "did you mean `batch`"),
        ("train small.nn --set float=double", 2, "here it is `f64`"),
        ("check small.nn --set data=digits(tset=0.1)", 2, "did you mean `test`"),
        ("train small.nn --set optimizer.lrr=1", 2, "did you mean `lr`"),
        ("train small.nn --device gpuu", 2, "--device"),
        ("train small.nn --model Smal", 1, "did you mean `Small`"),
        ("train small.nn --data nowhere --set data=mnist()", 1, "nowhere"),
        ("compile small.nn --emit assembly", 2, "no stage"),
        ("eval nowhere", 1, "E0706"),
        ("train --resume nowhere", 1, "E0706"),
    ],
)
def test_wrong_uses(nnc, small, line, code, told):
    found, out, err = nnc(*line.split())
    assert (found, told in out + err) == (code, True), err


@pytest.mark.parametrize(
    ("typed", "marked"),
    [
        (["--set", "bacth=3"], "bacth"),
        (["--set", "batch=1.5"], "1.5"),
        (["--set", " batch = 1.5"], "1.5"),
        (["--set", "B=0"], "0"),
        (["--set", "optimizer.lrr=1"], "lrr=1"),
        (["--set", "loss=mse(logits, labl)"], "labl"),
        (["--set", "data=digits(tset = 0.1)"], "tset"),
        (["--set", "epochs=1 2"], "2"),
        (["--batch", "3000000000"], "3000000000"),
    ],
)
def test_a_wrong_flag_is_marked_as_it_was_typed(nnc, small, typed, marked):
    code, _, err = nnc("--error-format", "json", "bench", small, *typed)
    found = json.loads(err.splitlines()[0])
    line = " ".join(typed)
    assert (code, found["file"], found["line"]) == (2, "command line", 1)
    assert line[found["column"] - 1 : found["end_column"] - 1] == marked
    assert f" 1 | {line}\n" in nnc("bench", small, *typed)[2]


@pytest.mark.parametrize("line", ["until acuracy > 0.5", "monitor = acuracy"])
def test_check_knows_what_is_measured(nnc, here, line):
    text = DIGITS.replace("epochs    = 2", line)
    assert line in text
    code, _, err = nnc("check", write(here, text))
    assert code == 1 and "E0702" in err and "did you mean `accuracy`" in err
    code, _, err = nnc("check", write(here, text.replace("acuracy", "test_accuracy")))
    assert code == 0, err
    text = text.replace("acuracy", "validation_accuracy")
    code, _, err = nnc("train", write(here, text), "--out", "run")
    assert code == 1 and "there is no validation set" in err


def test_it_is_a_module_too(here):
    path = os.pathsep.join(filter(None, sys.path))
    found = subprocess.run(
        [sys.executable, "-m", "nnc", "explain", "E01"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert found.returncode == 2 and "did you mean" in found.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_without_space_is_no_bug(small):
    with open("/dev/full", "w") as full:
        process = start("compile", str(small), "--emit", "equations", stdout=full)
        told = process.communicate()[1]
    assert process.returncode == 1 and "written: No space left on device\n" in told


def test_memory_that_runs_out_is_no_bug(nnc, small, monkeypatch):
    from nnc.runtime.commands import compile as module

    def greedy(*_):
        raise MemoryError

    monkeypatch.setattr(module, "summarize", greedy)
    code, _, err = nnc("summary", small)
    assert code == 1 and "error[E0713]: memory ran out" in err


def test_a_bug_leaves_a_file(nnc, small, monkeypatch, here):
    from nnc.runtime.commands import compile as module

    def broken(*_):
        raise RuntimeError("cannot happen")

    monkeypatch.setattr(module, "summarize", broken)
    monkeypatch.setattr("tempfile.tempdir", str(here))
    code, _, err = nnc("summary", small)
    (dump,) = here.glob("nnc-bug-*")
    assert code == 101 and str(dump) in err and "cannot happen" in dump.read_text()


def test_starting_imports_nothing_heavy():
    text = (
        "import sys, nnc.runtime.cli; "
        "print({'numpy', 'lark', 'llvmlite', 'rich', 'safetensors'} & set(sys.modules))"
    )
    path = os.pathsep.join(filter(None, sys.path))
    found = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert found.stdout.strip() == "set()"
