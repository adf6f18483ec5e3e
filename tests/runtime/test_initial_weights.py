"""Weights of another run that a run begins with: what fits, what does not, and that a run which is
interrupted does not need the other one again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_programs import DIGITS, write

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.assignments import Assignment
from nnc.runtime.project import project_of_text
from nnc.runtime.training.atomic_files import load_arrays
from nnc.runtime.training.initial_weights import match, read_weights
from nnc.runtime.weights_choice import WeightsChoice

ODD = (
    DIGITS.replace("Dense(10)", "Dense(2)")
    .replace("[B, 10]", "[B, 2]")
    .replace("(logits, label)", "(logits, label % 2)")
    .replace("    batch", '    weights = partial("first")\n    freeze dense1.*\n    batch')
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the run `first` of ten classes, and a program for two of them."""
    found = tmp_path_factory.mktemp("weights")
    write(found)
    write(found, ODD, "odd.nn")
    out = ["--out", str(found / "first")]
    assert cli.run(["train", str(found / "small.nn"), "--epochs", "1", *out]) == 0
    return found


@pytest.fixture
def here(folder, tmp_path, monkeypatch) -> Path:
    """A copy of it, in which the commands run."""
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def weights(run: Path | str) -> dict[str, np.ndarray]:
    return load_arrays(Path(run) / "weights.safetensors")[0]


def refused(call) -> tuple[str, str]:
    """The message of what is refused, its label and its help in one text, and the marked text."""
    with pytest.raises(UserError) as caught:
        call()
    (found,) = caught.value.diagnostics
    return f"{found.code} {found.message} {found.label} {found.help}", (
        found.span.text if found.span else ""
    )


# --- what is matched ------------------------------------------------------------------------------

THERE = {
    "encoder_w": np.ones((3, 4)), "encoder_b": np.zeros(4), "head_w": np.ones((4, 10)),
}  # fmt: skip


def test_all_fits():
    wanted = {name: np.empty_like(array, np.float32) for name, array in THERE.items()}
    values, report, _ = match(THERE, wanted, WeightsChoice("run"))
    assert report.is_complete and report.matched == tuple(THERE)
    assert all(array.dtype == np.float32 for array in values.values())
    assert str(report) == "weights of run: 3 matched, 0 missing, 0 extra, 0 of another shape"


def test_what_does_not_fit_is_listed_and_refused():
    wanted = {"encoder_w": np.ones((3, 4)), "encoder_b": np.ones(5), "tail_w": np.ones((4, 2))}
    text, _ = refused(lambda: match(THERE, wanted, WeightsChoice("run")))
    assert "E0714" in text and "1 matched, 1 missing, 1 extra, 1 of another shape" in text
    assert "missing: `tail_w` [4, 2]; extra: `head_w` [4, 10]; of another shape: " in text
    assert "`encoder_b` ([4] there, [5] here)" in text
    values, report, _ = match(THERE, wanted, WeightsChoice("run", partial=True))
    assert list(values) == ["encoder_w"] and report.missing == ("`tail_w` [4, 2]",)


def test_nothing_fits_and_partial():
    wanted = {"layer_x": np.ones(3)}
    text, _ = refused(lambda: match(THERE, wanted, WeightsChoice("run", partial=True)))
    assert "0 matched" in text and "another model" in text


def test_whole_numbers_are_no_place_for_reals():
    text, _ = refused(lambda: match({"w": np.ones(2)}, {"w": np.ones(2, int)}, WeightsChoice("r")))
    assert "1 of another shape" in text


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("encoder", "trunk", ["trunk_w", "trunk_b", "head_w"]),
        ("encoder", "net.trunk", ["net_trunk_w", "net_trunk_b", "head_w"]),
        ("", "trunk", ["trunk_encoder_w", "trunk_encoder_b", "trunk_head_w"]),
        ("encoder", "", ["w", "b", "head_w"]),
        ("enc", "trunk", list(THERE)),
    ],
)
def test_layers_are_renamed(old, new, found):
    choice = WeightsChoice("run", True, old, new)
    assert [choice.renamed(name) for name in THERE] == found


def test_a_renaming_that_would_do_is_advised():
    wanted = {"trunk_w": np.ones((3, 4)), "trunk_b": np.ones(4), "head_w": np.ones((4, 10))}
    text, _ = refused(lambda: match(THERE, wanted, WeightsChoice("run")))
    assert 'partial("run", from = "encoder", to = "trunk")' in text
    values, report, _ = match(THERE, wanted, WeightsChoice("run", True, "encoder", "trunk"))
    assert report.is_complete and len(values) == 3


