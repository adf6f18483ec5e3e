"""`nnc compile` with passes printed, timed and left out, in the words of LLVM."""

from __future__ import annotations

import pytest
from small_programs import write
from support import one_in

from nnc.compiler.pipeline import CPU, all_passes, gpu
from nnc.runtime import cli
from nnc.runtime.device.cpu import host

# the passes that run for this computer's processor
HERE = [each for each in CPU.passes if each.when(host.target())]


@pytest.fixture
def compile(tmp_path, monkeypatch, capsys):
    """Compiles a small network: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    program = write(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["compile", str(program), *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_print_changed_shows_every_pass_in_order(compile) -> None:
    code, out, err = compile("--print-changed")
    names = [line.split("***")[1].strip() for line in err.splitlines() if line.startswith("*** ")]
    found = [name.removeprefix("after ").split(":")[0] for name in names]
    assert (code, out) == (0, "")
    assert found == [each.name for each in HERE]


def test_a_difference_has_the_changed_equations_alone(compile) -> None:
    _, _, whole = compile("--print-changed")
    _, _, short = compile("--print-changed=diff")
    reciprocal = short.split("*** reciprocal ***")[1].split("***")[0].strip().splitlines()
    assert reciprocal and all(line[0] in "+-" for line in reciprocal)
    assert any("1.0 / (" in line and line[0] == "+" for line in reciprocal)
    assert len(short) < len(whole) / 2


def test_print_after_prints_what_the_pass_made(compile) -> None:
    _, _, err = compile("--print-after", "inline,fuse")
    assert err.count("*** after ") == 2
    assert "model " in err.split("*** after fuse")[0] and "kernel " in err.split("after fuse")[1]
    _, _, every = compile("--print-after", "all")
    assert every.count("*** after ") == len(HERE)


def test_the_stage_goes_to_stdout_and_the_rest_to_stderr(compile) -> None:
    _, plain, _ = compile("--emit", "kernels")
    _, out, err = compile("--emit", "kernels", "--time-passes", "--print-after", "fuse")
    assert out == plain and "*** after fuse ***" in err and "all passes" in err


def test_every_pass_is_timed(compile) -> None:
    _, _, err = compile("--time-passes")
    rows = [line.split() for line in err.splitlines()[1:]]
    assert {row[-1] for row in rows[:-1]} == {each.name for each in HERE}
    assert all(float(row[0]) >= 0 for row in rows)


def test_the_pipeline_of_gpus_has_its_own_passes(compile) -> None:
    _, _, err = compile("--emit", "cuda", "--print-after", "all")
    for each in gpu().passes:
        assert f"*** after {each.name} ***" in err
    assert "pad-rows" not in err


@pytest.mark.parametrize("name", one_in(3, [p.name for p in all_passes() if not p.required]))
def test_any_other_pass_may_be_left_out(compile, name: str) -> None:
    for stage in ("llvm", "cuda"):
        code, out, _ = compile("--emit", stage, "--without", name)
        assert code == 0 and out
    code, _, err = compile("--without", name, "--print-after", name)
    assert code == 0 and f"after {name}" not in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--without", "fuse"), "cannot be left out"),
        (("--without", "inlin"), "did you mean `inline`?"),
        (("--print-after", "everything"), "there are "),
        ((), "nothing to print"),
    ],
)
def test_wrong_uses_name_what_there_is(compile, arguments, told: str) -> None:
    code, out, err = compile(*arguments)
    assert code == 2 and out == "" and told in err
