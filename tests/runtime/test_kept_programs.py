"""What elaboration makes of a program, kept between runs: the same, never another program's."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_programs import DIGITS, RICH, prepared

from nnc.compiler import programs
from nnc.compiler.elaboration.selection import WHOLE, Selection
from nnc.compiler.elaboration.train_block import FieldType, Private, Setup
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.diagnostics.render import render
from nnc.runtime import cache
from nnc.runtime.assignments import Assignment
from nnc.runtime.project import open_project, project_of_text, setup_of
from nnc.runtime.training import kept_programs as kept

USED = "layer Doubled()(x: [B, n]) -> y: [B, n] {\n    y = 2 * x\n}\n"
USING = """use "doubled.nn"

model Small(image: f32[B, 4]) -> logits: f32[B, 3] {
    let priors = table("priors.csv")
    logits = image |> Doubled |> Dense(3) |> tanh
    shifted[b] = logits[b, 0] + priors[0]
}

train Small {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    metric      hits = sum(b) i32(max(k) logits[b, k] > 0.5) / 2
    optimizer = sgd(lr = 1e-2)
    batch     = 5
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache; its folder."""
    monkeypatch.setenv("NNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_noted", False)
    return tmp_path / "cache" / "kernels"


def entries(folder: Path) -> list[Path]:
    """Those of programs."""
    return [path for path in cache.FileCache(folder).files() if path.suffix == ".program"]


def using(folder: Path, **texts: str) -> Setup:
    """The setup of a program in three files."""
    given = {"main.nn": USING, "doubled.nn": USED, "priors.csv": "0.5\n0.25\n"}
    for name, text in {**given, **{n.replace("_", "."): t for n, t in texts.items()}}.items():
        folder.joinpath(name).write_text(text)
    return setup_of(open_project(folder / "main.nn"), None)


def rich(text: str = RICH, *sets: Assignment) -> Setup:
    return setup_of(project_of_text(text, assignments=sets), None)


def all_of(setup: Setup) -> list[object]:
    """Everything that is kept of a setup."""
    warnings = Report()
    found = [
        kept.training_step(setup, warnings),
        kept.evaluation(setup),
        kept.states_kept(setup),
        kept.selected(setup, WHOLE),
        *(kept.measured(setup, training) for training in (True, False)),
    ]
    stage = kept.last_stage_of(setup, False, kept.measured(setup, False), 7)
    return [*found, stage, warnings.diagnostics]


def places(found: list[object]) -> list[str]:
    """Where everything stands: spans do not count in comparisons."""
    systems = [*found[0], found[1], found[3].system, found[6]]
    spans = [
        part.span
        for system in systems
        for part in (*system.tensors.values(), *system.equations, *system.gradients)
    ]
    return [f"{span} {span and span.user_span} {span and span.text}" for span in spans]


def forbid(monkeypatch) -> None:
    """From now on nothing is elaborated."""

    def refuse(*_):
        raise AssertionError("elaborated again")

    for name in kept.__dict__.keys() & programs.__dict__.keys():
        if name in ("training_step", "evaluation", "measured", "last_stage_of", "states_kept"):
            monkeypatch.setattr(programs, name, refuse)
    monkeypatch.setattr(programs, "selected", refuse)


@pytest.mark.parametrize("program", ("rich", "using"))
def test_what_is_kept_is_what_was_elaborated(program, tmp_path, monkeypatch):
    make: Callable[[], Setup] = rich if program == "rich" else lambda: using(tmp_path)
    first = all_of(make())
    forbid(monkeypatch)
    # of trees parsed anew, as in another process
    setup = make()
    second = all_of(setup)
    assert second == first
    assert places(second) == places(first)
    sources = {d.span.source for d in setup.definitions.values()}
    assert second[0][0].equations[0].span.source in sources


def test_warnings_are_told_again(monkeypatch):
    first, second = Report(), Report()
    kept.training_step(rich(WARNS), first)
    forbid(monkeypatch)
    kept.training_step(rich(WARNS), second)
    assert [d.code for d in first.diagnostics] == ["W0308"]
    assert [render(d) for d in second.diagnostics] == [render(d) for d in first.diagnostics]


WARNS = """model Line(x: f32[B, 3]) -> y: f32[B, 1] {
    y = x |> Dense(1)
}

train Line {
    input target: f32[B]
    loss      = mean((y - target)^2)
    optimizer = sgd(lr = 0.1)
    batch     = 4
}
"""


def test_a_mistake_is_found_again(folder):
    wrong = rich(RICH.replace("Dense(10)", "Dense(11)"))
    found = []
    for _ in range(2):
        with pytest.raises(UserError) as error:
            kept.training_step(wrong)
        found.append([render(d) for d in error.value.diagnostics])
    assert found[0] == found[1]
    assert not entries(folder)


def test_whatever_decides_is_in_the_name(tmp_path, monkeypatch):
    def name(setup: Setup, purpose: str = "training step") -> str:
        key = kept._key(setup, purpose)
        assert key is not None
        return key[0]

    base, plain = using(tmp_path), rich()
    names = [name(base), name(plain)]
    for changed in (
        using(tmp_path, main_nn=USING.replace("0.5)", "0.25)")),
        using(tmp_path, main_nn=USING.replace("logits[b, 0]", "logits[b, 1]")),
        using(tmp_path, main_nn=f"# more\n{USING}"),  # where things stand
        using(tmp_path, doubled_nn=USED.replace("2 *", "3 *")),
        using(tmp_path, priors_csv="0.5\n0.125\n"),
        rich(RICH, Assignment("batch", "19")),
        rich(RICH, Assignment("optimizer", "adamw(lr = 1e-3)")),
        replace(plain, fields={"kind": FieldType("i32", ())}),
        replace(plain, fields={"kind": FieldType("u8", ())}),
        replace(plain, steps=100),
        replace(plain, steps=True),  # which is 1, but no number of steps
        replace(plain, steps=1),
        replace(plain, epochs=1),
        replace(plain, float_type="f64"),
        replace(plain, precision="bf16"),
        replace(plain, whole=40),
        replace(plain, turn=("loss",)),
        replace(plain, accumulate=2),
        replace(plain, limits={"B": 9}),
        replace(plain, sizes={"B": 9}),
        replace(plain, private=Private(1.0, 1.0, 20.0)),
        replace(plain, patch=("a", "b")),
    ):
        names.append(name(changed))
    names.append(name(plain, "evaluation"))
    for number in range(len(kept._versions())):
        versions = list(kept._versions())
        versions[number] += "x"
        monkeypatch.setattr(kept, "_versions", lambda versions=tuple(versions): versions)
        names.append(name(plain))
        monkeypatch.undo()
    assert len({*names}) == len(names)


def test_another_process_finds_the_same_name(tmp_path):
    setup = using(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from nnc.runtime.project import open_project, setup_of\n"
        "from nnc.runtime.training import kept_programs as kept\n"
        "setup = setup_of(open_project(Path(sys.argv[1])), None)\n"
        "print(kept._key(setup, 'training step')[0], end='')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", code, str(tmp_path / "main.nn")]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    key = kept._key(setup, "training step")
    assert key is not None and ran.stdout == key[0]


@pytest.mark.parametrize("damage", ("cut", "empty", "code", "other"))
def test_a_damaged_entry_is_a_miss(damage, folder, capsys):
    first = kept.training_step(rich())
    (path,) = entries(folder)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        content = {"empty": b"", "code": pickle.dumps(Harm()), "other": pickle.dumps((Path(), 1))}
        cache.FileCache(folder).write(path.name, content[damage])
    assert kept.training_step(rich()) == first
    assert capsys.readouterr().out == ""


class Harm:
    """What a pickle could do."""

    def __reduce__(self):
        return print, ("harm",)


def test_nothing_is_kept_where_there_is_no_cache(folder, monkeypatch):
    monkeypatch.setenv("NNC_CACHE", "off")
    kept.training_step(rich())
    assert not folder.exists()


def test_a_part_by_itself_is_selected_anew(folder):
    setup = rich()
    part = programs.untrained(setup)[2]["dense1"]
    kept.selected(setup, Selection(part, examples=(("x", (12,), "f32"),)))
    assert not entries(folder)


def test_a_second_training_elaborates_nothing(monkeypatch):
    text = DIGITS.replace("batch     = 100", "batch     = 64")  # the last batch is shorter
    first = prepared(text).executor
    for batch in (64, 17):
        first.training(batch)
    with first.evaluation(50):
        pass
    forbid(monkeypatch)
    second = prepared(text).executor
    for batch in (64, 17):
        second.training(batch)
    with second.evaluation(50):
        pass