def test_a_renaming_of_nothing():
    wanted = {"trunk_w": np.ones((3, 4))}
    text, _ = refused(lambda: match(THERE, wanted, WeightsChoice("run", True, "encodr", "trunk")))
    assert "none of the weights there begins with `encodr`; did you mean `encoder`?" in text


# --- runs -----------------------------------------------------------------------------------------


def test_a_frozen_trunk_stays_and_the_rest_is_trained(here, capsys):
    assert cli.run(["train", "odd.nn", "--out", "odd"]) == 0
    said = capsys.readouterr().err
    assert "weights of first: 2 matched, 0 missing, 0 extra, 2 of another shape" in said
    assert "`dense2_w` ([12, 10] there, [12, 2] here)" in said
    before, after = weights("first"), weights("odd")
    assert np.array_equal(before["dense1_w"], after["dense1_w"])
    assert after["dense2_w"].shape == (12, 2) and np.abs(after["dense2_b"]).max() > 0


def test_resuming_does_not_need_the_other_run(here):
    assert cli.run(["train", "odd.nn", "--out", "whole", "--epochs", "3"]) == 0
    assert cli.run(["train", "odd.nn", "--out", "parts", "--epochs", "1"]) == 0
    shutil.rmtree("first")
    # as if it had been killed before its first checkpoint: it begins anew
    shutil.copytree("parts", "anew")
    shutil.rmtree("anew/checkpoints")
    for run in ("parts", "anew"):
        assert cli.run(["train", "--resume", run, "--epochs", "3"]) == 0
        found = weights(run)
        assert all(np.array_equal(array, found[n]) for n, array in weights("whole").items())
    assert cli.run(["eval", "parts"]) == 0


def test_init_takes_a_run_or_a_file_of_any_origin(here):
    save_file(weights("first"), "plain.safetensors")
    for given in ("first", "first/weights.safetensors", "plain.safetensors", str(here / "first")):
        out = "out-" + given.replace("/", "-")
        assert cli.run(["train", "small.nn", "--init", given, "--steps", "1", "--out", out]) == 0
        initial = load_arrays(here / out / "initial.safetensors")[0]
        assert all(np.array_equal(a, weights("first")[n]) for n, a in initial.items())
    flags = ["--init", "first", "--partial", "--steps", "1", "--out", "wide"]
    write(here, DIGITS.replace("12", "13"), "wide.nn")
    assert cli.run(["train", "wide.nn", *flags]) == 0


def test_a_wrong_init_leaves_no_folder(here, capsys):
    write(here, DIGITS.replace("12", "13"), "wide.nn")
    assert cli.run(["train", "wide.nn", "--init", "first", "--out", "out"]) == 2
    assert "--partial" in capsys.readouterr().err and not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("small.nn --partial", "goes with --init"),
        ("--resume first --init first", "is for a new run"),
        ("--resume first --set weights=3", "has begun"),
        ("small.nn --init frist", "did you mean `first`?"),
        ("small.nn --init small.nn", "cannot read small.nn"),
        ('small.nn --set weights=partial("first",frm="a")', "did you mean `from`?"),
        ("small.nn --set weights=partial()", "names no run"),
        ("small.nn --set weights=run", "not a plain value"),
        ('small.nn --set weights=load("first")', "and not `load(…)`"),
        ('small.nn --set weights=partial("first",partial="a")', "has no `partial`"),
        ('small.nn --set weights=""', "is a text"),
    ],
)
def test_wrong_uses(here, capsys, flags, said):
    assert cli.run(["train", *flags.split()]) in (1, 2)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../first", "/tmp", "link"])
def test_a_program_names_weights_below_its_folder_alone(here, path):
    (here / "sub").mkdir()
    (here / "sub" / "link").symlink_to(here.parent)
    text = DIGITS.replace("    loss", f'    weights = "{path}"\n    loss')
    choice = project_of_text(text, "small.nn").settings.weights
    os_folder = here / "sub"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(os_folder)
        text, marked = refused(lambda: read_weights(choice, os_folder))
    assert "E0617" in text and "--init" in text and marked == f'"{path}"'


def test_fit_begins_with_the_weights_of_the_program(here):
    model = nnc.load("odd.nn", threads=1)
    model.fit(steps=1)
    assert np.array_equal(model.parameters["dense1_w"], weights("first")["dense1_w"])


def test_the_argument_of_partial_can_be_set():
    project = project_of_text(ODD, "odd.nn", None, [Assignment("weights.from", '"enc"')])
    assert project.settings.weights.old == "enc"
    assert 'weights = partial("first", from = "enc")' in project.resolved()
